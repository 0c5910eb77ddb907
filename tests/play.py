"""An experiment's notebook in this process, cell by cell, with parameters as papermill
injects them.
"""

import os
from pathlib import Path

from execnb.shell import CaptureShell
from fastcore.nbio import dict2nb
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(
    budget="6 steps",
    reflow_budget="4 steps",
    distill_budget="4 steps",
    batch=8,
    pairs=16,
    samples=20,
    tol=0.1,
)


def options(**given) -> list:
    "The options of `odeflow train` for these parameters."
    return [word for k, v in given.items() for word in (f"--{k}", str(v))]


def play(cwd, notebook="train_rf", shells=None, **params) -> str:
    """The sentence that it ends with in a folder; empty when all cells ran. Its shell
    goes to the end of `shells`.
    """
    nb = load_notebook_node(str(ROOT / f"nbs/{notebook}.ipynb"))
    nb = parameterize_notebook(nb, {k: as_given(v) for k, v in params.items()})
    shell = CaptureShell(cwd)
    if shells is not None:
        shells.append(shell)
    before = Path.cwd()
    os.chdir(cwd)
    try:
        shell.run_all(dict2nb(nb), exc_stop=True)
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    finally:
        os.chdir(before)
    return ""


def as_given(v):
    "A value as papermill reads the word after `-p name`."
    return str(v) if isinstance(v, Path) else v
