"""A folder in parts of a few megabytes, for a way that takes small files only.

python tools/parcel.py pack FOLDER TO [--limit MB]
    part-0000, part-0001, ... and parts.json, the sums of all
python tools/parcel.py unpack PARTS FOLDER
    the folder again, checked part by part, whole or not at all
"""

import argparse
import hashlib
import json
import os
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from odeflow.cli import brief, check_numbers, guarded
from odeflow.data import walk_files
from odeflow.runs import write_atomic


def luggage(
    folder: Path,  # what is packed
) -> list:  # of paths
    """The files of a folder that matter, through links: no hidden ones, and of each
    run's checkpoints the newest.
    """
    files = walk_files(folder, "folder")
    newest = {p.parent: p for p in files if p.match("state/step-*.safetensors")}
    return [p for p in files if newest.get(p.parent, p) == p]


def pack(
    folder,  # what is to travel
    to,  # the folder for the parts, created when missing; not one in `folder`
    limit: float = 16,  # megabytes a part
) -> list:  # paths: the parts, then the list of their sums
    "Put a folder into files of at most `limit` MB."
    folder, to = Path(folder), Path(to)
    if not 1e-6 <= limit < 1e12:
        raise ValueError(f"limit: {limit} MB given for a part; give 0.000001 or more")
    if folder.resolve() in (here := to.resolve(), *here.parents):
        raise ValueError(
            f"to: '{to}' lies in what is packed; give a folder outside '{folder}'"
        )
    if not (files := luggage(folder)):
        raise ValueError(f"folder: '{folder}' holds no files; give a run or data")
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as f:
        # of hard links, too, the contents
        with tarfile.open(fileobj=f, mode="w", dereference=True) as tar:
            for p in files:
                tar.add(p, p.relative_to(folder).as_posix())
        f.seek(0)
        return _parts(f, to, min(int(limit * 1e6), os.fstat(f.fileno()).st_size))


def _parts(f, to, size):
    "Cut an open file; the list of sums is written last."
    sums, paths = [], []
    while blob := f.read(size):
        paths.append(to / f"part-{len(sums):04d}")
        write_atomic(paths[-1], blob)
        sums.append(hashlib.sha256(blob).hexdigest())
    write_atomic(to / "parts.json", json.dumps(sums).encode())
    return [*paths, to / "parts.json"]


def unpack(
    parts,  # the folder that `pack` wrote
    folder,  # where its contents go; must not exist
) -> Path:  # that folder
    "The folder that was packed, checked part by part, whole or not at all."
    parts, folder = Path(parts), Path(folder)
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"folder: '{folder}' is there and is not empty; give one that does not "
            "exist"
        )
    sums = _sums(parts / "parts.json")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryFile() as f,
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as tmp,
    ):
        for k, want in enumerate(sums):
            blob = p.read_bytes() if (p := parts / f"part-{k:04d}").is_file() else b""
            if hashlib.sha256(blob).hexdigest() != want:
                raise ValueError(
                    f"parts: '{p}' is {'damaged' if blob else 'missing'}; bring it "
                    "again"
                )
            f.write(blob)
        f.seek(0)
        _extract(f, f"{tmp}/out", parts)
        if folder.exists():
            folder.rmdir()
        os.rename(f"{tmp}/out", folder)
    return folder


def _sums(path):
    "The sums that `pack` wrote, a part each."
    if not path.is_file():
        raise FileNotFoundError(
            f"parts: '{path.parent}' holds no parts.json; give a folder that pack wrote"
        )
    try:
        sums = json.loads(path.read_text())
    except ValueError:
        sums = None
    if (
        not isinstance(sums, list)
        or not sums
        or not all(isinstance(s, str) for s in sums)
    ):
        raise ValueError(f"parts: '{path}' is damaged; bring it again")
    return sums


def _extract(f, to, parts):
    """What `pack` puts into an archive, and nothing else: files, by names that stay
    inside.
    """
    bad = lambda why: ValueError(
        f"parts: the archive in '{parts}' {why}; give parts that pack wrote"
    )
    try:
        with tarfile.open(fileobj=f) as tar:
            for m in tar.getmembers():
                if not m.isfile():
                    raise bad(f"holds '{m.name}', which is no file")
                if m.name.startswith("/") or ".." in m.name.split("/"):
                    raise bad(f"holds '{m.name}', a way out of it")
            tar.extractall(to, filter="data")
    except (tarfile.TarError, EOFError) as e:
        raise bad(f"cannot be read ({e})") from None


def parser() -> argparse.ArgumentParser:
    "The two commands."
    shape = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(
        prog="parcel.py", description=__doc__, formatter_class=shape
    )
    brief(p)
    commands = p.add_subparsers(dest="command", required=True, metavar="{pack,unpack}")
    sub = brief(commands.add_parser("pack", help=pack.__doc__))
    sub.add_argument(
        "folder", help="of a run, or of pictures; hidden files are left out"
    )
    sub.add_argument("to", help="the folder for the parts, outside the other")
    sub.add_argument("--limit", type=float, default=16.0, help="megabytes a part (16)")
    sub = brief(commands.add_parser("unpack", help=unpack.__doc__))
    sub.add_argument("parts", help="the folder that pack wrote")
    sub.add_argument("folder", help="where its contents go")
    return p


def main(
    args: list | None = None,  # words; None takes those of the command line
) -> int:  # exit status
    "Pack or unpack, and print what is written."
    given = vars(parser().parse_args(args))
    name = given.pop("command")
    debug = given.pop("debug", False)

    def work():
        check_numbers(given)
        if name == "pack":
            print(*pack(**given), sep="\n")
        else:
            print(unpack(**given))

    return guarded(work, f"parcel.py {name}", debug)


if __name__ == "__main__":
    sys.exit(main())
