"""The data report of a real run: in every form, and nothing of a record active in any of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from scripts.common import NOTICE, NOTICE_ZH
from scripts.prepare import report as reports
from scripts.prepare.clean import FILTERS
from tests.prepare.conftest import EN, record, write

ATTACK = (
    "<img src=http://evil.example/x.png> ![p](http://evil.example/y.png) [click](javascript:alert(1)) "
    "<script>alert(1)</script> | a | b |\n\n# heading\r\n- `tick` ``` <a href='http://evil.example'>a</a> "
    "<details open><mark> http://evil.example www.evil.example &lt;img&gt; <!-- \u2028 --> </td></table> $x$ \\"
)
ITEM = "A 71-year-old woman with atrial fibrillation and a metallic mitral valve asks which drug prevents stroke best"
GOOD = record(*EN[0], "en")
ROWS = [
    GOOD,
    record(*EN[1], "en"),
    record(*EN[2], "en", system=ATTACK),
    GOOD | {"Question": EN[0][0].replace("crushing", "terrible")},
    GOOD | {"Question": ATTACK},
    GOOD | {"Response": f"I'm sorry, but I cannot help with that. {ATTACK}"},
    GOOD | {"Complex_CoT": f"{ATTACK} {ITEM}. {ATTACK}"},
    GOOD | {"Question": [ATTACK]},
    record(EN[3][0] + " Write to jane.doe@example.org.", "thyroid tests", "en"),
]
OURS = set(
    "html head meta title style script body nav article label input div table thead tbody tr th td br mark small code "  # noqa: SIM905
    "h1 h2 h3 p ul ol li strong blockquote b a".split()
)


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


@pytest.fixture
def out(tmp_path: Path, run: Callable) -> Path:
    """A folder with the report of the rows above."""
    run(write(tmp_path / "own.jsonl", ROWS), "--val", "0", "--test", "0.2")
    return tmp_path / "out"


def test_nothing_of_a_record_is_active_and_no_table_breaks(out: Path) -> None:
    page = Page((out / "t_report.html").read_text())
    assert {tag for tag, _ in page.tags} <= OURS
    assert [tag for tag, _ in page.tags].count("script") == 1, "the language's own"
    assert all(about["href"].startswith("#") for tag, about in page.tags if tag == "a")
    assert all(not about for tag, about in page.tags if tag in ("td", "mark", "br", "small"))
    assert "<img src=http://evil.example/x.png>" in page.text, "shown as it was written"
    for path in out.glob("t_*.md"):
        shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(path.read_text())
        tags = [tag for tag, _ in Page(shown).tags]
        assert not {"img", "a", "script", "pre"} & {*tags}, path.name
        assert tags.count("h1") == 1, path.name
        assert not re.search(r"(?<!\\)://|www\.evil", path.read_text()), "no address that a hub would make a link of"
        cells = {len(re.findall(r"<t[hd]", row)) for row in re.findall(r"<tr>.*?</tr>", shown, re.S)}
        assert cells <= {2, 3, 4, 5}, path.name


def test_what_was_found_and_what_to_do_stands_in_every_form(out: Path) -> None:
    html = (out / "t_report.html").read_text()
    for words in (
        NOTICE,
        NOTICE_ZH,
        "Rows read: 9. Kept: 4 (44.4%). Rejected: 5.",
        "共读取 9 行",
        "<mark>terrible</mark>",
        "电子邮箱 1 条）。请先",
    ):
        assert words in html
    text = (out / "t_report.md").read_text()
    assert re.search(r"items compared \| records that hold one \|\n.*\n.* \| 2 \| 1 \|", text)
    top = text.split("##")[0]
    assert "Kept records that look as if they held personal data: 1 (email 1)" in top
    assert "--reject-personal" in top
    assert "Records in the test split: 2. An evaluation on fewer than 20 gives no verdict" in top
    assert "Not decontaminated" not in top
    card = (out / "t_DATA_CARD.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert (header["language"], header["size_categories"]) == (["en"], "n<1K")
    assert header["configs"][0]["data_files"][0] == {"split": "train", "path": "t_train.jsonl"}
    assert NOTICE in card


def test_what_was_not_checked_is_said_and_no_part_is_empty(tmp_path: Path, run: Callable) -> None:
    source = write(tmp_path / "own.jsonl", [GOOD])
    found = run(source, "--no-lengths", "--benchmarks", "--test", "0.4")
    assert not {"tokenizer", "cutoff_len"} & set(found["settings"]), "nothing was counted by them"
    text = (tmp_path / "out/t_report.md").read_text()
    for words in ("Lengths were not checked", "Not decontaminated", "split is empty"):
        assert words in text.split("##")[0]
    for part in text.split("\n## ")[1:]:
        assert part.partition("\n")[2].strip(), part
    assert not re.search("## (What was rejected|Duplicates|Lengths|System)", text)


def test_every_text_and_reason_has_both_languages() -> None:
    texts = reports.TEXTS
    known = [*FILTERS, "other_language", "too_long", "personal_data", "duplicate_exact", "duplicate_near"]
    known += ["leak_verbatim", "leak_ngram", "leak_quoted", "not_json", "not_an_object", "bad_quotes", "wrong_fields"]
    known += ["duplicate_keys", "not_text", "several_turns", "unknown_turns", "open_thought", "text_before_thought"]
    assert set(known) <= texts["reasons"].keys()
    for key, (en, zh) in [*texts["words"].items(), *texts["reasons"].items()]:
        assert en and zh, key  # noqa: PT018
        assert sorted(re.findall(r"\{\w+\}", en)) == sorted(re.findall(r"\{\w+\}", zh)), key
    assert "`own_rule`" in reports.means("own_rule", reports.speaker("zh"))


def test_of_a_long_text_the_part_that_is_alike_is_shown() -> None:
    item = "Which drug is contraindicated in a patient with an allergy to penicillin and a rash?"
    left, right = reports.beside("Well, let me see. " * 900 + item + " So I think." * 900, item)
    assert "allergy to penicillin" in left
    assert len(left) < 5000
    assert re.sub("</?mark>", "", right) == item
