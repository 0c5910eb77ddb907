"make table: killed and started again, it fills every row and measures none twice."

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from odeflow.records import cell
from play import play, ROOT, TINY

SHORT = TINY | dict(samples=60, rounds=2)


def make(out, *targets):
    "The lines of the table, as `make table` makes them, with this test's own Python."
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "IN_TEST")
    } | {"LC_ALL": "C"}
    return subprocess.Popen(
        [
            "make",
            f"BIN={Path(sys.executable).parent}",
            f"OUT={out}",
            "EXTRA=" + " ".join(f"-p {k} '{v}'" for k, v in SHORT.items()),
            *(f"{out}/{t}.ipynb" for t in targets),
        ],
        cwd=ROOT,
        env=env,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def jobs():
    "Started jobs, killed at the end if they still run."
    started = []
    yield started
    for job in started:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


def record(out, run):
    path = out / run / "result.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def test_killed_and_continued(tmp_path, jobs):
    jobs.append(job := make(tmp_path, "rf"))
    begun = time.monotonic()
    while len(record(tmp_path, "rf")) < 3:  # kill it between two rows
        assert job.poll() is None and time.monotonic() - begun < 300, (
            "three rows were not measured in time"
        )
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    time.sleep(3)  # the kernel sees that its parent is gone
    early = record(tmp_path, "rf")
    trained = [
        (tmp_path / "rf/1-RF" / f).read_bytes()
        for f in ("model.safetensors", "metrics.jsonl")
    ]
    assert not (tmp_path / "rf.ipynb").exists() and all(r["frechet"] > 0 for r in early)
    jobs.append(job := make(tmp_path, "rf"))
    log, _ = job.communicate(timeout=300)
    assert job.returncode == 0, log
    rows = record(tmp_path, "rf")
    assert (
        rows[: len(early)] == early
        and [
            (tmp_path / "rf/1-RF" / f).read_bytes()
            for f in ("model.safetensors", "metrics.jsonl")
        ]
        == trained
    )
    assert {(r["system"], r["distilled"]) for r in rows} == {
        (f"{k}-RF", d) for k in (1, 2) for d in (False, True)
    }
    assert all(
        (tmp_path / "rf" / r["grid"]).exists()
        and r["recall"] is not None
        and r["is"] is None
        for r in rows
    )
    jobs.append(job := make(tmp_path, "rf"))
    assert "up to date" in job.communicate(timeout=60)[0] and job.returncode == 0

    told = dict(folder=tmp_path, write=True, verdict=False)
    assert play(ROOT, "results", **told) == ""
    (row,) = (r for r in rows if r["system"] == "2-RF" and r["distilled"])
    line = f"| 2-RF | yes | euler | 1 | {cell(row['frechet'])} |"
    assert line in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    "line, words",
    [
        ("rf-0", "train_rf -p target mean -p seed 0 -p rounds 3"),
        ("rf-7", "train_rf -p target mean -p seed 7 -p rounds 2"),
        (
            "vp-1",
            "train_sde -p sde vp -p target mean -p rounds 1 -p seed 1 -p steps 2000 "
            "-p long_samples 500",
        ),
        (
            "subvp-2",
            "train_sde -p sde subvp -p target mean -p rounds 1 -p seed 2 -p steps 100 "
            "-p distill False",
        ),
        (
            "pfgmpp-128-single-3",
            "train_pfgm -p D 128 -p rounds 1 -p distill False -p target single "
            "-p curve False -p seed 3",
        ),
        (
            "rf-8",  # the name of a line of its own, no seed
            "train_rf -p rounds 1 -p distill False -p budget 88000 images "
            "-p target single -p time uniform",
        ),
    ],
)
def test_what_a_line_runs(line, words):
    "A line that ends in a number is that line with that seed."
    told = subprocess.run(
        ["make", "-n", "OUT=out", f"out/{line}.ipynb"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    (command,) = (w for w in told.splitlines() if "papermill" in w)
    notebook, *rest = command.replace('"', "").split("nbs/")[1].split()
    where = [f"out/.{line}.ipynb", "-p", "out", f"out/{line}"]
    assert rest[:4] == where
    assert [notebook.removesuffix(".ipynb"), *rest[4:]] == words.split()
