"""The results page writes its verdict from records: where a record changes, so does the
sentence, or the page stops and says which sentence is not true.
"""

import json
import shutil

import pytest
from play import play, ROOT

TABLE = ROOT / "nbs/records/table"


def changed(folder, run, where, **values):
    "Set entries of some rows of a line, for every seed; how many rows that were."
    n = 0
    for path in folder.glob(f"{run}-[0-9]/result.json"):
        record = json.loads(path.read_text())
        for r in record["rows"]:
            if where(r):
                r.update({k: v(r[k]) if callable(v) else v for k, v in values.items()})
                n += 1
        path.write_text(json.dumps(record))
    return n


def full(system):
    return lambda r: (r["system"], r["solver"]) == (system, "rk45")


@pytest.fixture
def table(tmp_path):
    "A copy of the published records, without their pictures."
    for path in TABLE.glob("*/result.json"):
        (tmp_path / path.parent.name).mkdir()
        shutil.copy(path, tmp_path / path.parent.name)
    return tmp_path


@pytest.mark.parametrize(
    "run, where, values, sentence",
    [
        (
            "rf-single",
            full("1-RF"),
            dict(frechet=lambda v: v / 2),
            "**Let a network learn the mean:**",
        ),
        (
            "vp",
            lambda r: r["solver"] == "euler" and r["nfe"] == 1,
            dict(frechet=0.3),
            "**One step** of a flow that learnt from data is 0 away",
        ),
        (
            "rf",
            full("2-RF"),
            dict(frechet=lambda v: v / 2),
            "**Straightening costs** -",
        ),
        (
            "pfgm",
            full("PFGM"),
            dict(memorised=0.5),
            "**Nobody recites:** at this budget 50",
        ),
    ],
)
def test_a_sentence_that_is_not_true_stops_the_page(
    table, run, where, values, sentence
):
    assert changed(table, run, where, **values)
    said = play(ROOT, "results", folder=table)
    assert said.startswith("ValueError: verdict: what '"), said
    assert f"does not bear out the sentence '{sentence}" in said
    assert "give verdict=False" in said


def test_the_verdict_is_written_from_the_records(table):
    shell = []
    assert play(ROOT, "results", shell, folder=table) == ""
    before = shell[0].user_ns["text"]
    worst = shell[0].user_ns["ranked"][-1]
    run = worst["run"].rsplit("-", 1)[0]
    assert changed(table, run, full(worst["system"]), frechet=lambda v: v / 100)
    assert play(ROOT, "results", shell, folder=table) == ""
    after = shell[1].user_ns["text"]
    assert before.startswith("1. **The best samples** are those of ")
    assert f"**The best samples** are those of {worst['system']}" not in before
    assert f"**The best samples** are those of {worst['system']}" in after
