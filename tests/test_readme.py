"""What README shows in Python runs as it stands, at toy size."""

import dataclasses
import re

import odeflow as of
from website import ROOT

CODE = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_python_of_the_readme(tmp_path, monkeypatch, capsys):
    "Few steps and pairs in place of minutes; everything else is README's own lines."
    plan = of.preset("digits", (1, 8, 8))
    short = {
        k: dataclasses.replace(getattr(plan, k), budget="3 steps", batch=8)
        for k in ("recipe", "reflow", "distill")
    }
    toy = dataclasses.replace(plan, pairs=16, draw=dict(solver="heun", nfe=4), **short)
    monkeypatch.setattr("odeflow.preset", lambda name, shape: toy)
    few = lambda *args, **how: of.records.evaluate(*args, n=20, **how)
    monkeypatch.setattr("odeflow.evaluate", few)
    monkeypatch.chdir(tmp_path)
    for code in CODE:
        exec(code, {})
    out = capsys.readouterr().out
    assert len(CODE) == 2 and "| 2-RF | no | rk45 |" in out and "| euler | 1 |" in out
    (lines,) = [code for code in CODE if "of.distill" in code]
    assert len(lines.strip().splitlines()) <= 12
