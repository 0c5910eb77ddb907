"""What befalls a run: it is killed, told to stop, its disk is full or read-only, its
files are damaged. Nothing may be lost.

`make faults` kills 200 times, the tests 3 times, or as often as KILLS says, at moments
drawn from SEED: another one in every run, said where a test fails and where kills are
counted."""

import collections
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time  # noqa: E501
from pathlib import Path

import pytest
import torch
from PIL import Image
from odeflow.data import load_data
from odeflow.nets import load_net, UNet
from odeflow.rectified.flow import RectifiedFlow
from odeflow.rectified.coupling import Coupling, draw_coupling
from odeflow.records import write_result
from odeflow.runs import load_state, newest_state, save_state
from odeflow.training import Recipe, train
from tqdm import tqdm

KILLS = int(os.environ.get("KILLS") or 3)
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
STEPS, PAIRS, NOBODY = 60, 400, 65534

# A server imports everything once, computes nothing, and forks a process for each
# attempt.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    ["pytest", "sklearn.datasets", "torch._dynamo", "odeflow.records"]
)


@pytest.fixture(autouse=True)
def moments():
    "The random moments and places of a test; the seed is printed where it fails."
    random.seed(SEED)
    print(f"again with SEED={SEED}")


def training(out, user=False):
    """A tiny training; as another user, to whom the system denies something, where this
    one is root.
    """
    torch.manual_seed(0)
    net = UNet((1, 8, 8), channels=4, mults=(1, 2), blocks=1, dropout=0.1)
    data = load_data("digits", flip=True)
    if user and os.geteuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    recipe = Recipe(
        f"{STEPS} steps", batch=8, log_every=3, save_every=0, preview_every=99
    )
    train(RectifiedFlow(), net, data, out, recipe, device="cpu", progress=False)


def double(x, t):
    return (x + 1) / (1 + t[:, None])


def drawing(out, n=PAIRS, nfe=40, batch=20):
    draw_coupling(
        RectifiedFlow(),
        double,
        n,
        (2,),
        out,
        solver="rk4",
        nfe=nfe,
        batch=batch,
        progress=False,
    )


def limited(size, work, *args):
    "Work that may not write a file larger than this."
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )
    work(*args)


def child(said, work, args):
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own would outlive a process that is killed
    try:
        work(*args)
    except Exception as e:
        said.send(f"{type(e).__name__}: {e}")
        sys.exit(1)


def start(work, *args):
    "A process that does this work; `.said` is where its error comes out."
    said, there = FORK.Pipe(duplex=False)
    p = FORK.Process(target=child, args=(there, work, args), daemon=True)
    p.start()
    there.close()
    p.said = said
    return p


def outcome(p):
    "Exit status and error."
    p.join()
    try:
        return p.exitcode, p.said.recv()
    except EOFError:
        return p.exitcode, ""


def finish(work, *args):
    assert outcome(start(work, *args)) == (0, "")


def refused(p, *contains):
    "The process must have ended in one sentence that contains these."
    code, said = outcome(p)
    assert (
        code == 1 and [c for c in contains if c not in said] == [] and "\n" not in said
    ), (code, said)


def logged(out):
    "Steps and losses of the log; only its last line may be half a line."
    lines = (
        (out / "metrics.jsonl").read_text().split("\n")
        if (out / "metrics.jsonl").exists()
        else [""]
    )
    return [(l["step"], l["loss"]) for l in map(json.loads, lines[:-1])]


def pairs(out):
    return [(out / f).read_bytes() for f in ("x0.npy", "x1.npy", "coupling.json")]


def readable(out):
    "Every file of a run or a coupling is whole or absent."
    for path in (out / "state").glob("step-*"):
        load_state(path)
    logged(out)
    if (out / "config.json").exists():
        load_net(out)
    if (out / "samples.png").exists():
        Image.open(out / "samples.png").load()
    facts = (
        json.loads((out / "coupling.json").read_text())
        if (out / "coupling.json").exists()
        else {"done": 0}
    )
    if facts["done"]:
        assert [(out / f"{k}.npy").stat().st_size for k in ("x0", "x1")] == [
            128 + 8 * facts["n"]
        ] * 2


def same(out, whole, stopped=False):
    """The run is, bit for bit, the one that was left in peace; one that was told to
    stop has written a line of its log then.
    """
    (_, a, facts), (_, b, _) = (newest_state(f / "state") for f in (out, whole))
    assert facts["step"] == STEPS and a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    steps = [s for s, _ in logged(out)]
    every = {*range(3, STEPS + 1, 3)}
    assert steps == sorted({*steps} | every if stopped else every)
    assert stopped or logged(out) == logged(whole)
    assert [
        f
        for f in ("model.safetensors", "config.json", "samples.png")
        if (out / f).read_bytes() != (whole / f).read_bytes()
    ] == []
    assert [str(p) for p in out.rglob("*.part")] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    finish(training, out)
    return out


@pytest.fixture
def spare(tmp_path, whole):
    return Path(shutil.copytree(whole, tmp_path / "spare"))


def reach(p, out, step):
    "Wait until the log has passed a step."
    begun = time.monotonic()
    while p.exitcode is None if hasattr(p, "exitcode") else p.poll() is None:
        if (steps := logged(out)) and steps[-1][0] >= step:
            return
        assert time.monotonic() - begun < 300, "that step was not reached in time"
        time.sleep(0.002)


# Kills


def traces(out):
    "What tells that a process has begun to work, and what it is writing."
    return {
        p: p.stat().st_mtime_ns
        for f in ("metrics.jsonl", "coupling.json")
        if (p := out / f).exists()
    }, set(out.rglob("*.part"))


def where(out, before):
    "Where in its life a training or a drawing was when it was killed."
    (log, parts), (old, stale) = traces(out), before
    new = [
        "a checkpoint" if p.name.startswith(".step") else p.name.rsplit(".", 2)[0][1:]
        for p in parts - stale
    ]
    if log == old and not new:
        return "in start-up"
    if new:
        return f"while writing {new[0]}"
    if (out / "coupling.json").exists():
        done = json.loads((out / "coupling.json").read_text())["done"]
        last = PAIRS
    else:
        done = max((int(p.stem[5:]) for p in (out / "state").glob("step-*")), default=0)
        last = STEPS
    return (
        "before the first checkpoint"
        if not done
        else "after the last"
        if done == last
        else f"after {done * 4 // last * 25} to {done * 4 // last * 25 + 25}%"
    )


def kills(work, fresh, check, budget, seconds):
    """Kill one piece of work after another at random moments, one in three while it
    writes; resume each until it is finished. Where the kills fell, and how many
    works.
    """
    fell, works = collections.Counter(), 0
    while sum(fell.values()) < budget:
        out, works = fresh(), works + 1
        while True:
            before, p = traces(out), start(work, out)
            if sum(fell.values()) < budget:
                p.join(random.uniform(0, seconds))
                if random.random() < 1 / 3:
                    while p.is_alive() and not traces(out)[1] - before[1]:
                        time.sleep(0.0005)
                p.kill()
            code, said = outcome(p)
            if code == 0:
                break
            assert code == -signal.SIGKILL, said
            fell[where(out, before)] += 1
            readable(out)
        check(out)
        shutil.rmtree(out)
    return fell, works


def report(capsys, what, fell, works):
    with capsys.disabled():
        print(
            f"\n{what}, SEED={SEED}: {sum(fell.values())} kills, as many resumes, "
            f"{works} finished, 0 lost; kills fell "
            + ", ".join(f"{k}: {v}" for k, v in sorted(fell.items()))
        )


def timed(work, out):
    "How long it takes in peace."
    begun = time.monotonic()
    finish(work, out)
    return time.monotonic() - begun


@pytest.fixture
def fresh(tmp_path):
    return lambda: Path(tempfile.mkdtemp(dir=tmp_path))


def test_killed_at_random(fresh, whole, capsys):
    seconds = timed(training, fresh())
    report(
        capsys,
        "training",
        *kills(training, fresh, lambda out: same(out, whole), KILLS, seconds),
    )


def test_drawing_killed_at_random(fresh, capsys):
    drawing(peace := fresh())

    def check(out):
        assert pairs(out) == pairs(peace)

    report(
        capsys,
        "coupling",
        *kills(drawing, fresh, check, KILLS, timed(drawing, fresh())),
    )


def test_told_to_stop(tmp_path, whole):
    """SIGTERM in the middle, of a process that was started as people start one, saves
    and ends with 143.
    """
    code = "import sys, pathlib, torch, test_faults; torch.set_num_threads(1); test_faults.training(pathlib.Path(sys.argv[1]))"  # noqa: E501
    p = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=Path(__file__).parent
    )
    reach(p, tmp_path, random.randrange(3, 40))
    p.send_signal(signal.SIGTERM)
    assert p.wait() == 128 + signal.SIGTERM
    readable(tmp_path)
    assert (
        3
        <= newest_state(tmp_path / "state")[2]["step"]
        == logged(tmp_path)[-1][0]
        < STEPS
    )
    finish(training, tmp_path)
    same(tmp_path, whole, stopped=True)


# A full disk

limits = pytest.mark.skipif(
    not hasattr(resource, "prlimit"),
    reason="the limit of another process can be set on Linux only",
)


@limits
@pytest.mark.parametrize("size, file", [(1000, ""), (20_000, "state/step-")])
def test_no_room_in_the_middle(tmp_path, whole, size, file):
    """A limit on the size of files, set while the run is under way: the log or the
    checkpoint, whichever comes first, is too large for it.
    """
    p = start(training, tmp_path)
    reach(p, tmp_path, 24)
    resource.prlimit(
        p.pid,
        resource.RLIMIT_FSIZE,
        (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]),
    )
    refused(
        p,
        f"WriteError: out: '{tmp_path}",
        file,
        "cannot be written (File too large); raise the limit",
        f"last good checkpoint in '{tmp_path}': step-0000000",
    )
    readable_after(tmp_path)
    assert newest_state(tmp_path / "state")[2]["step"] >= 21
    finish(training, tmp_path)
    same(tmp_path, whole)


def readable_after(out):
    """As `readable`, where the last line of the log may be half a line; nothing
    temporary is left.
    """
    readable(out)
    assert [str(p) for p in out.rglob("*.part")] == []


def test_no_room_from_the_start(tmp_path, whole):
    """Not even the first line of the log is whole, and no checkpoint: the next run
    begins anew, its log too.
    """
    refused(
        start(limited, 100, training, tmp_path),
        "metrics.jsonl' cannot be written (File too large)",
        "last good checkpoint",
        "none yet",
    )
    assert 0 < len((tmp_path / "metrics.jsonl").read_text()) <= 100
    finish(training, tmp_path)
    same(tmp_path, whole)


@pytest.mark.parametrize(
    "file, size", [("samples.png", 4000), ("model.safetensors", 20_000)]
)
def test_no_room_at_the_end(spare, whole, file, size):
    "The last checkpoint is there, and what comes after it finds no room."
    if file == "samples.png":
        (spare / file).unlink()
    refused(
        start(limited, size, training, spare),
        f"{file}' cannot be written (File too large)",
        "step-000000060",
    )
    readable_after(spare)
    assert (spare / "model.safetensors").read_bytes() == (
        whole / "model.safetensors"
    ).read_bytes()
    finish(training, spare)
    same(spare, whole)


def test_no_room_for_a_record(tmp_path):
    write_result(tmp_path, [])
    before = (tmp_path / "result.json").read_bytes()
    refused(
        start(limited, 200, write_result, tmp_path, [{"system": "1-RF"}] * 20),
        "result.json' cannot be written (File too large)",
    )
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"] and (
        tmp_path / "result.json"
    ).read_bytes() == before


@pytest.mark.parametrize(
    "file, size, n", [("x0.npy", 1000, PAIRS), ("coupling.json", 200, 5)]
)
def test_no_room_for_a_coupling(fresh, file, size, n):
    out, peace = fresh(), fresh()
    drawing(peace, n)
    refused(
        start(limited, size, drawing, out, n),
        f"WriteError: out: '{out}",
        f"{file}' cannot be written (File too large)",
    )
    readable_after(out)
    finish(drawing, out, n)
    assert pairs(out) == pairs(peace)


@pytest.fixture
def disk(tmp_path):
    "A real file system of a given size, for root only; call it again for another size."
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = lambda *options: (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder],
            capture_output=True,
        ).returncode
        == 0
    )
    if os.geteuid() or not mount("size=4m"):
        pytest.skip("only root can mount a small disk")

    def resize(size):
        assert mount("remount", f"size={size}")
        return folder

    yield resize
    subprocess.run(["umount", "-l", folder])


def test_disk_fills_up(disk, whole):
    out = disk("2m") / "run"
    p = start(training, out)
    reach(p, out, 24)
    with open(out.parent / "others", "wb", 0) as f:
        while p.is_alive():
            try:
                f.write(bytes(1000))
            except OSError:
                time.sleep(0.001)
    refused(
        p,
        "cannot be written (No space left on device); free some space and give the "
        "same command again; last good checkpoint",
        "step-0000000",
    )
    readable_after(out)
    refused(start(training, out), "cannot be written (No space left on device)")
    (out.parent / "others").unlink()
    finish(training, out)
    same(out, whole)


def test_disk_too_small_for_a_coupling(disk, fresh):
    """Each array fits in the empty disk, but not both; writing through mapped memory
    would end the process by SIGBUS.
    """
    out, work = disk("1m") / "coupling", (100_000, 4, 10_000)
    refused(
        start(drawing, out, *work),
        f"WriteError: out: '{out}",
        "npy' cannot be written (No space left on device); free some space",
    )
    readable_after(out)
    disk("4m")
    finish(drawing, out, *work)
    drawing(peace := fresh(), *work)
    assert pairs(out) == pairs(peace)


# A folder that cannot be written


@pytest.fixture
def theirs():
    "A folder of a user who is not root, since root may write everywhere."
    out = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(out, NOBODY, NOBODY)
    yield out
    for folder in (out, out / "state"):
        if folder.exists():
            folder.chmod(0o700)
    shutil.rmtree(out)


def test_read_only(theirs, whole):
    theirs.chmod(0o500)
    refused(
        start(training, theirs, True),
        f"out: '{theirs}' cannot be written (Permission denied); give a folder that "
        "can",
    )
    assert list(theirs.iterdir()) == []
    theirs.chmod(0o700)
    p = start(training, theirs, True)
    reach(p, theirs, 24)
    for folder in (theirs / "state", theirs):
        folder.chmod(0o500)
    refused(
        p,
        f"WriteError: out: '{theirs}",
        "cannot be written (Permission denied); make its folder writable",
        "last good checkpoint",
        "step-0000000",
    )
    readable_after(theirs)
    assert newest_state(theirs / "state")[2]["step"] >= 21
    for folder in (theirs, theirs / "state"):
        folder.chmod(0o700)
    finish(training, theirs, True)
    same(theirs, whole)


# Damage


def test_cut_short(spare, whole, capsys):
    """A checkpoint cut anywhere is named and passed over, and the run continues from
    the one before it.
    """
    old, newest = sorted((spare / "state").glob("step-*"))
    blob = newest.read_bytes()
    header = 8 + int.from_bytes(blob[:8], "little")
    for size in [
        0,
        7,
        *random.choices(range(8, header), k=5),
        *random.choices(range(header, len(blob)), k=5),
    ]:
        newest.write_bytes(blob[:size])
        assert newest_state(spare / "state")[0] == old, size
        assert (
            f"checkpoint: '{newest.name}' is damaged: "
            in (said := capsys.readouterr().err)
            and "trying the one before it" in said
        )
    finish(training, spare)
    same(spare, whole)
    for path in (spare / "state").glob("step-*"):
        path.write_bytes(path.read_bytes()[: random.randrange(10_000)])
    refused(
        start(training, spare),
        f"ValueError: state: none of the 2 checkpoints in '{spare}/state' can be "
        "read; start again in another folder",
    )


def test_flipped_bits(tmp_path):
    """One bit flipped in any byte of the header, or at 200 places of the rest: it is
    noticed.
    """
    path = tmp_path / "step-1.safetensors"
    facts = dict(step=30, seconds=1.5, config={"lr": 0.002, "name": "digits"})
    save_state(
        path,
        {f"net/{k}": torch.randn(3, 40) for k in range(4)}
        | {"opt/0/step": torch.tensor(30.0)},
        **facts,
    )
    good, unnoticed = path.read_bytes(), []
    header = 8 + int.from_bytes(good[:8], "little")
    for place in [*range(header), *random.sample(range(header, len(good)), 200)]:
        bit = 1 << random.randrange(8)
        path.write_bytes(good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :])
        try:
            load_state(path)
        except ValueError as e:
            assert "is damaged" in str(e)
        else:
            unnoticed.append((place, bit))
    assert unnoticed == []


def test_coupling_damaged(tmp_path):
    "What is missing of a coupling is not made up of zeros."
    drawing(tmp_path)
    (tmp_path / "x0.npy").write_bytes((tmp_path / "x0.npy").read_bytes()[:-8])
    for use in (lambda: Coupling(tmp_path), lambda: drawing(tmp_path)):
        with pytest.raises(
            ValueError,
            match="x0.npy' cannot be read .*; delete the folder and draw again",
        ):
            use()
    (tmp_path / "x0.npy").unlink()
    with pytest.raises(
        ValueError, match="x0.npy' cannot be read .*; delete the folder and draw again"
    ):
        Coupling(tmp_path)
    (tmp_path / "coupling.json").write_text('{"n": 3')
    with pytest.raises(
        ValueError,
        match="coupling.json' is damaged .*; delete the folder and draw again",
    ):
        drawing(tmp_path)
