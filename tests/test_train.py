"A run that is killed without warning, at a random step, must lose nothing."
import json, os, random, signal, subprocess, sys, time
from pathlib import Path

import pytest, torch
from odeflow.train import newest_state

RUN = """
import sys, torch
from odeflow.data import load_data
from odeflow.nets import UNet
from odeflow.rectified import RectifiedFlow
from odeflow.train import Recipe, train
torch.set_num_threads(1); torch.manual_seed(0)
net = UNet((1, 8, 8), channels=8, mults=(1, 2), blocks=1, dropout=.1)
train(RectifiedFlow(), net, load_data("digits", flip=True), sys.argv[1], Recipe("60 steps", batch=16, log_every=3, save_every=0, preview_every=99), device="cpu", progress=False)
"""

def start(out): return subprocess.Popen([sys.executable, "-c", RUN, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

def finish(out):
    p = start(out)
    err = p.communicate()[1]
    assert p.returncode == 0, err
    return newest_state(out/"state")

@pytest.fixture(scope="module")
def whole(tmp_path_factory): return finish(tmp_path_factory.mktemp("whole"))

def kill_at(out, step, sig):
    "Send a signal once the log has passed a step; returns the exit status."
    p, log = start(out), out/"metrics.jsonl"
    while p.poll() is None and not (log.exists() and log.read_text().count("\n")*3 >= step): time.sleep(.002)
    time.sleep(random.random()*.05)
    p.send_signal(sig)
    p.wait()
    return p.returncode

def same(a, b):
    assert a[2]["step"] == b[2]["step"] == 60
    assert a[1].keys() == b[1].keys()
    assert [k for k in a[1] if not torch.equal(a[1][k], b[1][k])] == []

@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_is_bit_for_bit(tmp_path, whole, sig):
    code = kill_at(tmp_path, random.randrange(3, 50), sig)
    assert code == (-sig if sig == signal.SIGKILL else 128 + sig)
    assert newest_state(tmp_path/"state")[2]["step"] < 60
    same(finish(tmp_path), whole)
    steps = [json.loads(l)["step"] for l in (tmp_path/"metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 60

def test_truncated_newest_checkpoint(tmp_path, whole):
    kill_at(tmp_path, 30, signal.SIGKILL)
    newest = max((tmp_path/"state").glob("step-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    before = newest_state(tmp_path/"state")
    assert before[0] != newest
    same(finish(tmp_path), whole)
