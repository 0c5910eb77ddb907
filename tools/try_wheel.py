"""What an installation without extras must do: a sample, ten steps of training, an FID.

python tools/try_wheel.py     with the Python of that installation, from anywhere
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
MAKE = """
import sys, numpy as np, torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as F
from unittest import mock
torch.manual_seed(0)
for k, name in enumerate("ab"):
    u = np.random.RandomState(k).randint(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    np.savez(name + ".npz", images=u)
with mock.patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url"):
    with mock.patch.object(F, "load_state_dict"):
        net = F("random", ["2048"])
w = {k: torch.randn_like(v) * (2 / v[0].numel()) ** 0.5 if v.ndim == 4 else v
     for k, v in net.state_dict().items()}
torch.save(w, sys.argv[1])
"""  # noqa: E501


def run(what, *command, cwd, env):
    "One thing that a user does; what it printed."
    begun = time.monotonic()
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    took = time.monotonic() - begun
    print(f"{what}: status {done.returncode}, {took:.1f} s", flush=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return done.stdout


def main():
    with tempfile.TemporaryDirectory() as home:
        cache = Path(home, "torch/hub/checkpoints")
        cache.mkdir(parents=True)
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        env |= {"TORCH_HOME": f"{home}/torch", "ODEFLOW_DATA": f"{home}/data"}
        at = dict(cwd=home, env=env)
        odeflow, python = str(BIN / "odeflow"), sys.executable
        where = "import odeflow; print(odeflow.__file__, odeflow.__version__)"
        print(run("import odeflow", python, "-c", where, **at).strip())
        run("odeflow --help", odeflow, "--help", **at)
        made = run("odeflow sample", odeflow, "sample", "digits-2-rf-distilled", **at)
        assert json.loads(made)["samples"] == 64 and Path(home, "samples.png").exists()
        short = ("--budget", "10 steps", "--rounds", "1", "--no-distill")
        few = ("--samples", "20", "--batch", "16", "--out", "run")
        run("odeflow train", odeflow, "train", "rf", *short, *few, **at)
        assert json.loads(Path(home, "run/result.json").read_text())["rows"]
        weights = cache / "weights-inception-2015-12-05-6726825d.pth"
        run("random weights", python, "-c", MAKE, str(weights), **at)
        said = json.loads(run("odeflow fid", odeflow, "fid", "a.npz", "b.npz", **at))
        assert said["fid"] > 0 and said["a"]["samples"] == 6
        command = [str(BIN / "nbdev_export")]
        done = subprocess.run(command, capture_output=True, text=True, **at)
        print(f"nbdev_export: status {done.returncode}, {done.stderr.strip()}")


if __name__ == "__main__":
    main()
