"""Both command lines, given what is wrong: one sentence and the right status each; and
what they write, read back.
"""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from endings import refused
import pytest
import torch
from PIL import Image
from play import options, TINY
from odeflow import cli
from odeflow.runs import replacing
from odeflow.data import load_data
from odeflow.experiment import disk, EXPERIMENTS, Rectified
from odeflow.pipeline import Pipeline, PRETRAINED

MODEL, TOLD = "digits-1-rf", "digits-1-rf-classes"
SHORT = options(dataset="moons", device="cpu", **TINY)


def odeflow(*words):
    return cli.main([str(w) for w in words])


def train(*words):
    return odeflow("train", *words)


@pytest.fixture
def ends(capsys):
    "How a command line ends: its status, standard output, standard error."

    def run(main, *words):
        try:
            status = main(*words)
        except SystemExit as e:
            status = e.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def room(tmp_path, monkeypatch):
    "A folder to work in, with things that are not what they seem."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").write_text("a")
    for name in ("pictures", "odd"):
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.fromarray(
                np.random.RandomState(i).randint(0, 256, (8, 8), dtype=np.uint8)
            ).save(tmp_path / name / f"{i}.png")
    (tmp_path / "odd/z.png").write_bytes(b"no picture")
    np.savez("floats.npz", images=np.zeros((3, 8, 8, 1)))
    np.savez("nine.npz", images=np.zeros((3, 9, 9, 1), np.uint8))
    np.savez("objects.npz", images=np.array([{}], object))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "nine.npz").read_bytes()[:99])
    return tmp_path


def damaged(name, change=None, **files):
    "A model's folder with a changed configuration, or other files."
    shutil.copytree(PRETRAINED / MODEL, name)
    config = json.loads(Path(name, "config.json").read_text())
    if change:
        change(config)
        Path(name, "config.json").write_text(json.dumps(config))
    for k, blob in files.items():
        Path(
            name, {"config": "config.json", "weights": "model.safetensors"}[k]
        ).write_bytes(blob)


# What is wrong with the input: status 1 and one sentence

WRONG = """
sample no-such                                   | 'no-such' is neither the folder of a run nor one of
sample folder                                    | holds n
sample file                                      | 'file' is neither the folder of a run nor one of
sample digits-3-to-8 --out a.npz                 | prior: this RectifiedFlow starts from
sample M --n 0                                   | n: 0 samples asked for; give 1 or more
sample M --n -1                                  | n: -1 samples asked for; give 1 or more
sample M --n 1000000000000                       | n: 1000000000000 samples take about
sample M --n 100000000000000000000               | n: 100000000000000000000 is not accepted; give a finite number
sample M --nfe -5                                | nfe: -5 is too few
sample M --nfe 0                                 | nfe: 0 is too few
sample M --nfe 1000000000000000000               | memory
sample M --solver nosuch                         | solver: 'nosuch' is not one of
sample M --guidance 2                            | guidance: 2.0 needs labels
sample C --guidance nan                          | guidance: nan is not accepted
sample C --guidance=-inf                         | guidance: -inf is not accepted
sample C --guidance 1e30                         | guidance: 1e+30 is not accepted
sample M --seed -1                               | seed: -1 is not accepted
sample M --seed 9999999999999999999999           | seed: 9999999999999999999999 is not accepted
sample M --label 3                               | labels: given to a model that knows no classes
sample C --label 10                              | labels: 10 is not a class
sample C --label -2                              | labels: -2 is not a class
sample C --label ten                             | labels: 'ten' is not
sample M --device gpu9                           | device: 'gpu9' is not available here
sample M --device meta                           | device: 'meta' is not available here
sample M --out folder                            | 'folder'
sample M --out file/a.png                        | out: there is no folder 'file'
sample M --out nowhere/a.png                     | out: there is no folder 'nowhere'
sample M --out a                                 | out: 'a'
sample M --out a.pdf                             | out: 'a.pdf'
sample M --out a.png.part                        | out: 'a.png.part'
encode M nowhere                                 | dataset: 'nowhere' is not one of
encode M file                                    | dataset: 'file' is not one of
encode M folder                                  | the folder 'folder' holds no pictures
encode M odd                                     | cannot be read as a picture
encode M moons                                   | x: samples of shape (2,), to a model of (1, 8, 8)
encode M nine.npz                                | x: samples of shape (1, 9, 9), to a model of (1, 8, 8)
encode M floats.npz                              | has images of type float64
encode M objects.npz                             | never unpickled
encode M cut.npz                                 | is not a readable .npz archive
encode M pictures --out a.png                    | out: 'a.png' would hold arrays; give a name that ends in .npz
encode M pictures --out a                        | out: 'a' would hold arrays
encode M pictures --resize 0                     | resize: 0
encode M pictures --resize -5                    | resize: -5
encode M pictures --resize 99999999999999999999  | resize: 99999999999999999999 is not accepted
encode M pictures --rtol nan                     | rtol: nan is not accepted
encode M pictures --rtol -1                      | rtol: -1
encode M pictures --atol inf                     | atol: inf is not accepted
encode M pictures --atol 0 --rtol 0              | tol: 0
encode M pictures --device gpu9                  | device: 'gpu9' is not available here
fid pictures nowhere                             | dataset: 'nowhere' is not one of
fid moons moons                                  | a: moons holds points
fid pictures pictures --samples 0                | samples: 0 asked of a, which has 6
fid pictures pictures --samples -1               | samples: -1 asked of a, which has 6
fid pictures pictures --samples 7                | samples: 7 asked of a, which has 6
fid pictures pictures --resize -1                | resize: -1
fid pictures pictures --batch 0                  | batch: 0
fid pictures pictures --device gpu9              | device: 'gpu9' is not available here
fid pictures pictures --json folder              | json: 'folder' is a folder
fid pictures pictures --json nowhere/a           | json: there is no folder 'nowhere'
runs nowhere                                     | folder: there is no folder 'nowhere'
runs folder                                      | folder: 'folder' holds no result.json
"""  # noqa: E501


def test_wrong_input_of_every_argument_gets_one_sentence(room, ends):
    for line in WRONG.strip().splitlines():
        words, says = (w.strip() for w in line.split("|", 1))
        name, *rest = [{"M": MODEL, "C": TOLD}.get(w, w) for w in words.split()]
        assert says in refused(ends(odeflow, name, *rest), f"odeflow {name}"), line
    # nothing is left behind
    assert {p.name for p in room.iterdir()} == {
        "file",
        "folder",
        "full",
        "pictures",
        "odd",
        "floats.npz",
        "nine.npz",
        "objects.npz",
        "cut.npz",
    }


def without(*path):
    def change(c):
        for k in path[:-1]:
            c = c[k]
        del c[path[-1]]

    return change


def with_(value, *path):
    def change(c):
        for k in path[:-1]:
            c = c[k]
        c[path[-1]] = value

    return change


CHANGES = {
    "no net": without("net"),
    "net": with_([1], "net"),
    "no shape": without("shape"),
    "shape": with_("abc", "shape"),
    "short shape": with_([2], "shape"),
    "no run": without("run"),
    "run": with_([], "run"),
    "null run": with_(None, "run"),
    "no flow": without("run", "flow"),
    "flow": with_([], "run", "flow"),
    "null flow": with_(None, "run", "flow"),
    "no name": without("run", "flow", "flow"),
    "name": with_("Nope", "run", "flow", "flow"),
    "list name": with_([1], "run", "flow", "flow"),
    "no prior": without("run", "flow", "prior"),
    "channels": with_("x", "channels"),
    "many channels": with_(10**9, "channels"),
    "mults": with_(3, "mults"),
    "classes": with_(-3, "classes"),
    "time": with_("x", "run", "flow", "time"),
}
BLOBS = {
    "half JSON": dict(config=b"{"),
    "no text": dict(config=b"\xff\xfe"),
    "list": dict(config=b"[]"),
    "null": dict(config=b"null"),
    "empty": dict(config=b"{}"),
    "no weights": dict(weights=b""),
    "junk": dict(weights=b"x" * 5000),
    "cut": dict(weights=(PRETRAINED / MODEL / "model.safetensors").read_bytes()[:-10]),
}


def test_a_damaged_model_gets_one_sentence(room, ends):
    for name, change in CHANGES.items():
        damaged(name, change)
    for name, files in BLOBS.items():
        damaged(name, **files)
    for name in [*CHANGES, *BLOBS]:
        refused(
            ends(odeflow, "sample", name, "--n", 2, "--nfe", 2, "--out", "a.npz"),
            "odeflow sample",
        )
    damaged("folders")
    for f in ("config.json", "model.safetensors"):
        Path("folders", f).unlink()
        Path("folders", f).mkdir()
    refused(ends(odeflow, "sample", "folders", "--out", "a.npz"), "odeflow sample")


@pytest.mark.parametrize(
    "words",
    [
        "--lr nan",
        "--lr -1",
        "--tol inf",
        "--batch 0",
        "--batch -3",
        "--pairs 0",
        "--rounds 0",
        "--samples 1",
        "--resize 3",
        "--resize 8",
        "--seed -1",
        "--budget nan:steps",
        "--budget -1:steps",
        "--budget 5",
        "--device gpu9",
        "--dataset nowhere",
        "--dataset file",
        "--dataset folder",
        "--dataset floats.npz",
        "--out file",
        "--out file/x",
        "--precision fp16",
        "--preset huge",
    ],
)
def test_a_wrong_value_of_a_training_gets_one_sentence(room, ends, words):
    assert words.split()[0].strip("-") in refused(
        ends(
            train,
            "rf",
            *SHORT,
            "--out",
            "run",
            *(w.replace(":", " ") for w in words.split()),
        ),
        "odeflow train",
    )
    assert not list(room.rglob("*.safetensors"))


def test_a_loss_that_is_no_longer_finite(room, ends):
    "The sentence of the training, below its progress bar, and no traceback."
    status, _, err = ends(
        train, "rf", *SHORT, "--out", "run", "--lr", "1e30", "--budget", "60 steps"
    )
    last = err.replace("\r", "\n").splitlines()[-1]
    assert (
        status == 1
        and re.fullmatch(
            r"odeflow train: loss: (nan|inf) near step \d+; lower lr \(1e\+30\) or "
            r"clip .*",
            last,
        )
        and "Traceback" not in err
    ), err


# Words that cannot be read: status 2; a fault of the program: status 70


@pytest.mark.parametrize(
    "main, words, says",
    [
        (
            odeflow,
            "fud",
            "odeflow: there is no command 'fud'; there are train, sample, encode, fid",
        ),
        (
            odeflow,
            "sample",
            "odeflow sample: the following arguments are required: model; `odeflow "
            "sample --help` explains",
        ),
        (
            odeflow,
            "sample M --n x",
            "odeflow sample: argument --n: invalid int value: 'x'; `odeflow sample "
            "--help` explains",
        ),
        (
            odeflow,
            "sample M --n 1.5",
            "odeflow sample: argument --n: invalid int value: '1.5'; `odeflow sample "
            "--help` explains",
        ),
        (
            odeflow,
            "sample M --gain 2",
            "odeflow sample: unrecognized arguments: --gain 2; `odeflow sample "
            "--help` explains",
        ),
        (
            odeflow,
            "encode a b c",
            "odeflow encode: unrecognized arguments: c; `odeflow encode --help` "
            "explains",
        ),
        (
            train,
            "fud",
            "odeflow train: argument {rf,sde,pfgm,transfer}: invalid choice: 'fud'",
        ),
        (
            train,
            "",
            "odeflow train: the following arguments are required: "
            "{rf,sde,pfgm,transfer}",
        ),
        (
            train,
            "rf --rounds two",
            "odeflow train rf: argument --rounds: 'two' is no int; give 1 "
            "or more; `odeflow train rf --help` explains",
        ),
        (
            train,
            "rf --lr",
            "odeflow train rf: argument --lr: expected one argument",
        ),
        (
            train,
            "rf --distill maybe",
            "odeflow train rf: argument --distill: 'maybe' is no bool; "
            "give True or False",
        ),
        (
            train,
            "rf --seed 1.5",
            "odeflow train rf: argument --seed: '1.5' is no int; give 0 or more",
        ),
        (
            train,
            "sde --roundz 2",
            "odeflow train: unrecognized arguments: --roundz 2",
        ),
    ],
)
def test_words_that_cannot_be_read(ends, main, words, says):
    status, out, err = ends(main, *words.split())
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith(says), err


SLIPS = {
    "value": (ValueError("a\n  b"), 1, "a b"),
    "key": (KeyError("k"), 70, "this is a fault of the program, KeyError: 'k'"),
    "name": (NameError("n"), 70, "this is a fault of the program, NameError: n"),
    "index": (IndexError("i"), 70, "this is a fault of the program, IndexError: i"),
    "attribute": (
        AttributeError("t"),
        70,
        "this is a fault of the program, AttributeError: t",
    ),
    "assert": (AssertionError(), 70, "this is a fault of the program, AssertionError"),
    "float": (FloatingPointError("f"), 1, "f"),
    "tar": (tarfile.ReadError("r"), 1, "r"),
    "disk": (
        OSError(28, "No space left on device", "f"),
        1,
        "No space left on device: 'f'",
    ),
    "memory": (MemoryError(), 1, "memory: there is not enough"),
}


@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize("debug", [False, True])
def test_both_mains_end_alike(monkeypatch, ends, slip, debug):
    error, status, says = SLIPS[slip]

    def fail(*args, **given):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "stub", lambda: fail())
    monkeypatch.setattr("odeflow.run", fail)
    for main, words, prog in (
        (odeflow, ["stub"], "odeflow stub"),
        (train, ["rf"], "odeflow train"),
        (train, ["rf", "--seed", "1"], "odeflow train"),
    ):
        got, out, err = ends(main, *words, *["--debug"] * debug)
        assert (
            got == status
            and out == ""
            and err.splitlines()[-1].startswith(f"{prog}: {says}")
        ), err
        assert (
            err.startswith("Traceback (most recent call last):")
            if debug
            else err.count("\n") == 1
        )


def test_debug_stands_anywhere(monkeypatch, ends):
    monkeypatch.setattr("odeflow.run", lambda name, **given: {}[name])
    monkeypatch.setitem(cli.COMMANDS, "stub", lambda folder, limit=1: {}[folder])
    for main, lines in (
        (
            train,
            (["--debug", "rf"], ["rf", "--debug"], ["rf", "--debug", "--seed", "1"]),
        ),
        (odeflow, (["stub", "--debug", "a"], ["stub", "a", "--debug"])),
    ):
        for words in lines:
            assert "Traceback" in ends(main, *words)[2]
        assert "--debug" in ends(main, lines[-1][0], "--help")[1]


def forked(main, *words):
    "A process that runs this command line, and the reading end of its standard error."
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        return pid, open(read)
    status = 99
    # a shell's job in the background ignores it, and so do its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.stderr = open(write, "w")
        status = main(*words)
    except SystemExit as e:
        status = e.code
    finally:
        sys.stderr.flush()
        os._exit(status)


def test_signals_end_a_command_and_remove_what_is_half_done(room, monkeypatch):
    def work(*args, **given):
        with replacing(room / "out") as part:
            part.write_text("half")
            print("begun", file=sys.stderr, flush=True)
            time.sleep(99)

    monkeypatch.setitem(cli.COMMANDS, "stub", lambda: work())
    monkeypatch.setattr("odeflow.run", work)
    cases = [
        (*case, *end)
        for case in ((odeflow, "stub"), (train, "rf"))
        for end in ((signal.SIGTERM, 143), (signal.SIGINT, 130))
    ]
    for main, word, s, status in cases:
        pid, said = forked(main, word)
        with said:
            assert said.readline() == "begun\n"
            os.kill(pid, s)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
            assert said.read() == (
                "odeflow train: interrupted; what is written in 'runs/train_rf' is "
                "kept, and the same command goes on from there\n"
                if (word, s) == ("rf", signal.SIGINT)
                else ""
            )
    assert not [
        p for p in room.iterdir() if p.name.endswith(".part") or p.name == "out"
    ]


def test_a_reader_that_has_gone(room):
    """As `odeflow sample … | head -0`: quiet, also when the process ends, with the status
    of a closed pipe.
    """  # noqa: E501
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(
            [
                str(Path(__file__).resolve().parent.parent),
                os.environ.get("PYTHONPATH", ""),
            ]
        ),
    }
    code = "import sys; from odeflow.cli import main; sys.exit(main())"
    p = subprocess.Popen(
        [sys.executable, "-c", code, "sample", MODEL, "--n", "2", "--nfe", "2"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    p.stdout.close()
    assert (p.wait(), p.stderr.read()) == (141, "")
    with Image.open(room / "samples.png") as im:
        assert im.format == "PNG"


# What a sample holds


def test_samples_with_their_classes_are_read_back(room, ends):
    status, out, err = ends(
        odeflow, "sample", TOLD, "--n", 20, "--nfe", 2, "--out", "a.npz"
    )
    assert (status, err) == (0, "") and json.loads(out) == {
        "out": "a.npz",
        "samples": 20,
        "solver": "heun",
        "nfe": 2.0,
        "guidance": 1.0,
        "cost": 1,
    }
    made = Pipeline.from_pretrained(TOLD)(20, nfe=2, seed=0)
    again = load_data("a.npz")
    assert (
        again.classes == 10
        and torch.equal(again.y, made.labels.cpu())
        and sorted(again.y.tolist()) == sorted([*range(10)] * 2)
    )
    status, out, _ = ends(
        odeflow,
        "sample",
        TOLD,
        "--n",
        3,
        "--nfe",
        8,
        "--guidance",
        2,
        "--label",
        7,
        "--seed",
        4,
        "--out",
        "b.NPZ",
    )
    assert status == 0 and {k: v for k, v in json.loads(out).items() if k != "out"} == {
        "samples": 3,
        "solver": "heun",
        "nfe": 8.0,
        "guidance": 2.0,
        "cost": 2,
    }
    with np.load("b.NPZ") as z:
        assert z["labels"].tolist() == [7] * 3 and z["images"].shape == (3, 8, 8, 1)
    assert (
        ends(
            odeflow,
            "sample",
            TOLD,
            "--n",
            3,
            "--nfe",
            2,
            "--label",
            -1,
            "--out",
            "c.npz",
        )[0]
        == 0
    )
    with np.load("c.npz") as z:
        assert z.files == ["images"]


def test_a_class_by_its_name(room, ends, monkeypatch):
    "Names come first, then numbers; an archive keeps them."
    monkeypatch.setattr(Pipeline, "names", ("one", "2", *"abcdefgh"))
    for word, label in (("one", 0), ("2", 1), ("0", 0), ("c", 4)):
        assert (
            ends(
                odeflow,
                "sample",
                TOLD,
                "--n",
                3,
                "--nfe",
                2,
                "--label",
                word,
                "--out",
                "a.npz",
            )[0]
            == 0
        )
        with np.load("a.npz") as z:
            assert z["labels"].tolist() == [label] * 3 and z["names"].tolist() == [
                "one",
                "2",
                *"abcdefgh",
            ]
    assert "c" in load_data("a.npz").names
    assert "'nobody' is not" in refused(
        ends(odeflow, "sample", TOLD, "--label", "nobody", "--out", "b.npz"),
        "odeflow sample",
    )


def test_seed_and_number_decide(room, ends):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert (
            ends(
                odeflow,
                "sample",
                MODEL,
                "--n",
                4,
                "--nfe",
                2,
                "--seed",
                seed,
                "--out",
                f"{name}.npz",
            )[0]
            == 0
        )
    a, b, c = (load_data(f"{k}.npz").x for k in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(
    "end, kind",
    [
        ("png", "PNG"),
        ("jpg", "JPEG"),
        ("JPEG", "JPEG"),
        ("bmp", "BMP"),
        ("tiff", "TIFF"),
        ("gif", "GIF"),
    ],
)
def test_a_picture_is_what_its_ending_says(room, ends, end, kind):
    assert (
        ends(odeflow, "sample", MODEL, "--n", 2, "--nfe", 2, "--out", f"a.{end}")[0]
        == 0
    )
    with Image.open(f"a.{end}") as im:
        assert im.format == kind


def test_an_unknown_ending_is_refused_before_the_model_is_read(room, ends, monkeypatch):
    monkeypatch.setattr(
        Pipeline, "from_pretrained", lambda *a, **k: pytest.fail("read")
    )
    for words in (
        ["sample", MODEL, "--out", "a.xyz"],
        ["encode", MODEL, "pictures", "--out", "a.png"],
    ):
        refused(ends(odeflow, *words), f"odeflow {words[0]}")


def test_help_says_what_guidance_costs_and_which_labels_are_used(ends):
    assert "so that a budget (nfe) buys half the steps" in " ".join(
        ends(odeflow, "sample", "--help")[1].split()
    )
    assert "no labels are used" in " ".join(
        ends(odeflow, "encode", "--help")[1].split()
    )


# What a run will take


def experiment_of(cls=Rectified, **given):
    return cls(cls.declared(**dict(device="cpu") | given))


def test_a_run_says_which_training_each_budget_is_of(room):
    said = str(
        experiment_of(preset="small", budget="2 minutes", out="run")
    ).splitlines()
    assert said[-4] == (
        "4 trainings: 1-RF of 2 minutes (budget), 1 reflow of 10 minutes "
        "(reflow_budget), 2 students of 5 minutes each (distill_budget); "
        "22 minutes in all, besides pairs and measurements"
    )
    assert said[-2] == "time: about 22 minutes of training on this machine"
    assert (
        said[-3] == f"1 coupling of 3,000 pairs, {2 * 3000 * 64 * 4 / 1e6:.3g} MB"
        and re.fullmatch(r"disk: up to [\d.]+ MB in 'run'", said[-1])
    )
    said = str(
        experiment_of(budget="2 minutes", distill=False, rounds=3, pairs=10, out="run")
    ).splitlines()
    assert (
        said[-4]
        == "3 trainings: 1-RF of 2 minutes (budget), 2 reflows of 105000 images each "
        "(reflow_budget); 2 minutes and 210,000 images in all, besides pairs and "
        "measurements"
    )
    assert said[-3].startswith("2 couplings of 10 pairs")
    said = str(
        experiment_of(
            EXPERIMENTS["pfgm"],
            dataset="moons",
            rounds=1,
            distill=False,
            budget="6 steps",
            out="run",
        )
    ).splitlines()
    assert (
        said[-3]
        == "1 training: PFGM of 6 steps (budget); 6 steps in all, besides pairs and "
        "measurements"
        and said[-2] == "time: less than a minute of training on this machine"
        and said[-1].startswith("disk: up to ")
    )


@pytest.mark.parametrize(
    "name, dataset, pairs", [("rf", "moons", 20_000), ("pfgm", "moons", 2000)]
)
def test_the_disk_that_a_run_takes(room, name, dataset, pairs):
    """As much as it said, within a fifth, when two checkpoints of each training are
    there.
    """
    e = experiment_of(
        EXPERIMENTS[name],
        dataset=dataset,
        out="run",
        **TINY | dict(pairs=pairs, budget="4 steps", batch=4, tol=0.5),
    )
    often = {
        k: dataclasses.replace(getattr(e.plan, k), log_every=2, save_every=0.0)
        for k in ("recipe", "reflow", "distill")
    }
    e.plan = dataclasses.replace(e.plan, draw=dict(solver="euler", nfe=2), **often)
    couplings, _, each, total = disk(e)
    e.train()
    files = [p for p in (room / "run").rglob("*") if p.is_file()]
    assert len([p for p in files if p.match("state/step-*.safetensors")]) == 2 * 4
    assert sum(p.stat().st_size for p in files if p.suffix == ".npy") == pytest.approx(
        couplings * each, rel=0.01
    )
    taken = sum(p.stat().st_size for p in files)
    assert taken == pytest.approx(total, rel=0.2), (taken, total)
