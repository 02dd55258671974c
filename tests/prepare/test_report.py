"""The data report: one dictionary in every form, nothing of a record active in any of them."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser

import pytest
import yaml
from markdown_it import MarkdownIt

from scripts.common import NOTICE, NOTICE_ZH
from scripts.prepare import report as reports
from scripts.prepare.clean import FILTERS
from scripts.prepare.records import REASONS

ATTACK = (
    "<img src=http://evil.example/x.png> ![p](http://evil.example/y.png) [click](javascript:alert(1)) "
    "<script>alert(1)</script> | a | b |\n\n# heading\r\n- `tick` ``` <a href='http://evil.example'>a</a> "
    "<details open><mark> http://evil.example www.evil.example &lt;img&gt; <!-- \u2028 --> </td></table> $x$ \\"
)
RECORD = {"source": "own.jsonl", "line": 3, "reason": "cut_off_answer", "matched": "…", "text": ATTACK}
REPORT = {
    "name": "med_o1",
    "provenance": {"command": "python -m scripts.prepare own.jsonl", "versions": {"datasets": "4.0"}, "commit": None},
    "settings": {"seed": 42, "threshold": 0.5},
    "sources": [{"source": "own|1.jsonl", "read": 1200, "kept": 1000, "rejected": 200}],
    "read": 1200,
    "kept": 1000,
    "rejected": 200,
    "reasons": {"leak_quoted": 1, "duplicate_near": 1, "cut_off_answer": 190, "own_rule": 8},
    "warnings": {"repaired_markup": 4},
    "personal": {"rows": 4, "kinds": {"phone": 4}, "rejected": False},
    "system_texts": {ATTACK: 7},
    "splits": {
        "train": {"records": 850, "tokens": 850_000, "zh": 800, "en": 50},
        "val": {"records": 50, "tokens": 50_000, "zh": 50, "en": 0},
        "test": {"records": 100, "tokens": 99_000, "zh": 100, "en": 0},
    },
    "lengths": {"checked": True, "p50": 500, "p95": 1500, "max": 2040, "cutoff_len": 2048},
    "benchmarks": {"cmexam.jsonl": 6811},
    "examples": {
        "cut_off_answer": [RECORD],
        "own_rule": [{**RECORD, "reason": "own_rule", "matched": ATTACK}],
        "leak_quoted": [
            {
                **RECORD,
                "reason": "leak_quoted",
                "where": "thought",
                "leaked": ATTACK,
                "item_text": ATTACK,
                "matched": "b/7",
            }
        ],
        "duplicate_near": [
            {
                **RECORD,
                "reason": "duplicate_near",
                "similarity": 0.83,
                "text": "What treats a fever of 40 degrees?",
                "kept": {"source": "own.jsonl", "line": 1, "text": "What treats a fever of 39 degrees?"},
            }
        ],
    },
    "files": {"med_o1_train.jsonl": {"records": 850, "sha256": "ab" * 32}},
}


def changed(**values) -> dict:
    return {**copy.deepcopy(REPORT), **values}


class Page(HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_all_forms_are_written_and_named_after_the_data_set(tmp_path):
    reports.write_reports(tmp_path, "med_o1", REPORT)
    names = {"report.md", "report.zh.md", "report.html", "DATA_CARD.md"}
    assert {path.name for path in tmp_path.iterdir()} == {f"med_o1_{name}" for name in names}
    html = (tmp_path / "med_o1_report.html").read_text()
    assert NOTICE in html
    assert NOTICE_ZH in html
    assert "1,200 rows read, 1,000 (83.3%) were kept and 200 rejected" in html
    assert "共读取 1,200 行" in html
    assert "<mark>39</mark>" in html
    assert "<mark>40</mark>" in html


def test_nothing_of_a_record_is_active(tmp_path):
    reports.write_reports(tmp_path, "x", REPORT)
    page = Page((tmp_path / "x_report.html").read_text())
    ours = {"table", "thead", "tbody", "tr", "th", "td", "br", "mark", "small", "code", "h1", "h2", "h3", "p", "ul"}
    ours |= {"li", "ol", "nav", "article", "strong", "blockquote", "b", "a", "div", "label", "input", "html", "head"}
    ours |= {"meta", "title", "style", "body", "script"}
    assert {tag for tag, _ in page.tags} <= ours
    assert [tag for tag, _ in page.tags].count("script") == 1, "the language's own"
    assert all(about["href"].startswith("#") for tag, about in page.tags if tag == "a")
    assert all(not about for tag, about in page.tags if tag in ("td", "mark", "br", "small"))
    assert "<img src=http://evil.example/x.png>" in page.text, "shown as it was written"
    for path in tmp_path.glob("*.md"):
        text = path.read_text()
        shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
        tags = {tag for tag, _ in Page(shown).tags}
        assert not tags & {"img", "a", "script", "pre"}, path.name
        assert not re.search(r"(?<!\\)://|www\.evil", text), "no address that a hub would make a link of"


def test_a_record_never_breaks_its_table():
    text = reports.markdown(REPORT, "en")
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    for row in re.findall(r"<tr>.*?</tr>", rendered, re.S):
        cells = len(re.findall(r"<t[hd]", row))
        assert cells in (2, 3, 4, 5), row
    assert rendered.count("<h1>") == 1


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_reason_has_a_sentence(language):
    words = reports.Words(language)
    known = [*FILTERS, *REASONS, "other_language", "too_long", "personal_data", "duplicate_exact", "duplicate_near"]
    known += ["leak_verbatim", "leak_ngram", "leak_quoted"]
    assert set(known) <= words.reasons.keys()
    assert "`own_rule`" in words.means("own_rule")


def test_every_text_has_both_languages():
    texts = reports.read_json(reports.TEXTS)
    for kind in texts.values():
        for key, both in kind.items():
            assert len(both) == 2, key
            assert all(both), key
            assert sorted(re.findall(r"\{\w+\}", both[0])) == sorted(re.findall(r"\{\w+\}", both[1])), key


def test_what_to_do_next_stands_on_top():
    top = reports.markdown(REPORT, "en").split("##")[0]
    assert "4 kept records look as if they held personal data (phone 4)" in top
    assert "--reject-personal" in top
    assert "Not decontaminated" not in top
    bare = changed(
        personal={"rows": 4, "kinds": {"phone": 4}, "rejected": True},
        lengths={"checked": False, "p50": None, "p95": None, "max": None, "cutoff_len": 2048},
        benchmarks={},
    )
    bare["splits"]["test"] = {"records": 0, "tokens": 0, "zh": 0, "en": 0}
    top = reports.markdown(bare, "en").split("##")[0]
    assert "--reject-personal" not in top
    assert "Lengths were not checked" in top
    assert "Not decontaminated" in top
    assert "`test` split is empty" in top


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_empty_part(language):
    nothing = {"records": 0, "tokens": 0, "zh": 0, "en": 0}
    empty = changed(
        read=0, kept=0, rejected=0, sources=[], reasons={}, warnings={}, system_texts={}, examples={}, benchmarks={},
        personal={"rows": 0, "kinds": {}, "rejected": False}, files={},
        splits=dict.fromkeys(("train", "val", "test"), nothing),
        lengths={"checked": True, "p50": None, "p95": None, "max": None, "cutoff_len": 2048},
    )  # fmt: skip
    text = reports.markdown(empty, language)
    for part in text.split("\n## ")[1:]:
        assert part.partition("\n")[2].strip(), part
    titles = reports.Words(language)
    assert not any(f"## {titles(key)}\n" in text for key in ("rejected_why", "duplicates", "lengths", "system"))
    assert reports.data_card(empty)


def test_of_a_long_text_the_part_that_is_alike_is_shown():
    item = "Which drug is contraindicated in a patient with an allergy to penicillin and a rash?"
    thought = "Well, let me see. " * 3000 + item + " So I think." * 3000
    left, right = reports.beside(thought[:60_000], item)
    assert "allergy to penicillin" in reports.beside("x " * 400 + item + " y" * 900, item)[0]
    assert len(left) < 5000
    assert re.sub("</?mark>", "", right) == item


def test_the_card_opens_with_metadata_of_the_hub(tmp_path):
    card = reports.data_card(REPORT)
    header = yaml.safe_load(card.split("---")[1])
    assert header["language"] == ["zh", "en"]
    assert header["size_categories"] == "1K<n<10K"
    assert header["configs"][0]["data_files"][0] == {"split": "train", "path": "med_o1_train.jsonl"}
    assert NOTICE in card
