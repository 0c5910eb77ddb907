"make table: killed and started again, it fills every row and measures none twice."

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
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

    assert play(ROOT, "results", folder=tmp_path, write=True) == ""
    assert (
        "| 2-RF | yes | euler | 1 | 9.01 | 4.85 | 0.5 | 1 |"
        in (tmp_path / "table.md").read_text()
    )
