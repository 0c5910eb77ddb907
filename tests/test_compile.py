"""A compiled network is made once for each size of batch, and never again: torch's own
counters over whole toy runs.
"""

import functools

import pytest
import torch
from torch._dynamo.utils import counters

import odeflow.sampling
import odeflow.training
from odeflow.data import Data
from odeflow.flow import Rng
from odeflow.sampling import padded, program_size, sample
from odeflow.nets import MLP, UNet
from odeflow.poisson.pfgm import PFGM
from odeflow.rectified.flow import RectifiedFlow
from odeflow.rectified.coupling import draw_coupling
from odeflow.records import evaluate
from odeflow.training import Recipe, train


@pytest.fixture(autouse=True)
def watched(monkeypatch):
    """Programs are traced and counted, and then run as they are: making them fast is
    not what is tested here.
    """
    for module in (odeflow.sampling, odeflow.training):
        monkeypatch.setattr(
            module,
            "compiled",
            functools.partial(torch.compile, dynamic=False, backend="eager"),
        )
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def programs():
    return counters["stats"]["unique_graphs"]


def breaks():
    return sum(counters["graph_break"].values())


def pictures(n=96):
    return Data(
        torch.randint(
            0,
            256,
            (n, 3, 8, 8),
            dtype=torch.uint8,
            generator=torch.Generator().manual_seed(0),
        ),
        torch.arange(n) % 2,
        "noise",
        flip=True,
    )


def net(flow, **kwargs):
    torch.manual_seed(0)
    return UNet(
        (3, 8, 8),
        channels=8,
        mults=(1, 2),
        blocks=1,
        attention=(4,),
        extra_channels=flow.extra_channels,
        **kwargs,
    )


@pytest.mark.parametrize(
    "flow", (RectifiedFlow(), PFGM()), ids=lambda f: type(f).__name__
)
def test_a_run_with_sampling(flow, tmp_path):
    """Training, previews, pairs and rows: a program of the step, and one for each size
    of batch (64 in previews and pairs, 128 in rows).
    """
    data = pictures()
    recipe = Recipe(
        "8 steps",
        batch=16,
        accumulate=2,
        compile=True,
        log_every=2,
        save_every=0,
        preview_every=0,
    )
    done = train(
        flow, net(flow), data, tmp_path / "run", recipe, device="cpu", progress=False
    )
    trained = programs()
    assert trained == 2, "a training step, and a preview"
    how = recipe.asks("heun", nfe=6 + flow.denoise_nfe)
    draw_coupling(
        flow,
        done.net,
        64,
        data.shape,
        tmp_path / "pairs",
        batch=64,
        progress=False,
        **how,
    )
    assert programs() == trained
    for n in (170, 228):
        evaluate(
            flow,
            done.net,
            data,
            system="toy",
            n=n,
            batch=128,
            trained=done,
            device="cpu",
            **how,
        )
    assert programs() == trained + 1 and breaks() == 0
    again = Recipe(
        "12 steps",
        batch=16,
        accumulate=2,
        compile=True,
        log_every=2,
        save_every=0,
        preview_every=0,
    )
    train(flow, net(flow), data, tmp_path / "run", again, device="cpu", progress=False)
    assert programs() == trained + 1 and breaks() == 0, (
        "a resumed run makes its programs anew"
    )


class Stiff(torch.nn.Module):
    "A field that takes its second class more steps."

    classes = 2

    def forward(self, x, c, y):
        return torch.sin(x * (1 + 9 * y.clamp(min=0))[:, None, None, None])


def test_adaptive_solvers_and_guidance():
    """As samples arrive batches shrink through few sizes; a guided evaluation takes the
    same program twice.
    """
    flow, one = RectifiedFlow(), Stiff()
    labels = torch.arange(100) % 2
    plain, fast = (
        sample(
            flow,
            one,
            100,
            (3, 8, 8),
            solver="rk45",
            rtol=1e-2,
            atol=1e-2,
            labels=labels,
            compile=c,
        )
        for c in (False, True)
    )
    assert plain.nfe.unique().numel() > 1 and 1 < programs() <= 4 and breaks() == 0
    assert torch.allclose(plain.x, fast.x, atol=1e-4) and torch.equal(
        plain.nfe, fast.nfe
    )
    before = programs()
    guided = [
        sample(
            flow,
            one,
            100,
            (3, 8, 8),
            solver="euler",
            nfe=8,
            labels=labels,
            guidance=2.0,
            compile=c,
        ).x
        for c in (False, True)
    ]
    assert torch.allclose(*guided, atol=1e-4) and programs() == before


@pytest.mark.parametrize(
    "n, size", [(1, 16), (16, 16), (17, 32), (500, 512), (2048, 2048)]
)
def test_sizes(n, size):
    "Powers of two from 16 on; what is filled up is cut off again."
    assert program_size(n) == size and len(padded(torch.ones(n, 3), size)) == size
    a = Rng(0).normal(n, (3,))
    assert torch.equal(padded(a, size)[:n], a) and not padded(a, size)[n:].any()


def test_points(tmp_path):
    "A perceptron, in batches of any number."
    one = MLP((2,), width=16)
    with torch.no_grad():
        xs = [
            sample(RectifiedFlow(), one, n, (2,), solver="euler", nfe=2, compile=c).x
            for n in (3, 7, 16)
            for c in (False, True)
        ]
    assert (
        all(torch.allclose(a, b, atol=1e-5) for a, b in zip(xs[::2], xs[1::2]))
        and programs() == 1
        and breaks() == 0
    )
