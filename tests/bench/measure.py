"""Timing side by side: every round runs all cases once, in random order, and cases are
compared round by round.
"""

import math
import random
import statistics
import time

import torch


def in_turns(
    cases,  # name -> function to time
    rounds,  # how often each
    warm=1,  # rounds that are not counted
):  # name -> seconds of each round
    """The seconds of each case in each round, so that what disturbs the machine
    disturbs neighbours alike.
    """
    times, order = {k: [] for k in cases}, random.Random(0)
    for r in range(warm + rounds):
        for k in order.sample(list(cases), len(cases)):
            begun = time.perf_counter()
            cases[k]()
            if r >= warm:
                times[k].append(time.perf_counter() - begun)
    return times


def ratio(a, b):
    "The median over rounds of a's seconds over b's, and its quartiles."
    r = [x / y for x, y in zip(a, b)]
    low, middle, high = statistics.quantiles(r, n=4) if len(r) > 1 else r * 3
    return middle, low, high


def exponent(xs, ys):
    """The slope of log y against log x: 1 where the cost is linear, 0 where it does not
    depend on x.
    """
    lx = [math.log(x) for x in xs]
    ly = [math.log(y) for y in ys]
    mx, my = statistics.mean(lx), statistics.mean(ly)
    return sum((x - mx) * (y - my) for x, y in zip(lx, ly)) / sum(
        (x - mx) ** 2 for x in lx
    )


def awake(net, seed=0):
    """The network with small random numbers where it was made with zeros, so that it
    does what a trained one does.
    """
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        if not p.any():
            p.data.normal_(0, 0.02, generator=g)
    return net


def as_tf32(x):
    """Float32 numbers as a GPU's TF32 units take them: rounded to 11 significant bits,
    the nearest, ties to even.
    """
    i = x.contiguous().view(torch.int32)
    return ((i + 0xFFF + ((i >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class Rounded(torch.nn.Module):
    """A network of which every convolution and linear layer takes rounded factors,
    where there is no GPU to round them.
    """

    def __init__(self, net, precision):
        super().__init__()
        self.net = net
        self.precision = precision
        self.classes = net.classes
        for m in net.modules() if precision == "tf32" else ():
            if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)):
                m.weight.data = as_tf32(m.weight.data)
                m.register_forward_pre_hook(lambda m, args: (as_tf32(args[0]),))

    def forward(self, x, c, *y):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            return self.net(x, c, *y).float()
