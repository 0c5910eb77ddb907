"""The explorer of the results page in headless Chromium: it sorts, filters and shows
the pictures of a row; without scripts the table stands with its pictures in it.
"""

import html
import json
import re
import shutil
import subprocess

import pytest
from play import ROOT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium; on Debian, apt install chromium"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--virtual-time-budget=10000 --dump-dom"
).split()
DRIVE = """
<script type="module">
const box = document.querySelector(".explorer");
const heads = [...box.querySelectorAll("th")];
const at = (name) => heads.findIndex((h) => h.textContent.startsWith(name));
const shown = () => [...box.querySelectorAll("tbody tr")].filter((r) => !r.hidden);
const value = (r, name) => {
  const c = r.cells[at(name)];
  return c.dataset.value ?? c.textContent;
};
const column = (name) => shown().map((r) => value(r, name));
const told = { all: shown().length };
const errors = [];
addEventListener("error", (e) => errors.push(e.message));
for (const name of ["distance", "system"]) {
  heads[at(name)].querySelector("button").click();
  told[`${name} up`] = column(name);
  heads[at(name)].querySelector("button").click();
  told[`${name} down`] = column(name);
}
const [systems, , kinds] = box.querySelectorAll("select");
const choose = (list, v) => {
  list.value = v;
  list.dispatchEvent(new Event("change"));
};
choose(systems, "VP");
told.filtered = column("system");
told.count = box.querySelector(".explorer-bar span").textContent;
choose(kinds, "student");
told.students = column("kind");
choose(kinds, "");
const row = shown().find((r) => r.dataset.grid);
row.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
const picture = box.querySelector(".explorer-side img");
await picture.decode();
told.picture = [row.dataset.grid, picture.getAttribute("src"), picture.naturalWidth];
told.selected = box.querySelectorAll("[aria-selected]").length;
told.small = getComputedStyle(row.querySelector("td img")).display;
told.errors = errors;
const end = document.createElement("pre");
end.id = "told";
end.textContent = JSON.stringify(told);
document.body.append(end);
</script>
"""


@pytest.fixture(scope="module")
def explorer():
    "The page's explorer, as the executed notebook holds it."
    cells = json.loads((ROOT / "nbs/results.ipynb").read_text())["cells"]
    (found,) = (
        "".join(o["data"]["text/html"])
        for c in cells
        for o in c.get("outputs", ())
        if 'class="explorer"' in "".join(o.get("data", {}).get("text/html", ""))
    )
    return found


def dom(body, tmp_path, policy=""):
    "What a browser makes of it."
    styles = (ROOT / "nbs/styles.css").read_text()
    page = tmp_path / "page.html"
    base = f'<base href="{(ROOT / "nbs").as_uri()}/">{policy}'
    page.write_text(
        f"<!doctype html><meta charset=utf-8>{base}<style>{styles}</style>{body}"
    )
    where = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [BROWSER, *FLAGS, where, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout


def test_it_is_that_of_the_file(explorer):
    script = (ROOT / "nbs/explorer.js").read_text()
    assert script in explorer
    assert len(script.splitlines()) <= 150


def test_sorted_filtered_shown(explorer, tmp_path):
    page = dom(explorer + DRIVE, tmp_path)
    told = json.loads(html.unescape(re.search(r'id="told">(.*?)</pre>', page)[1]))
    numbers = [float(v) for v in told["distance up"]]
    assert numbers == sorted(numbers) and len(numbers) == told["all"] > 50
    assert [float(v) for v in told["distance down"]] == numbers[::-1]
    assert told["system up"][0] != told["system up"][-1]
    assert told["system up"] != told["system down"]
    assert set(told["filtered"]) == {"VP"}
    assert told["count"] == f"{len(told['filtered'])} of {told['all']} rows"
    assert set(told["students"]) == {"student"}
    asked, src, width = told["picture"]
    assert asked == src and width > 64 and (ROOT / "nbs" / src).is_file()
    assert told["selected"] == 1 and told["small"] == "none" and told["errors"] == []


def test_without_scripts(explorer, tmp_path):
    off = """<meta http-equiv="Content-Security-Policy" content="script-src 'none'">"""
    page = dom(explorer, tmp_path, off)
    assert len(re.findall(r"<tr data-grid", page)) > 50
    assert '<div class="explorer-bar"' not in page
    assert '<div class="explorer-bar"' in dom(explorer, tmp_path)
    pictures = re.findall(r'<td><img src="([^"]+)" alt="64 samples', page)
    assert len(pictures) > 20 and all((ROOT / "nbs" / p).is_file() for p in pictures)


def test_weight(explorer):
    "What a reader loads: the table at once, pictures as they are looked at."
    pictures = set(re.findall(r'<img src="([^"]+)"', explorer))
    at = [(ROOT / "nbs" / html.unescape(p)).stat().st_size for p in pictures]
    print(
        f"table, script: {len(explorer) / 1e3:.0f} kB; pictures: {sum(at) / 1e6:.2f} MB"
    )
    assert len(explorer) < 200_000 and max(at) < 40_000 and sum(at) < 3_000_000
    assert explorer.count('loading="lazy"') >= len(pictures)
