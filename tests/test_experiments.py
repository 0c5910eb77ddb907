"""The experiment notebooks as people run them, on a tiny budget: each by papermill once
with good and once with bad parameters, and in this process with many.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from play import options, play, ROOT, TINY
from odeflow.cli import main
from odeflow.experiment import Diffusion, Poisson, Rectified, run
from odeflow.parameters import PFGMParameters, RFParameters, SDEParameters
from odeflow.pipeline import Pipeline
from odeflow.distributed import has_bf16
from odeflow.presets import PRESETS


def papermill(cwd, *args, out="out.ipynb", notebook="train_rf", **params):
    "Run an experiment with papermill in a folder; returns the finished process."
    target = [out] if out else []
    args = [
        str(Path(sys.executable).parent / "papermill"),
        str(ROOT / f"nbs/{notebook}.ipynb"),
        *target,
        "--no-progress-bar",
        *args,
    ]
    for k, v in params.items():
        args += ["-p", k, str(v)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        args, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def rows(folder):
    return {
        (
            r["system"],
            r["distilled"],
            r["solver"],
            r["solver"] == "euler" and r["nfe"],
        ): r
        for r in json.loads((folder / "result.json").read_text())["rows"]
    }


def test_rounds_on_digits_and_resume(tmp_path):
    shown = ("--stdout-file", "-", "--stderr-file", "-")  # as `make demo` has it
    run = papermill(tmp_path, *shown, rounds=2, **TINY)
    assert run.returncode == 0, run.stderr
    for said in (
        "time: less than a minute",
        "disk: up to ",
        "training 1-RF 100%",
        "loss=",
    ):
        assert said in run.stdout
    assert "drawing coupling-1: 100%" in run.stdout
    first = rows(tmp_path / "runs/train_rf")
    ways = [
        (False, "rk45", False),
        *((False, "euler", n) for n in (1, 2, 4, 8)),
        (True, "euler", 1),
    ]
    assert set(first) == {(f"{k}-RF", *way) for k in (1, 2) for way in ways} | {
        ("1-RF", False, "heun", False)  # a curve of its own
    }
    assert all(
        r["fid"] is None and r["frechet"] > 0 and r["images"] in (48, 32)
        for r in first.values()
    )
    folder = tmp_path / "runs/train_rf"
    assert {"config.json", "metrics.jsonl", "samples.png", "model.safetensors"} <= {
        p.name for p in (folder / "1-RF").iterdir()
    }
    assert json.loads((folder / "config.json").read_text())["parameters"]["rounds"] == 2
    weights = (folder / "reflow-1/model.safetensors").read_bytes()
    # the same again: nothing is trained twice
    assert play(tmp_path, rounds=2, **TINY) == ""
    assert (
        rows(folder) == first
        and (folder / "reflow-1/model.safetensors").read_bytes() == weights
    )
    said = play(tmp_path, rounds=2, **TINY | {"batch": 9})
    assert "recipe.batch was 8, now 9" in said


@pytest.mark.parametrize(
    "sde, system", [("vp", "VP"), ("subvp", "sub-VP"), ("ve", "VE")]
)
def test_diffusion(tmp_path, sde, system):
    settings = dict(notebook="train_sde", sde=sde, steps=5, dataset="moons", **TINY)
    if sde == "subvp":
        run = papermill(tmp_path, **settings)
        assert run.returncode == 0, run.stderr
    else:
        assert play(tmp_path, **settings) == ""
    found = [
        (r["system"], r["distilled"], r["solver"], r["nfe"])
        for r in json.loads((tmp_path / "runs/train_sde/result.json").read_text())[
            "rows"
        ]
    ]
    assert {f[2:] for f in found} >= {
        *(("euler", n) for n in (5, 10, 20)),
        *(("heun", n) for n in (10, 20)),
    }
    assert [
        f
        for f in found
        if f[2] not in ("rk45", "heun")
        and f[3] not in (10, 20, 40)
        and f[1:] != (False, "euler", 5)
    ] == [
        (system, False, "euler-maruyama", 100),
        (system, False, "euler-maruyama", 5),
        (system, False, "euler", 1),
        (system, True, "euler", 1),
        (f"2-RF from {system}", False, "euler", 1),
        (f"2-RF from {system}", True, "euler", 1),
    ]


@pytest.mark.parametrize(
    "params, system",
    [
        ({"dataset": "digits"}, "PFGM"),
        ({"field": False}, "PFGM++ D=1"),
        ({"D": 128}, "PFGM++ D=128"),
        ({"D": float("inf"), "target": "mean"}, "PFGM++ D=inf"),
    ],
)
def test_poisson_flow(tmp_path, params, system):
    settings = dict(notebook="train_pfgm", **{"dataset": "moons"} | params | TINY)
    if "target" in params:  # by papermill, without an output path
        run = papermill(tmp_path, out=None, **settings)
        assert run.returncode == 0 and json.loads(run.stdout)["cells"], run.stderr
    else:
        assert play(tmp_path, **settings) == ""
    found = json.loads((tmp_path / "runs/train_pfgm/result.json").read_text())["rows"]
    # with the last step to the data
    assert [
        (r["system"], r["distilled"], r["nfe"])
        for r in found
        if r["solver"] == "euler" and r["nfe"] <= 2
    ] == [
        (system, False, 2),
        (system, True, 1),
        (f"2-RF from {system}", False, 1),
        (f"2-RF from {system}", True, 1),
    ]
    assert [
        r["nfe"] for r in found if r["solver"] == "heun" and 30 < r["nfe"] < 40
    ] == [35]


def pictures(folder, sizes):
    folder.mkdir()
    for i, (w, h) in enumerate(sizes):
        Image.fromarray(
            np.random.RandomState(i).randint(0, 255, (h, w, 3), dtype=np.uint8)
        ).save(folder / f"{i}.{('png', 'jpg', 'webp')[i % 3]}")
    return folder


def test_a_folder_of_ones_own(tmp_path):
    mine = pictures(tmp_path / "mine", [(20 + i, 30 - i) for i in range(12)])
    own = dict(dataset=mine, resize=8, rounds=1, distill=False, **TINY)
    assert "out_: no such parameter; did you mean out?" in play(
        tmp_path, out_="unused", **own
    )
    # a name of the notebook's own
    assert "table: no such parameter; there are dataset, out, target, time" in play(
        tmp_path, table=2, **own
    )
    assert play(tmp_path, out="runs/mine", **own) == ""
    assert (tmp_path / "runs/mine/result.json").exists()


def unusable(tmp_path):
    "Things that are no data sets."
    (tmp_path / "empty").mkdir()
    pictures(tmp_path / "mixed", [(8, 8), (9, 8)])
    (pictures(tmp_path / "broken", [(8, 8)]) / "9.png").write_bytes(b"no picture")
    np.savez(tmp_path / "floats.npz", images=np.zeros((3, 8, 8, 1)))
    np.savez(tmp_path / "objects.npz", images=np.array([{}], dtype=object))


@pytest.mark.parametrize(
    "params, says",
    [
        ({"dataset": "mixed"}, "pictures of mixed sizes"),
        (
            {"notebook": "train_sde", "sde": "vpp"},
            "sde: 'vpp' is not accepted; give 'vp', 'subvp' or 've'",
        ),
        (
            {"notebook": "train_pfgm", "roundz": 2},
            "roundz: no such parameter; did you mean rounds?",
        ),
        (
            {"notebook": "train_transfer", "source": "empty"},
            "the folder 'empty' holds no pictures",
        ),
    ],
    ids=str,
)
def test_bad_input_gets_one_sentence(tmp_path, params, says):
    unusable(tmp_path)
    run = papermill(tmp_path, **TINY | params)
    assert run.returncode
    last = [l for l in run.stderr.splitlines() if l.strip()][-1]
    assert says in last, last
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


@pytest.mark.parametrize(
    "job, says",
    [
        ("rf --rounds 0", "rounds: 0 is not accepted; give 1 or more"),
        (
            "rf --dataset digitz",
            "dataset: 'digitz' is not one of digits, digits-train, digits-test, mnist",
        ),
        ("rf --budget while", "budget: 'while' is not an amount and a unit"),
        ("rf --preset huge", "preset: 'huge' is not one of auto"),
        ("rf --dataset empty", "the folder 'empty' holds no pictures"),
        ("rf --dataset mixed", "pictures of mixed sizes"),
        ("rf --dataset broken", "cannot be read as a picture"),
        ("rf --dataset floats.npz", "images of type float64"),
        ("rf --dataset objects.npz", "never unpickled"),
        ("rf --dataset moons --classes True", "classes: True, but moons has none"),
        ("rf --device cuda", "device: 'cuda' is not available here"),
        ("rf --out floats.npz/x", "out: 'floats.npz/x' cannot be written"),
        ("rf --pairing near", "pairing: 'near' is not accepted; give 'random' or 'ot'"),
        ("sde --steps -1", "steps: -1 is not accepted; give 0 or more"),
        (
            "rf --start digits-pfgm",
            "start: the weights of 'digits-pfgm' are of another network than the "
            "preset's",
        ),
        (
            "rf --start nowhere",
            "source: 'nowhere' is neither the folder of a run nor one of",
        ),
        (
            "rf --precision fp8",
            "precision: 'fp8' is not accepted; give 'float32', 'tf32' or 'bf16'",
        ),
        (
            "rf --preset small-dit --dropout .1",
            "preset: its DiT for samples of shape (1, 8, 8)",
        ),
        ("pfgm --D .5", "D: 0.5 is not accepted; give 1 or more, or inf"),
        (
            "transfer --source moons",
            "source: samples of shape (2,), but those of the target have (1, 8, 8)",
        ),
        ("transfer --source digits/11", "label: 11 does not occur in digits"),
        (
            "transfer --source moons --target heart --feature True",
            "feature: the classifier knows digits of shape (1, 8, 8), not (2,)",
        ),
    ],
)
def test_a_bad_job_gets_one_sentence(tmp_path, monkeypatch, capsys, job, says):
    if "cuda" in job and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    monkeypatch.chdir(tmp_path)
    unusable(tmp_path)
    rest = {k: v for k, v in TINY.items() if f"--{k}" not in job}
    assert main(["train", *job.split(), *options(**rest)]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("odeflow train: ") and says in said, said
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


def test_a_word_that_is_no_number_is_a_usage_error(capsys):
    with pytest.raises(SystemExit, match="^2$"):
        main(["train", "rf", "--rounds", "two"])
    assert (
        "argument --rounds: 'two' is no int; give 1 or more" in capsys.readouterr().err
    )


def test_forty_pictures_of_mixed_formats_with_classes(tmp_path, monkeypatch, capsys):
    """Trained with their classes from a folder, then sampled and encoded by the command
    line.
    """
    rs = np.random.RandomState(0)
    for i in range(40):
        folder = tmp_path / "mine" / ("cats", "dogs")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        im = Image.fromarray(rs.randint(0, 255, (10 + i, 50 - i, 3), dtype=np.uint8))
        im = (
            im.convert(("RGB", "L", "P")[i % 3])
            if (end := ("png", "jpg", "webp", "bmp", "gif", "tiff")[i % 6])
            in ("png", "tiff")
            else im
        )
        im.save(folder / f"{i}.{end}")
    own = dict(dataset="mine", distill=False, **TINY)
    assert "give resize, such as resize=32" in play(tmp_path, rounds=1, **own)
    assert play(tmp_path, resize=8, rounds=2, classes=True, **own) == ""
    model = "runs/train_rf/reflow-1"
    monkeypatch.chdir(tmp_path)

    def odeflow(*words):
        "Status, and what is said."
        return main(list(words)), *capsys.readouterr()

    status, out, err = odeflow(
        "sample",
        model,
        "--n",
        "6",
        "--label",
        "1",
        "--guidance",
        "2",
        "--solver",
        "euler",
        "--nfe",
        "4",
        "--out",
        "dogs.npz",
    )
    assert status == 0 and json.loads(out)["nfe"] == 4, err
    status, out, err = odeflow(
        "encode",
        model,
        "mine",
        "--resize",
        "8",
        "--rtol",
        "1e-2",
        "--atol",
        "1e-2",
        "--out",
        "latents.npz",
    )
    assert status == 0 and json.loads(out)["samples"] == 40, err


def test_transfer(tmp_path):
    run = papermill(
        tmp_path, notebook="train_transfer", source="moons", target="heart", **TINY
    )
    assert run.returncode == 0, run.stderr
    record = json.loads((tmp_path / "runs/transfer/result.json").read_text())
    assert (
        set(record["transport_cost"]) == {"random pairs", "1-RF", "2-RF"}
        and len(record["cycle_error"]["2-RF"]) == 2
    )
    assert (tmp_path / "runs/transfer/path.webp").exists()
    assert {(r["system"], r["distilled"]) for r in record["rows"]} == {
        (s, d) for s in ("1-RF", "2-RF") for d in (False, True)
    }


SMALL = dict(TINY, rounds=1, distill=False, device="cpu", dataset="digits")


def test_a_training_that_starts_from_a_trained_model(tmp_path):
    """After six steps at a rate of almost nothing the weights are still those it
    started from; the averages that are kept say their cost.
    """
    e = run(
        "rf",
        out=str(tmp_path / "run"),
        start="digits-1-rf",
        lr=1e-9,
        ema=0.0,
        warmup=0,
        save_every=0.0,
        keep=3,
        **SMALL,
    )
    start, end = (
        p.net.state_dict()
        for p in (
            Pipeline.from_pretrained("digits-1-rf"),
            Pipeline.from_pretrained(tmp_path / "run/1-RF"),
        )
    )
    assert all(torch.allclose(start[k], end[k], atol=1e-6) for k in start)
    told = [
        json.loads((tmp_path / f"run/1-RF/averages/{k}/config.json").read_text())[
            "run"
        ]["images"]
        for k in (1, 2)
    ]
    assert told == [16, 32] and not (tmp_path / "run/1-RF/averages/3").exists()
    assert e.rows[0]["trained_in"] == e.rows[0]["sampled_in"] == "float32"
    before = (tmp_path / "run/1-RF/model.safetensors").read_bytes()
    run(
        "rf",
        out=str(tmp_path / "run"),
        start="digits-1-rf",
        lr=1e-9,
        ema=0.0,
        warmup=0,
        save_every=0.0,
        keep=3,
        **SMALL,
    )
    assert (tmp_path / "run/1-RF/model.safetensors").read_bytes() == before


def test_a_run_in_bfloat16_says_so(tmp_path, recwarn):
    """Solvers of fixed steps compute as the training did; RK45 takes TF32 where its
    tolerance is loose, which a CPU computes as float32.
    """
    e = run(
        "rf",
        out=str(tmp_path / "run"),
        precision="bf16",
        **SMALL | {"dataset": "moons"},
    )
    e.curve()
    assert {r["trained_in"] for r in e.rows} == {"bf16"}
    assert {(r["solver"], r["sampled_in"]) for r in e.results.rows} == {
        ("rk45", "tf32"),
        ("euler", "bf16"),
        ("heun", "bf16"),
    }
    assert any("only imitates bfloat16" in str(w.message) for w in recwarn) == (
        not has_bf16()
    )


def test_a_preset_mirrors(tmp_path):
    "Unless it is told not to."
    own = dict(out=str(tmp_path / "run"), resize=32, preset="cifar10-quarter")
    cfg = lambda **given: RFParameters(**own | dict(device="cpu") | given)
    assert [
        Rectified(cfg(**g)).data.flip
        for g in (
            {},
            {"flip": False},
            {"preset": "small"},
            {"preset": "small", "flip": True},
        )
    ] == [True, False, False, True]
    assert (
        Rectified(cfg(dropout=0.3)).plan.net["dropout"] == 0.3
        and "dropout" not in PRESETS["cifar10-quarter"].net
    )


def test_the_mean_of_a_batch(tmp_path):
    "A preset says of how many data a mean is, for every system that has means."
    own = dict(out=str(tmp_path / "run"), preset="mnist", device="cpu")
    flows = {
        (kind.__name__, target): kind(params(**own, target=target)).flow
        for kind, params in (
            (Rectified, RFParameters),
            (Diffusion, SDEParameters),
            (Poisson, PFGMParameters),
        )
        for target in ("mean", "single")
        if (kind, target) != (Poisson, "single")
    }
    for (_, target), flow in flows.items():
        assert flow.target == target
        assert flow.field_batch == (1024 if target == "mean" else None)
    wide = Poisson(PFGMParameters(**own, D=128)).flow
    assert (wide.target, wide.field_batch) == ("mean", 1024)
