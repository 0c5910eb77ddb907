#!/usr/bin/env python3
"""Ten minutes of one GPU, from pictures to FID: `make lease`, or stage by stage `python
tools/lease.py STAGE[,STAGE] [OPTIONS]`.

    parts     here: CIFAR-10 and the FID network in files of at most 16 MB, for a
              machine without a network
    join      there: from those files to where the library looks
    smoke     losses, gradients, solvers, pairs and likelihoods on the device against
              the CPU, from the same numbers
    bench     pictures a second of a training step in float32, tf32, bf16, compiled;
              torchcfm's network beside ours
    train     an experiment's flows; `--keep 6` leaves the average at each sixth of the
              budget
    judge     FID, precision and recall of their samples, until `--seconds` are over
    home      weights, statistics, rows, a grid and the log in files of at most 16 MB
    all       smoke, bench, train, judge, home

What stands after STAGE is an experiment with its parameters, as for `odeflow train`;
without any it is
`rf --dataset cifar10 --preset cifar10 --rounds 1 --no-distill --samples 50000`. It
works in a checkout that is not installed, too.
"""

import argparse
import json
import math
import os
import shutil
import sys
import time
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import numpy as np
import torch
from odeflow.data import cache_dir, Data, load_data
from odeflow.cli import guarded, train_parser
from odeflow.experiment import EXPERIMENTS
from parcel import pack, unpack
from odeflow.flow import Rng
from odeflow.sampling import is_adaptive, sample, SOLVERS
from odeflow.metrics.features import Inception, inception_weights, WEIGHTS
from odeflow.metrics.evaluation import reference, subset
from odeflow.nets import load_net, NETS, save_net
from odeflow.poisson.pfgm import PFGM
from odeflow.poisson.pfgmpp import PFGMPP
from odeflow.pipeline import Pipeline, pretrained
from odeflow.rectified.flow import RectifiedFlow
from odeflow.rectified.coupling import draw_coupling
from odeflow.runs import environment, write_json
from odeflow.records import evaluate
from odeflow.diffusion import SubVP, VE, VP
from odeflow.likelihood import log_likelihood
from odeflow.distributed import accelerator
from odeflow.training import Budget, Recipe, Trainer
from odeflow.presets import PRESETS

LIMIT = 16  # megabytes a file that travels, 2**20 bytes each
START = time.monotonic()


def say(**facts):
    print(json.dumps({"t": round(time.monotonic() - START, 1), **facts}), flush=True)


def waited(device):
    return torch.cuda.synchronize() if device == "cuda" else None


# ---- what travels


def tiled(images):
    return images.reshape(-1, 100, 32, 32, 3).swapaxes(1, 2).reshape(-1, 3200, 3)


def untiled(sheet):
    return sheet.reshape(-1, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)


def parts(job):
    """CIFAR-10 as lossless sheets of 10,000 pictures, and, apart, the FID network with
    its convolutions in half precision: it may come while a network trains.
    """
    from PIL import Image

    bags = {k: job.work / "luggage" / k for k in ("data", "fid")}
    out = job.work / "parts"
    for folder in (job.work / "luggage", out):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in bags.values():
        folder.mkdir(parents=True)
    data = load_data("cifar10")
    for i in range(0, len(data), 10_000):
        Image.fromarray(tiled(data.x[i : i + 10_000].permute(0, 2, 3, 1).numpy())).save(
            bags["data"] / f"sheet-{i:05d}.webp", lossless=True, method=3, quality=60
        )
    np.save(bags["data"] / "labels.npy", data.y.numpy().astype(np.uint8))
    state = torch.load(inception_weights(), map_location="cpu", weights_only=True)
    torch.save(
        {
            k: v.half() if k.endswith("conv.weight") else v
            for k, v in state.items()
            if not k.startswith("fc.")
        },
        bags["fid"] / "fid.pt",
    )
    for k, bag in bags.items():
        for p in pack(bag, out / k, limit=LIMIT):
            say(stage="parts", file=f"{k}/{p.name}", bytes=p.stat().st_size)


def join(job):
    """The archive and the weights, whichever are here, from parts whose sums are right;
    what is there already stays.
    """
    here = [k for k in ("data", "fid") if (job.work / "parts" / k).is_dir()]
    if not here:
        raise FileNotFoundError(
            f"parts: '{job.work / 'parts'}' holds neither data nor fid; bring what "
            "`lease.py parts` wrote"
        )
    for k in here:
        shutil.rmtree(job.work / "joined" / k, ignore_errors=True)
        {"data": join_data, "fid": join_fid}[k](
            unpack(job.work / "parts" / k, job.work / "joined" / k)
        )


def join_data(folder):
    from PIL import Image

    images = np.concatenate(
        [
            untiled(np.asarray(Image.open(p)))
            for p in sorted(folder.glob("sheet-*.webp"))
        ]
    )
    archive = cache_dir() / "cifar10_train.npz"
    archive.parent.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        np.savez(
            archive,
            images=images,
            labels=np.load(folder / "labels.npy").astype(np.int64),
        )
    say(stage="join", pictures=len(images), digest=load_data("cifar10").digest())


def join_fid(folder):
    state = {
        k: v.float() if v.is_floating_point() else v
        for k, v in torch.load(folder / "fid.pt", weights_only=True).items()
    }
    # its class layer is not needed
    state |= {
        "fc.weight": torch.full((1008, 2048), math.nan),
        "fc.bias": torch.full((1008,), math.nan),
    }
    weights = inception_weights()
    weights.parent.mkdir(parents=True, exist_ok=True)
    if not weights.exists():
        torch.save(state, weights)
    say(stage="join", weights=WEIGHTS, tensors=len(state))


# ---- does it run, and how fast?


def noise(n, size):
    return Data(
        torch.randint(
            0,
            256,
            (n, 3, size, size),
            dtype=torch.uint8,
            generator=torch.Generator().manual_seed(0),
        ),
        name="noise",
        flip=True,
    )


def small(flow, size):
    "A small U-Net in which nothing is zero."
    torch.manual_seed(0)
    net = NETS["UNet"](
        (3, size, size),
        channels=16,
        mults=(1, 2),
        blocks=1,
        attention=(8,),
        extra_channels=flow.extra_channels,
    )
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.05)
    return net


def gradients(flow, data, device, size):
    """Loss and norm of the gradient, on the CPU and on the device, from the same
    numbers.
    """
    x1 = data.batch(torch.arange(8))["x1"]
    net = small(flow.fit(data), size)
    both = []
    for where in ("cpu", device):
        net = net.to(where).requires_grad_()
        net.zero_grad()
        loss = flow.loss(net, x1.to(where), Rng(1)).mean()
        loss.backward()
        both.append(
            (
                float(loss),
                math.sqrt(
                    sum(float(p.grad.double().square().sum()) for p in net.parameters())
                ),
            )
        )
    # and with the device's own numbers
    flow.loss(net, x1.to(device), Rng(1, device=device)).mean().backward()
    apart = [abs(a / b - 1) for a, b in zip(*both)]
    assert max(apart) < 1e-3, f"loss and gradient are {apart} from those of the CPU"
    return dict(apart=apart)


def sampled(name, solver, device):
    "States of a shipped model, on the CPU and on the device."
    how = dict(rtol=1e-3, atol=1e-3) if is_adaptive(solver) else dict(nfe=21)
    a, b = (
        sample(p.flow, p.net, 4, p.shape, solver=solver, **how)
        for p in (Pipeline.from_pretrained(name, d) for d in ("cpu", device))
    )
    rms = float((a.x - b.x.cpu()).square().mean().sqrt())
    assert rms < 0.05, f"samples are {rms:.3g} from those of the CPU"
    return dict(rms=rms, nfe=[float(o.nfe.double().mean()) for o in (a, b)])


def suits(name, solver):
    "Can this model be run by this solver?"
    if solver.endswith("-z"):
        return name == "digits-pfgm"
    return (
        solver not in ("euler-maruyama", "predictor-corrector", "ddim")
        or name == "digits-vp"
    )


def smoke(job):
    "Every part by itself, so that one that fails does not hide the others."
    device, bad = job.device, []

    def part(name, f):
        begun = time.monotonic()
        try:
            facts = f() or {}
            waited(device)
            say(stage="smoke", part=name, s=round(time.monotonic() - begun, 2), **facts)
        except Exception as e:
            bad.append(name)
            say(stage="smoke", part=name, failed=f"{type(e).__name__}: {e}"[:300])

    data = noise(64, 16)
    for flow in (
        RectifiedFlow(),
        VP(),
        SubVP(),
        VE(),
        PFGM(),
        PFGMPP(D=1),
        PFGMPP(D=128),
        PFGMPP(D=math.inf),
        PFGMPP(D=128, target="mean"),
    ):
        part(
            f"gradient {type(flow).__name__} {getattr(flow, 'D', '')}, {flow.target}",
            lambda: gradients(flow, data, device, 16),
        )
    for name in ("digits-1-rf", "digits-vp", "digits-pfgm", "digits-pfgmpp-128")[
        : 1 if job.toy else 4
    ]:
        if name not in pretrained():
            say(stage="smoke", part=name, left_out="the model is not here")
            continue
        for s in sorted(s for s in SOLVERS if suits(name, s)):
            part(f"{name} {s}", lambda: sampled(name, s, device))
        pipe = Pipeline.from_pretrained(name, device)
        part(
            f"{name} pairs",
            lambda: (
                draw_coupling(
                    pipe.flow,
                    pipe.net,
                    8,
                    pipe.shape,
                    job.work / "pairs" / name,
                    solver="heun",
                    nfe=21,
                    batch=4,
                    progress=False,
                )
                and None
            ),
        )
        part(
            f"{name} likelihood",
            lambda: dict(
                logp=float(
                    log_likelihood(
                        pipe.flow,
                        pipe.net,
                        torch.zeros(2, *pipe.shape, device=device),
                        trace="hutchinson",
                        rtol=1e-2,
                        atol=1e-2,
                    ).logp[0]
                )
            ),
        )
    say(stage="smoke", failed=bad)
    if bad:
        raise RuntimeError(f"smoke: {len(bad)} parts failed, the first {bad[0]}")


def stepping(job, name, net, data, batch, **how):
    "Pictures a second of the trainer's own step."
    begun = time.monotonic()
    if job.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    t = Trainer(
        RectifiedFlow(),
        net,
        data,
        job.work / "bench" / f"{name}-{batch}".replace(" ", "-"),
        Recipe(budget="1e9 steps", batch=batch, **how),
        device=job.device,
    )
    for _ in range(2):
        t.train_step()
    waited(job.device)
    first = time.monotonic() - begun
    n = job.bench_steps
    begun = time.monotonic()
    for _ in range(n):
        t.train_step()
    waited(job.device)
    memory = (
        dict(gib=round(torch.cuda.max_memory_allocated() / 2**30, 1))
        if job.device == "cuda"
        else {}
    )
    say(
        stage="bench",
        what=name,
        batch=batch,
        first_two_s=round(first, 1),
        images_per_s=round(n * batch / (time.monotonic() - begun), 1),
        **memory,
    )


def rival(shape, channels):
    "torchcfm's U-Net of about as many weights under our signature, or None."
    try:
        from torchcfm.models.unet import UNetModel
    except ImportError:
        return None
    net = UNetModel(
        dim=shape,
        num_channels=channels,
        num_res_blocks=2,
        channel_mult=(1, 2, 2, 2),
        num_heads=4,
        num_head_channels=64,
        attention_resolutions="16",
    )

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, c):
            return self.net(c, x)

    return Theirs()


def bench(job):
    "One variant after the other, of the preset's network."
    data = noise(max(1024, 4 * job.recipe.batch), job.size)
    args = {k: v for k, v in job.plan.net.items() if k != "net"}
    fresh = lambda: NETS["UNet"](data.shape, **args)
    bf16 = ("bf16",) if job.device != "cpu" else ()
    for precision in ("float32", "tf32", *bf16):
        stepping(job, precision, fresh(), data, job.recipe.batch, precision=precision)
    if job.recipe.compile:
        for batch in (
            (job.recipe.batch,) if job.toy else (job.recipe.batch, 2 * job.recipe.batch)
        ):
            stepping(
                job,
                f"{job.recipe.precision} compiled",
                fresh(),
                data,
                batch,
                precision=job.recipe.precision,
                compile=True,
            )
    theirs = rival(data.shape, args["channels"])
    if theirs is None:
        say(stage="bench", what="torchcfm", left_out="it is not installed")
    else:
        stepping(
            job,
            "torchcfm " + job.recipe.precision,
            theirs,
            data,
            job.recipe.batch,
            precision=job.recipe.precision,
        )


# ---- the run itself


def train(job):
    "All flows of the experiment; stopped and started again, it goes on."
    e = job.experiment
    print(e, flush=True)
    for m in e.train():
        say(
            stage="train",
            system=m.system,
            distilled=m.distilled,
            images=m.trained.images,
            minutes=round(m.trained.minutes, 3),
            loss=m.trained.loss,
        )


def kept(run):
    "The averages that a training left along its way, each with its cost."
    for path in sorted((run / "averages").glob("*"), key=lambda p: int(p.name)):
        run = json.loads((path / "config.json").read_text())["run"]
        yield (
            path,
            argparse.Namespace(
                images=run["images"],
                minutes=run["minutes"],
                precision=run["recipe"]["precision"],
            ),
        )


def plans(job, e):
    """What to judge, the most telling first: (system, distilled, flow, network, cost,
    samples, way).
    """
    rows, few = [], max(5, job.samples // 5)
    for m in e.members:
        step = dict(solver="euler", nfe=1 + m.flow.denoise_nfe)
        steps = dict(solver="heun", nfe=36 + m.flow.denoise_nfe)
        full = dict(solver="rk45", rtol=1e-3, atol=1e-3)
        ways = (
            [(job.samples, step)]
            if m.distilled
            else [(job.samples, steps), (few, step), (few, full)]
        )
        rows += [(m, m.net, m.trained, n, how) for n, how in ways]
    first = e.members[0]
    for path, cost in kept(first.trained.out):
        rows.append(
            (
                first,
                load_net(path).to(job.device),
                cost,
                few,
                dict(solver="heun", nfe=36 + first.flow.denoise_nfe),
            )
        )
    return rows


def finished(job):
    "The experiment, with its members as they were trained."
    e = job.experiment
    if e.members:
        return e  # trained or read by a stage before this one
    if not (e.out / "config.json").exists():
        raise FileNotFoundError(
            f"work: '{job.work}' holds no finished training; run `lease.py train` "
            "first, with the same options"
        )
    e.train()
    return e


def judge(job):
    """Rows, each written as soon as it is there; none is begun that would not end in
    time, by the speed of those before it.
    """
    until, e = time.monotonic() + job.seconds, finished(job)
    eye = job.eye
    data = job.data
    ref = reference(data, eye)
    say(stage="judge", what="reference", pictures=ref.moments.n)
    facts = {
        "reference": {"name": data.name, "samples": len(data), "digest": data.digest()}
    }
    rows, pace = [], 0.0
    for m, net, cost, n, how in plans(job, e):
        # the FID network, in float32, takes about as long as 24 evaluations in bf16
        calls = n * (how.get("nfe", 60) + 24)
        if rows and pace * calls > until - time.monotonic():
            say(
                stage="judge",
                left_out=how,
                images=cost.images,
                needs_s=round(pace * calls),
            )
            continue
        begun = time.monotonic()
        name = f"{how['solver']}-{how.get('nfe', 'adaptive')}-{cost.images}"
        r = evaluate(
            m.flow,
            net,
            data,
            system=m.system,
            distilled=m.distilled,
            n=n,
            trained=cost,
            seed=e.cfg.seed,
            device=job.device,
            features=eye,
            batch=job.piece,
            grid=job.work / f"{name}.png",
            progress=True,
            **e.recipes[0].asks(**how),
        )
        pace = max(pace, (time.monotonic() - begun) / calls)
        rows.append(
            r
            | facts
            | {"seconds": round(time.monotonic() - begun, 1), "grid": f"{name}.png"}
        )
        write_json(
            {"run": job.work.name, "rows": rows, "environment": environment()},
            job.work / "result.json",
        )
        say(
            stage="judge",
            **{
                k: rows[-1][k]
                for k in (
                    "solver",
                    "nfe",
                    "samples",
                    "images",
                    "minutes",
                    eye.distance,
                    "precision",
                    "recall",
                    "se",
                    "device",
                    "trained_in",
                    "sampled_in",
                    "seconds",
                )
            },
        )


def home(job):
    """One folder in few files: half-precision weights, the reference's statistics as a
    triangle of float32, rows, one grid, the log.
    """
    e, bag = finished(job), job.work / "bag"
    if not (job.work / "result.json").exists():
        raise FileNotFoundError(
            f"work: '{job.work}' holds no rows yet; run `lease.py judge` first"
        )
    shutil.rmtree(bag, ignore_errors=True)
    shutil.rmtree(job.work / "home", ignore_errors=True)
    for m in e.members:
        at = m.trained.out
        save_net(
            m.net,
            bag / at.name,
            half=True,
            run=json.loads((at / "config.json").read_text())["run"],
        )
        shutil.copy(at / "metrics.jsonl", bag / at.name)
    ref = reference(data := job.data, eye := job.eye).moments
    i, j = torch.triu_indices(*ref.scatter.shape)
    torch.save(
        {
            "n": ref.n,
            "mean": ref.mean.cpu(),
            "cov_upper": ref.cov.cpu()[i, j].float(),
            "data": data.digest(),
            "code": eye.code,
            "weights": eye.weights,
        },
        bag / "reference.pt",
    )
    grid = json.loads((job.work / "result.json").read_text())["rows"][0]["grid"]
    for name in ("result.json", grid):
        shutil.copy(job.work / name, bag)
    files = pack(bag, job.work / "home", limit=LIMIT)
    for p in files:
        say(stage="home", file=p.name, bytes=p.stat().st_size)
    if len(files) > 8:
        raise ValueError(
            f"home: {len(files)} files are more than the 8 that come back; train "
            "fewer flows in one lease"
        )


# ---- the command

STAGES = {f.__name__: f for f in (parts, join, smoke, bench, train, judge, home)}


class Toy:
    "Sixteen means of a picture in place of the FID network, to rehearse with."

    distance = "fid"
    layer = 48
    batch = 64
    device = "cpu"
    code = "toy"
    weights = "toy"

    def __call__(self, u):
        return torch.nn.functional.adaptive_avg_pool2d(u.float(), 4).flatten(1), None


class Job:
    "A stage's options and its experiment."

    def __init__(self, args, words, cpu=False):
        self.work = args.work
        self.device = args.device
        self.seconds = args.seconds
        self.toy = args.toy
        self.reference = args.reference
        # a ValueError where there is no such device
        if not cpu:
            accelerator(self.device)
        words = words if words[:1] and not words[0].startswith("-") else ["rf", *words]
        given = vars(train_parser().parse_args(words))
        name = given.pop("experiment")
        given.pop("debug", None)
        if "out" in given or "fid" in given:
            raise ValueError(
                "out: a lease writes into `--work`, and judges by the FID network; "
                "leave out and fid away"
            )
        own = dict(
            dataset="cifar10",
            preset="cifar10",
            rounds=1,
            distill=False,
            samples=50_000,
            keep=6,
        )
        fixed = dict(device=self.device, out=str(self.work / "run"), fid=False)
        self.make = EXPERIMENTS[name]
        self.cfg = self.make.declared.of(own | given | fixed)
        if self.cfg.preset not in PRESETS:
            raise ValueError(
                f"preset: {self.cfg.preset!r} is not one of {', '.join(PRESETS)}"
            )
        self.plan = PRESETS[self.cfg.preset]
        self.samples = self.cfg.samples
        self.recipe, whole = (
            self.plan.recipes(self.cfg)[0],
            self.minutes() + self.seconds / 60,
        )
        if whole > args.limit:
            raise ValueError(
                f"budget: {self.minutes():g} minutes of training and "
                f"{self.seconds:g} seconds of judging do not fit into {args.limit:g} "
                "minutes; give less of either, or a larger --limit"
            )
        self.size, self.piece, self.bench_steps = (
            (16, 64, 2)
            if self.toy
            else (32, 2048 if self.device == "cuda" else 500, 30)
        )

    def minutes(self):
        "Of all trainings whose budget is in minutes."
        n = self.cfg.rounds
        budgets = [Budget(r.budget) for r in self.plan.recipes(self.cfg)]
        return sum(
            k * b.amount
            for k, b in zip((1, n - 1, n * self.cfg.distill), budgets)
            if b.unit == "minutes"
        )

    @cached_property
    def experiment(self):
        return self.make(self.cfg)

    @cached_property
    def data(self):
        "The pictures that samples are compared with."
        whole, n = self.experiment.data, self.reference
        if n is not None and not 5 <= n <= len(whole):
            raise ValueError(
                f"reference: {n} pictures asked of {whole.name}, which has "
                f"{len(whole):,}; give 5 to {len(whole)}"
            )
        return subset(whole, n, "reference", 0)

    @cached_property
    def eye(self):
        return (
            Toy()
            if self.toy
            else Inception(
                device=self.device, batch=500 if self.device == "cuda" else 20
            )
        )


def main(args=None):
    p = argparse.ArgumentParser(
        prog="lease.py",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("stage", help="one, or several with commas between them")
    p.add_argument(
        "--work",
        type=Path,
        default=Path("runs/lease"),
        help="the folder for all that is written (runs/lease)",
    )
    p.add_argument("--device", default="cuda", help="cuda or cpu (cuda)")
    p.add_argument(
        "--seconds", type=float, default=150.0, help="for judging, in all (150)"
    )
    p.add_argument(
        "--limit",
        type=float,
        default=12.0,
        help="minutes that training and judging may take together (12)",
    )
    p.add_argument(
        "--reference",
        type=int,
        help="compare samples with so many pictures of the data set, drawn evenly "
        "(all of them)",
    )
    p.add_argument(
        "--toy",
        action="store_true",
        help="rehearse: a toy in place of the FID network, and two steps of each bench",
    )
    args, words = p.parse_known_args(args)
    names = [*STAGES][2:] if args.stage == "all" else args.stage.split(",")

    def work():
        for name in names:
            if name not in STAGES:
                raise ValueError(
                    f"stage: {name!r} is not one of {', '.join(STAGES)}, all"
                )
        job = Job(args, words, cpu={*names} <= {"parts", "join"})
        for name in names:
            STAGES[name](job)

    return guarded(work, "lease.py", bool(os.environ.get("DEBUG")))


if __name__ == "__main__":
    sys.exit(main())
