"What the training loop costs over a bare PyTorch loop of the same network, loss and optimiser."
import copy, statistics, time

import torch
from odeflow.data import load_data
from odeflow.flow import expand
from odeflow.nets import UNet
from odeflow.rectified import RectifiedFlow
from odeflow.train import Recipe, Trainer

def bare_loop(net, data, batch):
    x, opt, params = data.all(), torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0., fused=True), list(net.parameters())
    average = copy.deepcopy(net).requires_grad_(False)
    def step():
        x1 = x[torch.randint(len(x), (batch,))]
        x0, t = torch.randn_like(x1), torch.rand(batch)
        loss = (net(expand(t, x1)*x1 + (1 - expand(t, x1))*x0, t) - (x1 - x0)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.)
        opt.step()
        opt.zero_grad()
        torch._foreach_lerp_(list(average.parameters()), params, .001)
    return step

def test_loop_overhead(benchmark, tmp_path, rounds=60):
    data, batch = load_data("digits"), 64
    new = lambda: UNet((1, 8, 8), channels=32, mults=(1, 2), blocks=1)
    ours, bare, ratios = Trainer(RectifiedFlow(), new(), data, tmp_path, Recipe(batch=batch), device="cpu"), bare_loop(new(), data, batch), []
    def timed(f):
        begun = time.perf_counter()
        f()
        return time.perf_counter() - begun
    for k in range(rounds):
        pair = [timed(ours.train_step), timed(bare)] if k % 2 else [timed(bare), timed(ours.train_step)][::-1]
        ratios.append(pair[0]/pair[1])
    benchmark.extra_info["ours over bare, median"] = statistics.median(ratios[5:])
    benchmark.extra_info["threads"] = torch.get_num_threads()
    print(f"\nours / bare: median {statistics.median(ratios[5:]):.4f}, quartiles {statistics.quantiles(ratios[5:], n=4)}")
    benchmark.pedantic(ours.train_step, rounds=10)
