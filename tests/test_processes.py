"A batch is the same batch on one process, on two, or cut into parts: torchrun with gloo, as `accelerate launch` does on GPUs."
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest
from odeflow.train import load_state, newest_state

TRAIN = """
import sys, torch
from odeflow.data import load_data
from odeflow.nets import UNet
from odeflow.rectified import RectifiedFlow
from odeflow.train import Recipe, train
torch.set_num_threads(1); torch.manual_seed(0)
out, budget, accumulate = sys.argv[1], sys.argv[2], int(sys.argv[3])
recipe = Recipe(budget, batch=32, warmup=1, decay="constant", accumulate=accumulate, log_every=5, save_every=0, preview_every=99)
train(RectifiedFlow(), UNet((1, 8, 8), channels=8, mults=(1, 2), blocks=1), load_data("digits", flip=True), out, recipe, device="cpu", progress=False)
"""

EXPERIMENT = """
import sys
from odeflow.train import accelerator
from odeflow.reflow import draw_coupling
from odeflow.report import evaluate, write_json
from odeflow.pipeline import Pipeline
from odeflow.data import load_data
out, acc = sys.argv[1], accelerator("cpu")
pipe, data = Pipeline.from_pretrained("digits-2-rf"), load_data("digits")
row = evaluate(pipe.flow, pipe.net, data, system="2-RF", n=70, batch=20, solver="euler", nfe=3, device="cpu")
draw_coupling(pipe.flow, pipe.net, 70, (1, 8, 8), out, solver="euler", nfe=3, batch=20, device="cpu", progress=False)
if acc.is_main_process: write_json(row, out + "/row.json")
"""

def command(script, *args, processes):
    launch = [sys.executable, "-c"] if processes == 1 else [str(Path(sys.executable).parent/"torchrun"), "--standalone", "--nproc_per_node", str(processes), "--no-python", sys.executable, "-c"]
    return [*launch, script, *map(str, args)]

def run(script, *args, processes=1):
    done = subprocess.run(command(script, *args, processes=processes), capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr

def train(out, steps=20, accumulate=1, processes=1):
    run(TRAIN, out, f"{steps} steps", accumulate, processes=processes)
    _, tensors, meta = newest_state(out/"state")
    assert meta["step"] == steps
    return weights(tensors)

def weights(tensors): return {k: v for k, v in tensors.items() if k.startswith(("net/", "ema/"))}

def gap(a, b): return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)

@pytest.fixture(scope="module")
def one(tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    last, before = train(out), load_state(out/"state/step-000000015.safetensors")[0]
    assert gap(last, weights(before)) > 1e-3                     # the weights move, so that being equal means something
    return last

@pytest.mark.parametrize("cut", [dict(processes=2), dict(accumulate=4)], ids=str)
def test_same_weights_after_20_steps(one, tmp_path, cut): assert gap(one, train(tmp_path, **cut)) < 1e-5

@pytest.mark.parametrize("first, second", [(1, 2), (2, 1)])
def test_continues_on_another_number(one, tmp_path, first, second):
    train(tmp_path, steps=10, processes=first)
    assert gap(one, train(tmp_path, processes=second)) < 1e-5
    assert [json.loads(l)["step"] for l in (tmp_path/"metrics.jsonl").read_text().splitlines()] == [5, 10, 15, 20]

def test_a_batch_that_cannot_be_split(tmp_path):
    done = subprocess.run(command(TRAIN, tmp_path, "2 steps", 3, processes=1), capture_output=True, text=True)
    assert done.returncode and done.stderr.strip().endswith("batch: 32 samples cannot be split evenly over 1 processes in 3 parts; give a multiple of 3")

def test_a_signal_stops_all_after_the_same_step(tmp_path):
    job = subprocess.Popen(command(TRAIN, tmp_path, "100000 steps", 1, processes=2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while job.poll() is None and not (tmp_path/"metrics.jsonl").exists(): time.sleep(.05)
    job.send_signal(signal.SIGTERM)
    job.wait()
    last = json.loads((tmp_path/"metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert newest_state(tmp_path/"state")[2]["step"] == last

def test_sampling_is_shared_out(tmp_path):
    for k in (1, 2): run(EXPERIMENT, tmp_path/str(k), processes=k)
    a, b = (tmp_path/str(k) for k in (1, 2))
    assert (a/"row.json").read_text() == (b/"row.json").read_text()
    assert [(a/f).read_bytes() == (b/f).read_bytes() for f in ("x0.npy", "x1.npy", "coupling.json")] == [True]*3
