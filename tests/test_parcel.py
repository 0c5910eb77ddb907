"""A folder in parts: what `tools/parcel.py` packs, it unpacks, and nothing else."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import parcel
import pytest
from endings import refused
from hypothesis import given, settings, strategies as st
from parcel import pack, unpack

WRONG = """
pack nowhere to                                  | folder: there is no folder 'nowhere'
pack file to                                     | folder: there is no folder 'file'
pack folder to                                   | folder: 'folder' holds no files
pack full file                                   | 'file'
pack full full/parts                             | to: 'full/parts' lies in what is packed
pack full full                                   | to: 'full' lies in what is packed
pack full to --limit 0                           | limit: 0.0 MB given for a part
pack full to --limit -1                          | limit: -1.0 MB given for a part
pack full to --limit nan                         | limit: nan is not accepted
pack full to --limit inf                         | limit: inf is not accepted
pack full to --limit 1e15                        | limit: 1000000000000000.0 MB given for a part
unpack nowhere to                                | parts: 'nowhere' holds no parts.json
unpack full to                                   | parts: 'full' holds no parts.json
unpack file to                                   | parts: 'file' holds no parts.json
unpack parts full                                | folder: 'full' is there and is not empty
unpack parts file                                | folder: 'file' is there and is not empty
unpack parts file/to                             | 'file'
"""  # noqa: E501


@pytest.fixture
def room(tmp_path, monkeypatch):
    "A folder to work in, with things to pack and parts to unpack."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").write_text("a")
    pack("full", "parts")
    return tmp_path


@pytest.fixture
def ends(capsys):
    "How the script ends: its status, standard output, standard error."

    def run(*words):
        try:
            status = parcel.main([str(w) for w in words])
        except SystemExit as e:
            status = e.code
        return status, *capsys.readouterr()

    return run


def test_wrong_input_of_every_argument_gets_one_sentence(room, ends):
    before = {p.name for p in room.iterdir()}
    for line in WRONG.strip().splitlines():
        words, says = (w.strip() for w in line.split("|", 1))
        name = words.split()[0]
        assert says in refused(ends(*words.split()), f"parcel.py {name}"), line
    assert {p.name for p in room.iterdir()} == before


def test_words_that_cannot_be_read(ends):
    status, out, err = ends("unpack", "a", "b", "c")
    assert (status, out) == (2, "") and err.startswith(
        "parcel.py: unrecognized arguments: c; `parcel.py --help` explains"
    )


def test_a_script(room):
    "In a process of its own, and its reader gone: quiet, with a closed pipe's status."
    words = [sys.executable, parcel.__file__, "pack", "full", "to"]
    p = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    p.stdout.close()
    assert (p.wait(), p.stderr.read()) == (141, "")
    assert contents(unpack("to", "there")) == {"a": b"a"}


def contents(top, above=()):
    """What a folder holds for whoever reads it, through links; a link to a folder that
    it lies in holds nothing.
    """
    found, here = {}, (*above, os.path.realpath(top))
    for name in os.listdir(top):
        path = os.path.join(top, name)
        if os.path.isdir(path):
            found |= (
                {f"{name}/{k}": v for k, v in contents(path, here).items()}
                if os.path.realpath(path) not in here
                else {}
            )
        else:
            found[name] = Path(path).read_bytes()
    return found


NAMES = st.sampled_from(["a", "b c", "ü", "-d", "e.txt"])
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(["file", "folder", "link", "up", "out", "hard"]),
        st.lists(NAMES, min_size=1, max_size=3),
        st.binary(max_size=300),
        st.integers(0, 99),
    ),
    max_size=7,
)


def planted(top, outside, entries):
    """A tree of files, folders, and links of each kind: to what is there already, to a
    folder above, to a folder outside; and hard links.
    """
    for d in (top, outside):
        d.mkdir()
    (outside / "far").write_bytes(b"far")
    for kind, names, blob, k in entries:
        path = top.joinpath(*names)
        there = sorted(p for p in top.rglob("*") if not p.is_symlink())
        files = [p for p in there if p.is_file()]
        if os.path.lexists(path) or not all(
            q.is_dir() and not q.is_symlink()
            for q in path.parents
            if top in q.parents and os.path.lexists(q)
        ):
            continue
        (path if kind == "folder" else path.parent).mkdir(parents=True, exist_ok=True)
        if kind == "file":
            path.write_bytes(blob)
        if kind == "link" and there:
            path.symlink_to(os.path.relpath(there[k % len(there)], path.parent))
        if kind == "up":
            path.symlink_to(path.parents[k % len(names)])
        if kind == "out":
            path.symlink_to(outside if k % 2 else outside / "far")
        if kind == "hard" and files:
            os.link(files[k % len(files)], path)


@settings(max_examples=40)
@given(entries=ENTRIES, kilobytes=st.sampled_from([3, 16000]))
def test_pack_then_unpack_is_the_identity_on_contents(
    tmp_path_factory, entries, kilobytes
):
    home = tmp_path_factory.mktemp("tree")
    planted(home / "top", home / "outside", entries)
    held = contents(home / "top")
    if not held:
        with pytest.raises(ValueError, match="holds no files"):
            pack(home / "top", home / "parts")
        return
    pack(home / "top", home / "parts", kilobytes / 1000)
    shutil.rmtree(home / "outside")
    assert contents(unpack(home / "parts", home / "there")) == held
    assert not [
        p
        for p in (home / "there").rglob("*")
        if p.is_symlink() or p.is_file() and p.stat().st_nlink > 1
    ]


@pytest.mark.parametrize(
    "link, target",
    [
        ("full/gone", "nowhere"),
        ("full/gone", "/nowhere"),
        ("full/gone", "gone"),
        ("store/gone", "nowhere"),
    ],
)
def test_a_link_that_leads_nowhere_is_refused_by_name(room, ends, link, target):
    (room / "store").mkdir()
    (room / "full/store").symlink_to(room / "store")
    os.symlink(target, link)
    assert "gone" in refused(ends("pack", "full", "to"), "parcel.py pack")
    assert not (room / "to").exists()


def archive(folder, *members):
    "What `pack` would write if an archive held these."
    Path(folder).mkdir()
    with tarfile.open(blob := Path(folder) / "blob", "w") as tar:
        for name, kind, link in members:
            m = tarfile.TarInfo(name)
            m.type = kind
            m.linkname = link
            m.size = 1 if kind == tarfile.REGTYPE else 0
            tar.addfile(m, io.BytesIO(b"x") if m.size else None)
    parcel._parts(open(blob, "rb"), Path(folder), 10**9)
    blob.unlink()


EVIL = {
    "a link": ("a", tarfile.SYMTYPE, "b"),
    "a link outside": ("a", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": ("a", tarfile.LNKTYPE, "good"),
    "a way up": ("../a", tarfile.REGTYPE, ""),
    "a way up below": ("b/../../a", tarfile.REGTYPE, ""),
    "an absolute path": (None, tarfile.REGTYPE, ""),
    "a device": ("a", tarfile.CHRTYPE, ""),
    "a pipe": ("a", tarfile.FIFOTYPE, ""),
}


@pytest.mark.parametrize("kind", EVIL)
def test_an_archive_that_pack_did_not_write(room, ends, kind):
    name, *rest = EVIL[kind]
    # an absolute path, but one that this test may look at
    name = name or str(room / "outside")
    archive("evil", ("good", tarfile.REGTYPE, ""), (name, *rest))
    said = refused(ends("unpack", "evil", "to"), "parcel.py unpack")
    assert name in said and "give parts that pack wrote" in said
    assert (
        not (room / "to").exists()
        and not (room / "a").exists()
        and not (room / "outside").exists()
        and not list(room.glob(".unpack-*"))
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", "3", "[1]", "[null]", '"abc"', "[[]]", "\xff"]
)
def test_a_damaged_list_of_sums(room, ends, text):
    (room / "parts/parts.json").write_bytes(text.encode("latin1"))
    assert "parts.json' is damaged; bring it again" in refused(
        ends("unpack", "parts", "to"), "parcel.py unpack"
    )


def test_parts_that_are_no_archive(room, ends):
    for k, blob in enumerate(
        (b"x" * 20000, b"\0" * 100, (room / "parts/part-0000").read_bytes()[:700])
    ):
        (room / f"{k}").mkdir()
        parcel._parts(io.BytesIO(blob), room / f"{k}", 10**9)
        said = ends("unpack", k, f"to-{k}")
        if said[0]:
            refused(said, "parcel.py unpack")
        else:
            assert (
                contents(room / f"to-{k}") == {"a": b"a"}
                or contents(room / f"to-{k}") == {}
            )


def test_an_empty_folder_may_be_filled(room, ends):
    assert ends("unpack", "parts", "folder") == (
        0,
        "folder\n",
        "",
    ) and contents(room / "folder") == {"a": b"a"}
