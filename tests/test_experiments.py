"The experiment notebooks as people run them: through papermill, on a tiny budget, with good and with bad parameters."
import json, os, subprocess, sys
from pathlib import Path

import numpy as np, pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(budget="6 steps", reflow_budget="4 steps", distill_budget="4 steps", batch=8, pairs=16, samples=20, tol=.1)

def papermill(cwd, *args, out="out.ipynb", notebook="train_rf", **params):
    "Run an experiment with papermill in a folder; returns the finished process."
    target = [out] if out else []
    args = [str(Path(sys.executable).parent/"papermill"), str(ROOT/f"nbs/{notebook}.ipynb"), *target, "--no-progress-bar", *args]
    for k, v in params.items(): args += ["-p", k, str(v)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(args, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)

def rows(folder): return {(r["system"], r["distilled"], r["solver"], r["solver"] == "euler" and r["nfe"]): r for r in json.loads((folder/"result.json").read_text())["rows"]}

def test_rounds_on_digits_and_resume(tmp_path):
    run = papermill(tmp_path, rounds=2, **TINY)
    assert run.returncode == 0, run.stderr
    first = rows(tmp_path/"runs/train_rf")
    ways = [(False, "rk45", False), *((False, "euler", n) for n in (1, 2, 4, 8)), (True, "euler", 1)]
    assert set(first) == {(f"{k}-RF", *way) for k in (1, 2) for way in ways}
    assert all(r["fid"] is None and r["frechet"] > 0 and r["images"] in (48, 32) for r in first.values())
    folder = tmp_path/"runs/train_rf"
    assert {"config.json", "metrics.jsonl", "samples.png", "model.safetensors"} <= {p.name for p in (folder/"1-RF").iterdir()}
    assert json.loads((folder/"config.json").read_text())["parameters"]["rounds"] == 2
    weights = (folder/"reflow-1/model.safetensors").read_bytes()
    run = papermill(tmp_path, rounds=2, **TINY)                    # the same again: nothing is trained twice
    assert run.returncode == 0, run.stderr
    assert rows(folder) == first and (folder/"reflow-1/model.safetensors").read_bytes() == weights
    run = papermill(tmp_path, rounds=2, **TINY | {"batch": 9})
    assert run.returncode and "recipe.batch was 8, now 9" in run.stderr

@pytest.mark.parametrize("sde, system", [("vp", "VP"), ("subvp", "sub-VP"), ("ve", "VE")])
def test_diffusion(tmp_path, sde, system):
    run = papermill(tmp_path, notebook="train_sde", sde=sde, steps=5, dataset="digits" if sde == "vp" else "moons", **TINY)
    assert run.returncode == 0, run.stderr
    found = [(r["system"], r["distilled"], r["solver"], r["nfe"]) for r in json.loads((tmp_path/"runs/train_sde/result.json").read_text())["rows"]]
    assert {f[2:] for f in found} >= {*(("euler", n) for n in (5, 10, 20, 40)), *(("heun", n) for n in (10, 20, 40))}
    assert [f for f in found if f[2] not in ("rk45", "heun") and f[3] not in (10, 20, 40) and f[1:] != (False, "euler", 5)] == [
        (system, False, "euler-maruyama", 100), (system, False, "euler-maruyama", 5), (system, False, "euler", 1), (system, True, "euler", 1),
        (f"2-RF from {system}", False, "euler", 1), (f"2-RF from {system}", True, "euler", 1)]

@pytest.mark.parametrize("params, system", [({"dataset": "digits"}, "PFGM"), ({"field": False}, "PFGM++ D=1"), ({"D": 128, "dataset": "digits"}, "PFGM++ D=128"), ({"D": "inf", "stable": True}, "PFGM++ D=inf, stable")])
def test_poisson_flow(tmp_path, params, system):
    run = papermill(tmp_path, notebook="train_pfgm", **{"dataset": "moons"} | params | TINY)
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path/"runs/train_pfgm/result.json").read_text())["rows"]
    assert [(r["system"], r["distilled"], r["nfe"]) for r in found if r["solver"] == "euler" and r["nfe"] <= 2] == [      # with the last step to the data
        (system, False, 2), (system, True, 1), (f"2-RF from {system}", False, 1), (f"2-RF from {system}", True, 1)]
    assert [r["nfe"] for r in found if r["solver"] == "heun" and 30 < r["nfe"] < 40] == [35]

def test_without_an_output_path(tmp_path):
    run = papermill(tmp_path, out=None, rounds=1, dataset="moons", distill=False, **TINY)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["cells"]
    assert set(rows(tmp_path/"runs/train_rf")) == {("1-RF", False, "rk45", False), *(("1-RF", False, "euler", n) for n in (1, 2, 4, 8))}

def pictures(folder, sizes):
    folder.mkdir()
    for i, (w, h) in enumerate(sizes):
        Image.fromarray(np.random.RandomState(i).randint(0, 255, (h, w, 3), dtype=np.uint8)).save(folder/f"{i}.{('png', 'jpg', 'webp')[i % 3]}")
    return folder

def test_a_folder_of_ones_own(tmp_path):
    mine = pictures(tmp_path/"mine", [(20 + i, 30 - i) for i in range(12)])
    run = papermill(tmp_path, dataset=mine, resize=8, rounds=1, out_="unused", **TINY)
    assert run.returncode and "out_: no such parameter; did you mean out?" in run.stderr
    run = papermill(tmp_path, "-p", "out", "runs/mine", dataset=mine, resize=8, rounds=1, distill=False, **TINY)
    assert run.returncode == 0, run.stderr
    assert (tmp_path/"runs/mine/result.json").exists()

@pytest.mark.parametrize("params, says", [
    ({"roundz": 2}, "roundz: no such parameter; did you mean rounds?"),
    ({"rounds": "two"}, "rounds: 'two' is of type str, not int"),
    ({"rounds": 0}, "rounds: 0 is not accepted; give 1 or more"),
    ({"dataset": "digitz"}, "dataset: 'digitz' is not one of digits, mnist"),
    ({"budget": "a while"}, "budget: 'a while' is not an amount and a unit"),
    ({"preset": "huge"}, "preset: 'huge' is not one of auto"),
    ({"dataset": "empty"}, "the folder 'empty' holds no pictures"),
    ({"dataset": "mixed"}, "pictures of mixed sizes"),
    ({"dataset": "broken"}, "cannot be read as a picture"),
    ({"dataset": "floats.npz"}, "images of type float64"),
    ({"dataset": "objects.npz"}, "never unpickled"),
    ({"device": "cuda"}, "device: 'cuda' is not available here"),
    ({"out": "floats.npz/x"}, "out: 'floats.npz/x' cannot be written"),
    ({"notebook": "train_sde", "sde": "vpp"}, "sde: 'vpp' is not accepted; give 'vp', 'subvp' or 've'"),
    ({"notebook": "train_sde", "steps": 0}, "steps: 0 is not accepted; give 1 or more"),
    ({"notebook": "train_pfgm", "D": .5}, "D: 0.5 is not accepted; give 1 or more, or inf"),
], ids=lambda p: "-".join(map(str, p.items())) if isinstance(p, dict) else "")
def test_bad_input_gets_one_sentence(tmp_path, params, says):
    import torch
    if params.get("device") == "cuda" and torch.cuda.is_available(): pytest.skip("there is a CUDA device here")
    (tmp_path/"empty").mkdir()
    pictures(tmp_path/"mixed", [(8, 8), (9, 8)])
    (pictures(tmp_path/"broken", [(8, 8)])/"9.png").write_bytes(b"no picture")
    np.savez(tmp_path/"floats.npz", images=np.zeros((3, 8, 8, 1)))
    np.savez(tmp_path/"objects.npz", images=np.array([{}], dtype=object))
    args = [a for k, v in params.items() if k == "out" for a in ("-p", k, v)]
    run = papermill(tmp_path, *args, **{k: v for k, v in (TINY | params).items() if k != "out"})
    assert run.returncode
    last = [l for l in run.stderr.splitlines() if l.strip()][-1]
    assert says in last, last
    assert not list((tmp_path/"runs").rglob("*.safetensors"))
