"""A batch is the same batch on one process, on two, or cut into parts: gloo on CPUs, as
torchrun and `accelerate launch` set it up.
"""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from odeflow.data import load_data
from odeflow.nets import UNet
from odeflow.pipeline import Pipeline
from odeflow.rectified.flow import RectifiedFlow
from odeflow.rectified.coupling import draw_coupling
from odeflow.runs import write_json
from odeflow.records import evaluate
from odeflow.distributed import accelerator
from odeflow.runs import load_state, newest_state
from odeflow.training import Recipe, train

# A server imports everything once, computes nothing, and forks each process.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    ["pytest", "sklearn.datasets", "torch._dynamo", "odeflow.pipeline"]
)


def training(out, budget, accumulate=1):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = Recipe(
        budget,
        batch=32,
        warmup=1,
        decay="constant",
        accumulate=int(accumulate),
        log_every=5,
        save_every=0,
        preview_every=99,
    )
    train(
        RectifiedFlow(),
        UNet((1, 8, 8), channels=8, mults=(1, 2), blocks=1),
        load_data("digits", flip=True),
        out,
        recipe,
        device="cpu",
        progress=False,
    )


def sampling(out):
    torch.set_num_threads(1)
    acc = accelerator("cpu")
    pipe = Pipeline.from_pretrained("digits-2-rf")
    data = load_data("digits")
    row = evaluate(
        pipe.flow,
        pipe.net,
        data,
        system="2-RF",
        n=70,
        batch=20,
        solver="euler",
        nfe=3,
        device="cpu",
    )
    draw_coupling(
        pipe.flow,
        pipe.net,
        70,
        (1, 8, 8),
        out,
        solver="euler",
        nfe=3,
        batch=20,
        device="cpu",
        progress=False,
    )
    if acc.is_main_process:
        write_json(row, out / "row.json")


def ranked(rank, count, port, work, args):
    "Work as one process of several, in the environment that torchrun makes."
    if count > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(count),
            LOCAL_WORLD_SIZE=str(count),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    work(*args)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(work, *args, processes=1):
    port = free_port()
    jobs = [
        FORK.Process(target=ranked, args=(k, processes, port, work, args))
        for k in range(processes)
    ]
    for j in jobs:
        j.start()
    for j in jobs:
        j.join()
    assert [j.exitcode for j in jobs] == [0] * processes


def trained(out, steps=20, accumulate=1, processes=1):
    run(training, out, f"{steps} steps", accumulate, processes=processes)
    _, tensors, meta = newest_state(out / "state")
    assert meta["step"] == steps
    return weights(tensors)


def weights(tensors):
    return {k: v for k, v in tensors.items() if k.startswith(("net/", "ema/"))}


def gap(a, b):
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    last = trained(out)
    before = load_state(out / "state/step-000000015.safetensors")[0]
    # the weights move, so that being equal means something
    assert gap(last, weights(before)) > 1e-3
    return last


@pytest.mark.parametrize("cut", [dict(processes=2), dict(accumulate=4)], ids=str)
def test_same_weights_after_20_steps(one, tmp_path, cut):
    assert gap(one, trained(tmp_path, **cut)) < 1e-5


@pytest.mark.parametrize("first, second", [(1, 2), (2, 1)])
def test_continues_on_another_number(one, tmp_path, first, second):
    trained(tmp_path, steps=10, processes=first)
    assert gap(one, trained(tmp_path, processes=second)) < 1e-5
    assert [
        json.loads(l)["step"]
        for l in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ] == [5, 10, 15, 20]


def test_a_batch_that_cannot_be_split(tmp_path):
    with pytest.raises(
        ValueError,
        match="^batch: 32 samples cannot be split evenly over 1 processes in 3 parts; "
        "give a multiple of 3$",
    ):
        training(tmp_path, "2 steps", 3)


def test_torchrun_and_a_signal_that_stops_all_after_the_same_step(tmp_path):
    script = "import sys; sys.path.insert(0, sys.argv[1]); from test_processes import training; training(*sys.argv[2:])"  # noqa: E501
    torchrun = [
        str(Path(sys.executable).parent / "torchrun"),
        "--standalone",
        "--nproc_per_node",
        "2",
        "--no-python",
        sys.executable,
        "-c",
        script,
    ]
    job = subprocess.Popen(
        [*torchrun, str(Path(__file__).parent), str(tmp_path), "100000 steps"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "metrics.jsonl"
    while job.poll() is None and not (log.exists() and log.read_text()):
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    job.wait()
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    assert newest_state(tmp_path / "state")[2]["step"] == last


def test_sampling_is_shared_out(tmp_path):
    for k in (1, 2):
        run(sampling, tmp_path / str(k), processes=k)
    a, b = (tmp_path / str(k) for k in (1, 2))
    assert (a / "row.json").read_text() == (b / "row.json").read_text()
    assert [
        (a / f).read_bytes() == (b / f).read_bytes()
        for f in ("x0.npy", "x1.npy", "coupling.json")
    ] == [True] * 3
