"""How cost grows: with samples, with steps, with the size of the data set, with
resolution. Exponents are slopes of log seconds against log size: 1 is linear, 0 is
no growth.
"""

import statistics

import pytest
import torch
from measure import awake, exponent, in_turns
from odeflow.data import Data
from odeflow.sampling import sample
from odeflow.metrics.distances import Moments
from odeflow.metrics.evaluation import Reservoir
from odeflow.nets import UNet
from odeflow.rectified.flow import RectifiedFlow
from odeflow.training import Order, Recipe, Trainer


def pictures(n, side=32):
    return Data(
        torch.randint(
            0,
            256,
            (n, 3, side, side),
            dtype=torch.uint8,
            generator=torch.Generator().manual_seed(0),
        ),
        None,
        "noise",
    )


def small(side=32):
    return awake(
        UNet((3, side, side), channels=16, mults=(1, 2, 2), blocks=1, attention=(8,))
    ).eval()


def grown(name, cases, rounds, **facts):
    "A row: the median seconds at each size, and the exponent."
    seconds = {n: statistics.median(ts) for n, ts in in_turns(cases, rounds).items()}
    return dict(
        name=name,
        exponent=exponent(list(seconds), list(seconds.values())),
        seconds=seconds,
        threads=torch.get_num_threads(),
        **facts,
    )


def test_samples_and_steps(record, benchmark, rounds=3):
    net = small()
    draw = lambda n, nfe, solver="euler", **kw: (
        lambda: sample(
            RectifiedFlow(), net, n, (3, 32, 32), solver=solver, nfe=nfe, **kw
        )
    )
    record(
        [
            grown(
                "samples",
                {n: draw(n, 5) for n in (250, 500, 1000)},
                rounds,
                solver="euler",
                steps=5,
            ),
            grown(
                "samples",
                {n: draw(n, 20, "rk45", rtol=1e-2, atol=1e-2) for n in (62, 125, 250)},
                rounds,
                solver="rk45",
            ),
            grown(
                "steps",
                {k: draw(50, k) for k in (10, 20, 40)},
                rounds,
                solver="euler",
                samples=50,
            ),
            grown(
                "steps",
                {k: draw(50, 2 * k, "heun") for k in (10, 20, 40)},
                rounds,
                solver="heun",
                samples=50,
            ),
        ]
    )
    benchmark.pedantic(draw(50, 10), rounds=2)


def test_data_set(record, benchmark, tmp_path, rounds=15, batch=32):
    """A step costs the same whatever the data set; what is done once for each picture
    is linear.
    """
    sizes = (1_000, 10_000, 50_000)
    sets = {n: pictures(n) for n in sizes}
    index = {n: torch.randint(n, (batch,)) for n in sizes}
    trainers = {
        n: Trainer(
            RectifiedFlow(),
            small(),
            sets[n],
            tmp_path / str(n),
            Recipe(batch=batch),
            device="cpu",
        )
        for n in sizes
    }
    rows = torch.randn(max(sizes), 64)

    def accumulate(make, n):
        into = make()
        for part in rows[:n].split(500):
            into.update(part)

    def epoch(n):
        order = Order(n, batch, 0)
        for k in range(n // batch):
            order(k)

    record(
        [
            grown(
                "a training step",
                {n: t.train_step for n, t in trainers.items()},
                rounds,
                batch=batch,
            ),
            grown(
                "a batch",
                {
                    n: lambda n=n: [sets[n].batch(index[n]) for _ in range(50)]
                    for n in sizes
                },
                rounds,
                batch=batch,
                batches=50,
            ),
            grown(
                "the order of an epoch",
                {n: lambda n=n: epoch(n) for n in sizes},
                rounds,
            ),
            grown("a digest", {n: sets[n].digest for n in sizes}, 5),
            grown(
                "moments of 64 features",
                {n: lambda n=n: accumulate(Moments, n) for n in sizes},
                rounds,
            ),
            grown(
                "a reservoir of 10,000",
                {n: lambda n=n: accumulate(Reservoir, n) for n in sizes},
                rounds,
            ),
        ]
    )
    benchmark.pedantic(trainers[1000].train_step, rounds=2)


@pytest.mark.parametrize("side", (32, 64, 128))
def test_resolution(side, record, benchmark, tmp_path, rounds=3, batch=4):
    "A training step and a sample at each resolution."
    t = Trainer(
        RectifiedFlow(),
        small(side),
        pictures(8, side),
        tmp_path,
        Recipe(batch=batch),
        device="cpu",
    )
    cases = {
        "a training step": t.train_step,
        "a sample, 4 steps": lambda: sample(
            t.flow, t.average, batch, (3, side, side), solver="euler", nfe=4
        ),
    }
    times = in_turns(cases, rounds)
    record(
        [
            dict(
                name=k,
                side=side,
                batch=batch,
                seconds=statistics.median(ts),
                images_per_s=batch / statistics.median(ts),
                threads=torch.get_num_threads(),
            )
            for k, ts in times.items()
        ],
        f"resolution-{side}",
    )
    assert torch.isfinite(cases["a sample, 4 steps"]().x).all()
    benchmark.pedantic(t.train_step, rounds=2)
