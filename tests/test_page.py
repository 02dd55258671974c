"""The page of both reports: what a record says stays text, nothing is asked of other machines, both languages show."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from scripts.page import plain, side_by_side, table, write_page

HOSTILE = [
    "<script>alert(1)</script>",
    '<img src="https://evil.example/x.png" onerror="alert(1)">',
    "![x](https://evil.example/x.png)",
    "[click](https://evil.example)",
    "<https://evil.example>",
    "[click][1]\n\n[1]: https://evil.example",
    '<mark onclick="alert(1)">',
    "<details open>",
    "[x](javascript:alert(1))",
]


def written(folder: Path, english: str, chinese: str = "# 报告\n\n## 一\n") -> str:
    titles = {"en": "A <report>", "zh": "报告"}
    write_page(folder / "page.html", titles, {"en": english, "zh": chinese}, {"plots/loss.svg": "<svg>ours</svg>"})
    return (folder / "page.html").read_text()


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("escaped", [True, False])
def test_what_a_record_says_is_text(tmp_path, text, escaped):
    """Also where a caller forgot `plain`."""
    shown = plain(text) if escaped else text
    page = written(tmp_path, f"# A\n\n{shown}\n\n{table(['a'], [[plain(text)]])}")
    article = page.split("<article", 1)[1]
    ours = ("nav", "b", "ol", "li", "h2", "article", "h1", "p", "table", "thead", "tbody", "tr", "th", "td", "br")
    assert set(re.findall(r"<(\w+)", article)) <= {*ours, "a"}
    assert re.findall(r"<a [^>]*>|<[^>]*\bon\w+=", article) == ['<a href="#zh-1">']


@pytest.mark.parametrize(
    "text",
    [*HOSTILE, "a | b * c_d_ `e` #1 ~~f~~ $x$ 1 < 2 &amp; \\", "first\nsecond", "first\rsecond", "first\r\nsecond"],
)
def test_plain_shows_a_text_as_it_is(tmp_path, text):
    page = written(tmp_path, table(["a"], [[plain(text)]]))
    cell = page.split("<td>")[1].split("</td>")[0]
    assert html.unescape(cell.replace("<br>", "\n").replace("<br />", "\n")) == re.sub(r"[\r\n]+", "\n", text)


def test_nothing_is_asked_of_another_machine(tmp_path):
    page = written(tmp_path, "# A\n\n![loss](plots/loss.svg)\n\n![other](other.png)\n")
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert page.count("data:image/svg+xml;base64,") == 1
    assert "![other](other.png)" in page


def test_contents_and_both_languages(tmp_path):
    page = written(tmp_path, "# A\n\nSummary.\n\n## One `x`\n\ntext\n\n## Two\n")
    assert page.index("Summary.") < page.index("<nav") < page.index('<h2 id="en-1">')
    assert '<li><a href="#en-1">One <code>x</code></a></li><li><a href="#en-2">Two</a></li>' in page
    assert re.search(r'id="show-en" checked>English.*id="show-zh">中文', page)
    assert "<title>A &lt;report&gt; · 报告</title>" in page


def test_differing_words_are_marked():
    left, right = side_by_side("A fever of 3 days,\nthen a *cough*.", "A fever of 14 days,\nthen a *rash*.")
    assert left == "A fever of <mark>3</mark> days,<br>then a \\*<mark>cough</mark>\\*."
    assert right == "A fever of <mark>14</mark> days,<br>then a \\*<mark>rash</mark>\\*."
    assert side_by_side("患者发热三天", "患者发热五天")[0] == "患者发热<mark>三</mark>天"
    assert side_by_side("same", "same") == ("same", "same")


def test_no_empty_table():
    assert table(["a"], []) == ""
