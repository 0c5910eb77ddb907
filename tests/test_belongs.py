"""What was made of one thing is not passed on as if it were made of another: networks,
flows, priors, classes, solvers.
"""

import subprocess
import sys
import pytest
import torch
from PIL import Image
from odeflow.data import as_bytes, Data, load_data, to_float
from odeflow.flow import Gaussian, in_shares, from_config, Rng
from odeflow.sampling import VelocityField, integrate, own_sampler, sample
from odeflow.metrics.distances import frechet_distance, memorised
from odeflow.nets import MLP, net_digest
from odeflow.poisson.pfgm import PFGM
from odeflow.poisson.pfgmpp import PFGMPP
from odeflow.pipeline import Pipeline
from odeflow.poisson.prior import RadialPrior
from odeflow.rectified.flow import RectifiedFlow
from odeflow.rectified.coupling import draw_coupling
from odeflow.rectified.reflow import distill, straightness
from odeflow.presets import TrainedFlow
from odeflow.records import mixture, read_records, Results, write_result
from odeflow.diffusion import VP
from odeflow.likelihood import log_likelihood
from odeflow.training import Recipe, train
from odeflow.presets import new_net, preset
from odeflow.rectified.coupling import Paired
from odeflow.rectified.transfer import save_clip

QUICK = dict(device="cpu", progress=False)
refused = lambda says, f, *args, **kw: pytest.raises(
    (ValueError, TypeError), f, *args, **kw
).match(says)
points = lambda n=64, scale=1.0, seed=0: (
    scale * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
)
mlp = lambda **kw: (torch.manual_seed(0), MLP((2,), width=8, **kw))[1]
steps = lambda n: Recipe(f"{n} steps", batch=16, lr=1e-3)

# ---------------------------------------------------------------- networks
still, five = (lambda x, c: 0 * x), (lambda x, c: 0 * x + 5)


def test_a_function_is_known_by_what_it_says(tmp_path):
    "Pairs of v = 5 were those of v = 0, drawn before."
    draw = lambda net, **kw: draw_coupling(
        RectifiedFlow(),
        net,
        4,
        (2,),
        tmp_path / "c",
        solver="euler",
        nfe=4,
        progress=False,
    )
    a = draw(still)
    # another function that says the same
    assert torch.equal(a.x0, a.x1) and torch.equal(draw(lambda x, c: x - x).x1, a.x1)
    refused("holds another coupling .net was", draw, five)
    assert net_digest(still, (2,)) != net_digest(five, (2,)) and net_digest(
        None
    ) == net_digest(None)
    # of no answer, nothing is known
    assert net_digest(lambda x, c: x.nothing, (2,)) != net_digest(
        lambda x, c: x.nothing, (2,)
    )


def test_arguments_belong_to_a_network(tmp_path):
    "The same weights behind another embedding of time are another network."
    a, b = mlp(), mlp(max_freq=200.0)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    draw = lambda net: draw_coupling(
        RectifiedFlow(),
        net,
        4,
        (2,),
        tmp_path / "c",
        solver="euler",
        nfe=2,
        progress=False,
    )
    draw(a)
    refused("holds another coupling", draw, b)
    draw(mlp())


def test_a_row_is_of_its_network(tmp_path):
    data = Data(points(200))
    member = lambda net: TrainedFlow("RF", False, RectifiedFlow(), net, None)
    row = lambda f: Results(tmp_path, data, n=100).measure(
        member(f), solver="euler", nfe=4
    )["frechet"]
    first = row(still)
    assert row(lambda x, c: 5 * x) > 10 * first and abs(row(still) - first) < 1e-9


def test_a_seed_of_a_date(tmp_path):
    """Seeds of pairs are those of the first edition, and large ones do not leave 64
    bits.
    """
    pairs = lambda seed: (
        draw_coupling(
            RectifiedFlow(),
            still,
            4,
            (2,),
            tmp_path / str(seed),
            solver="euler",
            nfe=1,
            seed=seed,
            progress=False,
        ).x0
    )
    assert torch.equal(
        pairs(0), Gaussian().sample(4, (2,), Rng(seeds=range(10**12, 10**12 + 4)))
    )
    sets = [pairs(s) for s in (20261128, 20261129, 2**62)]
    assert all(abs(float((a - b).abs().min())) > 0 for a, b in zip(sets, sets[1:]))


# ---------------------------------------------------------------- flows
@pytest.mark.parametrize(
    "make", [PFGM, lambda: PFGMPP(D=8), lambda: PFGMPP(D=8, target="mean")]
)
def test_constants_are_those_of_one_data_set(make):
    """A flow that had learnt one set took the constants of the next, and samples of the
    first were lost.
    """
    a, b = Data(points(200)), Data(points(200, 5.0) + 20)
    flow = make().fit(a).fit(Data(points(200)))  # the same data
    before = flow.to_config()
    refused("constants from other data.*make a new flow", flow.fit, b)
    assert flow.to_config() == before
    assert from_config(before).to_config() == before


def test_a_student_runs_in_its_own_steps(tmp_path):
    """digits-2-rf-distilled in 10 Euler steps was six times as far from the data as in
    its one, and nothing was said.
    """
    pipe = Pipeline.from_pretrained("digits-2-rf-distilled")
    x = pipe(4, seed=1).x
    assert torch.equal(pipe(4, seed=1, nfe=1).x, x) and torch.equal(
        pipe(4, seed=1, solver="euler", nfe=1).x, x
    )
    for how in (
        dict(nfe=2),
        dict(solver="rk45"),
        dict(solver="heun", nfe=2),
        dict(solver="euler", nfe=2),
        dict(solver="euler"),
    ):
        refused("a student of 1 Euler step ", pipe, 4, **how)
    for f in (pipe.encode, lambda x: log_likelihood(pipe.flow, pipe.net, x)):
        refused("a student of 1 Euler step ", f, x)
    refused(
        "a student of 1 Euler step ", straightness, pipe.flow, pipe.net, 4, pipe.shape
    )
    four = RectifiedFlow(steps=4)
    assert (
        own_sampler(VelocityField(four, still, 1))["nfe"]
        == own_sampler(VelocityField(four, still, 1), nfe=4)["nfe"]
        == 4
    )
    refused("a student of 4 Euler steps", sample, four, still, 2, (2,), nfe=2)


# ---------------------------------------------------------------- a network of one's
# own
class Own(torch.nn.Module):
    "Of two layers, one after the other."

    def __init__(self, out=2, width=8):
        super().__init__()
        self.a = torch.nn.Linear(3, width)
        self.b = torch.nn.Linear(width, out)

    def forward(self, x, t):
        return self.b(torch.tanh(self.a(torch.cat([x, t[:, None]], 1))))


def test_an_answer_of_another_shape_is_not_broadcast(tmp_path):
    """(B, 1) for (B, 2) trained and sampled with nothing said; (B,) for (B, 1) became
    (B, B).
    """
    go = lambda net, data: train(
        RectifiedFlow(), net, data, tmp_path / "a", steps(1), **QUICK
    )
    refused(
        "net: it answers .16, 1. to states of shape .16, 2.; this flow needs .16, 2.",
        go,
        Own(1),
        Data(points()),
    )
    flat = type(
        "Flat",
        (torch.nn.Module,),
        {
            "__init__": lambda self: (
                torch.nn.Module.__init__(self),
                setattr(self, "a", torch.nn.Linear(1, 1)),
            )[0],
            "forward": lambda self, x, t: self.a(x).squeeze(-1),
        },
    )
    refused(
        "it answers .16,. to states of shape .16, 1.",
        go,
        flat(),
        Data(points()[:, :1].clone()),
    )
    refused(
        "it answers .4, 1. to states of shape .4, 2.",
        sample,
        RectifiedFlow(),
        lambda x, c: x[:, :1],
        4,
        (2,),
    )
    refused(
        "it answers .16, 2. to states of shape .16, 2.; this flow needs .16, 3.",
        train,
        PFGM(),
        mlp(),
        Data(points()),
        tmp_path / "b",
        steps(1),
        **QUICK,
    )


def test_frozen_layers_stay(tmp_path):
    net = Own()
    net.a.requires_grad_(False)
    before, after = net.a.weight.clone(), net.b.weight.clone()
    go = lambda n: train(
        RectifiedFlow(), net, Data(points()), tmp_path / "a", steps(n), **QUICK
    )
    done = go(3)
    assert (
        torch.equal(net.a.weight, before)
        and not torch.equal(net.b.weight, after)
        and torch.equal(done.net.a.weight, before)
    )
    # and so in a run that is continued
    assert go(5).steps == 5 and torch.equal(net.a.weight, before)
    was = done.net.a.weight.clone()
    train(RectifiedFlow(), done.net, Data(points()), tmp_path / "b", steps(3), **QUICK)
    # one that is frozen as a whole, as those that are loaded, learns
    assert not torch.equal(done.net.a.weight, was)


def test_tied_weights_are_saved(tmp_path):
    "Trained to the end, then lost: two names of one tensor."
    net = Own(width=8)
    net.c = torch.nn.Linear(3, 8)
    net.c.weight = net.a.weight
    made = lambda: (
        n := Own(),
        setattr(n, "c", torch.nn.Linear(3, 8)),
        setattr(n.c, "weight", n.a.weight),
    )[0]
    done = train(
        RectifiedFlow(), net, Data(points()), tmp_path / "a", steps(2), **QUICK
    )
    back = Pipeline.from_pretrained(tmp_path / "a", net=made())
    assert torch.equal(back.net.a.weight, done.net.a.weight) and torch.equal(
        back.net.c.weight, done.net.a.weight
    )
    Pipeline(RectifiedFlow(), done.net, (2,)).save_pretrained(tmp_path / "b")
    # its shape is written, too
    again = Pipeline.from_pretrained(tmp_path / "b", net=made())
    assert again.shape == (2,) and torch.equal(again.net.b.weight, done.net.b.weight)
    (tmp_path / "a" / "config.json").unlink()  # as of a run that was stopped
    refused(
        "the checkpoint in .* is of another network",
        Pipeline.from_pretrained,
        tmp_path / "a",
        net=mlp(),
    )


def test_a_state_that_is_no_tensor(tmp_path):
    class Odd(Own):
        def get_extra_state(self):
            return {"note": 1}

        def set_extra_state(self, state):
            pass

    refused(
        "its state '_extra_state' is no tensor",
        train,
        RectifiedFlow(),
        Odd(),
        Data(points()),
        tmp_path / "a",
        steps(1),
        **QUICK,
    )


# ---------------------------------------------------------------- priors
def test_pairs_start_where_samples_will(tmp_path):
    data = Data(points())
    refused(
        "its pairs start from Gaussian.std=9.*same prior",
        train,
        RectifiedFlow(),
        mlp(),
        Paired(Gaussian(9.0), data),
        tmp_path / "a",
        steps(1),
        **QUICK,
    )
    wide = RectifiedFlow(prior=Gaussian(9.0))
    train(wide, mlp(), Paired(Gaussian(9.0), data), tmp_path / "b", steps(1), **QUICK)
    pairs = draw_coupling(
        wide, still, 32, (2,), tmp_path / "c", solver="euler", nfe=1, progress=False
    )
    assert pairs.prior == "Gaussian(std=9)"
    refused(
        "its pairs start from Gaussian.std=9",
        distill,
        RectifiedFlow(),
        mlp(),
        pairs,
        tmp_path / "d",
        recipe=steps(1),
        **QUICK,
    )
    distill(wide, mlp(), pairs, tmp_path / "e", recipe=steps(1), **QUICK)


def test_another_prior_is_another_run(tmp_path):
    data = Data(points())
    go = lambda out, prior, pairs: train(
        RectifiedFlow(prior=prior), mlp(), pairs, tmp_path / out, steps(2), **QUICK
    )
    go("a", RadialPrior(1.0), data)
    refused(
        "holds a run of another configuration .flow.prior was 'RadialPrior.scale=1, "
        "D=1.', now 'RadialPrior.scale=50",
        go,
        "a",
        RadialPrior(50.0),
        data,
    )
    assert (
        Paired(Gaussian(), data).digest()
        != Paired(Gaussian(9.0), data).digest()
        != data.digest()
    )
    told = RectifiedFlow(prior=RadialPrior(3.0, 8)).to_config()
    assert from_config(told, RadialPrior(3.0, 8)).to_config() == told
    refused(
        "starts from RadialPrior.scale=3, D=8., not from RadialPrior.scale=4",
        from_config,
        told,
        RadialPrior(4.0, 8),
    )


# ---------------------------------------------------------------- classes
def named(n, *names, shares=None):
    y = in_shares(shares or [1] * len(names), n)
    return Data(points(n) + 9.0 * y[:, None], y, names=names)


def test_shares_go_by_name():
    "A network that knows cat and dog was asked for the shares of dog and cat."

    class Net:
        classes = 2
        names = ("cat", "dog")
        shares = (0.9, 0.1)

    same = named(1000, "cat", "dog", shares=[9, 1])
    other = named(1000, "dog", "cat", shares=[1, 9])
    for data in (same, other):
        assert mixture(Net, data, 100).bincount().tolist() == [90, 10]
    refused(
        "its classes are cow, dog, those of the network cat, dog",
        mixture,
        Net,
        named(10, "cow", "dog"),
        4,
    )
    # classes without names
    assert mixture(
        Net, Data(points(10), in_shares([1, 4], 10)), 5
    ).bincount().tolist() == [1, 4]


def test_classes_that_were_never_learnt(tmp_path):
    refused(
        "it knows 10 classes, and data has none",
        train,
        RectifiedFlow(),
        mlp(classes=10),
        Data(points()),
        tmp_path / "a",
        steps(1),
        **QUICK,
    )
    y = in_shares([1, 1, 0], 64)
    train(
        RectifiedFlow(),
        mlp(classes=3),
        Data(points(), y, names=("cat", "dog", "bird")),
        tmp_path / "b",
        steps(2),
        **QUICK,
    )
    pipe = Pipeline.from_pretrained(tmp_path / "b")
    for labels in ("bird", 2, ["cat", "bird"], torch.tensor([0, 2])):
        refused("'bird' did not occur", pipe, 2, labels=labels)
    assert (
        pipe(4, labels="dog").labels.tolist() == [1] * 4
        and pipe(2, labels=-1).labels.tolist() == [-1] * 2
    )


# ---------------------------------------------------------------- runs
def test_a_run_that_goes_on_is_its_newest_state(tmp_path):
    """After a finished run was continued and stopped, its folder was still sampled by
    the weights of before.
    """
    from odeflow import training as module

    data, out = Data(points()), tmp_path / "run"
    train(RectifiedFlow(), mlp(), data, out, steps(2), **QUICK)
    first = Pipeline.from_pretrained(out).net
    t = module.Trainer(RectifiedFlow(), mlp(), data, out, steps(9), device="cpu")
    t.restore()
    sync = t.sync_stop
    # SIGTERM in the fifth step
    t.sync_stop = lambda stop: (
        stop.extend([15] * (t.step == 5 and not stop)),
        sync(stop),
    )
    pytest.raises(SystemExit, t.run, progress=False)
    now = Pipeline.from_pretrained(out)
    assert all(
        torch.equal(a, b) for a, b in zip(now.net.parameters(), t.average.parameters())
    )
    assert not all(
        torch.equal(a, b) for a, b in zip(now.net.parameters(), first.parameters())
    )
    assert (
        train(RectifiedFlow(), mlp(), data, out, steps(9), **QUICK).steps == 9
        and (out / "config.json").is_file()
    )


def test_linked_runs_are_read(tmp_path):
    (run := tmp_path / "far" / "run").mkdir(parents=True)
    write_result(run, [])
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "run").symlink_to(run)
    assert [r["run"] for r in read_records(tmp_path / "all")] == ["run"]


def test_a_seed_does_not_move_the_others():
    "A call with a seed moved what the calls without one draw, if it was the first."
    pipes = [Pipeline.from_pretrained("digits-1-rf") for _ in range(2)]
    pipes[0](2, seed=4, nfe=2)
    pipes[0](2, seeds=[7, 8], nfe=2)
    first, second = ([p(2, nfe=2).x for p in pipes] for _ in range(2))
    assert (
        torch.equal(*first)
        and torch.equal(*second)
        and not torch.equal(first[0], second[0])
    )


# ---------------------------------------------------------------- ranges
def test_digits_of_0_to_16():
    from sklearn.datasets import load_digits

    x = torch.tensor(load_digits().images, dtype=torch.float32)[:20, None]
    refused("x: numbers from 0 to 16; give floats in", as_bytes, x)
    assert torch.equal(as_bytes(to_float(load_data("digits").x)), load_data("digits").x)


def test_bytes_beside_floats():
    x = load_data("digits").x[:50]
    for f in (frechet_distance, memorised):
        for a, b in ((x, to_float(x)), (to_float(x).numpy(), x.numpy())):
            refused("bytes are compared with floats", f, a, b)
        assert abs(f(x, x) - f(to_float(x), to_float(x).double())) < 1e-3


def test_twelve_bits(tmp_path):
    "Pillow reads them as 16 bits, nearly black."
    import struct

    tags = [
        (256, 4, 2),
        (257, 4, 1),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, 1),
        (279, 4, 3),
    ]
    head = (
        struct.pack("<H", len(tags))
        + b"".join(
            struct.pack("<HHI", k, t, 1)
            + (struct.pack("<I", v) if t == 4 else struct.pack("<HH", v, 0))
            for k, t, v in tags
        )
        + bytes(4)
    )
    (tmp_path / "x.tif").write_bytes(
        b"II*\0" + struct.pack("<I", 12) + bytes([0xFF, 0xF8, 0x00]) + b"\0" + head
    )
    assert Image.open(tmp_path / "x.tif").size == (2, 1)
    refused(
        "x.tif' holds numbers of 12 bits; convert it to 8 bits", load_data, tmp_path
    )


def test_a_size_that_does_not_fit(tmp_path):
    """A million pixels a side filled the memory without a word, before anything was
    said.
    """
    for k in range(3):
        Image.new("L", (30, 30)).save(tmp_path / f"{k}.png")
    for size in (10**6, 3 * 10**9):
        refused_by = pytest.raises(OSError, load_data, tmp_path, resize=size)
        refused_by.match("GiB of pictures fit neither")
    assert load_data(tmp_path, resize=8).shape == (1, 8, 8)


def test_a_picture_beside_folders(tmp_path):
    for name in ("a/0.png", "b/0.png", "stray.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    with pytest.warns(
        UserWarning, match="'stray.png' lies beside the folders.*no classes"
    ):
        assert load_data(tmp_path).names == ()
    (tmp_path / "stray.png").unlink()
    assert load_data(tmp_path).names == ("a", "b")


def test_sets_of_arrays():
    import numpy as np

    d = Data(points(4).numpy(), np.array([0, 1, 0, 1]))
    assert (
        d.classes == 2
        and torch.equal(d.x, points(4))
        and Data([[0.0, 1.0]]).shape == (2,)
    )
    refused("source: Tensor is neither a name nor a path", load_data, points(4))
    pipe = Pipeline.from_pretrained("digits-1-rf-classes")
    assert pipe(2, labels=np.int64(3), nfe=2).labels.tolist() == [3, 3]
    refused("labels: 9999", pipe, 2, labels=10**40 - 1)


def test_none_and_one(tmp_path):
    "No samples at all, samples of one number, and a clock of no length."
    for flow in (RectifiedFlow(), PFGMPP(sigma_data=0.5, radius=2.0)):
        for how in (dict(), dict(solver="euler", nfe=4)):
            assert integrate(flow, still, torch.zeros(0, 2), **how).x.shape == (0, 2)
        assert sample(flow, still, 3, (), solver="euler", nfe=4).x.shape == (
            3,
        ) and flow.loss(still, points(2)[0], Rng(0)).shape == (2,)
    for trace in ("exact", "hutchinson"):
        assert log_likelihood(
            RectifiedFlow(), still, torch.zeros(0, 2), trace=trace
        ).logp.shape == (0,)
    refused(
        "atol: 0 allows a log density no error",
        log_likelihood,
        RectifiedFlow(),
        still,
        points(2),
        atol=0.0,
    )
    assert integrate(
        VP(), still, torch.zeros(0, 2), solver="euler-maruyama", nfe=9
    ).x.shape == (0, 2)

    class Still(RectifiedFlow):
        clock = (1.0, 1.0)

    for how in (dict(solver="euler", nfe=4), dict(solver="rk45", rtol=1e-3, atol=1e-3)):
        out = sample(Still(), five, 2, (2,), path=2, **how)
        assert torch.equal(out.path, out.x0.expand(3, 2, 2)) and torch.equal(
            out.x, out.x0
        )


def test_a_clip_is_what_its_name_says(tmp_path):
    for name in ("c.gif", "c.mp4", "c"):
        refused(
            f"file: '.*{name}' would be an animated WebP",
            save_clip,
            torch.zeros(3, 4, 1, 8, 8),
            tmp_path / name,
        )
    save_clip(torch.zeros(3, 4, 1, 8, 8), tmp_path / "c.webp")
    assert Image.open(tmp_path / "c.webp").format == "WEBP"


def test_a_preset_for_other_data():
    refused(
        "preset: its MLP for samples of shape .2,.: .*'channels'.*give a preset for "
        "such data",
        new_net,
        preset("digits", (2,)),
        (2,),
    )


def test_the_module_is_the_command():
    out = subprocess.run(
        [sys.executable, "-m", "odeflow", "fly"], capture_output=True, text=True
    )
    assert out.returncode == 2 and "there is no command 'fly'" in out.stderr
