# ruff: noqa: E501 - texts in tables stay on one line
"""Every shape gives question, thought, answer and system text unchanged; what is no record is named, never guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.common import UserError
from scripts.prepare import records
from tests.prepare.conftest import write

OURS = {"Question": "Why?", "Complex_CoT": "Because.", "Response": "So."}
TAGGED = "<think>\nBecause.\n</think>\n\nSo."


def read(path: Path, rows: list, columns: dict[str, str] | None = None, tags: tuple = records.TAGS) -> list[tuple]:
    """What is read of the rows: four texts of a record, or the reason and what was found."""
    source = str(write(path / "a.jsonl", rows))
    records.check_sources([source], columns or {}, tags)
    return [texts(row) for row in records.read_source(source, columns or {}, tags)]


def texts(row: records.Record) -> tuple:
    """The texts of a record, or why it is none."""
    if row.reason:
        return row.reason, row.matched
    return row.question, row.thought, row.answer, row.system


def refusal(path: Path, rows: list, columns: dict[str, str] | None = None, tags: tuple = records.TAGS) -> str:
    """The error of a source that is refused as a whole."""
    with pytest.raises(UserError) as error:
        read(path, rows, columns, tags)
    return str(error.value)


def chat(*turns: tuple[str, Any], names: tuple[str, str] = ("role", "content"), **more: Any) -> dict:
    """A chat in OpenAI's words, or in ShareGPT's."""
    column = "messages" if names[0] == "role" else "conversations"
    return {column: [dict(zip(names, turn, strict=True)) for turn in turns], **more}


SHARE = ("from", "value")
PARTS = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]
PLAIN = ("Why?", "Because.", "So.", "")
SHAPES: list[tuple[str, dict, tuple]] = [
    ("own names", OURS, PLAIN),
    ("another case", {"question": "Why?", "COMPLEX_COT": "Because.", " Response ": "So."}, PLAIN),
    ("thought in the answer", {"question": "Why?", "response": TAGGED}, PLAIN),
    ("opening mark in the prompt", {"question": "Why?", "response": "Because.</think>So."}, PLAIN),
    ("indentation", OURS | {"Response": "  1. a\n    - b\n"}, ("Why?", "Because.", "  1. a\n    - b\n", "")),
    ("unused columns", OURS | {"note": "\ud83d", "score": float("nan"), "more": {"a": [1]}}, PLAIN),
    ("alpaca", {"instruction": "Why?", "input": "", "output": TAGGED}, PLAIN),
    ("alpaca with an input", {"instruction": "Why?", "input": "At night.", "output": TAGGED}, ("Why?\nAt night.", "Because.", "So.", "")),
    ("alpaca without instruction", {"input": "Why?", "output": TAGGED}, PLAIN),
    ("alpaca with several turns", {"instruction": "Why?", "output": TAGGED, "history": [["a", "b"]]}, ("several_turns", "2 questions")),
    ("sharegpt", chat(("human", "Why?"), ("gpt", TAGGED), names=SHARE), PLAIN),
    ("messages", chat(("system", "Be brief."), ("user", "Why?"), ("assistant", TAGGED)), ("Why?", "Because.", "So.", "Be brief.")),
    ("parts", chat(("user", PARTS), ("assistant", TAGGED)), PLAIN),
    ("picture", chat(("user", [*PARTS, {"type": "image_url"}]), ("assistant", TAGGED)), ("not_text", "content: list, expected text")),
    ("thought of its own", {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "reasoning_content": "Because.", "content": "So."}]}, PLAIN),
    ("several turns", chat(("user", "Why?"), ("assistant", TAGGED), ("user", "And?"), ("assistant", "So.")), ("several_turns", "4 turns")),
    ("tools", chat(("user", "Why?"), ("tool", "42"), ("assistant", TAGGED)), ("unknown_turns", "a turn of tool")),
    ("answer first", chat(("gpt", TAGGED), ("human", "Why?"), names=SHARE), ("unknown_turns", "a turn of human after the answer")),
    ("thought not closed", {"question": "Why?", "response": "<think>\nBecause. So."}, ("open_thought", "<think> without </think>")),
    ("text before the thought", {"question": "Why?", "response": "Well. <think>Because.</think>So."}, ("text_before_thought", "Well.")),
    ("number", OURS | {"Response": 42}, ("not_text", "Response: int, expected text")),
    ("half a surrogate pair", OURS | {"Question": "Why \ud83d?"}, ("not_text", "Question: no Unicode character at place 4")),
    ("null", OURS | {"Question": None, "Response": float("nan")}, ("", "Because.", "", "")),
]  # fmt: skip


@pytest.mark.parametrize(("row", "expected"), [case[1:] for case in SHAPES], ids=[case[0] for case in SHAPES])
def test_shapes(tmp_path: Path, row: dict, expected: tuple) -> None:
    text = json.dumps(row)  # escaped, as a lone surrogate has no UTF-8
    assert read(tmp_path, [text]) == [expected]


def test_the_instruction_of_most_rows_is_a_system_text(tmp_path: Path) -> None:
    shared = [{"instruction": "You are a doctor.", "input": f"Why {n}?", "output": TAGGED} for n in range(3)]
    other = {"instruction": "Translate.", "input": "Why?", "output": TAGGED}
    found = read(tmp_path, [*shared, other, {"instruction": "Alone?", "input": "", "output": TAGGED}])
    assert [(row[0], row[3]) for row in found] == [
        ("Why 0?", "You are a doctor."),
        ("Why 1?", "You are a doctor."),
        ("Why 2?", "You are a doctor."),
        ("Translate.\nWhy?", ""),
        ("Alone?", ""),
    ]


def test_other_thought_tags(tmp_path: Path) -> None:
    row = {"input": "Why?", "output": "<reasoning>Because.</reasoning>So."}
    assert "--thought-tags '<reasoning>' '</reasoning>'" in refusal(tmp_path, [row])
    tags = ("<reasoning>", "</reasoning>")
    assert read(tmp_path, [row, {"input": "Why?", "output": TAGGED}], {}, tags) == [PLAIN, PLAIN]


def test_named_columns_and_rows_without_them(tmp_path: Path) -> None:
    row = {"q": "Why?", "think": "Because.", "a": "So."}
    named = {"Question": "q", "Complex_CoT": "Think", "Response": "a"}
    found = read(tmp_path, [row, {"q": "Why?"}, "{", "[]"], named)
    assert [row[0] for row in found] == ["Why?", "Why?", "not_json", "not_an_object"]
    assert found[:2] == [PLAIN, ("Why?", "", "", "")]


REFUSED: list[tuple[str, list, dict, str]] = [
    ("reasoning misspelt", [{"Question": "q", "CoT": "t", "Response": "a"}], {}, "a.jsonl:1: no column Complex_CoT (nor <think> in the answers); found Question, CoT, Response; name yours: --columns Complex_CoT=CoT"),
    ("question misspelt", [{"Qestion": "q", "id": "1", "Complex_CoT": "t", "Response": "a"}], {}, "--columns Question=Qestion"),
    ("other names", [{"question": "q", "think": "t", "answer": "a", "options": {}}], {}, "--columns Complex_CoT=think Response=answer"),
    ("likeliest name", [{"prompt": "p", "query": "q", "cot": "t", "answer": "a"}], {}, "--columns Question=query Complex_CoT=cot Response=answer"),
    ("other marks in another column", [{"prompt": "q", "completion": "【思考】t【/思考】a"}], {}, "name yours: --columns Question=prompt Response=completion --thought-tags '【思考】' '【/思考】'"),
    ("chinese names", [{"问题": "q", "思考过程": "t", "回答": "a"}], {}, "--columns 'Question=问题' 'Complex_CoT=思考过程' 'Response=回答'"),
    ("no reasoning at all", [{"instruction": "s", "input": "q", "output": "a"}] * 3, {}, "no column looks like reasoning"),
    ("named, not there", [OURS], {"Response": "answer"}, "--columns Response=answer: no source has such a column; found Question, Complex_CoT, Response"),
    ("two that differ in case", [{"QUESTION": "q", "question": "r", "Complex_CoT": "t", "Response": "a"}], {}, "columns QUESTION and question differ in case only"),
    ("first row of another file", ["[]", {"a": "q"}], {}, "a.jsonl:2: no column Question and no column Complex_CoT and no column Response (nor <think> in the answers); found a; name yours: --columns Question=… Complex_CoT=… Response=a"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "columns", "message"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_columns_that_are_not_there(tmp_path: Path, rows: list, columns: dict, message: str) -> None:
    assert message in refusal(tmp_path, rows, columns)


def test_several_sources_of_different_shapes(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [{"q": "Why?", "Complex_CoT": "Because.", "a": "So."}])
    two = write(tmp_path / "two.jsonl", [OURS])
    three = write(tmp_path / "three.jsonl", [chat(("user", "Why?"), ("assistant", TAGGED))])
    columns = {"Question": "q", "Response": "a"}
    records.check_sources([str(one), str(two), str(three)], columns)
    for source in (one, two, three):
        assert [texts(row) for row in records.read_source(str(source), columns)] == [PLAIN]


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [{"q": "Why?"}])
    two = tmp_path / "two.jsonl"
    two.write_bytes("患者".encode("gbk"))
    with pytest.raises(UserError) as error:
        records.check_sources([str(one), str(two), "three.jsonl"], {"Question": "x"})
    lines = str(error.value).split("\n")
    expected = ("one.jsonl:1", "two.jsonl:1", "three.jsonl", "Question=x")
    assert all(part in line for part, line in zip(expected, lines, strict=True)), lines


def test_the_raw_row_and_its_place_are_kept(tmp_path: Path) -> None:
    twice = '{"Question": "old", "Question": "Why?", "Complex_CoT": "t", "Response": "a"}'
    unused = '{"n": 1, "n": 2, "Question": "Why?", "Complex_CoT": "Because.", "Response": "So."}'
    source = str(write(tmp_path / "a.jsonl", [OURS | {"id": 7}, "", twice, unused, "{bad"]))
    first, repeated, other, bad = records.read_source(source, {})
    assert [(row.source, row.line) for row in (first, repeated, other, bad)] == [(source, n) for n in (1, 3, 4, 5)]
    assert first.raw == OURS | {"id": 7}
    assert (*texts(repeated), repeated.raw["Question"]) == ("duplicate_keys", "Question", ["old", "Why?"])
    assert texts(other) == PLAIN, "a name given twice in an unused column"
    assert (bad.reason, bad.raw) == ("not_json", "{bad")


def test_claimed_language() -> None:
    claims = {"o/n:zh": "zh", "o/n:en": "en", "o/n:en_mix": None, "o/n": None, "data/x:zh.json": None}
    assert {spec: records.claimed_language(spec) for spec in claims} == claims
