"""The guard of experiments, as papermill runs it: a good parameter goes through, a bad
one ends in one sentence.
"""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

CELLS = (
    """from dataclasses import dataclass
from odeflow.parameters import Guard, param, Parameters
from odeflow.records import table

@dataclass
class Three(Parameters):
    rounds: int = param(2, "flows", "1 or more", lambda v: v >= 1)
    lr: float = param(.1, "learning rate", "a positive number", lambda v: v > 0)
    device: str | None = param(None, "where", "cpu or cuda")

params = Guard(globals(), Three)
""",
    "rounds: int = 2  # flows\nlr: float = .1  # learning rate\ndevice: str = None  "
    "# where",
    "cfg = params.check(globals())",
    "print('values', vars(cfg))",
)


@pytest.fixture
def papermill(tmp_path):
    """Run the notebook above with these parameters; returns the finished process and
    the output notebook's path.
    """
    nb = new_notebook(
        cells=[
            new_code_cell(c, metadata={"tags": ["parameters"]} if i == 1 else {})
            for i, c in enumerate(CELLS)
        ],
        metadata={
            "kernelspec": {
                "name": "python3",
                "display_name": "python3",
                "language": "python",
            }
        },
    )
    nbformat.write(nb, tmp_path / "experiment.ipynb")

    def run(*params):
        args = [
            Path(sys.executable).parent / "papermill",
            "experiment.ipynb",
            "out.ipynb",
            "--no-progress-bar",
            *params,
        ]
        return subprocess.run(
            args,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        ), tmp_path / "out.ipynb"

    return run


def test_good_parameters(papermill):
    run, out = papermill("-p", "rounds", "3", "-p", "lr", "1")
    assert run.returncode == 0, run.stderr
    assert "values {'rounds': 3, 'lr': 1.0, 'device': None}" in out.read_text()


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("roundz", "2", "roundz: no such parameter; did you mean rounds?"),
        # an imported name, replaced
        ("table", "2", "table: no such parameter; there are rounds, lr, device"),
        ("rounds", "0", "rounds: 0 is not accepted; give 1 or more"),
        ("lr", "-1", "lr: -1.0 is not accepted; give a positive number"),
    ],
    ids=lambda v: v if v.isidentifier() else "",
)
def test_the_sentence_is_the_last_line(papermill, name, value, says):
    run, _ = papermill("-p", name, value)
    assert run.returncode
    assert run.stderr.rstrip().splitlines()[-1] == f"ValueError: {says}"
