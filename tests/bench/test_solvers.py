"Error against evaluations for every solver on a trained flow; torchdiffeq and SciPy are the peers."
from pathlib import Path

import numpy as np, pytest, torch
from scipy.integrate import solve_ivp
from odeflow.data import load_data
from odeflow.flow import integrate, sample
from odeflow.nets import load_net
from odeflow.rectified import RectifiedFlow
from odeflow.train import Recipe, new_net, preset, train

@pytest.fixture(scope="module")
def net(tmp_path_factory):
    "The 1-rectified flow of `make demo` where it has been run, else a short training."
    done = Path("runs/train_rf/1-RF")
    if (done/"model.safetensors").exists(): return load_net(done).double()
    recipe = Recipe("20000 images", batch=64)
    return train(RectifiedFlow(), new_net(preset("digits", (1, 8, 8)), (1, 8, 8)), load_data("digits"), tmp_path_factory.mktemp("run"), recipe).net.double()

class Double(RectifiedFlow):
    "The flow in float64, so that what is measured is the solver's error."
    def velocity(self, net, x, t): return net(x.double(), t.double())

def test_error_against_evaluations(net, benchmark, n=128):
    z = sample(Double(), net, n, (1, 8, 8), solver="euler", nfe=1).x0.double()
    run = lambda **kw: integrate(Double(), net, z, **kw)
    ref = run(solver="rk4", nfe=800).x
    rms = lambda x: float((x - ref).square().mean().sqrt())
    lines = [(f"{name} {nfe}", nfe, nfe, rms(run(solver=name, nfe=nfe).x)) for name in ("euler", "heun", "midpoint", "rk4") for nfe in (20, 40, 100)]
    for name in ("rk45", "dopri5"):
        for tol in (1e-2, 1e-3, 1e-4, 1e-5):
            out = run(solver=name, rtol=tol, atol=tol)
            lines.append((f"{name} {tol:g}", float(out.nfe.double().mean()), int(out.nfe.max()), rms(out.x)))
    f = lambda t, y: net(torch.from_numpy(y).reshape(n, 1, 8, 8), torch.full((n,), t, dtype=torch.float64)).detach().numpy().ravel()
    for tol in (1e-3, 1e-5):
        sol = solve_ivp(f, (0, 1), z.numpy().ravel(), rtol=tol, atol=tol)
        lines.append((f"SciPy RK45 {tol:g}", sol.nfev, sol.nfev, rms(torch.from_numpy(sol.y[:, -1]).reshape(n, 1, 8, 8))))
    print("\nsolver          evaluations: mean  most   RMS error")
    for name, mean, most, err in lines: print(f"{name:24s} {mean:7.1f} {most:5d}   {err:.2e}")
    benchmark.extra_info["lines"] = lines
    benchmark.pedantic(lambda: run(solver="rk45", rtol=1e-3, atol=1e-3), rounds=2)
