"""What it costs to pair a batch by optimal transport: SciPy's assignment as `match`
calls it, beside POT's solver and a training step of the digits' network on the same
batch.
"""

import statistics

import pytest
import torch
from measure import in_turns, ratio
from odeflow.data import load_data
from odeflow.rectified.flow import RectifiedFlow
from odeflow.training import Recipe, Trainer
from odeflow.presets import new_net, preset
from odeflow.rectified.coupling import match

ot = pytest.importorskip("ot", reason="POT is the peer: pip install pot")


def pot(x0, x1):
    plan = ot.emd(
        torch.full((len(x0),), 1 / len(x0), dtype=torch.float64),
        torch.full((len(x1),), 1 / len(x1), dtype=torch.float64),
        torch.cdist(x1.flatten(1).double(), x0.flatten(1).double()).square(),
    )
    return x0[plan.argmax(1)]


@pytest.mark.parametrize("n", (64, 256, 1024))
def test_pairing(n, record, benchmark, tmp_path, rounds=9):
    data = load_data("digits")
    g = torch.Generator().manual_seed(0)
    x1 = data.all()[torch.randint(len(data), (n,), generator=g)] + 0.01 * torch.randn(
        n, 1, 8, 8, generator=g
    )
    x0 = torch.randn(n, 1, 8, 8, generator=g)
    cost = lambda a: float((x1 - a).square().sum())
    assert abs(cost(match(x0, x1)) / cost(pot(x0, x1)) - 1) < 1e-6
    trainer = Trainer(
        RectifiedFlow(),
        new_net(preset("digits", data.shape), data.shape),
        data,
        tmp_path,
        Recipe(batch=n),
        device="cpu",
    )
    times = in_turns(
        {
            "match": lambda: match(x0, x1),
            "POT": lambda: pot(x0, x1),
            "a training step": trainer.train_step,
        },
        rounds,
    )
    record(
        [
            dict(
                name=k,
                batch=n,
                milliseconds=1e3 * statistics.median(ts),
                of_a_step=ratio(ts, times["a training step"])[0],
                threads=torch.get_num_threads(),
            )
            for k, ts in times.items()
        ],
        f"pairing-{n}",
    )
    benchmark.pedantic(lambda: match(x0, x1), rounds=2)
