"""Error against evaluations for every solver on a trained flow; torchdiffeq and SciPy
are the peers.
"""

from pathlib import Path
import re
import statistics
import time

import pytest
import torch
from measure import Rounded, as_tf32, awake
from scipy.integrate import solve_ivp
from odeflow.data import load_data
from odeflow.sampling import integrate, sample, SOLVERS
from odeflow.nets import load_net, UNet
from odeflow.pipeline import Pipeline, pretrained
from odeflow.rectified.flow import RectifiedFlow
from odeflow.records import judge
from odeflow.training import Recipe, train
from odeflow.presets import new_net, preset


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    "The 1-rectified flow of `make demo` where it has been run, else a short training."
    done = Path("runs/train_rf/1-RF")
    if (done / "model.safetensors").exists():
        return load_net(done).double()
    recipe = Recipe("20000 images", batch=64)
    return train(
        RectifiedFlow(),
        new_net(preset("digits", (1, 8, 8)), (1, 8, 8)),
        load_data("digits"),
        tmp_path_factory.mktemp("run"),
        recipe,
    ).net.double()


class Double(RectifiedFlow):
    "The flow in float64, so that what is measured is the solver's error."

    def velocity(self, net, x, t):
        return net(x.double(), t.double())


def test_error_against_evaluations(net, record, benchmark, n=128):
    z = sample(Double(), net, n, (1, 8, 8), solver="euler", nfe=1).x0.double()
    run = lambda **kw: integrate(Double(), net, z, **kw)
    ref = run(solver="rk4", nfe=800).x
    rms = lambda x: float((x - ref).square().mean().sqrt())
    lines = [
        (f"{name} {nfe}", nfe, nfe, rms(run(solver=name, nfe=nfe).x))
        for name in ("euler", "heun", "midpoint", "rk4")
        for nfe in (20, 40, 100)
    ]
    for name in ("rk45", "dopri5"):
        for tol in (1e-2, 1e-3, 1e-4, 1e-5):
            out = run(solver=name, rtol=tol, atol=tol)
            lines.append(
                (
                    f"{name} {tol:g}",
                    float(out.nfe.double().mean()),
                    int(out.nfe.max()),
                    rms(out.x),
                )
            )
    f = lambda t, y: (
        net(
            torch.from_numpy(y).reshape(n, 1, 8, 8),
            torch.full((n,), t, dtype=torch.float64),
        )
        .detach()
        .numpy()
        .ravel()
    )
    for tol in (1e-3, 1e-5):
        sol = solve_ivp(f, (0, 1), z.numpy().ravel(), rtol=tol, atol=tol)
        lines.append(
            (
                f"SciPy RK45 {tol:g}",
                sol.nfev,
                sol.nfev,
                rms(torch.from_numpy(sol.y[:, -1]).reshape(n, 1, 8, 8)),
            )
        )
    record(
        [
            dict(name=name, nfe_mean=float(mean), nfe_most=most, error=err)
            for name, mean, most, err in lines
        ]
    )
    benchmark.pedantic(lambda: run(solver="rk45", rtol=1e-3, atol=1e-3), rounds=2)


class Clocked(torch.nn.Module):
    "A network that adds up the seconds spent in it."

    def __init__(self, net):
        super().__init__()
        self.net, self.seconds = net, 0.0

    def forward(self, x, c, y=None):
        begun = time.perf_counter()
        out = self.net(x, c, y)
        self.seconds += time.perf_counter() - begun
        return out


@pytest.mark.parametrize("solver", ("euler", "heun", "rk45"))
def test_outside_the_network(solver, record, benchmark, nfe=20, runs=7):
    "The share of `sample` that is not spent in the network, at 3 x 32 x 32."
    net = Clocked(
        awake(UNet((3, 32, 32), channels=32, mults=(1, 1, 2, 2), attention=(8,)))
    ).eval()

    def share(n):
        net.seconds = 0.0
        begun = time.perf_counter()
        out = sample(
            RectifiedFlow(),
            net,
            n,
            (3, 32, 32),
            solver=solver,
            nfe=nfe,
            rtol=1e-3,
            atol=1e-3,
        )
        total = time.perf_counter() - begun
        return 1 - net.seconds / total, total, float(out.nfe.double().mean())

    rows = []
    for n in (1, 32):
        shares, totals, spent = zip(*[share(n) for _ in range(runs)])
        rows.append(
            dict(
                name=solver,
                samples=n,
                nfe=spent[0],
                outside=statistics.median(shares),
                most=max(shares),
                seconds=statistics.median(totals),
                threads=torch.get_num_threads(),
            )
        )
    record(rows, f"outside-{solver}")
    benchmark.pedantic(lambda: share(1), rounds=2)


GRIDS = {
    "nfe": (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 50, 64, 80, 100),
    "tol": (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001),
}
DETERMINISTIC = {
    "euler": "nfe",
    "heun": "nfe",
    "midpoint": "nfe",
    "rk4": "nfe",
    "ddim": "nfe",
    "rk45": "tol",
    "dopri5": "tol",
}
assert DETERMINISTIC.keys() <= SOLVERS.keys()


@pytest.mark.parametrize(
    "name",
    [name for name in pretrained() if not re.search("distilled|classes|-to-", name)],
)
def test_fewest(name, record, benchmark, n=200):
    """The fewest evaluations with which each deterministic solver comes, and stays,
    within 1% of the converged Frechet distance: the same noise for all.
    """
    pipe = Pipeline.from_pretrained(name)
    data = load_data("digits")

    def judged(**how):
        out = pipe(n, **how)
        return judge(out.x, data)["frechet"], float(out.nfe.double().mean())

    limit, _ = judged(solver="rk45", rtol=1e-5, atol=1e-5)
    rows = []
    for solver, kind in DETERMINISTIC.items():
        try:
            tried = list(
                approach(
                    lambda v: judged(
                        solver=solver,
                        **{"nfe": v} if kind == "nfe" else {"rtol": v, "atol": v},
                    ),
                    limit,
                    GRIDS[kind],
                )
            )
        except TypeError:
            continue  # ddim, of a system without marginals
        stays = len(tried) > 1 and tried[-1]["close"] and tried[-2]["close"]
        rows.append(
            dict(
                system=name,
                solver=solver,
                converged=limit,
                samples=n,
                fewest=tried[-2]["nfe"] if stays else None,
                tried=tried,
            )
        )
    record(rows, f"fewest-{name}")
    benchmark.pedantic(lambda: pipe(16, solver="euler", nfe=10), rounds=2)


def approach(judged, limit, grid):
    """What each setting of a grid gives, from the coarsest, until two in a row are
    close to the limit.
    """
    close = spent = 0
    for v in grid:
        try:
            distance, nfe = judged(v)
        except ValueError as e:
            if not str(e).startswith("nfe"):
                raise
            continue  # too few for one step of this solver
        if nfe == spent:
            continue  # an odd budget of a solver of even steps
        spent = nfe
        close = close + 1 if abs(distance / limit - 1) < 0.01 else 0
        yield dict(setting=v, nfe=nfe, frechet=distance, close=close > 0)
        if close == 2:
            return


def test_rounding(record, benchmark, n=4, most=4000):
    """Evaluations that RK45 takes where the network's products are rounded, which it
    takes for an error of its own.
    """
    x = torch.randn(10**5, generator=torch.Generator().manual_seed(0))
    apart = ((as_tf32(x) - x) / x).abs().max()
    kept = as_tf32(torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11]))
    assert 2**-12 < apart <= 2**-11 and kept.tolist() == [
        1.0,
        1 + 2**-10,
        1.0,
        1 + 2**-9,
    ], apart
    rows = []
    for name in ("digits-1-rf", "digits-vp", "digits-pfgm"):
        for tol in (1e-3, 1e-4, 1e-5):
            for precision in ("float32", "tf32", "bf16"):
                p = Pipeline.from_pretrained(name)
                out = sample(
                    p.flow,
                    Rounded(p.net, precision),
                    n,
                    p.shape,
                    solver="rk45",
                    rtol=tol,
                    atol=tol,
                    nfe=most,
                )
                rows.append(
                    dict(
                        model=name,
                        tolerance=tol,
                        precision=precision,
                        nfe=float(out.nfe.double().mean()),
                        samples=n,
                    )
                )
    record(rows)
    nfe = {(r["model"], r["tolerance"], r["precision"]): r["nfe"] for r in rows}
    for name in ("digits-1-rf", "digits-vp", "digits-pfgm"):
        assert (
            3 * nfe[name, 1e-5, "float32"]
            < nfe[name, 1e-5, "bf16"]
            > 2 * nfe[name, 1e-5, "tf32"]
        )
    benchmark.pedantic(lambda: as_tf32(x), rounds=2)
