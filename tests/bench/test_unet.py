"""Our U-Net beside those of torchcfm and diffusers at equal parameters: images a
second, the switches that promise more, and the loss after equal images.
"""

import copy
import os
import random
import statistics
import time

import pytest
import torch
from torch.nn.functional import mse_loss
from measure import awake, in_turns, ratio
from peers import WIDTHS, diffusers, torchcfm
from odeflow.data import load_data
from odeflow.flow import append_dims, Rng
from odeflow.nets import UNet

OURS = {
    "full": dict(channels=128, mults=(1, 1, 2, 2), attention=(8,)),
    "half": dict(channels=64, mults=(1, 1, 2, 2), attention=(8,)),
    "quarter": dict(channels=32, mults=(1, 1, 2, 2), attention=(8,)),
}
BATCH = {"full": 8, "half": 8, "quarter": 16}
ROUNDS = {"full": 5, "half": 9, "quarter": 15}


def make(name, size):
    torch.manual_seed(1)
    return (
        UNet((3, 32, 32), **OURS[size])
        if name == "odeflow"
        else {"torchcfm": torchcfm, "diffusers": diffusers}[name](WIDTHS[size])
    )


def millions(net):
    return sum(p.numel() for p in net.parameters()) / 1e6


@pytest.fixture(params=("quarter", "half", "full"))
def size(request):
    return request.param


@pytest.fixture
def nets(size):
    "The three networks of one size, which have equally many parameters."
    nets = {
        name: awake(make(name, size)) for name in ("odeflow", "torchcfm", "diffusers")
    }
    most = max(map(millions, nets.values()))
    least = min(map(millions, nets.values()))
    assert most < 1.02 * least, "unequal parameters"
    return nets


def forward(net, x, c):
    def run():
        net.eval()
        with torch.no_grad():
            return net(x, c)

    return run


def train_step(net, x, c):
    "Forward, backward and AdamW, as every one of the three is trained."
    opt = torch.optim.AdamW(net.parameters(), 1e-5, fused=True)

    def run():
        net.train()
        mse_loss(net(x, c), x).backward()
        opt.step()
        opt.zero_grad()

    return run


def beside(times, n):
    """A row for each network: images a second, and how many of its images pass while
    the best of the peers' makes one.
    """
    best = min(
        (k for k in times if k != "odeflow"), key=lambda k: statistics.median(times[k])
    )
    for k, ts in times.items():
        middle, low, high = ratio(times[best], ts)
        yield dict(
            name=k,
            images_per_s=n / statistics.median(ts),
            to_best_peer=middle,
            quartiles=[low, high],
            best_peer=best,
        )


@pytest.mark.parametrize("what", (forward, train_step), ids=lambda f: f.__name__)
def test_throughput(nets, size, threads, what, record, benchmark):
    n = BATCH[size]
    x, c = torch.randn(n, 3, 32, 32), torch.rand(n)
    cases = {name: what(net, x, c) for name, net in nets.items()}
    rows = [
        dict(
            size=size,
            what=what.__name__,
            threads=threads,
            batch=n,
            millions=millions(nets[row["name"]]),
            **row,
        )
        for row in beside(in_turns(cases, ROUNDS[size]), n)
    ]
    record(rows, f"throughput-{size}-{what.__name__}-{threads}")
    benchmark.pedantic(cases["odeflow"], rounds=2)


SWITCHES = (
    (),
    ("channels_last",),
    ("bf16",),
    ("channels_last", "bf16"),
    ("compile",),
    ("compile", "bf16"),
    ("compile", "channels_last", "bf16"),
)


def switched(net, x, on):
    "A copy of the network, and its input, with switches on."
    net = copy.deepcopy(net)
    if "channels_last" in on:
        net = net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    call = torch.compile(net) if "compile" in on else net

    def run(x, c):
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in on):
            return call(x, c)

    run.eval = net.eval
    run.train = net.train
    run.parameters = net.parameters
    return run, x


@pytest.mark.parametrize("name", ("odeflow", "torchcfm", "diffusers"))
def test_switches(name, record, benchmark, size="quarter"):
    """Each switch of one network against the same network without: what it gains, what
    it costs to compile, and how far its output is from float32.
    """
    n, net = BATCH[size], awake(make(name, size)).eval()
    x, c = torch.randn(n, 3, 32, 32), torch.rand(n)
    with torch.no_grad():
        plain = net(x, c)
    cases = {what.__name__: {} for what in (forward, train_step)}
    facts = {}
    for on in SWITCHES:
        run, xs = switched(net, x, on)
        begun = time.perf_counter()
        out = forward(run, xs, c)().float()
        for what in (forward, train_step):
            cases[what.__name__][on] = what(run, xs, c)
            cases[what.__name__][on]()
        facts[on] = dict(
            error=float((out - plain).norm() / plain.norm()),
            first_calls_s=time.perf_counter() - begun,
        )
    rows = []
    for what, fs in cases.items():
        times = in_turns(fs, ROUNDS[size])
        rows += [
            dict(
                name=name,
                what=what,
                switches=" + ".join(on) or "none",
                threads=torch.get_num_threads(),
                images_per_s=n / statistics.median(times[on]),
                gain=ratio(times[()], times[on])[0],
                **facts[on],
            )
            for on in SWITCHES
        ]
    record(rows, f"switches-{size}-{name}")
    benchmark.pedantic(cases["forward"][()], rounds=2)
    assert max(f["error"] for on, f in facts.items() if "bf16" not in on) < 1e-4


def mean_error(values):
    return statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5


@pytest.mark.parametrize("lr", (3e-4, 1e-3))
def test_equal_images(lr, record, benchmark, size="quarter", batch=16, seed=1):
    """Rectified flows on CIFAR-10: the loss after as many images, all three trained on
    the same batches, times and noise, in turns.
    """
    images = int(os.environ.get("ODEFLOW_BENCH_IMAGES", 4000))
    nets = {
        name: make(name, size).train() for name in ("odeflow", "torchcfm", "diffusers")
    }
    data = load_data("cifar10")
    opts = {
        name: torch.optim.AdamW(net.parameters(), lr, weight_decay=0.0, fused=True)
        for name, net in nets.items()
    }
    loss = {name: [] for name in nets}
    seconds = {name: [] for name in nets}
    order = random.Random(0)
    for step in range(images // batch):
        rng = Rng(seed * 10**6 + step)
        x1 = data.batch(rng.integers(len(data), batch))["x1"]
        x0 = rng.normal(batch, data.shape)
        t = rng.uniform(batch)
        for name in order.sample(list(nets), len(nets)):
            begun = time.perf_counter()
            loss[name].append(
                flow_step(
                    nets[name],
                    opts[name],
                    append_dims(t, x1) * x1 + (1 - append_dims(t, x1)) * x0,
                    t,
                    x1 - x0,
                    lr * min(1, (step + 1) / 50),
                )
            )
            seconds[name].append(time.perf_counter() - begun)
    last = {name: ls[-len(ls) // 4 :] for name, ls in loss.items()}
    rows = []
    for name in nets:
        more, error = mean_error([b - a for a, b in zip(last["odeflow"], last[name])])
        rows.append(
            dict(
                name=name,
                size=size,
                lr=lr,
                images=images,
                loss=statistics.mean(last[name]),
                minus_ours=more,
                error=error,
                threads=torch.get_num_threads(),
                images_per_s=batch / statistics.median(seconds[name]),
                curve=[
                    statistics.mean(loss[name][k : k + 25])
                    for k in range(0, len(loss[name]), 25)
                ],
            )
        )
    record(rows, f"equal-images-{size}-{lr:g}")
    benchmark.pedantic(lambda: None)


def flow_step(net, opt, x, t, want, lr):
    "One step of AdamW with the gradient clipped; returns the loss before it."
    loss = mse_loss(net(x, t), want)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    for group in opt.param_groups:
        group["lr"] = lr
    opt.step()
    opt.zero_grad()
    return float(loss.detach())
