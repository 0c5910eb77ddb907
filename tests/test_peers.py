"""Other people's codes and papers on the same inputs: what agreed once must go on
agreeing.

`make peers` installs the optional extra, compares and prints the table of agreement;
`python tests/test_peers.py`
prints it for the peers that are installed. A difference is the largest one over all
numbers compared, in parts of the
largest of the peer's numbers; a tolerance of 0 asks for equal bits. Where a peer is no
package (score_sde, EDM,
PFGM++), its published formula is written out here in float64. k-diffusion's package
asks for NumPy 1, so its samplers
are EDM's here.
"""

import math
import os
import sys
from functools import partial

import numpy as np
import pytest
import torch
from scipy import linalg, spatial, stats
from scipy.integrate import solve_ivp
from torchdiffeq import odeint

from odeflow.flow import Gaussian, Rng
from odeflow.sampling import integrate, sample
from odeflow.metrics.distances import (
    blocks,
    ClassScores,
    frechet_distance,
    kid,
    kid_exact,
    mmd,
    nearest,
    precision_recall,
    sliced_wasserstein,
)
from odeflow.poisson.pfgmpp import kernel_weights, PFGMPP
from odeflow.poisson.prior import RadialPrior, radius_cdf
from odeflow.rectified.flow import RectifiedFlow
from odeflow.diffusion import SubVP, VE, VP
from odeflow.likelihood import log_likelihood
from odeflow.rectified.coupling import match
from odeflow.rectified.transfer import gaussian_cost

for name in ("JAX", "CUPY", "TENSORFLOW"):
    os.environ.setdefault(f"POT_BACKEND_DISABLE_{name}", "1")
# of the table: peer and what is compared to the largest difference and its bounds
ROWS = {}


def peer(name):
    "A peer's module, or a skipped test."
    return pytest.importorskip(
        name, reason=f"{name} is not installed; `make peers` installs it"
    )


def agree(name, what, ours, theirs, tol):
    "Both are one, but for `tol`; comparisons of one name are one row."
    ours, theirs = (
        np.asarray(v.detach() if torch.is_tensor(v) else v, dtype=np.float64)
        for v in (ours, theirs)
    )
    assert (
        ours.shape == theirs.shape
        and np.isfinite(theirs).all()
        and np.abs(theirs).max() > 0
    )
    gap = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    ROWS[name, what] = (
        max(gap, ROWS.get((name, what), (0.0,))[0]),
        f"{tol:.0e}" if tol else "equal bits",
    )
    assert gap <= tol, f"{what}: {gap:.3g} from {name}'s, more than {tol:g}"


def within(name, what, value, low, high):
    "A number that is known, such as the size of a stated difference."
    ROWS[name, what] = float(value), f"{low:g} to {high:g}"
    assert low <= value <= high, f"{what}: {value:.3g}, not {low:g} to {high:g}"


def table():
    "The rows as markdown."
    rows = [
        (name, what, f"{value:.2g}", bounds)
        for (name, what), (value, bounds) in ROWS.items()
    ]
    head = [
        ("peer", "what is compared", "largest difference", "tolerance"),
        ("---",) * 4,
    ]
    return "\n".join("| " + " | ".join(r) + " |" for r in head + rows)


def normal(*shape, seed=0, dtype=torch.float64):
    "Normal numbers of this seed, the same in every precision."
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def network(d=6, width=24, seed=5):
    "A smooth random function of state and clock, in the state's precision."
    A = normal(width, d, seed=seed) / d**0.5
    B = normal(d, width, seed=seed + 3) / width**0.5
    b = normal(width, seed=seed + 1)
    c = normal(width, seed=seed + 2)

    def net(x, t):
        a, u, v, w = (z.to(x.dtype) for z in (A, b, c, B))
        return (torch.tanh(x.flatten(1) @ a.T + t[:, None] * u + v) @ w.T).reshape(
            x.shape
        )

    return net


def everywhere(f):
    "`f(x, t)` for peers that hand over one clock reading for all."
    return lambda x, t: f(x, torch.as_tensor(t, dtype=x.dtype).expand(len(x)))


# Solvers

THEIRS = {"euler": ("euler", 1), "midpoint": ("midpoint", 2), "heun": ("heun2", 2)}
each_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)


@each_dtype
@pytest.mark.parametrize("solver", THEIRS)
def test_steps_are_torchdiffeqs(solver, dtype):
    flow = RectifiedFlow()
    net = network()
    x = normal(40, 6, dtype=dtype)
    (method, cost) = THEIRS[solver]
    for steps in (16, 10):
        theirs = odeint(
            lambda t, x: everywhere(net)(x, t), x, flow.times(steps), method=method
        )[-1]
        agree(
            "torchdiffeq",
            f"{solver}, 16 and 10 steps, {str(dtype)[6:]}: end states",
            integrate(flow, net, x, solver=solver, nfe=cost * steps).x,
            theirs,
            0,
        )


def test_rk4_is_torchdiffeqs_where_order_decides():
    """Theirs is the 3/8 rule: on a linear field all methods of four stages and order
    four are one.
    """
    A = normal(6, 6, seed=3)
    x = normal(40, 6)
    flow = RectifiedFlow()
    net = lambda x, t: x @ A.T
    theirs = odeint(lambda t, x: net(x, t), x, flow.times(8), method="rk4")[-1]
    agree(
        "torchdiffeq",
        "rk4, 8 steps on a linear field: end states",
        integrate(flow, net, x, solver="rk4", nfe=32).x,
        theirs,
        1e-13,
    )


@pytest.mark.parametrize("solver", ["rk45", "dopri5"])
def test_adaptive_is_torchdiffeqs(solver):
    flow = RectifiedFlow()
    net = network()
    x = normal(10, 6)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    how = dict(method="dopri8", rtol=1e-12, atol=1e-12, options=dict(step_t=ends[1:]))
    theirs = odeint(lambda t, x: everywhere(net)(x, t), x, ends, **how)[-1]
    agree(
        "torchdiffeq",
        f"{solver} at 1e-10, theirs dopri8 at 1e-12: end states",
        integrate(flow, net, x, solver=solver, rtol=1e-10, atol=1e-10).x,
        theirs,
        1e-9,
    )


MIX = normal(10, 10, seed=9) / 10**0.5 / 4


def number(x):
    return torch.tensor([[x]], dtype=torch.float64)


def sine(t):
    return (
        -(t**4) * math.cos(2 * t) / 2
        + t**3 * math.sin(2 * t) / 2
        + t**2 * math.cos(2 * t) / 4
        - t**3
        + 2 * t**4
        + (math.pi - 0.25) * t**2
    )


PROBLEMS = {  # fields on the clock from 1 to 8, and their solutions
    "constant": (
        lambda y, t: 0.2 + (y - (0.2 * t[:, None] + 3)) ** 5,
        lambda t: number(0.2 * t + 3),
    ),
    "linear": (
        lambda y, t: y @ MIX.T,
        lambda t: torch.linalg.matrix_exp(MIX * (t - 1)).sum(1)[None],
    ),
    "sine": (
        lambda y, t: (
            2 * y / t[:, None] + (t**4 * (2 * t).sin() - t**2 + 4 * t**3)[:, None]
        ),
        lambda t: number(sine(t)),
    ),
}
BUDGETS = {
    "euler": (1, 500, 1e-2),
    "midpoint": (2, 600, 2e-4),
    "heun": (2, 600, 2e-4),
    "rk4": (4, 800, 1e-7),
    "rk45": (5, None, 2e-9),
    "dopri5": (5, None, 2e-9),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("solver", BUDGETS)
def test_torchdiffeqs_problems(solver, problem):
    """The equations that torchdiffeq tests its solvers on, there and back; fixed steps
    are extrapolated by their order.
    """
    (net, y) = PROBLEMS[problem]
    (order, nfe, tol) = BUDGETS[solver]
    flow = RectifiedFlow()
    flow.clock = (1.0, 8.0)

    def end(x, reverse, nfe):
        run = lambda **how: (
            integrate(flow, net, x, solver=solver, reverse=reverse, **how).x
        )
        return (
            run(rtol=1e-10, atol=1e-10)
            if nfe is None
            else (2**order * run(nfe=nfe) - run(nfe=nfe // 2)) / (2**order - 1)
        )

    how = (
        "at 1e-10" if nfe is None else f"{nfe} and {nfe // 2} evaluations, extrapolated"
    )
    # backwards the constant one leaves its line
    for reverse in (False, True)[: 1 if problem == "constant" else 2]:
        start, stop = (8, 1) if reverse else (1, 8)
        agree(
            "torchdiffeq's test equations",
            f"{problem} by {solver}, {how}: end states",
            end(y(start), reverse, nfe),
            y(stop),
            tol,
        )


@pytest.mark.parametrize("solver", THEIRS)
def test_steps_are_flow_matchings(solver):
    ode = peer("flow_matching.solver").ODESolver
    flow = RectifiedFlow()
    net = network()
    x = normal(40, 6, dtype=torch.float32)
    for way, grid in (("", [0.0, 1.0]), (" from data to prior", [1.0, 0.0])):
        theirs = ode(everywhere(net)).sample(
            x, step_size=1 / 16, method=THEIRS[solver][0], time_grid=torch.tensor(grid)
        )
        ours = integrate(
            flow, net, x, solver=solver, nfe=16 * THEIRS[solver][1], reverse=bool(way)
        ).x
        agree(
            "flow_matching",
            f"{solver}, 16 steps{way}, float32: end states",
            ours,
            theirs,
            0,
        )


def test_rk45_beside_scipys():
    """At equal tolerance rk45 asks more and errs less than SciPy's RK45, its steps
    being shorter; at equal error alike.
    """
    flow, rows = RectifiedFlow(), []
    for seed in range(3):
        field = network(width=64, seed=50 * seed)
        net = lambda x, t: 8 * field(x, 3 * t)
        x = normal(1, 6, seed=seed)
        f = lambda t, y: net(
            torch.from_numpy(y)[None], torch.full((1,), t, dtype=torch.float64)
        )[0].numpy()
        theirs = lambda method, tol: solve_ivp(
            f, (0, 1), x[0].numpy(), method=method, rtol=tol, atol=tol
        )
        exact = theirs("DOP853", 1e-13).y[:, -1]
        for tol in (1e-6, 1e-7, 1e-8):
            a = integrate(flow, net, x, solver="rk45", rtol=tol, atol=tol)
            b = theirs("RK45", tol)
            rows.append(
                (
                    int(a.nfe),
                    b.nfev,
                    np.abs(a.x[0].numpy() - exact).max(),
                    np.abs(b.y[:, -1] - exact).max(),
                )
            )
    n, m, err, off = np.array(rows).T
    within(
        "SciPy",
        "rk45's evaluations over those of RK45 at equal tolerance, 1e-6 to 1e-8: a "
        "known difference",
        n.sum() / m.sum(),
        1.15,
        1.4,
    )
    within(
        "SciPy",
        "RK45's error over that of rk45 at equal tolerance: a known difference",
        np.exp(np.log(off / err).mean()),
        4,
        20,
    )
    line = lambda e, k: np.polyval(
        np.polyfit(np.log(e), np.log(k), 1), np.log(np.geomspace(1e-8, 1e-5, 9))
    )
    within(
        "SciPy",
        "rk45's evaluations over those of RK45 at equal error",
        np.exp(np.mean(line(err, n) - line(off, m))),
        0.9,
        1.1,
    )


# Samplers


def test_ddim_is_diffusers():
    """Its table of alphas is filled with ours; the step to its own end, which has the
    same alpha, does nothing.
    """
    DDIMScheduler = peer("diffusers").DDIMScheduler
    flow = VP()
    net = network()
    n = 25
    ts = flow.times(n)
    theirs = DDIMScheduler(
        num_train_timesteps=n + 1, clip_sample=False, set_alpha_to_one=False
    )
    theirs.alphas_cumprod = flow.marginal(ts.flip(0))[0] ** 2
    theirs.final_alpha_cumprod = theirs.alphas_cumprod[0]
    theirs.set_timesteps(n + 1)
    out = sample(flow, net, 20, (6,), solver="ddim", nfe=n, dtype=torch.float64)
    x = out.x0
    for k in theirs.timesteps:
        x = theirs.step(everywhere(net)(x, ts.flip(0)[k]), int(k), x).prev_sample
    agree(
        "diffusers", "DDIMScheduler, 25 steps of VP by ddim: samples", out.x, x, 1e-12
    )


def test_flow_match_euler_is_diffusers():
    scheduler = peer("diffusers").FlowMatchEulerDiscreteScheduler()
    n = 20
    flow, net = RectifiedFlow(), network()
    scheduler.set_timesteps(sigmas=[1 - k / n for k in range(n)])
    out = sample(flow, net, 20, (6,), solver="euler", nfe=n, dtype=torch.float64)
    x = out.x0
    for t, s in zip(scheduler.timesteps, scheduler.sigmas):
        x = scheduler.step(-everywhere(net)(x, 1 - s), t, x).prev_sample
    agree(
        "diffusers",
        "FlowMatchEulerDiscreteScheduler, 20 steps of RectifiedFlow by euler (theirs "
        "float32): samples",
        out.x,
        x,
        1e-6,
    )


def edm(**how):
    return PFGMPP(D=math.inf, sigma_data=0.5, **how)


def test_edm_euler_is_diffusers():
    scheduler, n = peer("diffusers").EDMEulerScheduler(), 18
    flow, net = edm(), network()
    scheduler.set_timesteps(n)
    agree(
        "diffusers",
        "EDMEulerScheduler: 18 noise levels (theirs float32)",
        flow.times(n - 1),
        scheduler.sigmas[:-1],
        1e-6,
    )
    out = sample(flow, net, 20, (6,), solver="euler", nfe=n, dtype=torch.float64)
    x = out.x0
    for t in scheduler.timesteps:
        said = everywhere(net)(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(said, t, x).prev_sample
    agree(
        "diffusers",
        "EDMEulerScheduler, 18 steps of EDM by euler (theirs float32): samples",
        out.x,
        x,
        2e-6,
    )


def denoiser(net, x, sigma, data=0.5):
    "Karras et al. 2022, eq. 7 and table 1, as published."
    s = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x))[:, None]
    return data**2 / (s**2 + data**2) * x + s * data / (s**2 + data**2).sqrt() * net(
        x / (s**2 + data**2).sqrt(), s[:, 0].log() / 4
    )


def levels(n, low=0.002, high=80.0, rho=7):
    "Karras et al. 2022, eq. 5: n levels, and nothing at last."
    return [
        (high ** (1 / rho) + k / (n - 1) * (low ** (1 / rho) - high ** (1 / rho)))
        ** rho
        for k in range(n)
    ] + [0.0]


def heun(denoise, x, sigmas):
    """Karras et al. 2022, algorithm 1 with no noise added; the last step, to no noise,
    is Euler's.
    """
    for s, r in zip(sigmas[:-1], sigmas[1:]):
        d = (x - denoise(x, s)) / s
        y = x + (r - s) * d
        x = y if r == 0 else x + (r - s) * (d + (y - denoise(y, r)) / r) / 2
    return x


def test_edm_heun_is_diffusers_and_the_papers():
    n = 18
    net = network()
    flow = edm()
    out = sample(flow, net, 20, (6,), solver="heun", nfe=2 * n - 1, dtype=torch.float64)
    agree(
        "EDM's paper",
        "algorithm 1, 18 steps by heun: samples",
        out.x,
        heun(partial(denoiser, net), out.x0, levels(n)),
        1e-12,
    )
    scheduler = peer("diffusers").HeunDiscreteScheduler(prediction_type="sample")
    scheduler.set_timesteps(n)
    s = torch.tensor(levels(n), dtype=torch.float64)
    scheduler.sigmas = torch.cat([s[:1], s[1:-1].repeat_interleave(2), s[-1:]])
    scheduler._step_index = 0
    x = out.x0
    for k, t in enumerate(scheduler.timesteps):
        x = scheduler.step(denoiser(net, x, scheduler.sigmas[k]), t, x).prev_sample
    agree(
        "diffusers",
        "HeunDiscreteScheduler on EDM's levels, 18 steps by heun: samples",
        out.x,
        x,
        1e-12,
    )


class Denoised(PFGMPP):
    "Its network is the denoiser."

    def denoiser(self, net, x, sigma):
        return net(x, sigma)


def test_pfgmpps_sampler_is_the_papers():
    """Xu et al. 2023, section 4: steps in r = sigma sqrt(D), where the field is (x -
    f)/r and EDM's grid is scaled.
    """
    net = network()
    for D in (8, 128.0):
        flow, root = Denoised(D=D, sigma_data=0.5), D**0.5
        denoise = lambda x, sigma: net(x / (1 + sigma[:, None]), sigma.log())
        out = sample(
            flow, denoise, 20, (6,), solver="heun", nfe=35, dtype=torch.float64
        )
        f = lambda x, r: everywhere(net)(x / (1 + r / root), math.log(r / root))
        theirs = heun(f, out.x0, [s * root for s in levels(18)])
        agree(
            "PFGM++'s paper",
            f"Heun in r, 18 steps at D = {D:g}: samples",
            out.x,
            theirs,
            1e-12,
        )


def test_pfgmpps_prior_is_the_papers():
    """Xu et al. 2023, appendix B: R^2/(R^2 + r^2) is Beta(N/2, D/2), and x/sigma a
    multivariate Student t.
    """
    for N, D in ((6, 1), (6, 128), (64, 8)):
        sigma, R = 3.0, np.geomspace(0.1, 1e3, 50)
        theirs = stats.beta(N / 2, D / 2).cdf(R**2 / (R**2 + D * sigma**2))
        agree(
            "PFGM++'s paper, SciPy",
            f"share of the prior within a radius, N = {N}, D = {D}",
            radius_cdf(R, N, sigma, D),
            theirs,
            1e-12,
        )
        prior = RadialPrior(sigma, D)
        law = stats.multivariate_t(shape=sigma**2 * np.eye(N), df=D)
        x = prior.sample(4000, (N,), Rng(1)).double()
        agree(
            "SciPy",
            f"log density of the prior (multivariate t), N = {N}, D = {D}",
            prior.log_prob(x),
            law.logpdf(x),
            1e-12,
        )
        share = stats.beta(N / 2, D / 2).cdf(
            ((r2 := x.square().sum(1)) / (r2 + D * sigma**2)).numpy()
        )
        within(
            "PFGM++'s paper, SciPy",
            f"4,000 radii of the prior, N = {N}, D = {D}: p of a Kolmogorov-Smirnov "
            "test",
            stats.kstest(share, "uniform").pvalue,
            0.001,
            1,
        )


# score_sde

BETA = 0.1, 20.0  # VP's rates; VE's levels are below


class Published:
    """Song et al. 2021: the processes as their appendices B and C give them, for states
    (n, d) and one time.
    """

    def __init__(self, name):
        self.name = name

    def drift(self, t):
        return 0.0 if self.name == "VE" else -(BETA[0] + t * (BETA[1] - BETA[0])) / 2

    def scale(self, t):
        return (
            1.0
            if self.name == "VE"
            else math.exp(-t * t * (BETA[1] - BETA[0]) / 4 - t * BETA[0] / 2)
        )

    def std(self, t):
        if self.name == "VE":
            return 0.01 * (50 / 0.01) ** t
        return (
            1 - self.scale(t) ** 2
            if self.name == "SubVP"
            else math.sqrt(1 - self.scale(t) ** 2)
        )

    def g(self, t):
        if self.name == "VE":
            return self.std(t) * math.sqrt(2 * math.log(50 / 0.01))
        return math.sqrt(
            -2 * self.drift(t) * (1 - self.scale(t) ** 4 if self.name == "SubVP" else 1)
        )

    def beta(self, t, N):
        return (
            0.0
            if self.name == "VE"
            else np.linspace(BETA[0] / N, BETA[1] / N, N)[int(t * (N - 1))]
        )


each_sde = pytest.mark.parametrize("sde", [VP, SubVP, VE], ids=lambda c: c.__name__)


def scores(flow, net, p):
    "The score of a network that is asked for noise, at inputs of variance one."
    return lambda x, t: (
        -everywhere(net)(x / math.sqrt(p.scale(t) ** 2 + p.std(t) ** 2), t) / p.std(t)
    )


def langevin_then_step(p, score, x, ts, noise, snr=None, shrink=False, N=1000):
    """Annealed Langevin dynamics where there is an snr, then a step of the reverse SDE;
    the last noise is left out.
    """
    for t, s in zip(ts[:-1], ts[1:]):
        if snr:
            eta = 2 * (snr * p.std(t)) ** 2 * (1 - shrink * p.beta(t, N))
            x = x + eta * score(x, t) + math.sqrt(2 * eta) * noise()
        mean = x + (s - t) * (p.drift(t) * x - p.g(t) ** 2 * score(x, t))
        x = mean if s == ts[-1] else mean + p.g(t) * math.sqrt(t - s) * noise()
    return x


@each_sde
def test_stochastic_samplers_are_score_sdes(sde):
    """For VP and sub-VP their code multiplies the Langevin step by 1 - beta_i, of 1,000
    rates: the one difference.
    """
    flow = sde()
    net = network()
    n = 12
    steps = 60
    p, ts = Published(sde.__name__), flow.times(steps).tolist()
    for name, snr in (("euler-maruyama", None), ("predictor-corrector", 0.16)):
        nfe = steps if snr is None else 2 * steps
        out = sample(
            flow,
            net,
            n,
            (6,),
            solver=name,
            nfe=nfe,
            seeds=range(n),
            dtype=torch.float64,
        )

        def theirs(**how):
            rng = Rng(seeds=range(n))
            x = flow.prior.sample(n, (6,), rng).double()
            return langevin_then_step(
                p,
                scores(flow, net, p),
                x,
                ts,
                lambda: rng.normal(n, (6,)).double(),
                snr,
                **how,
            )

        agree(
            "score_sde's paper",
            f"{name}, 60 steps of {sde.__name__}: samples",
            out.x,
            theirs(),
            1e-11,
        )
        if snr and sde is not VE:
            gap = float((out.x - theirs(shrink=True)).abs().max() / out.x.abs().max())
            within(
                "score_sde's code",
                f"its factor 1 - beta_i in samples of {sde.__name__}: a known "
                "difference",
                gap,
                1e-3,
                0.03,
            )


def recorded(net, seen):
    "The network, which keeps what it is asked."

    def asked(x, t):
        seen.append((x, t))
        return net(x, t)

    return asked


@each_sde
@pytest.mark.parametrize("weighting", ["noise", "likelihood"])
def test_losses_are_score_sdes(sde, weighting):
    "Their likelihood weighting is twice ours, which has the bound's factor 1/2."
    flow = sde(weighting=weighting)
    net = network()
    x1 = normal(30, 6, seed=2)
    e = normal(30, 6, seed=3)
    seen = []
    loss = flow.loss(recorded(net, seen), x1, Rng(4), e * (50 if sde is VE else 1))
    p, t = Published(sde.__name__), seen[0][1]
    mean, std, g = (
        torch.tensor([f(float(u)) for u in t], dtype=torch.float64)[:, None]
        for f in (p.scale, p.std, p.g)
    )
    x = mean * x1 + std * e
    s = torch.cat([scores(flow, net, p)(x[i : i + 1], float(t[i])) for i in range(30)])
    theirs = (
        ((s * std + e) ** 2).mean(1)
        if weighting == "noise"
        else ((s + e / std) ** 2).mean(1) * g[:, 0] ** 2 / 2
    )
    agree(
        "score_sde's paper",
        f"{weighting} loss of {sde.__name__}, each sample's",
        loss,
        theirs,
        1e-9,
    )


@each_sde
def test_likelihoods_are_score_sdes(sde):
    "Their eq. 39 by SciPy: the state and its log density together, from eps to 1."
    flow = sde()
    net = network(d=2)
    x = normal(2, 2, seed=6)
    p = Published(sde.__name__)
    velocity = lambda x, t: (
        p.drift(t) * x - p.g(t) ** 2 / 2 * scores(flow, net, p)(x, t)
    )

    def both(t, y):
        z = torch.from_numpy(y[:2])
        J = torch.autograd.functional.jacobian(lambda z: velocity(z[None], t)[0], z)
        return [*velocity(z[None], t)[0].tolist(), float(J.trace())]

    solve = lambda row: solve_ivp(
        both, (flow.eps, 1), [*row.tolist(), 0.0], rtol=1e-7, atol=1e-7
    ).y[:, -1]
    ends = [solve(row) for row in x]
    theirs = [
        stats.multivariate_normal([0, 0], flow.prior.std**2).logpdf(y[:2]) + y[2]
        for y in ends
    ]
    agree(
        "score_sde's paper, SciPy",
        f"log likelihood of {sde.__name__}, rk45 at 1e-7",
        log_likelihood(flow, net, x, solver="rk45", rtol=1e-7, atol=1e-7).logp,
        theirs,
        1e-6,
    )


# Flow matching


def test_loss_is_torchcfms():
    torchcfm = peer("torchcfm")
    flow = RectifiedFlow()
    net = network()
    x0 = normal(50, 6)
    x1 = normal(50, 6, seed=1)
    seen = []
    loss = flow.loss(recorded(net, seen), x1, Rng(2), x0)
    x, t = seen[0]
    _, theirs, u = torchcfm.ConditionalFlowMatcher(
        sigma=0.0
    ).sample_location_and_conditional_flow(x0, x1, t)
    agree("torchcfm", "ConditionalFlowMatcher: states on the line", x, theirs, 1e-15)
    agree(
        "torchcfm",
        "ConditionalFlowMatcher: the loss of each sample",
        loss,
        ((net(theirs, t) - u) ** 2).mean(1),
        1e-14,
    )


def test_loss_is_flow_matchings():
    path = peer("flow_matching.path").CondOTProbPath()
    flow = RectifiedFlow()
    net = network()
    x0 = normal(50, 6)
    x1 = normal(50, 6, seed=1)
    seen = []
    loss = flow.loss(recorded(net, seen), x1, Rng(2), x0)
    x, t = seen[0]
    theirs = path.sample(x_0=x0, x_1=x1, t=t)
    agree("flow_matching", "CondOTProbPath: states on the line", x, theirs.x_t, 1e-15)
    agree(
        "flow_matching",
        "CondOTProbPath: the loss of each sample",
        loss,
        ((net(theirs.x_t, t) - theirs.dx_t) ** 2).mean(1),
        1e-14,
    )


@pytest.mark.parametrize("solver", THEIRS)
def test_likelihood_is_flow_matchings(solver):
    ode = peer("flow_matching.solver").ODESolver(everywhere(net := network()))
    flow = RectifiedFlow()
    x = normal(20, 6, dtype=torch.float32)
    (method, cost) = THEIRS[solver]
    _, theirs = ode.compute_likelihood(
        x, Gaussian().log_prob, step_size=1 / 16, method=method, exact_divergence=True
    )
    agree(
        "flow_matching",
        f"log likelihood, exact divergence, {solver}, 16 steps, float32",
        log_likelihood(flow, net, x, solver=solver, nfe=16 * cost).logp,
        theirs,
        1e-6,
    )


def test_likelihood_is_an_affine_maps():
    "A linear field carries the Gaussian to another Gaussian, which SciPy knows."
    A = normal(4, 4, seed=8) / 2
    flow = RectifiedFlow()
    x = normal(20, 4)
    to = linalg.expm(A.numpy())
    theirs = stats.multivariate_normal(np.zeros(4), to @ to.T).logpdf(x)
    agree(
        "SciPy",
        "log likelihood under a linear field, rk45 at 1e-10",
        log_likelihood(
            flow, lambda x, t: x @ A.T, x, solver="rk45", rtol=1e-10, atol=1e-10
        ).logp,
        theirs,
        1e-8,
    )


def test_edms_loss_is_the_papers():
    "Karras et al. 2022, eq. 8 with table 1's weight and levels."
    flow = edm()
    net = network()
    x1 = normal(30, 6, seed=2)
    e = normal(30, 6, seed=3)
    loss = flow.loss(net, x1, Rng(4), 80 * e)
    sigma = (-1.2 + 1.2 * Rng(4).normal(30)).exp().double()
    D = denoiser(net, x1 + sigma[:, None] * e, sigma)
    agree(
        "EDM's paper",
        "the loss of each sample",
        loss,
        (sigma**2 + 0.25) / (0.5 * sigma) ** 2 * ((D - x1) ** 2).mean(1),
        1e-12,
    )


# Pairs


def test_pairs_are_pots():
    ot = peer("ot")
    x0, x1 = normal(128, 5), normal(128, 5, seed=1) * 2 + 1
    cost = ot.dist(x1.numpy(), x0.numpy())
    plan = ot.emd(np.full(128, 1 / 128), np.full(128, 1 / 128), cost)
    agree("POT", "partners of 128 points by emd", match(x0, x1), x0[plan.argmax(1)], 0)
    agree(
        "POT",
        "their cost, emd2",
        (x1 - match(x0, x1)).square().sum(1).mean(),
        ot.emd2([], [], cost),
        1e-12,
    )
    (m0, S0), (m1, S1) = (
        (normal(5, seed=s), torch.cov(normal(5, 30, seed=s + 1))) for s in (2, 4)
    )
    distance = ot.gaussian.bures_wasserstein_distance(
        *(z.numpy() for z in (m0, m1, S0, S1))
    )
    agree(
        "POT",
        "cost between two Gaussians, bures_wasserstein_distance squared",
        gaussian_cost(m0, S0, m1, S1),
        float(distance) ** 2,
        1e-10,
    )


def test_pairs_are_torchcfms():
    x0, x1 = normal(64, 5), normal(64, 5, seed=1)
    plan = peer("torchcfm.optimal_transport").OTPlanSampler("exact").get_map(x0, x1)
    agree(
        "torchcfm",
        "partners of 64 points by OTPlanSampler",
        match(x0, x1),
        x0[torch.from_numpy(plan).argmax(0)],
        0,
    )


def test_stable_targets_are_the_posteriors():
    """Xu, Tong and Jaakkola 2023 and Xu et al. 2023: Student t (Gaussian at D = inf)
    densities of the data, normalised.
    """
    x = normal(20, 6) * 2
    data = normal(50, 6, seed=1)
    sigma = normal(20, seed=2).exp()
    for D in (1, 128, math.inf):
        law = (
            stats.multivariate_normal
            if D == math.inf
            else partial(stats.multivariate_t, df=D)
        )
        logp = np.stack(
            [
                law(np.zeros(6), s**2 * np.eye(6)).logpdf(z - data)
                for z, s in zip(x, sigma.tolist())
            ]
        )
        w = np.exp(logp - logp.max(1, keepdims=True))
        agree(
            "SciPy",
            f"weights of the data given a state, D = {D}",
            kernel_weights(x, sigma, data, D),
            w / w.sum(1, keepdims=True),
            1e-11,
        )


# Measures


def sets(n=300, m=260, d=12):
    "Rows of features of two distributions that overlap."
    return normal(n, d) @ normal(d, d, seed=7) / d**0.5, normal(m, d, seed=1) @ normal(
        d, d, seed=8
    ) / d**0.5 + 0.3


def test_frechet_is_scipys():
    a, b = sets()
    A, B = (np.cov(z.T) for z in (a, b))
    theirs = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
        A + B - 2 * linalg.sqrtm(A @ B).real
    )
    agree(
        "SciPy",
        "Frechet distance, by sqrtm",
        frechet_distance(a, b),
        float(theirs),
        1e-10,
    )


def test_measures_are_torch_fidelitys():
    fid, kid_, prc, isc = (
        peer(f"torch_fidelity.metric_{k}") for k in ("fid", "kid", "prc", "isc")
    )
    a, b = sets()
    theirs = fid.fid_statistics_to_metric(
        *map(fid.fid_features_to_statistics, (a, b)), False
    )
    theirs = theirs["frechet_inception_distance"]
    agree(
        "torch-fidelity",
        "Frechet distance of features",
        frechet_distance(a, b),
        theirs,
        1e-8,
    )
    theirs = kid_.kid_features_to_metric(
        a, b, kid_subsets=20, kid_subset_size=100, rng_seed=2020, verbose=False
    )
    theirs = [theirs[f"kernel_inception_distance_{k}"] for k in ("mean", "std")]
    agree(
        "torch-fidelity",
        "KID, mean and spread over 20 subsets",
        kid(a, b, subsets=20, size=100),
        theirs,
        1e-10,
    )
    theirs = prc.prc_features_to_metric(
        a, b, prc_neighborhood=3, prc_batch_size=1000, verbose=False
    )
    agree(
        "torch-fidelity",
        "precision and recall",
        precision_recall(a, b),
        [theirs["precision"], theirs["recall"]],
        1e-6,
    )
    theirs = isc.isc_features_to_metric(3 * a, splits=1, shuffle=False)[
        "inception_score_mean"
    ]
    agree(
        "torch-fidelity",
        "Inception Score, one split",
        ClassScores(1).update(3 * a).value()[0],
        theirs,
        1e-10,
    )


class Given(torch.nn.Flatten):
    "Features as they are, for torchmetrics."

    num_features = 12


def test_measures_are_torchmetrics():
    fid, kid_, inception = (
        peer(f"torchmetrics.image.{k}") for k in ("fid", "kid", "inception")
    )
    a, b = sets()

    def theirs(metric, a, b):
        metric.update(b[:, :, None, None], real=True)
        metric.update(a[:, :, None, None], real=False)
        return metric.compute()

    value = float(
        theirs(
            fid.FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64), a, b
        )
    )
    agree(
        "torchmetrics",
        "Frechet distance of features",
        frechet_distance(a, b),
        value,
        1e-6,
    )
    even = a[:260], b
    value = float(
        theirs(
            kid_.KernelInceptionDistance(feature=Given(), subsets=1, subset_size=260),
            *even,
        )[0]
    )
    agree("torchmetrics", "KID of all pairs", mmd(*even), value, 1e-6)
    agree(
        "torchmetrics",
        "KID of all pairs, in blocks",
        kid_exact(*(blocks(z) for z in even))[0],
        value,
        1e-6,
    )
    metric = inception.InceptionScore(feature=Given(), splits=1)
    metric.update(3 * a[:, :, None, None])
    agree(
        "torchmetrics",
        "Inception Score, one split",
        ClassScores(1).update(3 * a).value()[0],
        float(metric.compute()[0]),
        1e-6,
    )


def test_precision_and_recall_are_prdcs():
    theirs = peer("prdc").compute_prdc
    for k in (3, 5):
        a, b = sets()
        value = theirs(real_features=b.numpy(), fake_features=a.numpy(), nearest_k=k)
        agree(
            "prdc",
            f"precision and recall, {k} neighbours",
            precision_recall(a, b, k=k),
            [value["precision"], value["recall"]],
            1e-12,
        )


def test_sliced_wasserstein_is_pots():
    """On a line there is one direction; elsewhere POT is given the directions that the
    seed draws.
    """
    ot, (a, b) = peer("ot"), sets()
    x, y = a[:, :1], b[:, :1]
    for p in (1, 2):
        theirs = float(ot.wasserstein_1d(x[:, 0].numpy(), y[:, 0].numpy(), p=p)) ** (
            1 / p
        )
        agree(
            "POT",
            f"Wasserstein distance on a line, p = {p}",
            sliced_wasserstein(x, y, p=p, projections=3),
            theirs,
            1e-10,
        )
    agree(
        "SciPy",
        "Wasserstein distance on a line, p = 1",
        sliced_wasserstein(x, y, p=1, projections=1),
        stats.wasserstein_distance(x[:, 0], y[:, 0]),
        1e-10,
    )
    theta = torch.randn(
        12, 200, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    theirs = ot.sliced_wasserstein_distance(
        a.numpy(), b.numpy(), projections=(theta / theta.norm(dim=0)).numpy(), p=2
    )
    agree(
        "POT",
        "sliced Wasserstein distance, 200 directions",
        sliced_wasserstein(a, b, projections=200, seed=3),
        float(theirs),
        1e-10,
    )


def test_neighbours_are_scipys():
    a, b = sets()
    agree(
        "SciPy",
        "distances to the nearest, by a k-d tree",
        nearest(a, b),
        spatial.cKDTree(b.numpy()).query(a.numpy())[0],
        1e-7,
    )


class Table:
    "For pytest: the table, when all is done."

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.write_line("\n" + sys.modules["test_peers"].table())


if __name__ == "__main__":
    sys.exit(
        pytest.main(
            [__file__, "-q", "-rs", "--disable-warnings", *sys.argv[1:]],
            plugins=[Table()],
        )
    )
