"""On a GPU nothing mixes devices, and the host does not wait: counted on a device that
is not there (`pretend`), for every system and solver.
"""

import math

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from odeflow.data import Data, DataPrior, load_data
from odeflow.flow import Gaussian, Rng
from odeflow.sampling import sample, SOLVERS
from odeflow.guidance import diversity
from odeflow.metrics.distances import frechet_distance, precision_recall
from odeflow.metrics.evaluation import measure
from odeflow.nets import DiT, MLP, UNet
from odeflow.poisson.pfgm import PFGM
from odeflow.poisson.pfgmpp import PFGMPP
from odeflow.pipeline import Pipeline
from odeflow.poisson.prior import exact_field, FieldLines
from odeflow.rectified.flow import RectifiedFlow
from odeflow.rectified.coupling import draw_coupling
from odeflow.rectified.reflow import straightness
from odeflow.diffusion import SubVP, VE, VP
from odeflow.sampling import encode
from odeflow.likelihood import bits_per_dim, log_likelihood
from odeflow.training import Recipe, Trainer
from odeflow.rectified.coupling import Paired
from odeflow.rectified.transfer import cycle_error, FeatureFlow
from tqdm import tqdm
from pretend import CUDA, Mixed, pretend

MOONS = load_data("moons", n=200).x
POINTS = Data(MOONS, (MOONS[:, 0] > 0.5).long() + (MOONS[:, 1] > 0).long(), "points")

MEANS = {
    "": {},
    ", mean": dict(target="mean"),
    ", mean of 48": dict(target="mean", field_batch=48),
}
SYSTEMS = {
    "rectified": RectifiedFlow,
    "logit-normal times": lambda: RectifiedFlow(time="logit-normal"),
    "u-shaped times": lambda: RectifiedFlow(time="u-shaped"),
    "huber": lambda: RectifiedFlow(error="huber"),
    "student": lambda: RectifiedFlow(steps=2),
    "from data": lambda: RectifiedFlow(prior=DataPrior(load_data("heart", n=300))),
    "features": lambda: FeatureFlow(lambda x: x**3),
    "VP": VP,
    "sub-VP": lambda: SubVP(weighting="likelihood"),
    "VE": VE,
    "PFGM": PFGM,
    "PFGM, 48 charges": lambda: PFGM(field_batch=48),
    **{
        f"PFGM++ D={D}{told}": lambda D=D, how=how: PFGMPP(D=D, **how)
        for D in (1, 128, math.inf)
        for told, how in MEANS.items()
    },
    **{
        f"{name}{told}": lambda new=new, how=how: new(**how)
        for name, new in {"rectified flow": RectifiedFlow, "VP": VP}.items()
        for told, how in MEANS.items()
        if how
    },
}
each = pytest.mark.parametrize("name", SYSTEMS)


def made(name, data=POINTS):
    "A system that has seen its data, and a network for it."
    torch.manual_seed(0)
    flow = SYSTEMS[name]().fit(data)
    return flow, MLP(
        (2,),
        width=16,
        depth=1,
        classes=0 if flow.target == "mean" else data.classes,
        extra_channels=flow.extra_channels,
    ).requires_grad_(True)


@pytest.fixture
def host(monkeypatch):
    """The host of a device that is not there, on which a `Trainer` trains.
    Accelerate insists on a real device: its object is made for the CPU and told that it is on `cuda:0`. What it does of itself on a GPU is left out: mixed precision, several processes, compiling."""  # noqa: E501
    from odeflow.distributed import accelerator

    def on_cuda(device=None, *args, **kwargs):
        acc = accelerator("cpu", *args, **kwargs)
        if device != "cpu":
            acc.state.device = PartialState().device = CUDA
        return acc

    monkeypatch.setattr("odeflow.training.accelerator", on_cuda)
    with pretend() as host:
        yield host
    AcceleratorState._reset_state(True)


RECIPE = dict(budget="99 steps", batch=32, warmup=1, decay="constant")


def trainer(flow, net, data, out, **more):
    return Trainer(flow, net, data, out, Recipe(**RECIPE | more), device="cuda")


def counted(host, f):
    "How often the host waits, and copies without waiting, while f works."
    host.clear()
    f()
    return host.waits.total(), host.copies.total()


def same(a, b):
    assert a.device == CUDA and torch.equal(a.cpu(), b), "not the numbers of the CPU"


def test_the_device_itself(host):
    "It refuses what CUDA refuses, and counts what makes the host wait."
    x = torch.arange(6.0).to("cuda")
    i = torch.tensor([1, 2])
    g = torch.Generator("cuda")
    assert (x * torch.tensor(2.0)).device == CUDA and x[i].tolist() == [1, 2]
    for wrong in (
        lambda: x + torch.ones(6),
        lambda: torch.cat([x, torch.ones(1)]),
        lambda: torch.stack([x[0], torch.tensor(1.0)]),
        lambda: torch.ones(6)[i.to("cuda")],
        lambda: x.numpy(),
        lambda: torch.randn(3, generator=g),
        lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
        lambda: x.normal_(generator=torch.Generator()),
    ):
        with pytest.raises((Mixed, TypeError)):
            wrong()
    for waits, f in (
        (1, lambda: float(x[0])),
        (1, lambda: bool((x > 1).all())),
        (1, lambda: x[x > 1]),
        (1, lambda: x[i]),
        (1, lambda: x.cpu()),
        (1, lambda: i.to("cuda")),
        (1, lambda: torch.tensor([1, 2], device="cuda")),
        (1, lambda: (x > 1).nonzero()),
        (1, lambda: x.tolist()),
        (1, lambda: x.copy_(torch.ones(6))),
        (1, lambda: i.pin_memory().to("cuda", torch.float32, non_blocking=True)),
        (0, lambda: x[1:3] + 1),
        (0, lambda: x[x.long()]),
        (0, lambda: torch.where(x > 1, x, 0)),
        (0, lambda: torch.zeros(3, device="cuda")),
        (0, lambda: x.masked_fill_(x > 4, 0)),
    ):
        assert counted(host, f) == (waits, 0), (f.__code__.co_names, str(host))
    assert counted(host, lambda: i.pin_memory().to("cuda", non_blocking=True)) == (0, 1)


@each
def test_loss(host, name):
    "Losses and gradients are those of the CPU, and the second time nothing waits."

    def grads(device):
        flow, net = made(name)
        net, x = net.to(device), POINTS.x[:32].to(device)

        def go():
            net.zero_grad()
            loss = flow.loss(lambda x, c: net(x, c), x, Rng(5, device=device))
            loss.mean().backward()
            return [
                loss.detach(),
                *(p.grad for p in net.parameters() if p.grad is not None),
            ]

        first = go()
        assert counted(host, go) == (0, 0), str(host)
        return first

    for a, b in zip(grads("cuda"), grads("cpu"), strict=True):
        same(a, b)


@each
def test_training(host, tmp_path, name):
    """A step waits for nothing and copies its indices alone; the weights are those of
    the CPU.
    """

    def weights(device):
        t = Trainer(
            *made(name), POINTS, tmp_path / device, Recipe(**RECIPE), device=device
        )
        t.train_step()
        assert counted(host, lambda: (t.train_step(), t.train_step())) == (
            (0, 2) if device == "cuda" else (0, 0)
        ), str(host)
        return [*t.average.parameters()]

    for a, b in zip(weights("cuda"), weights("cpu"), strict=True):
        same(a, b)


def test_optimal_pairs(host, tmp_path):
    """The one exception: whom to pair is decided on the CPU, which takes two copies
    from the device and one back.
    """
    t = trainer(*made("rectified"), Paired(Gaussian(), POINTS, "ot"), tmp_path)
    t.train_step()
    assert counted(host, t.train_step) == (3, 1), str(host)


@pytest.mark.parametrize("kind", [UNet, DiT])
def test_pictures(host, tmp_path, kind):
    """Pictures with classes, mirrored, in parts, with dropout, stopped and gone on
    with: the log reads two numbers, and a step waits for nothing.
    """

    def begin(out, device="cuda"):
        torch.manual_seed(0)
        args = (
            dict(channels=8, mults=(1, 2), blocks=1, dropout=0.1)
            if kind is UNet
            else dict(width=16, depth=1)
        )
        return Trainer(
            RectifiedFlow(steps=2),
            kind((1, 8, 8), classes=10, **args),
            load_data("digits", flip=True),
            tmp_path / out,
            Recipe(**RECIPE | dict(accumulate=2)),
            device=device,
        )

    t = begin("a")
    t.train_step()
    assert counted(host, t.train_step) == (0, 1), str(host)
    assert counted(host, lambda: t.log(tqdm(disable=True))) == (2, 0), str(host)
    t.save()
    t.preview()
    assert (tmp_path / "a" / "samples.png").exists()
    on = begin("a")
    on.restore()
    assert on.step == 2
    for u in (t, on):
        u.train_step()
    whole, resumed = t.tensors(), on.tensors()
    assert whole.keys() == resumed.keys() and all(
        torch.equal(v.cpu(), resumed[k].cpu()) for k, v in whole.items()
    )
    t.finish()


@pytest.mark.parametrize(
    "free", [2**33, 0], ids=["pairs on the device", "pairs on disk"]
)
def test_coupling(host, tmp_path, monkeypatch, free):
    """Pairs are drawn, and trained on: a step copies its indices, or its pairs, and the
    classes.
    """
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, free))
    flow, net = made("PFGM++ D=128")
    pairs = draw_coupling(
        flow,
        net.to("cuda"),
        64,
        (2,),
        tmp_path / "pairs",
        solver="heun",
        nfe=7,
        batch=40,
        progress=False,
    )
    t = trainer(*made("rectified"), pairs, tmp_path / "run")
    t.train_step()
    assert counted(host, t.train_step) == (0, 2 if free else 3), str(host)
    assert math.isfinite(straightness(flow, net, 8, (2,), steps=2))


# name of a solver: network calls a step, copies of noise a step, systems
FIXED = {
    "euler": (1, 0, ("rectified", "VE", "PFGM")),
    "heun": (2, 0, ("VP", "PFGM++ D=1", "PFGM++ D=128", "PFGM++ D=inf")),
    "midpoint": (2, 0, ("sub-VP",)),
    "rk4": (4, 0, ("from data",)),
    "euler-z": (1, 0, ("PFGM",)),
    "heun-z": (2, 0, ("lines",)),
    "ddim": (1, 0, ("VP", "PFGM++ D=inf")),
    "euler-maruyama": (1, 1, ("VP", "VE")),
    "predictor-corrector": (2, 2, ("sub-VP",)),
}


def drawn(name, device, **how):
    """How to draw samples of an untrained network, with classes; the field lines of the
    data have their exact field for one.
    """
    flow, net = (
        (FieldLines(40.0), exact_field(MOONS.to(device)))
        if name == "lines"
        else made(name)
    )
    if name != "lines":
        net = net.to(device).requires_grad_(False)
        if net.classes:
            how = dict(labels=torch.arange(7) % 3) | how
    return lambda **more: sample(flow, net, 7, (2,), device=device, **how | more)


@pytest.mark.parametrize(
    "solver, name", [(s, name) for s, (*_, names) in FIXED.items() for name in names]
)
def test_fixed_steps(host, solver, name):
    """A solver of fixed steps waits for nothing on its way: a call waits for the starts
    to be there, for the labels, and to know that all have arrived.
    """
    cost, noise, _ = FIXED[solver]
    go = drawn(name, "cuda", solver=solver)
    # whose `finish` costs one
    nfe = lambda steps: steps * cost + name.startswith("PFGM")
    out = go(nfe=nfe(4))
    for steps in (4, 8):
        assert counted(host, lambda: go(nfe=nfe(steps))) == (
            2 + (name not in ("lines", "PFGM")),  # which are told no labels
            noise * steps - (noise > 0) + 1,
        ), str(host)
    same(out.x, drawn(name, "cpu", solver=solver)(nfe=nfe(4)).x)


def test_every_solver():
    assert {*FIXED, "rk45", "dopri5"} == {*SOLVERS}


@pytest.mark.parametrize("name", ["rectified", "VE", "PFGM++ D=128", "lines"])
def test_rk45(host, name):
    """RK45 waits once a step, to learn who moves on, and once more where a path is
    recorded.
    """
    how = dict(solver="rk45", rtol=0.1, atol=0.1)
    go = drawn(name, "cuda", **how)
    cpu = drawn(name, "cpu", **how)(path=5)
    call = 3 + (name != "lines")
    steps = (int(cpu.nfe.max()) - 2 - name.startswith("PFGM")) // 6
    # constants are there from now on
    go(solver="euler", nfe=9, rtol=None, atol=None)
    assert counted(host, lambda: same(go().x, cpu.x)) == (
        steps + call + 1,
        steps + 1,
    ), str(host)
    assert counted(
        host,
        lambda: [
            same(a, b)
            for out in [go(path=5)]
            for a, b in ((out.path, cpu.path), (out.nfe, cpu.nfe))
        ],
    ) == (2 * steps + call + 3, steps + 2), str(host)


def test_dopri5(host):
    "torchdiffeq asks the device many times a step."
    how = dict(solver="dopri5", rtol=1e-2, atol=1e-2, path=3)
    cpu = drawn("VP", "cpu", **how)()
    waits, _ = counted(host, lambda: same(drawn("VP", "cuda", **how)().path, cpu.path))
    assert waits < 40 * (int(cpu.nfe.max()) - 2) / 6, str(host)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_likelihood(host, trace):
    "Densities and latents; RK45's waits, and for random probes the copy of them."
    (flow, net) = made("VP")
    how = dict(trace=trace, probes=2, rtol=0.1, atol=0.1)
    at_home = log_likelihood(flow, net, MOONS[:4], **how)
    cpu = encode(flow, net, MOONS[:4], solver="rk4", nfe=8).x
    y = MOONS[:4].to("cuda")
    net = net.to("cuda")
    steps = (int(at_home.nfe.max()) - 2) // 6
    host.clear()
    out = log_likelihood(flow, net, y, **how)
    assert (host.waits.total(), host.copies.total()) == (
        steps + 2 + (trace != "exact"),
        steps + 1,
    ), str(host)
    for a, b in zip(out, at_home):
        same(a, b)
    same(encode(flow, net, y, solver="rk4", nfe=8).x, cpu)
    assert math.isfinite(cycle_error(flow, net, y, solver="heun", nfe=8))


def test_bits_per_dim(host):
    torch.manual_seed(0)
    net = DiT((1, 8, 8), width=16, depth=1)
    x = load_data("digits").x[:3]
    bits = lambda x: bits_per_dim(
        RectifiedFlow(), net, x, trace="hutchinson", solver="euler", nfe=3
    )
    cpu, net = bits(x), net.to("cuda")
    assert bits(x.to("cuda")) == cpu


class Toy:
    "A network for `measure`: 8 random features of pictures."

    distance = "frechet_toy"
    layer = 8
    batch = 50
    device = "cuda"
    code = "toy"
    weights = "0"

    def __init__(self):
        self.w = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))

    def __call__(self, u):
        return u.to(self.device).flatten(1).float() @ self.w.to(self.device) / 255, None


def test_metrics(host):
    "Metrics of samples on the device."
    a, b = Rng(0).normal(60, (3,)), Rng(1).normal(50, (3,))
    x = load_data("digits").x[:40]
    u = load_data("digits").x[40:90]
    for f in (
        frechet_distance,
        precision_recall,
        lambda a, b: diversity(a, (a[:, 0] > 0).long()),
    ):
        cpu = torch.tensor(f(a, b))
        assert torch.allclose(torch.tensor(f(a.to("cuda"), b.to("cuda"))), cpu), f
    assert math.isfinite(measure(x.to("cuda"), u, net=Toy(), keep=40)["frechet_toy"])


def test_pipeline(host):
    """A trained model with classes: by name, guided, both ways, in between, and in
    pieces.
    """
    cpu, gpu = (
        Pipeline.from_pretrained("digits-1-rf-classes", device=device)
        for device in ("cpu", "cuda")
    )
    how = dict(seed=1, labels=3, guidance=2.0, nfe=8, path=2)
    same(gpu(3, **how).x, cpu(3, **how).x)
    same(gpu(3, **how).path, cpu(3, **how).path)
    x = gpu(2, seed=0, nfe=4).x
    y = torch.tensor([1, 2])
    same(
        gpu.interpolate(x, x.flip(0), 2, nfe=4, solver="euler", labels=y),
        cpu.interpolate(x.cpu(), x.cpu().flip(0), 2, nfe=4, solver="euler", labels=y),
    )
    y = y.to("cuda")
    # the labels are looked at twice
    assert counted(host, lambda: gpu.encode(x, nfe=4, solver="euler", labels=y)) == (
        3,
        1,
    ), str(host)
