"""The script for ten minutes of a GPU, rehearsed on the CPU:
`python tests/test_lease.py [FOLDER]`, or `make lease-rehearsal`, runs all of its
stages.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

LEASE = Path(__file__).resolve().parent.parent / "tools" / "lease.py"
TOY = ("--device", "cpu", "--toy")
QUICK = (
    "rf",
    "--preset",
    "small",
    "--budget",
    "6 steps",
    "--batch",
    "8",
    "--samples",
    "25",
    "--keep",
    "3",
)


def lease(work, stage, *words, **env):
    "A stage's exit status, its facts and what it says on standard error."
    done = subprocess.run(
        [sys.executable, str(LEASE), stage, "--work", str(work), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        cwd=work,
    )
    facts = [json.loads(l) for l in done.stdout.splitlines() if l.startswith("{")]
    return done.returncode, facts, done.stderr


def here(capsys, work, stage, *words):
    "The same in this process."
    spec = importlib.util.spec_from_file_location("lease", LEASE)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    try:
        code = module.main([stage, "--work", str(work), *map(str, words)])
    except SystemExit as e:
        code = e.code
    out, said = capsys.readouterr()
    return code, [json.loads(l) for l in out.splitlines() if l.startswith("{")], said


def pictures(path, n=40, size=16):
    "An archive of soft blobs."
    rng = np.random.default_rng(0)
    low = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    np.savez(
        path,
        images=low.repeat(size // 4, 1).repeat(size // 4, 2),
        labels=rng.integers(0, 10, n),
    )
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A training that was judged and packed."
    work = tmp_path_factory.mktemp("lease")
    data = ("--dataset", pictures(work / "pictures.npz"))
    return work, data, lease(work, "train,judge,home", *TOY, *QUICK, *data)


def test_stages_follow_each_other(run):
    "Training, rows and luggage: each stage ends well, and says what it cost."
    work, _, (code, facts, said) = run
    assert code == 0 and [*dict.fromkeys(f["stage"] for f in facts)] == [
        "train",
        "judge",
        "home",
    ], said
    record = json.loads((work / "result.json").read_text())
    rows = record["rows"]
    assert record["environment"]["threads"] >= 1 and [
        (r["solver"], r["images"]) for r in rows
    ] == [("heun", 48), ("euler", 48), ("rk45", 48), ("heun", 16), ("heun", 32)]
    for r in rows:
        assert (
            r["trained_in"] == r["sampled_in"] == "float32"
            and r["minutes"] > 0
            and r["device"]
            and r["se"]["fid"] > 0
        ), r


def test_what_comes_home(run):
    """At most eight files of at most 16 MiB, from which weights, statistics and rows
    come back.
    """
    from parcel import unpack
    from odeflow.pipeline import Pipeline
    import torch

    work, _, (_, facts, _) = run
    files = [f for f in facts if "file" in f]
    assert len(files) <= 8 and max(f["bytes"] for f in files) <= 16 * 2**20
    back = unpack(work / "home", work / "back")
    assert Pipeline.from_pretrained(back / "1-RF")(2, nfe=2).x.shape == (2, 3, 16, 16)
    ref = torch.load(back / "reference.pt", weights_only=True)
    assert ref["n"] == 40 and len(ref["cov_upper"]) == 48 * 49 // 2
    assert {p.name for p in back.iterdir()} >= {"result.json", "1-RF", "heun-36-48.png"}


def test_a_judge_without_time_leaves_rows_out(run, capsys):
    "What would not end in time is not begun, and is named."
    work, data, _ = run
    code, facts, said = here(
        capsys, work, "judge", *TOY, "--seconds", "0.01", *QUICK, *data
    )
    left = [f for f in facts if "left_out" in f]
    assert code == 0 and len(left) == 4 and all(f["needs_s"] >= 0 for f in left), said


def test_a_smaller_reference_is_told(run, capsys):
    """Rows say with what they were compared: not with more than there is, and with
    fewer if asked.
    """
    work, data, _ = run
    code, _, said = here(
        capsys,
        work,
        "judge",
        *TOY,
        "--seconds",
        "0.01",
        "--reference",
        "30",
        *QUICK,
        *data,
    )
    (row,) = json.loads((work / "result.json").read_text())["rows"]
    assert (
        code == 0
        and row["reference"]["samples"] == 30
        and len(row["reference"]["digest"]) == 16
    ), said
    code, _, said = here(
        capsys, work, "judge", *TOY, "--reference", "41", *QUICK, *data
    )
    assert (
        code == 1
        and "reference: 41 pictures asked of pictures, which has 40; give 5 to 40"
        in said
    )


@pytest.mark.parametrize(
    "stage, words, says",
    [
        ("join", (), "holds neither data nor fid; bring what"),
        ("judge", (*TOY, *QUICK), "holds no finished training"),
        ("home", (*TOY, *QUICK), "holds no finished training"),
        (
            "train",
            (*TOY, "rf", "--budget", "6 epochs"),
            "budget: '6 epochs' is not an amount and a unit",
        ),
        (
            "train",
            (*TOY, "rf", "--preset", "cifar11"),
            "preset: 'cifar11' is not one of",
        ),
        (
            "train",
            (*TOY, "rf", "--precision", "fp8"),
            "precision: 'fp8' is not accepted; give 'float32', 'tf32' or 'bf16'",
        ),
        (
            "train",
            (*TOY, "rf", "--budget", "20 minutes"),
            "20 minutes of training and 150 seconds of judging do not fit into 12 "
            "minutes",
        ),
        ("train,judgement", TOY, "stage: 'judgement' is not one of parts, join, smoke"),
        (
            "train",
            (*TOY, "rf", "--out", "elsewhere"),
            "out: a lease writes into `--work`",
        ),
        ("train", ("--device", "cuda:77"), "device: 'cuda:77' is not available here"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, stage, words, says):
    "One line on standard error, status 1, and nothing trained."
    if "judge" in stage or "home" in stage or "--budget" in words:
        words = (*words, "--dataset", pictures(tmp_path / "pictures.npz"))
    code, _, said = here(capsys, tmp_path, stage, *words)
    lines = [
        l
        for l in said.splitlines()
        if l.startswith("lease.py: ") and "warning" not in l
    ]
    assert (
        code == 1 and len(lines) == 1 and says in lines[0] and "Traceback" not in said
    ), said
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_damaged_part_is_named(tmp_path, capsys, monkeypatch):
    "One bit of a part: its name, and the archive that was there before stays as it is."
    from parcel import pack

    (tmp_path / "luggage").mkdir()
    (tmp_path / "luggage/labels.npy").write_bytes(bytes(1000))
    part, *_ = pack(tmp_path / "luggage", tmp_path / "parts/data", limit=1)
    blob = bytearray(part.read_bytes())
    blob[700] ^= 1
    part.write_bytes(blob)
    monkeypatch.setenv("ODEFLOW_DATA", str(tmp_path / "data"))
    code, _, said = here(capsys, tmp_path, "join")
    assert (
        code == 1
        and "part-0000' is damaged; bring it again" in said
        and not (tmp_path / "data").exists()
    )


def test_a_checkout_that_is_not_installed(monkeypatch):
    "Records name the version where the package has no metadata."
    import odeflow
    from odeflow import runs
    from odeflow.metrics import features

    def version(package):
        if package == "odeflow":
            raise PackageNotFoundError(package)
        return "1"

    for module in (features, runs):
        monkeypatch.setattr(module, "version", version)
    assert (
        runs.environment()["odeflow"] == odeflow.__version__
        and odeflow.__version__ in features.DigitsFeatures().code
    )


def rehearse(work):
    "All stages, with real pictures where they are, and the bytes of each transfer."
    import torch
    from odeflow.data import cache_dir
    from odeflow.metrics.features import inception_weights

    begun, work = time.monotonic(), work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    there = dict(ODEFLOW_DATA=str(work / "data"), TORCH_HOME=str(work / "hub"))

    def stage(name, *words, **env):
        start = time.monotonic()
        code, facts, said = lease(work, name, *words, **env)
        if code:
            sys.exit(f"{name}: status {code}\n{said}")
        for f in facts:
            print(json.dumps(f))
        print(f"== {name}: {time.monotonic() - start:.0f} s", flush=True)
        return facts

    print("torch", torch.__version__)
    if (cache_dir() / "cifar10_train.npz").exists() and inception_weights().exists():
        sent = [f for f in stage("parts", *TOY) if "bytes" in f]
        stage("join", *TOY, **there)
        for kind in ("data", "fid"):
            print(
                f"== {kind}: {sum(kind in f['file'] for f in sent)} files, "
                f"{sum(f['bytes'] for f in sent if kind in f['file']):,} bytes"
            )
    else:
        print(
            "== parts and join: left out, since CIFAR-10 or the FID network's "
            "weights are not here"
        )
    data = ("--dataset", pictures(work / "pictures.npz", 200))
    run = (
        "rf",
        "--preset",
        "digits",
        "--budget",
        "12 steps",
        "--batch",
        "8",
        "--samples",
        "40",
        "--keep",
        "3",
        "--compile",
        "True",
    )
    for name in ("smoke", "bench", "train", "judge"):
        stage(name, *TOY, *run, *data)
    back = [f["bytes"] for f in stage("home", *TOY, *run, *data) if "bytes" in f]
    print(
        f"== home: {len(back)} files, {sum(back):,} bytes in all, the largest "
        f"{max(back):,}"
    )
    print(f"== all stages, no failure: {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as tmp:
        rehearse(Path(sys.argv[1] if len(sys.argv) > 1 else tmp))
