"""The house around the book: what is exported, cleaned, declared and promised agrees
with the notebooks.
"""

import ast
import configparser
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from house import arrows, length, methods, pages, parts, read, upward
from nbdev.config import get_config
from website import ROOT, readme, with_numbers

try:
    import tomllib
except ImportError:
    import tomli as tomllib

NBS = sorted((ROOT / "nbs").glob("*.ipynb"))
CHAPTERS = [f for f in NBS if f.name[0].isdigit()]
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
each = pytest.mark.parametrize("path", NBS, ids=lambda p: p.stem)
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code(path):
    return [(c, "".join(c["source"])) for c in cells(path) if c["cell_type"] == "code"]


def exported(src):
    return re.search(r"^#\|\s*exports?\b", src, re.M)


def tree(src):
    "The syntax tree of a cell; cells with magics have none."
    try:
        return ast.parse(src)
    except SyntaxError:
        return ast.parse("")


def call(*args, cwd, **env):
    "Run a command and return it finished; make's own variables stay behind."
    env = {
        **{
            k: v
            for k, v in os.environ.items()
            if k not in ("IN_TEST", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")
        },
        **env,
    }
    return subprocess.run(
        args, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def copy(tmp_path):
    """The notebooks and the settings in a folder of their own, with a package of
    nothing but what is written by hand.
    """
    shutil.copytree(
        ROOT / "nbs",
        tmp_path / "nbs",
        symlinks=True,
        ignore=shutil.ignore_patterns(".*"),
    )
    for f in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / f, tmp_path / f)
    for f in (ROOT / "odeflow").rglob("*.py"):  # what is written by hand
        if f.name[0] == "_" and f.name != "_modidx.py":
            to = tmp_path / f.relative_to(ROOT)
            to.parent.mkdir(exist_ok=True)
            shutil.copy(f, to)
    return tmp_path


def changed(copy, glob):
    "Names of files that differ between the copy and the project."
    a, b = (
        {f.relative_to(base): f.read_bytes() for f in base.glob(glob)}
        for base in (copy, ROOT)
    )
    return sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))


def test_export_drift(copy):
    run = call(BIN / "nbdev_export", cwd=copy)
    assert run.returncode == 0, run.stderr
    drift = (
        changed(copy, "odeflow/**/*.py")
        + changed(copy, "pyproject.toml")
        + changed(copy, "nbs/llms.txt")
    )
    assert drift == [], (
        f"run nbdev_export: {drift} differ from what the notebooks export"
    )


def test_clean_drift(copy):
    run = call(BIN / "nbdev_clean", cwd=copy)
    assert run.returncode == 0, run.stderr
    assert changed(copy, "nbs/*.ipynb") == [], "run nbdev_clean"


def test_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == readme() == with_numbers(text), "run `make readme`"
    assert [
        l
        for l in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", text)
        if not (ROOT / l).exists()
    ] == [], "dead links"


def test_quarto_settings():
    "nbs/nbdev.yml is what nbdev makes of pyproject.toml."
    cfg = get_config(ROOT)
    text = (ROOT / "nbs/nbdev.yml").read_text()
    for v in (
        cfg.title,
        cfg.description,
        cfg.git_url,
        cfg.doc_host + cfg.doc_baseurl,
        cfg.doc_path.name,
    ):
        assert str(v) in text, f"nbs/nbdev.yml lacks {v}"


def test_settings_ini():
    "settings.ini, for nbdev 2, says what pyproject.toml says."
    ini = configparser.ConfigParser(delimiters="=", interpolation=None)
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    ini = dict(ini["DEFAULT"])
    cfg = get_config(ROOT)
    proj = PROJECT["project"]
    join = lambda reqs: " ".join(r.replace(" ", "") for r in reqs)
    want = {
        k: str(cfg.d[k])
        for k in ini.keys() & cfg.d.keys() - {"keywords", "allowed_cell_metadata_keys"}
    }
    want |= dict(
        version=cfg.version,
        license={"Apache-2.0": "apache2"}[proj["license"]],
        language="English",
        keywords=", ".join(proj["keywords"]),
        allowed_cell_metadata_keys=" ".join(cfg.allowed_cell_metadata_keys),
        requirements=join(proj["dependencies"]),
        dev_requirements=join(proj["optional-dependencies"]["dev"]),
        console_scripts=" ".join(f"{k}={v}" for k, v in proj["scripts"].items()),
    )
    assert PROJECT["tool"]["nbdev"].keys() <= want.keys(), (
        "settings.ini lacks a setting of [tool.nbdev]"
    )
    wrong = {
        k: want.get(k)
        for k in ini.keys() | want.keys()
        if " ".join(ini.get(k, "").split()) != want.get(k)
    }
    assert wrong == {}, "settings.ini must say:\n" + "\n".join(
        f"{k} = {v}" for k, v in wrong.items()
    )


@each
def test_size_and_outputs(path):
    assert path.stat().st_size <= 600_000, f"{path.stat().st_size} bytes"
    outputs = [o for c, _ in code(path) for o in c["outputs"]]
    assert [o for o in outputs if o["output_type"] == "error"] == [], (
        "an error is stored"
    )


def test_films():
    "Films are small, and each is shown somewhere."
    text = "".join(f.read_text(encoding="utf-8") for f in NBS)
    films = [f for f in (ROOT / "nbs/images").iterdir() if not f.name.startswith(".")]
    assert (
        films
        and [
            f.name
            for f in films
            if f.stat().st_size >= 1_000_000 or f"](images/{f.name})" not in text
        ]
        == []
    )


@each
def test_page_weight(path):
    """A page and its films weigh at most 2 MB, the first page 0.5 MB: of 3 and 1.5 MB,
    the rest is for the site's own files.
    """
    films = re.findall(r"\]\((images/[^)]+)\)", path.read_text(encoding="utf-8"))
    assert path.stat().st_size + sum(
        (ROOT / "nbs" / f).stat().st_size for f in films
    ) <= (500_000 if path.stem == "index" else 2_000_000)


@pytest.mark.parametrize(
    "path",
    [
        *CHAPTERS,
        *(
            ROOT / f"nbs/{name}.ipynb"
            for name in (
                "results",
                "speed",
                "architectures",
                "train_rf",
                "train_sde",
                "train_pfgm",
                "train_transfer",
            )
        ),
    ],
    ids=lambda p: p.stem,
)
def test_executed(path):
    "A cell that prints or draws at its top level has kept its output."
    shows = re.compile(r"^(print\(|plt\.|.*plt\.subplots\()", re.M)
    bare = [
        src
        for c, src in code(path)
        if shows.search(src)
        and "#| eval: false" not in src
        and not exported(src)
        and not c["outputs"]
    ]
    assert bare == [], (
        f"{len(bare)} cells are not executed, the first begins {bare[0][:80]!r}"
    )


def test_parts_can_be_read():
    """No function or method is longer than 40 lines of code, no class than 80 in all,
    and few methods are patched onto a class.
    """
    found = {f"{m}.{k}": n for m, s in read().items() for k, n in parts(s)}
    most = lambda name: 80 if name.rpartition(".")[2][0].isupper() else 40
    assert {name: n for name, n in found.items() if n > most(name)} == {}
    inside, patched = map(sum, zip(*map(methods, read().values())))
    assert patched <= 0.1 * inside


def test_length():
    source = """def f(
    a,  # first
    b,  # second
):
    "What it is."
    # why

    c = a + b
    return c
"""
    assert length(ast.parse(source).body[0], source) == 3


def test_prose_and_code(capsys):
    """Words of prose and lines of code of each chapter, printed; no chapter is a
    listing.
    """
    with capsys.disabled():
        for path in CHAPTERS:
            prose = [
                "".join(c["source"])
                for c in cells(path)
                if c["cell_type"] == "markdown"
            ]
            out = [src for _, src in code(path) if exported(src)]
            words = sum(len(p.split()) for p in prose)
            lines = sum(len(src.splitlines()) for _, src in code(path))
            print(
                f"\n{path.stem:14} {words:5} words, {lines:4} lines of code, "
                f"{words / lines:.1f} words a line; {len(prose)} cells of prose, "
                f"{len(out)} exported",
                end="",
            )
            assert len(prose) >= 0.6 * len(out), path


@each_chapter
def test_title_cell(path):
    """nbdev drops all but title and description from the first cell, and names the
    module after the file.
    """
    first = "".join(cells(path)[0]["source"]).strip()
    assert re.fullmatch(r"# .+\n\n> .+(\n- \w+: .+)*", first), first
    assert path.stem.split("_", 1)[1] in dict(pages())[path].split(".")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "odeflow").rglob("[!_]*.py")), ids=lambda p: p.stem
)
def test_docstrings(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    public = next(
        ast.literal_eval(n.value)
        for n in body
        if isinstance(n, ast.Assign) and n.targets[0].id == "__all__"
    )
    bare = [
        n.name
        for n in body
        if isinstance(n, (ast.FunctionDef, ast.ClassDef))
        and n.name in public
        and not ast.get_docstring(n)
    ]
    assert bare == [], f"no docstring: {bare}"


def test_reading_order():
    "A module imports only from those that are read before it."
    sources = read()
    assert [*upward(sources, [*sources])] == []
    assert {f"{m.replace('.', '/')}.py" for m in sources} == {
        f.relative_to(ROOT / "odeflow").as_posix()
        for f in (ROOT / "odeflow").rglob("[!_]*.py")
    }


UP = [("low", "part.high")]


@pytest.mark.parametrize(
    "line, found",
    [
        ("from .part.high import f", UP),
        ("import odeflow.part.high", UP),
        ("from odeflow.part import high", UP),
        ("from .part import high as h", UP),
        ("def f():\n    from .part import high", UP),
        ("import importlib\nimportlib.import_module('odeflow.part.high')", UP),
        ("def f(name): return __import__(name)", [("low", "?")]),
        ("def f(name): exec(name)", [("low", "?")]),
        ("from .low import g", [("low", "low")]),
        ("import json, torch", []),
    ],
)
def test_arrows_upward_are_found(line, found):
    "Whatever its form; a circle has at least one."
    sources = {"low": line, "part.high": "from ..low import f\nfrom . import low"}
    assert [*dict.fromkeys(upward(sources, ["low", "part.high"]))] == found
    assert [*arrows("from ..low import f", "part.high")][0] == "odeflow.low"


def test_the_house_is_shown():
    "The tree that the first chapter prints is the one on disk."
    (cell,) = [c for c, src in code(CHAPTERS[0]) if 'tree, part = ["odeflow/"]' in src]
    printed = "".join(cell["outputs"][0]["text"]).splitlines()
    room, shown = "", []
    for line in printed[1:]:
        name = line.split()[0]
        room = name if name.endswith("/") else room if line[:8].isspace() else ""
        if name.endswith(".py"):
            shown.append((room + name)[:-3].replace("/", "."))
    assert shown == [m for _, m in pages()]


def test_lint_and_format():
    "ruff: what is wrong, and one format, for notebooks and scripts alike."
    for what in (["check"], ["format", "--check"]):
        run = call(BIN / "ruff", *what, "--no-cache", "--quiet", ".", cwd=ROOT)
        assert run.returncode == 0, run.stdout[-3000:] + run.stderr


def test_types():
    run = call(BIN / "mypy", "--no-error-summary", cwd=ROOT)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr


def test_one_face():
    "Every public name is there, and none is loaded before it is used."
    look = """
import sys, odeflow
assert not {"torch", "numpy", "matplotlib"} & sys.modules.keys()
for name in dir(odeflow):
    assert getattr(odeflow, name) is not None
from odeflow import metrics, poisson, rectified
print(len(dir(odeflow)), rectified.RectifiedFlow.__module__, metrics.fid.__module__)
"""
    run = call(sys.executable, "-W", "error", "-c", look, cwd=ROOT)
    assert run.stdout.split()[1:] == [
        "odeflow.rectified.flow",
        "odeflow.metrics.evaluation",
    ], run.stderr
    assert int(run.stdout.split()[0]) > 60


@pytest.mark.parametrize("words", ["--help", "train rf --help", "train rf --roundz 2"])
def test_words_without_torch(words):
    "Help, and a word that is wrong, are answered before torch could be loaded."
    look = f"""
import sys
from odeflow.cli import main
try:
    main({words.split()})
except SystemExit:
    pass
print({{"torch", "numpy", "matplotlib"}} & sys.modules.keys())
"""
    run = call(sys.executable, "-c", look, cwd=ROOT)
    assert run.stdout.splitlines()[-1] == "set()", run.stdout + run.stderr


def test_a_notebook_refuses_a_wrong_word_without_torch(tmp_path):
    "The check of an experiment's parameters comes before what takes seconds to load."
    for page in sorted((ROOT / "nbs").glob("train_*.ipynb")):
        cells = json.loads(page.read_text())["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        (k,) = [i for i, c in enumerate(code) if "params.check" in c]
        look = "\n".join([*code[: k + 1], "import sys"])
        look += "\nprint({'torch', 'numpy'} & sys.modules.keys())"
        run = call(sys.executable, "-c", look, cwd=tmp_path)
        assert run.stdout == "set()\n", run.stdout + run.stderr


@pytest.mark.parametrize(
    "old, name",
    [
        ("flow", "sample"),
        ("sde", "VP"),
        ("pfgm", "PFGM"),
        ("pfgmpp", "PFGMPP"),
        ("field", "poisson_field"),
        ("prior", "sample_prior"),
        ("reflow", "straightness"),
        ("train", "train"),
        ("solve", "log_likelihood"),
        ("report", "table"),
        ("transfer", "FeatureFlow"),
    ],
)
def test_paths_of_the_first_release(old, name):
    "They work, and say where the name lives now."
    with pytest.warns(FutureWarning, match=f"odeflow.{old}.{name} has moved to"):
        assert callable(getattr(importlib.import_module(f"odeflow.{old}"), name))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr(importlib.import_module(f"odeflow.{old}"), "nothing")


def test_a_function_with_the_name_of_an_old_module():
    "`odeflow.train` is the function, also when somebody has imported the old module."
    look = """
import warnings, odeflow
warnings.simplefilter("ignore")
from odeflow.train import Recipe
from odeflow.reflow import Coupling
try:
    odeflow.train("no flow")
except TypeError as e:
    assert "train() missing" in str(e), e
try:
    odeflow.reflow("no flow")
except TypeError as e:
    assert "reflow() missing" in str(e), e
"""
    run = call(sys.executable, "-c", look, cwd=ROOT)
    assert run.returncode == 0, run.stderr


NBDEV = [k for k in PROJECT["project"]["scripts"] if k.startswith("nbdev_")]


def test_nbdev_commands_without_nbdev():
    "A user who has no nbdev gets a sentence, not a traceback."
    for name in NBDEV:
        look = f"""
import sys
sys.modules["nbdev"] = None
sys.argv = ["bin/{name}"]
from odeflow._nbdev import main
main()
"""
        run = call(sys.executable, "-c", look, cwd=ROOT)
        said = f"{name}: nbdev is not installed; it comes with"
        assert run.returncode == 1 and run.stderr.startswith(said), run.stderr


def test_nbdev_commands_are_told_their_words():
    "They read their arguments, which they once dropped without a word."
    bin = Path(sys.executable).parent
    for name in NBDEV:
        run = call(bin / name, "--no-such-option", cwd=ROOT)
        said = f"{name}: error: unrecognized arguments: --no-such-option"
        assert run.returncode == 2 and said in run.stderr, run.stderr


def test_no_machine_in_the_project():
    "No path of the machine it was made on, and no package registry's address."
    listed = call("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout")
    bad = re.compile(
        r"(?<![\w.+/=-])/(?:work|root|tmp|home|Users|opt)/\w|pythonho"
        + r"sted|pypi[.]o"
        + r"rg|regis"
        + r"try[.]npm"
    )
    text = {
        f: (ROOT / f).read_text(encoding="utf-8", errors="ignore")
        for f in listed.stdout.splitlines()
        if (ROOT / f).is_file()
    }
    assert [f"{f}: {m.group(0)}" for f, t in text.items() if (m := bad.search(t))] == []


def test_commands(tmp_path):
    "The names that people type exist, and lead to functions."
    for name, target in PROJECT["project"]["scripts"].items():
        module, function = target.split(":")
        assert (
            callable(getattr(importlib.import_module(module), function))
            and (BIN / name).exists()
        ), name
    assert [
        c for c in ("papermill", "jupytext", "jupyter") if not (BIN / c).exists()
    ] == []
    run = call(
        sys.executable, "-c", "import odeflow; print(odeflow.__version__)", cwd=tmp_path
    )
    assert run.stdout.strip() == get_config(ROOT).version, run.stderr


@pytest.mark.parametrize(
    "python, said",
    [
        ("no-such-python", "is not a command"),
        ("old", "older than Python 3.10"),
        ("bare", "venv module"),
    ],
)
def test_unfit_python(tmp_path, python, said):
    """`make` on a machine without a fit Python says so in one sentence and leaves
    nothing behind.
    """
    for f in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / f, tmp_path / f)
    for name, fails_on in (("old", "version_info"), ("bare", "ensurepip")):
        (tmp_path / name).write_text(
            f'#!/bin/sh\ncase "$2" in *{fails_on}*) exit 1;; esac\n'
        )
        (tmp_path / name).chmod(0o755)
    run = call(
        "make",
        "demo",
        f"PYTHON={python if '-' in python else tmp_path / python}",
        cwd=tmp_path,
    )
    assert run.returncode and said in run.stderr and not (tmp_path / ".venv").exists()
    assert len([l for l in run.stderr.splitlines() if "Error" not in l]) == 1, (
        run.stderr
    )


def test_installed_once(tmp_path):
    """An installation is not repeated for a newer date of pyproject.toml, which
    nbdev_export rewrites, but for other requirements or another place.
    """
    for f in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / f, tmp_path / f)
    plan = lambda cwd: call("make", "-n", "readme", cwd=cwd).stdout
    assert "-m venv" in plan(tmp_path)
    (tmp_path / ".venv").mkdir()
    checksum = " ".join(
        call("sh", "-c", "cksum < pyproject.toml", cwd=tmp_path).stdout.split()
    )
    (tmp_path / ".venv/.installed").write_text(f"{tmp_path} {checksum}")
    os.utime(tmp_path / "pyproject.toml", (2e9, 2e9))
    assert "-m venv" not in plan(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "elsewhere")
    assert "-m venv" in plan(tmp_path / "elsewhere")
    with open(tmp_path / "pyproject.toml", "a") as f:
        f.write("# other requirements\n")
    assert "-m venv" in plan(tmp_path)


def test_make_help():
    text = call("make", "help", cwd=ROOT).stdout
    assert [
        t
        for t in (
            "demo",
            "table",
            "records",
            "rehearsal",
            "test",
            "faults",
            "bench",
            "lab",
            "run",
            "readme",
            "docs",
            "clean",
        )
        if f"make {t} " not in text
    ] == []
