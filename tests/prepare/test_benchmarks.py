"""Each benchmark's own form gives the right item; unclear rows are left out and counted, never guessed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.common import UserError
from scripts.prepare import benchmarks
from tests.prepare.conftest import read, write

TEXTS = ["aspirin", "heparin", "warfarin", "none"]
OPTIONS = dict(zip("ABCD", TEXTS, strict=True))
ITEM = {"lang": "en", "question": "Which drug?", "options": OPTIONS, "answer_idx": "C"}
FOLDED = {"input": "问题：Which drug?\n选项：\n\taspirin\n\theparin\n\twarfarin\n\tnone", "output": "warfarin"}
MEDMCQA = {"question": "Which drug?", "opa": "aspirin", "opb": "heparin", "opc": "warfarin", "opd": "none", "cop": 2}
MMLU = {"question": "Which drug?", "choices": TEXTS, "answer": 2, "subject": "anatomy"}
PRO = {"question": "Which drug?", "options": TEXTS, "answer": "C", "category": "health"}
LISTED = [{"key": letter, "value": text} for letter, text in OPTIONS.items()]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("medqa", {"question": "Which drug?", "options": OPTIONS, "answer_idx": "C", "answer": "warfarin"}),
        ("medqa_zh", {"question": " Which drug?", "options": LISTED, "answer_idx": "C"}),
        ("medqa_zh", FOLDED),
        ("cmexam", {"Question": "Which drug?", "Options": "A aspirin\nB. heparin\nC、warfarin\nD none", "Answer": "C"}),
        ("medmcqa", {"question": "Which drug?", "options": OPTIONS, "answer_idx": "C"}),
        ("mmlu_medical", MMLU),
        ("mmlu_medical", MMLU | {"answer": "2"}),
        ("mmlu_pro_health", PRO | {"options": ["aspirin", "N/A", *TEXTS[1:]], "answer": "D"}),
        ("cmmlu_medical", {"": 0, "Question": "Which drug?", **OPTIONS, "Answer": "C"}),
        ("cmb", {"question": "Which drug?", "option": OPTIONS | {"E": ""}, "answer": "C"}),
    ],
)
def test_forms(name: str, row: dict) -> None:
    (item,), left_out = benchmarks.convert(name, [row])
    assert (item, left_out) == ({"id": "1", **ITEM, "lang": benchmarks.BENCHMARKS[name]["lang"]}, {})
    assert not benchmarks.fault_of(item)


def test_pubmedqa_has_its_abstract_before_the_question() -> None:
    row = {"pubid": 9, "question": "Does it?", "context": {"contexts": ["One.", "Two."]}, "final_decision": "maybe"}
    ((item,), _) = benchmarks.convert("pubmedqa", [row])
    assert (item["id"], item["question"], item["answer_idx"]) == ("9", "One.\nTwo.\nDoes it?", "C")


def test_medmcqa_counts_from_zero_on_the_hub_and_from_one_in_the_authors_files() -> None:
    def letters(source: str, *places: object) -> list[str]:
        options = {"opa": "1", "opb": "2", "opc": "3", "opd": "4"}  # an option that looks like a place is none
        rows = [MEDMCQA | options | {"cop": place} for place in places]
        return [item["answer_idx"] for item in benchmarks.convert("medmcqa", rows, source)[0]]

    assert letters("", 0, 1, 3) == ["A", "B", "D"]
    assert letters("dev.json", 1, 2, 4, None) == ["A", "B", "D"]
    assert letters("export.jsonl", 0, 1, 3) == ["A", "B", "D"]
    assert letters("export.csv", "1", "1") == ["B", "B"]
    for source, places in (("dev.json", (1, 2)), ("dev.json", (0, 4)), ("export.csv", ("0", "4"))):
        with pytest.raises(UserError, match="can be told from neither"):
            letters(source, *places)


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("medqa", ITEM | {"answer_idx": ["A", "B"]}, "no single right option"),
        ("medqa", ITEM | {"options": {"A": "one", "B": " "}, "answer_idx": "A"}, "not 2 to 10 options"),
        ("medqa", ITEM | {"question": " "}, "no question"),
        ("medqa", {"text": "x"}, "not in this benchmark's form"),
        ("cmexam", {"Question": "Which?", "Options": "A one\nB two", "Answer": "AB"}, "no single right option"),
        (
            "cmexam",
            {"input": "问题：哪个？\n选项：\n\t同一\n\t同一\n\t另一", "output": "同一"},
            "no single right option",
        ),
        ("cmexam", {"input": "哪个？", "output": "同一"}, "not in this benchmark's form"),
        ("mmlu_medical", MMLU | {"answer": 7}, "no single right option"),
        ("mmlu_medical", MMLU | {"subject": "jurisprudence"}, "other subject"),
        ("mmlu_pro_health", PRO | {"category": "law"}, "other category"),
        ("mmlu_pro_health", PRO | {"options": "['one', 'two']", "answer": "B"}, "not in this benchmark's form"),
    ],
)
def test_unclear_rows_are_left_out_and_counted(name: str, row: dict, reason: str) -> None:
    assert benchmarks.convert(name, [row]) == ([], {reason: 1})


def test_the_command_writes_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def command(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments, "--out", str(tmp_path / "out")])
        benchmarks.main()

    one = str(write(tmp_path / "one.jsonl", [ITEM, ITEM | {"id": "1"}, ITEM | {"answer_idx": None}]))
    two = str(write(tmp_path / "two.json", [FOLDED]))
    bad = str(write(tmp_path / "bad.jsonl", [ITEM, "{"]))
    none = str(write(tmp_path / "none.jsonl", [{"a": 1}]))
    command("medqa", "cmexam", "--from", one, two)
    assert "rows 3, items 2; left out: 1 no single right option" in capsys.readouterr().out
    assert [item["id"] for item in read(tmp_path / "out/medqa.jsonl")] == ["1", "1-2"]
    assert benchmarks.read_items(tmp_path / "out/cmexam.jsonl")[0]["lang"] == "zh"
    for arguments, message in (
        (("medmcqa", "--from", "x.jsonl"), "x.jsonl: no such file"),
        (("medqa", "--from", bad), "bad.jsonl:2: not_json"),
        (("cmb", "--from", none), "none.jsonl: holds no item of cmb; left out: 1 not in"),
        (("nope",), "nope: no such benchmark"),
        (("medqa", "--from", one, two), "found 2 files for 1 names"),
    ):
        with pytest.raises(UserError, match=message):
            command(*arguments)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cmexam.jsonl", "medqa.jsonl"]


def test_a_hub_that_does_not_answer_is_said_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.prepare.benchmarks", "medqa", "--out", str(tmp_path)]
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_HUB_OFFLINE", None)
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr.count("\n")) == (1, 1), run.stderr
    assert run.stderr.startswith("error: GBaker/MedQA-USMLE-4-options: cannot be read from the hub")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"id": None}, "no id"),
        ({"lang": None}, "lang is neither en nor zh"),
        ({"question": " "}, "no question"),
        ({"options": {"A": "x", "B": None}}, "an option is no text"),
        ({"options": {"A": "x", "C": "y"}}, "options are lettered A, C"),
        ({"options": {}}, "not 2 to 10 options"),
        ({"answer_idx": ["A", "B"]}, "no single right option"),
        ({"id": "1"}, "id '1' is used before"),
    ],
)
def test_a_file_of_items_is_checked(tmp_path: Path, row: dict, fault: str) -> None:
    path = write(tmp_path / "items.jsonl", [ITEM | {"id": 1}, ITEM | {"id": 2} | row])
    with pytest.raises(UserError) as error:
        benchmarks.read_items(path)
    first, remedy = str(error.value).split("\n")
    assert first.endswith(f"items.jsonl:2: {fault}")
    assert "expected items with id, lang (en or zh)" in remedy


def test_items_are_read_with_ids_as_text(tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", [ITEM | {"id": 1}, ITEM | {"id": "x", "note": "kept"}])
    assert [(item["id"], item.get("note")) for item in benchmarks.read_items(path)] == [("1", None), ("x", "kept")]
    with pytest.raises(UserError, match="holds no item"):
        benchmarks.read_items(write(tmp_path / "empty.jsonl", []))
