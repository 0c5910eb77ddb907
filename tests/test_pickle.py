"""Nothing that the library reads is unpickled: a pickle under any name is refused in
one sentence, and what it would run never runs.
"""

import ast
import io
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from odeflow.data import Data, digits, load_data
from odeflow.metrics import evaluation, features
from odeflow.nets import load_net, MLP
from odeflow.pipeline import Pipeline, pretrained
from odeflow.rectified.flow import RectifiedFlow
from odeflow.rectified.coupling import Coupling, draw_coupling
from odeflow.records import read_record, write_result
from odeflow.runs import newest_state
from odeflow.training import Recipe, train

ROOT = Path(__file__).resolve().parent.parent


class Evil:
    "Makes a folder when it is unpickled."

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def blobs(marker):
    """Files that run something when they are loaded carelessly: a pickle of each kind,
    torch's archive, numpy's object array.
    """
    files = {f"pickle {p}": pickle.dumps(Evil(marker), p) for p in (0, 2, 4)}
    for kind, write in (
        ("torch.save", lambda f: torch.save(Evil(marker), f)),
        (
            "old torch.save",
            lambda f: torch.save(Evil(marker), f, _use_new_zipfile_serialization=False),
        ),
        ("npy", lambda f: np.save(f, np.array([Evil(marker)], dtype=object))),
        ("npz", lambda f: np.savez(f, images=np.array([Evil(marker)], dtype=object))),
    ):
        write(f := io.BytesIO())
        files[kind] = f.getvalue()
    return files


KINDS = list(blobs("unused"))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    "A finished run, a coupling and a record."
    out = tmp_path_factory.mktemp("good")
    net = MLP((2,), width=8)
    train(
        RectifiedFlow(),
        net,
        load_data("heart", n=100),
        out / "run",
        Recipe("4 steps", batch=8, log_every=2, save_every=0),
        device="cpu",
        progress=False,
    )
    draw_coupling(
        RectifiedFlow(),
        net.eval(),
        6,
        (2,),
        out / "coupling",
        solver="euler",
        nfe=2,
        device="cpu",
        progress=False,
    )
    write_result(out / "run", [])
    return out


def statistics(folder=None):
    "The remembered statistics of some digits; where they lie."
    data = Data(digits().x[:20], name="some digits")
    net = features.DigitsFeatures()
    evaluation.reference(data, net, keep=10)
    return evaluation.reference_path(data, net, 10, 0)


# name: (the file, how it is read, what is said)
READ = {
    "weights": (
        "run/model.safetensors",
        lambda d: load_net(d / "run"),
        "model.safetensors' is damaged",
    ),
    "pipeline": (
        "run/model.safetensors",
        lambda d: Pipeline.from_pretrained(d / "run"),
        "model.safetensors' is damaged",
    ),
    "configuration": (
        "run/config.json",
        lambda d: load_net(d / "run"),
        "config.json' is damaged",
    ),
    "pipeline's configuration": (
        "run/config.json",
        lambda d: Pipeline.from_pretrained(d / "run"),
        "config.json' is damaged",
    ),
    "checkpoint": (
        "run/state/step-000000002.safetensors",
        lambda d: newest_state(d / "run/state"),
        "none of the 1 checkpoints",
    ),
    "record": (
        "run/result.json",
        lambda d: read_record(d / "run/result.json"),
        "is not a run's record",
    ),
    "data": ("set.npz", lambda d: load_data(d / "set.npz"), "set.npz' "),
    "start of pairs": (
        "coupling/x0.npy",
        lambda d: Coupling(d / "coupling"),
        "x0.npy' cannot be read",
    ),
    "end of pairs": (
        "coupling/x1.npy",
        lambda d: Coupling(d / "coupling"),
        "x1.npy' cannot be read",
    ),
    "facts of pairs": (
        "coupling/coupling.json",
        lambda d: Coupling(d / "coupling"),
        "coupling.json' is damaged",
    ),
    "FID network": (
        "fid.pth",
        lambda d: features.load_inception(["2048"], d / "fid.pth"),
        "the FID network's could not be read",
    ),
}


@pytest.fixture
def copy(tmp_path, good):
    "Those good files, without the newest checkpoint."
    for path in good.rglob("*.*"):
        if path.is_file() and not path.name.endswith("4.safetensors"):
            (to := tmp_path / path.relative_to(good)).parent.mkdir(
                parents=True, exist_ok=True
            )
            to.write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_the_pickles_are_evil(tmp_path, kind):
    "They do run when they are loaded carelessly: these tests can fail."
    (path := tmp_path / "file").write_bytes(blobs(marker := tmp_path / "ran")[kind])
    if "torch" in kind:
        torch.load(path, weights_only=False)
    elif kind.startswith("np"):
        np.load(path, allow_pickle=True)["images" if kind == "npz" else 0]
    else:
        pickle.loads(path.read_bytes())
    assert marker.exists()


@pytest.mark.parametrize("what", READ)
def test_refused(copy, what):
    file, read, says = READ[what]
    for kind, blob in blobs(marker := copy / "ran").items():
        (copy / file).write_bytes(blob)
        with pytest.raises((ValueError, FileNotFoundError)) as e:
            read(copy)
        assert says in str(e.value) and "\n" not in str(e.value), (kind, str(e.value))
        assert not marker.exists(), kind


@pytest.mark.parametrize("kind", KINDS)
def test_classifier_and_statistics(tmp_path, monkeypatch, capsys, kind):
    """The digits' classifier is refused; remembered statistics are named and worked out
    again.
    """
    monkeypatch.setenv("ODEFLOW_DATA", str(tmp_path))
    blob = blobs(marker := tmp_path / "ran")[kind]
    path = statistics()
    before = path.read_bytes()
    path.write_bytes(blob)
    assert statistics() == path and path.read_bytes() == before
    assert f"statistics: '{path}' is damaged (" in capsys.readouterr().err
    path = tmp_path / "classifier.safetensors"
    monkeypatch.setitem(features.SHIPPED, 8, (path, *features.SHIPPED[8][1:]))
    path.write_bytes(blob)
    features.classifier.cache_clear()
    with pytest.raises(
        ValueError, match="classifier.safetensors' is damaged .*; install odeflow again"
    ):
        features.classify(torch.zeros(1, 1, 8, 8))
    features.classifier.cache_clear()
    assert not marker.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_through_other_libraries(copy, monkeypatch, kind):
    """The hub's own reader, and torchvision's: the official CIFAR-10 is a pickle, which
    is read only when its checksum is the official one.
    """
    blob, marker = blobs(copy / "ran")[kind], copy / "ran"
    for name in ("model.safetensors", "pytorch_model.bin"):
        (copy / "run/model.safetensors").unlink(missing_ok=True)
        (copy / "run" / name).write_bytes(blob)
        with pytest.raises(Exception):
            MLP.from_pretrained(copy / "run")
    for name in ("ODEFLOW_DATA", "http_proxy", "https_proxy"):
        monkeypatch.setenv(
            name, str(copy) if name == "ODEFLOW_DATA" else "http://127.0.0.1:9"
        )
    for name in (
        "cifar-10-batches-py/data_batch_1",
        "cifar-10-batches-py/batches.meta",
        "MNIST/processed/training.pt",
        "MNIST/processed/test.pt",
    ):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(blob)
    for name in ("cifar10", "mnist"):
        with pytest.raises(FileNotFoundError, match="the download failed"):
            load_data(name)
    assert not marker.exists()


def test_good_files_need_no_pickle(good, monkeypatch):
    """While all that is good is read, Python's own record of unpickled names stays
    empty.
    """
    monkeypatch.setenv("ODEFLOW_DATA", str(good / "cache"))
    watching, names = [], []
    sys.addaudithook(
        lambda event, args: (
            names.append(args) if watching and event == "pickle.find_class" else None
        )
    )
    np.savez(good / "set.npz", images=np.zeros((3, 4, 4, 1), np.uint8))
    statistics()

    def read():
        (
            load_net(good / "run"),
            Pipeline.from_pretrained(good / "run"),
            newest_state(good / "run/state"),
            read_record(good / "run/result.json"),
        )
        (
            Coupling(good / "coupling"),
            load_data(good / "set.npz"),
            statistics(),
            features.classifier.__wrapped__(),
            digits(),
        )
        for name in pretrained():
            # a flow between data sets wants its source
            if "-to-" not in name:
                Pipeline.from_pretrained(name)

    watching.append(True)
    read()
    assert names == []
    pickle.loads(pickle.dumps(Path))
    watching.clear()
    assert names != []  # the record works


def test_source():
    """The library's code names nothing that unpickles or evaluates; torch.load stands
    once, for the FID network, with weights_only=True.
    """
    loads, bad = [], []
    for path in sorted((ROOT / "odeflow").rglob("*.py")):
        for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = (
                [a.name for a in n.names]
                if isinstance(n, ast.Import)
                else [n.module or ""]
                if isinstance(n, ast.ImportFrom)
                else []
            )
            bad += [
                (path.name, m)
                for m in modules
                if m.split(".")[0]
                in (
                    "pickle",
                    "_pickle",
                    "cloudpickle",
                    "dill",
                    "joblib",
                    "marshal",
                    "shelve",
                )
            ]
            if not isinstance(n, ast.Call):
                continue
            called = ast.unparse(n.func)
            given = {k.arg: ast.unparse(k.value) for k in n.keywords}
            if called == "torch.load":
                loads.append((path.name, given.get("weights_only")))
            if (
                called in ("eval", "exec", "compile", "__import__")
                or given.get("allow_pickle", "False") != "False"
            ):
                bad.append((path.name, called))
    assert bad == [] and loads == [("features.py", "True")]
