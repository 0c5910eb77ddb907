"""Trainings that were finished before, with the same code, data, network and recipe,
are not trained again when chapters are tested: their folders are kept in the cache.
"""

import json
import shutil
import time
from pathlib import Path

import numpy
import torch
from website import ROOT

from odeflow.data import cache_dir
from odeflow.runs import digest_of, newest_state
from odeflow.training import Trainer

DAYS = 3  # without use after which a training is forgotten


def code() -> str:
    "A digest of the package and of what it computes with."
    files = sorted((ROOT / "odeflow").rglob("*.py"))
    versions = f"{torch.__version__} {numpy.__version__}"
    return digest_of(versions, *(path.read_bytes() for path in files))


def source(notebook: Path) -> str:
    "A digest of a notebook's cells, which may define a flow, a network or data."
    cells = [c["source"] for c in json.loads(notebook.read_text())["cells"]]
    return digest_of(json.dumps(cells))


class Kept:
    "The trainings of one notebook: put into a run's folder, and kept from there."

    def __init__(self, notebook: Path):
        self.folder = cache_dir().absolute() / "trainings"
        self.story = [code(), source(notebook)]
        self.hits = self.misses = 0
        for old in self.folder.glob("*"):
            if time.time() - old.stat().st_mtime > DAYS * 86400:
                shutil.rmtree(old, ignore_errors=True)

    def path(self, run: Trainer) -> Path:
        "Where a training of this configuration is kept."
        told = json.dumps([*self.story, run.config], sort_keys=True, default=str)
        return self.folder / digest_of(told, length=32)

    def install(self, monkeypatch):
        "Trainings look here first, until the patch is undone."
        restore, finish = Trainer.restore, Trainer.finish
        paths: dict = {}

        def look_first(run):
            fresh = newest_state(run.folder.state) is None
            if fresh and run.acc.num_processes == 1 and not run.acc.trackers:
                paths[run] = self.path(run)
                if paths[run].exists():
                    self.hits += 1
                    paths[run].touch()
                    shutil.copytree(paths[run], run.out, dirs_exist_ok=True)
                else:
                    self.misses += 1
            restore(run)

        def keep(run):
            finish(run)
            path = paths.pop(run, None)
            if path is not None and not path.exists():
                part = path.with_name(f".{path.name}.{time.time_ns()}")
                shutil.copytree(run.out, part)
                part.rename(path)

        monkeypatch.setattr(Trainer, "restore", look_first)
        monkeypatch.setattr(Trainer, "finish", keep)
