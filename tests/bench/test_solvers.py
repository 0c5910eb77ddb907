"Error against evaluations for every solver on a trained flow; torchdiffeq and SciPy are the peers."
from pathlib import Path
import statistics, time

import pytest, torch
from measure import awake
from scipy.integrate import solve_ivp
from odeflow.data import load_data
from odeflow.flow import integrate, sample
from odeflow.nets import UNet, load_net
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

def test_error_against_evaluations(net, record, benchmark, n=128):
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
    record([dict(name=name, nfe_mean=float(mean), nfe_most=most, error=err) for name, mean, most, err in lines])
    benchmark.pedantic(lambda: run(solver="rk45", rtol=1e-3, atol=1e-3), rounds=2)

class Clocked(torch.nn.Module):
    "A network that adds up the seconds spent in it."
    def __init__(self, net):
        super().__init__()
        self.net, self.seconds = net, 0.

    def forward(self, x, c, y=None):
        begun = time.perf_counter()
        out = self.net(x, c, y)
        self.seconds += time.perf_counter() - begun
        return out

@pytest.mark.parametrize("solver", ("euler", "heun", "rk45"))
def test_outside_the_network(solver, record, benchmark, nfe=20, runs=7):
    "The share of `sample` that is not spent in the network, at 3 x 32 x 32."
    net = Clocked(awake(UNet((3, 32, 32), channels=32, mults=(1, 1, 2, 2), attention=(8,)))).eval()
    def share(n):
        net.seconds, begun = 0., time.perf_counter()
        out = sample(RectifiedFlow(), net, n, (3, 32, 32), solver=solver, nfe=nfe, rtol=1e-3, atol=1e-3)
        total = time.perf_counter() - begun
        return 1 - net.seconds/total, total, float(out.nfe.double().mean())
    rows = []
    for n in (1, 32):
        shares, totals, spent = zip(*[share(n) for _ in range(runs)])
        rows.append(dict(name=solver, samples=n, nfe=spent[0], outside=statistics.median(shares), most=max(shares), seconds=statistics.median(totals), threads=torch.get_num_threads()))
    record(rows, f"outside-{solver}")
    benchmark.pedantic(lambda: share(1), rounds=2)
