# ruff: noqa: E501 - texts in tables stay on one line
"""Every shape that the benchmarks come in gives the same item; unclear answers are left out, never guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.common import UserError
from scripts.prepare import benchmarks
from tests.prepare.conftest import read, write

OPTIONS = {"A": "aspirin", "B": "heparin", "C": "warfarin", "D": "none"}
ITEM = {"id": "1", "lang": "en", "question": "Which drug?", "options": OPTIONS, "answer_idx": "C"}


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which drug?", "options": OPTIONS, "answer_idx": "C", "answer": "warfarin"},
        {"question": "Which drug?", "opa": "aspirin", "opb": "heparin", "opc": "warfarin", "opd": "none", "cop": 2},
        {"question": "Which drug?", "choices": list(OPTIONS.values()), "answer": 2},
        {"question": "Which drug?", "options": list(OPTIONS.values()), "answer": "C"},
        {"Question": "Which drug?", **OPTIONS, "Answer": "C"},
        {"Question": "Which drug?", "Options": "A aspirin\nB heparin\nC warfarin\nD none", "Answer": "C"},
        {"question": "Which drug?", "option": OPTIONS | {"E": None}, "answer": "C"},
        {"question": "Which drug?", "options": [{"key": k, "value": v} for k, v in OPTIONS.items()], "answer": "warfarin", "answer_idx": "C"},
        {"input": "问题：Which drug?\n选项：\n\taspirin\n\theparin\n\twarfarin\n\tnone", "output": "warfarin"},
    ],
)  # fmt: skip
def test_shapes(row: dict) -> None:
    assert benchmarks.normalise(row, "en", 1) == ITEM


def test_pubmedqa_has_its_abstract_before_the_question() -> None:
    row = {"pubid": 9, "question": "Does it?", "context": {"contexts": ["One.", "Two."]}, "final_decision": "maybe"}
    item = benchmarks.normalise(row, "en", 1)
    assert (item["id"], item["question"], item["answer_idx"]) == ("9", "One.\nTwo.\nDoes it?", "C")


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which?", "options": OPTIONS, "answer_idx": "E"},
        {"question": "Which?", "options": OPTIONS, "answer": "BC"},
        {"question": "Which?", "options": {"A": "one"}, "answer_idx": "A"},
        {"question": "Which?", "options": OPTIONS},
        {"question": " ", "options": OPTIONS, "answer_idx": "A"},
        {"input": "问题：哪个？\n选项：\n\t同一\n\t同一\n\t另一", "output": "同一"},
        {"question": "Which?", "choices": list(OPTIONS.values()), "answer": 7},
    ],
)
def test_unclear_items_are_left_out(row: dict) -> None:
    assert benchmarks.normalise(row, "en", 1) is None


def test_files_are_written_with_unique_ids_and_counted(tmp_path: Path) -> None:
    rows = [ITEM, ITEM | {"question": "Another?"}, {"question": "x"}]
    assert benchmarks.write_benchmark("medqa", rows, tmp_path) == (2, 1)
    assert [item["id"] for item in read(tmp_path / "medqa.jsonl")] == ["1", "1-2"]


def test_a_file_that_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"a": 1}])
    with pytest.raises(UserError, match="medqa: none of 1 rows is a question with options"):
        benchmarks.write_benchmark("medqa", benchmarks.local_rows(str(path)), tmp_path)
    assert not (tmp_path / "medqa.jsonl").exists()
    with pytest.raises(UserError, match=r"x.jsonl:2: not valid JSON"):
        list(benchmarks.local_rows(str(write(path, [{"a": 1}, "{"]))))


def test_the_real_files_come_out_whole(tmp_path: Path, shared: Path) -> None:
    counts = {"eval/medqa.jsonl": ("medqa", 1273), "eval/pubmedqa.jsonl": ("pubmedqa", 500), "eval/mmlu-pro.jsonl": ("mmlu_pro_health", 818), "eval_zh/cmexam.json": ("cmexam", 6607), "eval_zh/medqa_zh.json": ("medqa_zh", 3425)}  # fmt: skip
    for file, (name, count) in counts.items():
        assert (
            benchmarks.write_benchmark(name, benchmarks.local_rows(str(shared / "data" / file)), tmp_path)[0] == count
        )
        item = json.loads((tmp_path / f"{name}.jsonl").open(encoding="utf-8").readline())
        assert item["answer_idx"] in item["options"]
