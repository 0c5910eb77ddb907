"""What the package is made of: arrows between its modules, and how long its parts are.

python tools/house.py     the longest functions, the share of patched methods
"""

import ast
import functools
import io
import json
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def pages(root=ROOT):
    "The chapters in reading order: (path of the notebook, name of its module)."
    for path in sorted((root / "nbs").glob("[0-9]*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for c in cells:
            if found := re.match(r"#\| default_exp ([\w.]+)", "".join(c["source"])):
                yield path, found[1]


def arrows(source, module):
    """The modules of odeflow that a module's source imports, wherever it does: at the
    top, in a function, or by name at run time.
    """
    package = ["odeflow", *module.split(".")[:-1]]
    for n in ast.walk(ast.parse(source)):
        if isinstance(n, ast.Import):
            yield from (a.name for a in n.names)
        elif isinstance(n, ast.ImportFrom):
            base = package[: len(package) - n.level + 1] if n.level else []
            start = ".".join([*base, *([n.module] if n.module else [])])
            yield start
            yield from (f"{start}.{a.name}" for a in n.names)
        elif isinstance(n, ast.Call) and n.args:
            called = ast.unparse(n.func).rpartition(".")[2]
            name = n.args[0]
            if called in ("import_module", "__import__") and not (
                isinstance(name, ast.Constant)
            ):
                yield "odeflow.?"  # who knows what
            elif called in ("import_module", "__import__"):
                yield name.value
            elif called in ("exec", "eval"):
                yield "odeflow.?"


def upward(sources, order):
    "Arrows from a module to itself or to one that is read later: (from, to)."
    place = {f"odeflow.{m}": k for k, m in enumerate(order)}
    for module in order:
        for to in arrows(sources[module], module):
            if to == "odeflow.?" or place.get(to, -1) >= place[f"odeflow.{module}"]:
                yield module, to.removeprefix("odeflow.")


@functools.cache
def comments(source):
    "The lines that hold nothing but a comment."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    alone = lambda t: t.type == tokenize.COMMENT and not t.line[: t.start[1]].strip()
    return {t.start[0] for t in tokens if alone(t)}


def length(node, source):
    "Lines of code of a function or class: no signature, docstring, comment or blank."
    bodies = [
        n for n in ast.walk(node) if isinstance(n, (ast.FunctionDef, ast.ClassDef))
    ]
    skipped = set()
    for n in bodies:
        first = n.body[0]
        skipped.update(range(n.lineno + 1, first.lineno))  # the signature's own lines
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            skipped.update(range(first.lineno, first.end_lineno + 1))
    skipped |= comments(source)
    lines = source.splitlines()
    span = range(node.lineno, node.end_lineno + 1)
    return sum(1 for k in span if k not in skipped and lines[k - 1].strip())


def parts(source):
    "Functions, methods and classes of a module: (name, lines of code)."
    for n in ast.parse(source).body:
        if isinstance(n, ast.FunctionDef):
            yield n.name, length(n, source)
        elif isinstance(n, ast.ClassDef):
            yield n.name, length(n, source)
            for m in n.body:
                if isinstance(m, ast.FunctionDef):
                    yield f"{n.name}.{m.name}", length(m, source)


def methods(source):
    "How many methods are in classes, and how many are patched onto them."
    tree = ast.parse(source)
    inside = sum(
        isinstance(m, ast.FunctionDef)
        for c in tree.body
        if isinstance(c, ast.ClassDef)
        for m in c.body
    )
    patched = sum(
        isinstance(f, ast.FunctionDef)
        and any("patch" in ast.unparse(d) for d in f.decorator_list)
        for f in tree.body
    )
    return inside, patched


def read(root=ROOT):
    "The sources of all modules, in reading order."
    path = lambda module: root / "odeflow" / (module.replace(".", "/") + ".py")
    return {m: path(m).read_text(encoding="utf-8") for _, m in pages(root)}


if __name__ == "__main__":
    sources = read()
    found = [(n, f"{m}.{part}") for m, s in sources.items() for part, n in parts(s)]
    for n, name in sorted(found, reverse=True)[:25]:
        print(f"{n:4} {name}")
    inside, patched = map(sum, zip(*map(methods, sources.values())))
    share = patched / (inside + patched)
    print(f"{patched} patched methods, {inside} in classes: {share:.0%}")
    print("upward:", [*upward(sources, [*sources])])
