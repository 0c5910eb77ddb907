"""The site: every page converts, every link and anchor leads somewhere, no markup is
left raw.
"""

import re

import pytest
from website import Page, check_site, dead, figure, render


def test_site():
    bad = check_site()
    assert not bad, "\n" + "\n".join(bad)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("## A\n\n$\\frac{1}{2$ and $x_$", "TeX"),
        ("the price is $x for each", "visible"),
        ("as @eq-nowhere says", "@eq-nowhere"),
        ("::: {.callout-note}\nunclosed", "not closed|unclosed|Div"),
        ("text\n::: {.callout-note}\nno blank line before it\n:::", "visible"),
        ("a letter outside a formula: \\alpha", "visible"),
        ("![](images/heart.webp)", "no description"),
    ],
)
def test_faults_are_seen(text, complaint):
    assert re.search(complaint, " ".join(render(text)[1])), render(text)[1]


DRAWN = """#| label: fig-curve\n#| fig-cap: "The curve of $e^{-t}$: an 'exponential'."\n#| fig-alt: "A curve that \\"falls\\"."\nplt.plot(t, y);"""  # noqa: E501


def test_figures_of_cells():
    """A picture that a cell draws has a label to refer to, a caption and an alternative
    text.
    """
    page, bad = render(figure(DRAWN) + "\n\nas @fig-curve shows")
    assert (
        bad == []
        and "fig-curve" in page.ids
        and any("exponential" in t for t in page.text)
    )
    for option in ("label", "fig-cap", "fig-alt"):
        assert "plt.plot(t, y)" in " ".join(
            render(figure(DRAWN.replace(f"#| {option}:", "#:")))[1]
        ), option


def test_citations():
    assert (
        "@liu2022" in " ".join(render("as [@liu2022, eq. 1] says")[1])
        and render("as [@liu2022, eq. 1] says", {"liu2022"})[1] == []
    )


def test_sound_page():
    page, bad = render(
        "## A flow\n\n$$ x = \\frac12 $$ {#eq-half}\n\n@eq-half; "
        "[back](#a-flow)\n\n![A "
        "heart](a/b.webp){#fig-heart}\n\n@fig-heart\n\n````python\nprice = '$5'\n````"
    )
    assert (
        bad == []
        and {"a-flow", "eq-half", "fig-heart"} <= page.ids
        and {"#a-flow", "a/b.webp"} <= {*page.links}
    )


@pytest.mark.parametrize(
    "link, is_dead",
    [
        ("#here", False),
        ("#gone", True),
        ("b.html#there", False),
        ("b.html#gone", True),
        ("c.html", True),
        ("01_b.ipynb#there", False),
        ("02_c.ipynb", True),
        ("images/a.webp", False),
        ("images/b.webp", True),
        ("../LICENSE", True),
        ("https://x.io/book/b.html#there", False),
        ("https://x.io/book/b.html#gone", True),
        ("https://x.io/book", False),
        ("https://elsewhere.io/c.html", False),
    ],
)
def test_dead_links(tmp_path, link, is_dead):
    (tmp_path / "LICENSE").touch()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/images").mkdir()
    for f in ("01_b.ipynb", "images/a.webp"):
        (tmp_path / "cache" / f).touch()
    pages = {
        "a.html": Page('<p id="here">'),
        "b.html": Page('<p id="there">'),
        "index.html": Page(""),
    }
    assert (
        dead(link, "a.html", pages, tmp_path / "cache", "https://x.io/book") == is_dead
    )
