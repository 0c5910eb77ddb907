"""A cut changes nothing but rounding: every system, its batches in 1, 2 and 4 parts, on
one process and on two, gives the same weights.
"""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from odeflow.data import Data, DataPrior, load_data
from odeflow.flow import Gaussian, Rng
from odeflow.nets import MLP, UNet
from odeflow.poisson.pfgm import PFGM
from odeflow.poisson.pfgmpp import PFGMPP
from odeflow.pipeline import Pipeline
from odeflow.rectified.flow import RectifiedFlow
from odeflow.rectified.coupling import draw_coupling
from odeflow.diffusion import SubVP, VE, VP
from odeflow.likelihood import bits_per_dim
from odeflow.runs import newest_state
from odeflow.training import Recipe, train
from odeflow.rectified.coupling import Paired
from odeflow.rectified.transfer import FeatureFlow
from test_processes import gap, run, weights


def points(labels=True):
    x = load_data("moons", n=200).x
    return Data(
        x, (x[:, 0] > 0.5).long() + (x[:, 1] > 0).long() if labels else None, "points"
    )


def paired(tmp):
    return Paired(Gaussian(), points(False), "ot")


def drawn(tmp):
    net = MLP((2,), width=8, classes=3)
    return draw_coupling(
        RectifiedFlow(),
        net.requires_grad_(False),
        100,
        (2,),
        f"{tmp}/pairs",
        solver="euler",
        nfe=2,
        progress=False,
    )


SYSTEMS = {  # name: the flow, and what it learns if not `points`
    "rectified": (RectifiedFlow, None),
    "logit-normal times": (lambda: RectifiedFlow(time="logit-normal"), None),
    "u-shaped times": (lambda: RectifiedFlow(time="u-shaped"), None),
    "huber": (lambda: RectifiedFlow(error="huber"), None),
    "student": (lambda: RectifiedFlow(steps=2), None),
    "from data": (
        lambda: RectifiedFlow(prior=DataPrior(load_data("heart", n=300))),
        None,
    ),
    "optimal pairs": (RectifiedFlow, paired),
    "coupling with classes": (RectifiedFlow, drawn),
    "features": (lambda: FeatureFlow(lambda x: x**3), None),
    "VP": (VP, None),
    "sub-VP": (lambda: SubVP(weighting="likelihood"), None),
    "VE": (VE, None),
    "PFGM": (PFGM, None),
    "PFGM, 48 charges": (lambda: PFGM(field_batch=48), None),
    "PFGM++ D=1": (lambda: PFGMPP(D=1), None),
    "PFGM++ D=128": (lambda: PFGMPP(D=128), None),
    "PFGM++ D=inf, mean": (lambda: PFGMPP(D=math.inf, target="mean"), None),
    "PFGM++ D=8, mean of 48": (
        lambda: PFGMPP(D=8, target="mean", field_batch=48),
        None,
    ),
    "1-RF, mean of 48": (
        lambda: RectifiedFlow(target="mean", field_batch=48),
        None,
    ),
    "mirrored pictures": (RectifiedFlow, lambda tmp: load_data("digits", flip=True)),
}


def training(name, out, accumulate=1):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    make, learns = SYSTEMS[name]
    flow = make()
    data = learns(out.parent) if learns else points()
    classes = 0 if flow.target == "mean" else data.classes
    net = (
        UNet((1, 8, 8), channels=8, mults=(1,), blocks=1, classes=classes)
        if len(data.shape) == 3
        else MLP(
            (2,),
            width=16,
            depth=1,
            classes=classes,
            extra_channels=flow.extra_channels,
        )
    )
    train(
        flow,
        net,
        data,
        out,
        Recipe(
            "20 steps",
            batch=32,
            warmup=1,
            decay="constant",
            accumulate=accumulate,
            save_every=99,
            preview_every=99,
        ),
        device="cpu",
        progress=False,
    )


def all_of_them(out):
    for name in SYSTEMS:
        training(name, out / name / "run")


def trained(folder):
    return weights(newest_state(folder / "state")[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    run(all_of_them, out)
    return {name: trained(out / name / "run") for name in SYSTEMS}


def largest(whole, out):
    return {name: gap(whole[name], trained(out / name / "run")) for name in SYSTEMS}


def test_two_processes(whole, tmp_path):
    run(all_of_them, tmp_path, processes=2)
    gaps = largest(whole, tmp_path)
    assert max(gaps.values()) < 2e-5, gaps


@pytest.mark.parametrize("parts", [2, 4])
def test_parts(whole, tmp_path, parts):
    for name in SYSTEMS:
        training(name, tmp_path / name / "run", parts)
    gaps = largest(whole, tmp_path)
    assert max(gaps.values()) < 2e-5, gaps


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 5),
    st.sampled_from([1, 2, 3, 4, 6]),
    st.sampled_from(["normal", "uniform", "integers", "gamma"]),
)
def test_draws_of_parts_are_those_of_the_whole(seed, begun, m, kind):
    draw = {
        "normal": lambda r, n: r.normal(n, (2,)),
        "uniform": lambda r, n: r.uniform(n),
        "integers": lambda r, n: r.integers(99, n),
        "gamma": lambda r, n: r.gamma(0.5, n),
    }[kind]
    whole = Rng(seed)
    whole.normal(begun)
    parts = [whole.cut(k, m) for k in range(m)]
    for n in (12, 24):
        assert torch.equal(torch.cat([draw(p, n // m) for p in parts]), draw(whole, n))
    assert all(
        torch.equal(p.common.uniform(7), parts[0].cut(0, 1).uniform(7))
        for p in parts[1:2]
    )


def test_pairs_are_matched_as_a_whole():
    pairs = paired(None)
    with pytest.raises(
        ValueError,
        match="^rng: it is cut into 4 parts, but pairs are matched over the whole batch",  # noqa: E501
    ):
        pairs.batch(torch.arange(16), Rng(1, part=(0, 4)))


def test_pieces_of_likelihoods():
    pipe = Pipeline.from_pretrained("digits-1-rf-classes")
    d = load_data("digits")
    how = dict(trace="hutchinson", solver="heun", nfe=4)
    one, two = (
        bits_per_dim(pipe.flow, pipe.net, d.x[:12], batch=b, labels=d.y[:12], **how)
        for b in (12, 5)
    )
    assert one == pytest.approx(two, abs=1e-5)


if __name__ == "__main__":  # the table of largest differences
    from pathlib import Path
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        run(all_of_them, tmp / "one")
        run(all_of_them, tmp / "two", processes=2)
        for m in (2, 4):
            for name in SYSTEMS:
                training(name, tmp / str(m) / name / "run", m)
        first = {name: trained(tmp / "one" / name / "run") for name in SYSTEMS}
        print("| system | 2 processes | 2 parts | 4 parts |\n| --- | --- | --- | --- |")
        for name in SYSTEMS:
            print(
                f"| {name} | "
                + " | ".join(
                    f"{gap(first[name], trained(tmp / k / name / 'run')):.0e}"
                    for k in ("two", "2", "4")
                )
                + " |"
            )
