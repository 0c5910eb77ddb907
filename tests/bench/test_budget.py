"""Rectified flow on digits for 25 seconds, one, two and five minutes of one CPU, beside
torchcfm, flow_matching and diffusers: the Frechet distance of 2,000 samples.

The peers have their own losses, networks and samplers, the average of their weights
with the warm-up that ours has, and one training each, looked at on the way: their
learning rate is constant. Ours has a schedule for each budget.
"""

import copy
import os
import time

import pytest
import torch
from odeflow.data import load_data
from odeflow.flow import Rng
from odeflow.presets import new_net, preset
from odeflow.records import judge
from odeflow.rectified.flow import RectifiedFlow
from odeflow.sampling import sample
from odeflow.training import Recipe, update

BUDGETS = [float(s) for s in os.environ.get("ODEFLOW_BUDGETS", "25 60 120 300").split()]
BATCH = 64
# the peers' learning rate, constant; it was not tuned
PEERS = Recipe(lr=1e-3, warmup=1, decay="constant")


class Average:
    "A network, its optimiser, and the average of its weights."

    def __init__(self, net, recipe=PEERS):
        self.net = net
        self.recipe = recipe
        self.average = copy.deepcopy(net).eval().requires_grad_(False)
        self.opt = torch.optim.AdamW(net.parameters(), weight_decay=0.0, fused=True)
        self.steps = 0

    def step(self, loss, fraction):
        loss.backward()
        update(self.net, self.average, self.opt, self.recipe, self.steps, fraction)
        self.steps += 1


def batches(data, seed):
    g = torch.Generator().manual_seed(seed)
    x = data.all()
    while True:
        yield x[torch.randint(len(x), (BATCH,), generator=g)]


def torchcfm_net():
    unet = pytest.importorskip("torchcfm.models.unet").UNetModel
    return unet(
        dim=(1, 8, 8),
        num_res_blocks=1,
        num_channels=32,
        channel_mult=[1, 2],
        num_heads=1,
        num_head_channels=32,
        attention_resolutions="4",
    )


def diffusers_net():
    return pytest.importorskip("diffusers").UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )


def starts(n):
    return Rng(seeds=range(n)).normal(n, (1, 8, 8))


class Torchcfm:
    def __init__(self, seed):
        torch.manual_seed(seed)
        self.pairs = pytest.importorskip(
            "torchcfm.conditional_flow_matching"
        ).ConditionalFlowMatcher(sigma=0.0)
        self.model = Average(torchcfm_net())

    def loss(self, x1):
        found = self.pairs.sample_location_and_conditional_flow(
            torch.randn_like(x1), x1
        )
        t, x, v = found
        return (self.model.net(t, x) - v).square().mean()

    @torch.no_grad()
    def samples(self, n):
        net = self.model.average
        flow = RectifiedFlow()
        call = lambda x, c: net(c, x)
        return drawn(flow, call, n)


class FlowMatching:
    def __init__(self, seed):
        torch.manual_seed(seed)
        path = pytest.importorskip("flow_matching.path")
        self.path = path.CondOTProbPath()
        self.model = Average(diffusers_net())

    def loss(self, x1):
        s = self.path.sample(t=torch.rand(len(x1)), x_0=torch.randn_like(x1), x_1=x1)
        return (self.model.net(s.x_t, 1000 * s.t).sample - s.dx_t).square().mean()

    @torch.no_grad()
    def samples(self, n):
        net = self.model.average
        return drawn(RectifiedFlow(), lambda x, c: net(x, 1000 * c).sample, n)


class Diffusers:
    def __init__(self, seed):
        torch.manual_seed(seed)
        peer = pytest.importorskip("diffusers")
        self.noising = peer.DDPMScheduler(1000)
        self.sampler = peer.DDIMScheduler(1000, clip_sample=False)
        self.model = Average(diffusers_net())

    def loss(self, x1):
        e = torch.randn_like(x1)
        t = torch.randint(1000, (len(x1),))
        x = self.noising.add_noise(x1, e, t)
        return (self.model.net(x, t).sample - e).square().mean()

    @torch.no_grad()
    def samples(self, n):
        self.sampler.set_timesteps(50)
        x = starts(n)
        for t in self.sampler.timesteps:
            said = [self.model.average(u, t).sample for u in x.split(500)]
            x = self.sampler.step(torch.cat(said), t, x).prev_sample
        return x


def drawn(flow, net, n):
    parts = [range(i, min(i + 500, n)) for i in range(0, n, 500)]
    how = dict(solver="midpoint", nfe=40)
    return torch.cat(
        [sample(flow, net, len(s), (1, 8, 8), seeds=s, **how).x for s in parts]
    )


class Ours:
    "The digits' preset, its schedule stretched over the budget."

    def __init__(self, seed, data):
        plan = preset("digits", data.shape)
        self.flow = RectifiedFlow(time=plan.time, target=plan.target).fit(data)
        self.model = Average(new_net(plan, data.shape, seed=seed), plan.recipe)
        self.rng = Rng(seed)

    def loss(self, x1):
        return self.flow.loss(self.model.net, x1, self.rng).mean()

    def samples(self, n):
        return drawn(self.flow, self.model.average, n)


def trained(one, data, seconds, spent=0.0, seed=0):
    "Train until so many seconds of this process's CPU are spent."
    source = batches(data, seed)
    begun = time.process_time() - spent
    while (now := time.process_time() - begun) < seconds:
        one.model.step(one.loss(next(source)), now / seconds)


def test_equal_time(record, benchmark, seed=0):
    data = load_data("digits")
    rows = []

    def look(name, one, seconds):
        rows.append(
            dict(
                name=name,
                seconds=seconds,
                frechet=judge(one.samples(2000), data)["frechet"],
                images=one.model.steps * BATCH,
                millions=sum(p.numel() for p in one.model.net.parameters()) / 1e6,
                seed=seed,
                threads=torch.get_num_threads(),
            )
        )

    for new in (Torchcfm, FlowMatching, Diffusers):
        one = new(seed)
        for before, seconds in zip([0.0, *BUDGETS], BUDGETS):
            trained(one, data, seconds, before, seed)
            look(new.__name__, one, seconds)
    for seconds in BUDGETS:
        one = Ours(seed, data)
        trained(one, data, seconds, seed=seed)
        look("odeflow", one, seconds)
    record(rows, "equal-time")
    benchmark.pedantic(lambda: None)
    for seconds in BUDGETS:
        best = {r["name"]: r["frechet"] for r in rows if r["seconds"] == seconds}
        assert best["odeflow"] < min(v for k, v in best.items() if k != "odeflow")
