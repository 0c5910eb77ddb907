"""What the training loop costs over a bare PyTorch loop of the same network, loss and
optimiser, and what the mean of all data costs as a target.
"""

import copy
import statistics

import pytest
import torch
from measure import in_turns, ratio
from odeflow.data import Data, load_data
from odeflow.diffusion import VP
from odeflow.flow import append_dims
from odeflow.nets import UNet
from odeflow.poisson.pfgmpp import PFGMPP
from odeflow.presets import new_net, PRESETS
from odeflow.rectified.flow import RectifiedFlow
from odeflow.training import Recipe, Trainer


def bare_loop(net, data, batch):
    x = data.all()
    opt = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.0, fused=True)
    params = list(net.parameters())
    average = copy.deepcopy(net).requires_grad_(False)

    def step():
        x1 = x[torch.randint(len(x), (batch,))]
        x0, t = torch.randn_like(x1), torch.rand(batch)
        loss = (
            (
                net(append_dims(t, x1) * x1 + (1 - append_dims(t, x1)) * x0, t)
                - (x1 - x0)
            )
            .square()
            .mean()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        opt.zero_grad()
        torch._foreach_lerp_(list(average.parameters()), params, 0.001)

    return step


def pictures():
    return Data(
        torch.randint(
            0,
            256,
            (1000, 3, 32, 32),
            dtype=torch.uint8,
            generator=torch.Generator().manual_seed(0),
        ),
        None,
        "noise",
    )


@pytest.mark.parametrize("case", ("digits", "32 x 32"))
def test_loop_overhead(case, record, benchmark, tmp_path, rounds=120):
    "A second bare loop, of the same network, says how much of a ratio is chance."
    data, args, batch = (
        (load_data("digits"), dict(channels=32, mults=(1, 2), blocks=1), 64)
        if case == "digits"
        else (pictures(), dict(channels=32, mults=(1, 1, 2, 2), attention=(8,)), 16)
    )
    new = lambda: UNet(data.shape, **args)
    ours = Trainer(
        RectifiedFlow(), new(), data, tmp_path, Recipe(batch=batch), device="cpu"
    )
    times = in_turns(
        {
            "ours": ours.train_step,
            **{name: bare_loop(new(), data, batch) for name in ("bare", "again")},
        },
        rounds if case == "digits" else rounds // 3,
        warm=5,
    )
    middle, low, high = ratio(times["ours"], times["bare"])
    record(
        [
            dict(
                name=case,
                batch=batch,
                threads=torch.get_num_threads(),
                ours_over_bare=middle,
                quartiles=[low, high],
                bare_over_bare=ratio(times["again"], times["bare"])[0],
                images_per_s=batch / statistics.median(times["ours"]),
            )
        ],
        f"loop-{data.name}",
    )
    benchmark.pedantic(ours.train_step, rounds=10)


def test_mean_target(record, benchmark, tmp_path, rounds=60):
    "A step with the mean of all digits for its target, over one with single images."
    data = load_data("digits")
    flows = {
        "1-RF": RectifiedFlow,
        "VP": VP,
        "PFGM++ D=128": lambda **k: PFGMPP(D=128, **k),
    }
    rows = []
    for name, new in flows.items():
        trainers = {
            target: Trainer(
                new(target=target),
                new_net(PRESETS["digits"], data.shape),
                data,
                tmp_path / f"{name} {target}",
                Recipe(batch=64),
                device="cpu",
            )
            for target in ("single", "mean")
        }
        steps = {k: t.train_step for k, t in trainers.items()}
        times = in_turns(steps, rounds, warm=5)
        middle, low, high = ratio(times["mean"], times["single"])
        rows.append(
            {
                "flow": name,
                "mean over single": middle,
                "quartiles": [low, high],
                "threads": torch.get_num_threads(),
            }
        )
    record(rows, "mean-target")
    benchmark.pedantic(trainers["mean"].train_step, rounds=10)
