"""The documentation without Quarto: what README.md must hold, and a check of every page
of the site.

python tools/website.py readme   puts the demo's record into nbs/index.ipynb, and writes
README.md
python tools/website.py check    checks the site
"""

import json
import os
import posixpath
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import yaml

ROOT = Path(__file__).resolve().parent.parent


def with_numbers(text) -> str:
    """Text whose part between the two marks of the demo's numbers is the table of
    nbs/records/train_rf.
    """
    from odeflow.records import read_results, table

    demo = [
        r
        for r in read_results(ROOT / "nbs/records/train_rf")
        if r["solver"] == "rk45" or r["nfe"] == 1
    ]
    rows = table(
        demo, ("system", "distilled", "solver", "nfe", "frechet", "images", "minutes")
    ).markdown()
    return re.sub(
        r"(?<=<!-- demo numbers: begin -->\n).*?(?=<!-- demo numbers: end -->)",
        lambda m: f"\n{rows}\n\n",
        text,
        flags=re.S,
    )


def fill_index():
    "Bring nbs/index.ipynb up to the demo's record."
    path = ROOT / "nbs/index.ipynb"
    nb = json.loads(path.read_text(encoding="utf-8"))
    for c in nb["cells"]:
        c["source"] = with_numbers("".join(c["source"])).splitlines(True)
    path.write_text(
        json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n",
        encoding="utf-8",
    )


def readme() -> str:
    """The text of README.md: nbs/index.ipynb as markdown, its links relative to the
    project's root. Pictures are files, not outputs.
    """
    from nbconvert import MarkdownExporter

    body, _ = MarkdownExporter().from_filename(str(ROOT / "nbs/index.ipynb"))
    body = re.sub(
        r"\]\((?![a-z]+:|#)([^)\s]+)",
        lambda m: f"]({posixpath.normpath('nbs/' + m[1])}",
        body,
    )
    return (
        "<!-- Made by `make readme` from nbs/index.ipynb: edit that. -->\n\n"
        + re.sub(r"\n{3,}", "\n\n", body).strip()
        + "\n"
    )


class Page(HTMLParser):
    """A rendered page: its anchors, links, citations, pictures without a description,
    and visible text outside code and formulas.
    """

    def __init__(self, html):
        super().__init__()
        self.ids = set()
        self.links = []
        self.cites = []
        self.mute = []
        self.text = []
        self.quiet = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if "id" in a:
            self.ids.add(a["id"])
        self.links += [a[k] for k in ("href", "src") if a.get(k)]
        if tag == "img" and not a.get("alt"):
            self.mute.append(a.get("src", ""))
        if a.get("class") == "citation":
            self.cites += a["data-cites"].split()
        self.quiet += tag in ("pre", "code", "math")

    def handle_endtag(self, tag):
        self.quiet -= tag in ("pre", "code", "math")

    def handle_data(self, data):
        if not self.quiet:
            self.text.append(data)


# Quarto's cross-references, which plain pandoc leaves alone
LABEL = re.compile(r"\{#((?:eq|fig|tbl|sec)-[\w-]+)\}")
# what must not be seen by a reader
RAW = re.compile(r"\$|\\[a-zA-Z]+|:::|\{[#.]\w|\]\(|^\s*\|-", re.M)


def figure(src) -> str:
    """A figure as Quarto makes it of a code cell that draws, with the cell's label,
    caption and alternative text; without one of them, a picture that lacks a
    description.
    """
    said = (
        yaml.safe_load(
            "\n".join(re.findall(r"^#\| ((?:label|fig-cap|fig-alt): .*)", src, re.M))
        )
        or {}
    )
    drawn = f"cell:{quote(src.strip().splitlines()[-1])}.png"
    return (
        f"![{said['fig-cap']}]({drawn}){{#{said['label']} "
        f"alt={json.dumps(said['fig-alt'])}}}"
        if len(said) == 3
        else f"![]({drawn})"
    )


def markdown(nb) -> str:
    """A processed notebook as the markdown that Quarto would make of it; of pictures
    that cells draw, their descriptions.
    """
    parts = []
    for c in nb["cells"]:
        src = "".join(c["source"])
        if c["cell_type"] != "code":
            parts.append(src)
            continue
        if "#| echo: false" not in src:
            parts.append(f"````\n{src}\n````")
        for o in c.get("outputs", []):
            data = o.get("data", {"text/plain": o.get("text", "")})
            if "text/markdown" in data:
                parts.append("".join(data["text/markdown"]))
            elif any(k.startswith("image/") for k in data):
                parts.append(figure(src))
            else:
                parts.append(f"````\n{''.join(data.get('text/plain', ''))}\n````")
    return "\n\n".join(parts)


def bibliography(path) -> set:
    "The keys of a BibTeX file."
    return (
        set(re.findall(r"^@\w+\{([^,\s]+),", path.read_text(encoding="utf-8"), re.M))
        if path.exists()
        else set()
    )


def render(text, known=frozenset()) -> tuple:
    """(page, complaints): markdown through pandoc, formulas as MathML so that a broken
    one is a warning; `known` are the works that may be cited.
    """
    import pypandoc

    run = subprocess.run(
        [
            pypandoc.get_pandoc_path(),
            "-f",
            "markdown-raw_tex",
            "-t",
            "html",
            "--mathml",
            "--fail-if-warnings",
        ],
        input=LABEL.sub("", text),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    page = Page(run.stdout)
    page.ids |= set(LABEL.findall(text))
    bad = [run.stderr.strip()] if run.returncode or run.stderr.strip() else []
    bad += [
        f"visible in the text: {' '.join(t.split())[:120]!r}"
        for t in page.text
        if RAW.search(t)
    ]
    bad += [f"the picture {unquote(src)} has no description" for src in page.mute]
    return page, bad + [
        f"@{c} refers to nothing on this page, and is no work of references.bib"
        for c in page.cites
        if c not in page.ids | known
    ]


def process() -> tuple:
    "(folder of processed pages, nbdev's settings)"
    from nbdev.config import get_config
    from nbdev.serve import proc_nbs

    os.chdir(ROOT)
    os.environ.pop("IN_TEST", None)
    return proc_nbs(n_workers=min(2, os.cpu_count())), get_config()


def targets(x):
    "Every file that _quarto.yml names."
    if isinstance(x, dict):
        return [t for v in x.values() for t in targets(v)]
    if isinstance(x, list):
        return [t for v in x for t in targets(v)]
    return (
        [x]
        if isinstance(x, str) and re.fullmatch(r"[\w./-]+\.(ipynb|qmd|css|yml|bib)", x)
        else []
    )


def dead(link, page, pages, cache, home) -> bool:
    "Is this a link into the site, or to a file of ours, that leads nowhere?"
    if link.startswith(home):
        link = link[len(home) :].lstrip("/") or "index.html"
    url = urlsplit(link)
    if url.scheme or url.netloc:
        return False
    path = (
        re.sub(r"^\d+\w*?_", "", url.path.lower())
        if url.path.endswith(".ipynb") and (cache / url.path).exists()
        else url.path
    )
    name = (
        Path(path).with_suffix(".html").name
        if path.endswith((".html", ".ipynb"))
        else ""
    )
    if not path:
        return bool(url.fragment) and unquote(url.fragment) not in pages[page].ids
    if name not in pages:
        return not (cache / url.path).exists() or ".." in Path(url.path).parts
    return bool(url.fragment) and unquote(url.fragment) not in pages[name].ids


def check_site() -> list:
    "What is wrong with the site, a sentence each; an empty list is a good site."
    from nbdev.config import nbpath2html

    try:
        cache, cfg = process()
    except Exception as e:
        return [
            "nbdev cannot process the notebooks (building the site executes every "
            f"cell that imports, so such a cell should do nothing else): {e}"
        ]
    pages = {}
    bad = []
    works = bibliography(cache / "references.bib")
    cited = set()
    for f in sorted(cache.glob("*.ipynb")):
        name = nbpath2html(f).name
        if name in pages:
            bad.append(f"{f.name}: another notebook already makes {name}")
        pages[name], wrong = render(
            markdown(json.loads(f.read_text(encoding="utf-8"))), works
        )
        cited |= {*pages[name].cites}
        bad += [f"{f.name}: {w}" for w in wrong]
    for name, page in pages.items():
        bad += [
            f"{name}: the link {l} leads nowhere"
            for l in sorted(set(page.links))
            if dead(l, name, pages, cache, cfg.doc_host + cfg.doc_baseurl)
        ]
    bad += [f"references.bib: nobody cites {k}" for k in sorted(works - cited)]
    named = targets(yaml.safe_load((cache / "_quarto.yml").read_text()))
    bad += [
        f"_quarto.yml: {t} does not exist" for t in named if not (cache / t).exists()
    ]
    return bad + [
        f"_quarto.yml: the sidebar lacks {f.name}"
        for f in sorted(cache.glob("*.ipynb"))
        if f.name not in named
    ]


if __name__ == "__main__":
    if sys.argv[1:] == ["readme"]:
        fill_index()
        (ROOT / "README.md").write_text(readme(), encoding="utf-8")
    elif sys.argv[1:] == ["check"]:
        bad = check_site()
        sys.exit(
            "\n".join(bad)
            if bad
            else print(
                "The site's pages, links, formulas and table of contents are in order."
            )
        )
    else:
        sys.exit(__doc__)
