"""Every notebook runs from top to bottom, as `nbdev_test` runs it, in one pool with the
tests; trainings that were finished before are not done again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbdev.test
import pytest
import torch
import odeflow as of
from kept import Kept
from website import ROOT

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))


@pytest.fixture
def room(monkeypatch):
    "What a notebook changes of its process is put back."
    environment, threads = dict(os.environ), torch.get_num_threads()
    monkeypatch.chdir(ROOT / "nbs")
    yield monkeypatch
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    plt.close("all")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(notebook, room):
    kept = Kept(notebook)
    kept.install(room)
    passed, _ = nbdev.test.test_nb(notebook, basepath=ROOT)
    print(f"trainings: {kept.hits} kept, {kept.misses} done")
    assert passed


def test_the_command():
    "`nbdev_test` itself, on one short chapter."
    command = [Path(sys.executable).parent / "nbdev_test", "nbs/03_distributed.ipynb"]
    done = subprocess.run(
        [*command, "--timing"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    said = done.stdout.splitlines()
    assert done.returncode == 0 and said[0] == "Success.", done.stderr
    assert [line.split(":")[0] for line in said[1:]] == ["03_distributed.ipynb"]


def test_what_is_kept(tmp_path, monkeypatch):
    "A training is taken from the cache when all that decides it is the same."
    monkeypatch.setenv("ODEFLOW_DATA", str(tmp_path / "cache"))
    page = tmp_path / "page.ipynb"

    def trained(out, source="page", budget="3 steps", width=8, data="moons", seed=0):
        page.write_text(json.dumps({"cells": [{"source": source}]}))
        kept = Kept(page)
        with monkeypatch.context() as patch:
            kept.install(patch)
            torch.manual_seed(seed)
            done = of.train(
                of.RectifiedFlow(),
                of.MLP((2,), width=width),
                of.load_data(data, n=50),
                tmp_path / out,
                of.Recipe(budget, batch=4),
                progress=False,
            )
        return kept, [p.detach() for p in done.net.parameters()]

    first, weights = trained("a")
    again, same = trained("b")
    assert (first.hits, first.misses) == (0, 1)
    assert (again.hits, again.misses) == (1, 0)
    assert all(map(torch.equal, weights, same))
    for k, other in enumerate(
        (
            dict(source="another"),
            dict(budget="4 steps"),
            dict(width=9),
            dict(data="heart"),
            dict(seed=1),
        )
    ):
        assert trained(f"c{k}", **other)[0].misses == 1, other
