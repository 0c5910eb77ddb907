"""The queue of GPU runs at toy size, from packed data to the table: `make rehearsal`,
or `python tools/rehearse.py FOLDER`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from odeflow.data import load_data
from parcel import pack, unpack
from odeflow.records import COLUMNS, read_results, table
from odeflow.runs import newest_state

TINY = dict(
    preset="digits",
    budget="20 steps",
    reflow_budget="10 steps",
    distill_budget="10 steps",
    batch=8,
    pairs=16,
    samples=20,
    tol=0.1,
    device="cpu",
)
JOBS = {  # the queue's entries: an experiment, its parameters, its processes
    "1-2-5 rectified flow": ("rf", dict(rounds=3), 1),
    "3 VP": ("sde", dict(sde="vp", steps=8, rounds=1), 1),
    "3 sub-VP": ("sde", dict(sde="subvp", steps=8, rounds=1), 1),
    "4 PFGM": ("pfgm", dict(rounds=1), 1),
    "4 PFGM++ D=128": ("pfgm", dict(D=128, rounds=1, distill=False), 1),
    "4 PFGM++ D=2048, two processes": (
        "pfgm",
        dict(D=2048, rounds=1, distill=False),
        2,
    ),
    "7 rectified flow, continued": (
        "rf",
        dict(rounds=1, budget="40 steps", distill=False),
        1,
    ),
}


def stage(home):
    """A hundred digits as an archive, packed into small parts and unpacked on the other
    side.
    """
    digits = load_data("digits")
    (home / "here").mkdir(parents=True)
    np.savez(
        home / "here/pictures.npz", images=digits.x[:100].permute(0, 2, 3, 1).numpy()
    )
    pack(home / "here", home / "data-parts", limit=0.002)
    return unpack(home / "data-parts", home / "there") / "pictures.npz"


def command(name, processes, **params):
    launch = (
        [sys.executable]
        if processes == 1
        else [
            str(Path(sys.executable).parent / "torchrun"),
            "--standalone",
            "--nproc_per_node",
            str(processes),
        ]
    )
    return [
        *launch,
        "-m",
        "odeflow",
        "train",
        name,
        *(str(w) for k, v in params.items() for w in (f"--{k}", v)),
    ]


def cut_short(words, out):
    """Run a job, end it by SIGTERM in its training, as a lent machine's time ends; the
    step at which it was saved.
    """
    job = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while job.poll() is None and not list(out.glob("*/metrics.jsonl")):
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM
    return newest_state(next(out.glob("*/state")))[2]["step"]


def travel(runs, home, n):
    "The runs go out in parts and come back in another place."
    parts = pack(runs, home / f"run-parts-{n}", limit=1)
    print(
        f"packed {runs.name} into {len(parts) - 1} parts of at most 1 MB, the "
        f"largest {max(p.stat().st_size for p in parts):,} bytes"
    )
    return unpack(home / f"run-parts-{n}", home / f"machine-{n}")


def main(home):
    data, runs = stage(home), home / "machine-0"
    long = command(
        "rf",
        1,
        dataset=data,
        out=runs / "cut",
        **TINY | dict(budget="100000 steps", rounds=1, distill=False),
    )
    print("cut short at step", step := cut_short(long, runs / "cut"))
    runs = travel(runs, home, 1)
    subprocess.run(
        command(
            "rf",
            1,
            dataset=data,
            out=runs / "cut",
            **TINY | dict(budget=f"{step + 10} steps", rounds=1, distill=False),
        ),
        check=True,
    )
    assert json.loads((runs / "cut/result.json").read_text())["rows"][0][
        "images"
    ] == 8 * (step + 10)
    for title, (name, params, processes) in JOBS.items():
        print(f"\n== entry {title}", flush=True)
        out = runs / title.split(",")[0].replace(" ", "-")
        if "continued" in title:
            shutil.copytree(runs / "1-2-5-rectified-flow", out)
        subprocess.run(
            command(name, processes, dataset=data, out=out, **TINY | params), check=True
        )
    runs = travel(runs, home, 2)
    rows = read_results(runs)
    assert {r["system"] for r in rows} >= {
        "1-RF",
        "2-RF",
        "3-RF",
        "VP",
        "sub-VP",
        "PFGM",
        "PFGM++ D=128",
        "PFGM++ D=2048",
    }
    print(table(rows, ("run", *COLUMNS)).markdown())


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(Path(sys.argv[1]))
