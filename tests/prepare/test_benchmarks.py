# ruff: noqa: E501 - texts in tables stay on one line
"""Each benchmark's own form gives the right item; unclear rows are left out and counted, never guessed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts.common import UserError
from scripts.prepare import benchmarks, items
from tests.prepare.conftest import read, write

TEXTS = ["aspirin", "heparin", "warfarin", "none"]
OPTIONS = dict(zip("ABCD", TEXTS, strict=True))
ITEM = {"lang": "en", "question": "Which drug?", "options": OPTIONS, "answer_idx": "C"}
FOLDED = "问题：Which drug?\n选项：\n\taspirin\n\theparin\n\twarfarin\n\tnone"
MEDMCQA = {"question": "Which drug?", "opa": "aspirin", "opb": "heparin", "opc": "warfarin", "opd": "none", "cop": 2}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("medqa", {"question": "Which drug?", "options": OPTIONS, "answer_idx": "C", "answer": "warfarin"}),
        ("medqa_zh", {"question": " Which drug?", "options": [{"key": k, "value": v} for k, v in OPTIONS.items()], "answer": "warfarin", "answer_idx": "C"}),
        ("medqa_zh", {"instruction": "Choose.", "input": FOLDED, "output": "warfarin"}),
        ("cmexam", {"instruction": "Choose.", "input": FOLDED, "output": "warfarin"}),
        ("cmexam", {"Question": "Which drug?", "Options": "A aspirin\nB. heparin\nC、warfarin\nD none", "Answer": "C"}),
        ("medmcqa", MEDMCQA | {"cop": 2}),
        ("medmcqa", {"question": "Which drug?", "options": OPTIONS, "answer_idx": "C"}),
        ("mmlu_medical", {"question": "Which drug?", "choices": TEXTS, "answer": 2, "subject": "anatomy"}),
        ("mmlu_medical", {"question": "Which drug?", "choices": TEXTS, "answer": "2", "subject": "anatomy"}),
        ("mmlu_pro_health", {"question": "Which drug?", "options": TEXTS, "answer": "C", "category": "health"}),
        ("mmlu_pro_health", {"question": "Which drug?", "options": ["aspirin", "N/A", *TEXTS[1:]], "answer": "D", "category": "health"}),
        ("cmmlu_medical", {"": 0, "Question": "Which drug?", **OPTIONS, "Answer": "C"}),
        ("cmb", {"question": "Which drug?", "option": OPTIONS | {"E": ""}, "answer": "C"}),
    ],
)  # fmt: skip
def test_forms(name: str, row: dict) -> None:
    rows = [row] if name != "medmcqa" else [row, MEDMCQA | {"cop": 0}]
    (item, *_), left_out = benchmarks.convert(name, rows)
    assert (item, left_out) == ({"id": "1", **ITEM, "lang": benchmarks.BENCHMARKS[name].lang}, {})
    assert not items.fault_of(item)


@pytest.mark.parametrize(
    "row",
    [
        {"pubid": 9, "question": "Does it?", "context": {"contexts": ["One.", "Two."]}, "final_decision": "maybe"},
        {"id": "9", "QUESTION": "Does it?", "CONTEXTS": ["One.", "Two."], "final_decision": "maybe"},
    ],
)
def test_pubmedqa_has_its_abstract_before_the_question(row: dict) -> None:
    ((item,), _) = benchmarks.convert("pubmedqa", [row])
    assert (item["id"], item["question"], item["answer_idx"]) == ("9", "One.\nTwo.\nDoes it?", "C")


def test_medmcqa_counts_from_zero_on_the_hub_and_from_one_in_the_authors_files() -> None:
    def letters(source: str, *places: object) -> list[str]:
        rows = [MEDMCQA | {"cop": place} for place in places]
        return [item["answer_idx"] for item in benchmarks.convert("medmcqa", rows, source)[0]]

    assert letters("", 0, 1, 3) == ["A", "B", "D"]
    assert letters("dev.json", 1, 2, 4, None) == ["A", "B", "D"]
    assert letters("export.jsonl", 0, 1, 3) == ["A", "B", "D"]
    assert letters("export.csv", "1", "1") == ["B", "B"]
    for source, places in (("dev.json", (1, 2)), ("dev.json", (0, 4)), ("export.csv", ("0", "4"))):
        with pytest.raises(UserError, match="can be told from neither"):
            letters(source, *places)


def test_options_that_look_like_places() -> None:
    row = {"question": "How many?", "opa": "1", "opb": "2", "opc": "3", "opd": "4", "cop": "1"}
    ((item,), _) = benchmarks.convert("medmcqa", [row], "a.csv")
    assert item["answer_idx"] == "B"


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("medqa", {**ITEM, "answer_idx": "E"}, "no single right option"),
        ("medqa", {**ITEM, "answer_idx": ["A", "B"]}, "no single right option"),
        ("medqa", {**ITEM, "options": {"A": "one", "B": " "}, "answer_idx": "A"}, "not 2 to 10 options"),
        ("medqa", {**ITEM, "question": " "}, "no question"),
        ("medqa", {"text": "x"}, "not in this benchmark's form"),
        ("cmexam", {"Question": "Which?", "Options": "A one\nB two", "Answer": "AB"}, "no single right option"),
        ("cmexam", {"input": "问题：哪个？\n选项：\n\t同一\n\t同一\n\t另一", "output": "同一"}, "no single right option"),
        ("cmexam", {"input": "哪个？", "output": "同一"}, "not in this benchmark's form"),
        ("mmlu_medical", {"question": "Which?", "choices": TEXTS, "answer": 7, "subject": "anatomy"}, "no single right option"),
        ("mmlu_medical", {"question": "Which?", "choices": TEXTS, "answer": 1, "subject": "jurisprudence"}, "other subject"),
        ("mmlu_pro_health", {"question": "Which?", "options": TEXTS, "answer": "A", "category": "law"}, "other category"),
        ("mmlu_pro_health", {"question": "Which?", "options": TEXTS, "answer": "A"}, "other category"),
        ("mmlu_pro_health", {"question": "Which?", "options": TEXTS * 3, "answer": "L", "category": "health"}, "not 2 to 10 options"),
    ],
)  # fmt: skip
def test_unclear_rows_are_left_out_and_counted(name: str, row: dict, reason: str) -> None:
    assert benchmarks.convert(name, [row]) == ([], {reason: 1})


def test_the_command_writes_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def command(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments, "--out", str(tmp_path / "out")])
        benchmarks.main()

    one = str(write(tmp_path / "one.jsonl", [ITEM, ITEM | {"id": "1"}, ITEM | {"answer_idx": None}]))
    two = str(write(tmp_path / "two.json", [{"input": FOLDED, "output": "heparin"}]))
    command("medqa", "cmexam", "--from", one, two)
    assert "2 items of 3 rows; left out: 1 no single right option" in capsys.readouterr().out
    assert [item["id"] for item in read(tmp_path / "out/medqa.jsonl")] == ["1", "1-2"]
    assert items.read_items(tmp_path / "out/cmexam.jsonl")[0]["lang"] == "zh"
    write(tmp_path / "none.jsonl", [{"a": 1}])
    bad = str(write(tmp_path / "bad.jsonl", [{"a": 1}, "{"]))
    for arguments, message in (
        (("medmcqa", "--from", str(tmp_path / "x.jsonl")), "x.jsonl: no such file"),
        (("medqa", "--from", bad), "bad.jsonl:2: not_json"),
        (("cmb", "--from", str(tmp_path / "none.jsonl")), "none of 1 rows is an item of cmb"),
        (("nope",), "nope: no such benchmark"),
        (("medqa", "--from", one, two), "found 2 files for 1 names"),
    ):
        with pytest.raises(UserError, match=message):
            command(*arguments)
    assert not (tmp_path / "out/medmcqa.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"id": None}, "id is None"),
        ({"lang": None}, "lang is None"),
        ({"lang": "fr"}, "lang is 'fr'"),
        ({"question": " "}, "question is ' '"),
        ({"options": ["x", "y"]}, "options are ['x', 'y']"),
        ({"options": {"A": "x", "B": None}}, "options are {'A': 'x', 'B': None}"),
        ({"options": {"A": "x", "C": "y"}}, "options are lettered A, C"),
        ({"options": {"A": "x"}}, "options are lettered A"),
        ({"answer_idx": ["A", "B"]}, "answer_idx is ['A', 'B']"),
        ({"answer_idx": "E"}, "answer_idx is 'E'"),
        ({"id": "1"}, "id '1' is used before"),
    ],
)
def test_a_file_of_items_is_checked(tmp_path: Path, row: dict, fault: str) -> None:
    path = write(tmp_path / "items.jsonl", [ITEM | {"id": 1}, ITEM | {"id": 2} | row])
    with pytest.raises(UserError) as error:
        items.read_items(path)
    first, remedy = str(error.value).split("\n")
    assert first.endswith(f"items.jsonl:2: {fault}")
    assert "expected items with id, lang (en or zh)" in remedy


def test_items_are_read_with_ids_as_text(tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", [ITEM | {"id": 1}, ITEM | {"id": "x", "note": "kept"}])
    assert [(item["id"], item.get("note")) for item in items.read_items(path)] == [("1", None), ("x", "kept")]
    with pytest.raises(UserError, match="holds no item"):
        items.read_items(write(tmp_path / "empty.jsonl", []))
