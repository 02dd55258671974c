"""Each kind of constraint with answers that follow it and answers that do not, and the shipped prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.common import UserError
from scripts.evaluate.instructions import CHECKS, UNITS, check, load_prompts, score

DATA = Path(__file__).resolve().parents[2] / "data"
EVASIVE = [
    "I'm sorry, but I cannot answer this.",
    "很抱歉，无法回答。",
    "C",
    "答案是C。",
    "a text about something else " * 50,
    "与问题无关的长篇文字。" * 50,
]
TABLE = "| a | b |\n|---|:-:|\n| 1 | 2 |\n| 3 | 4 |"

# (constraint, answers that follow it, answers that do not)
CASES = [
    ({"type": "count", "unit": "words", "max": 3}, ["Take it easy.", "well-known side effects"], ["a b c d"]),
    ({"type": "count", "unit": "words", "min": 2}, ["two words"], ["one", ""]),
    ({"type": "count", "unit": "characters", "max": 5}, ["多喝水。", "服用aspirin", "体温38.5度"], ["多喝水多休息"]),
    (
        {"type": "count", "unit": "sentences", "min": 2, "max": 2},
        ["Rest. Drink 1.5 l, e.g. water!", "休息。多喝水！", "1. Rest.\n2. Drink."],
        ["Rest.", "休息。喝水。睡觉。", "A. B. C."],
    ),
    ({"type": "count", "unit": "lines", "min": 2, "max": 2}, ["a\n\nb"], ["a", "a\nb\nc"]),
    ({"type": "count", "unit": "paragraphs", "min": 2, "max": 2}, ["a\nb\n\nc"], ["a\nb", "a\n\nb\n\nc"]),
    ({"type": "count", "unit": "questions", "min": 2, "max": 2}, ["Why? 多久？"], ["Why?"]),
    ({"type": "language", "lang": "zh"}, ["多休息，可用 aspirin。"], ["Take rest.", "38.5"]),
    ({"type": "language", "lang": "en"}, ["Take rest."], ["多休息。", "Take rest 多休息多喝水"]),
    ({"type": "include", "words": ["iron", "铁"]}, ["Iron means 铁。"], ["environment 铁", "iron"]),
    ({"type": "include", "words": ["a"], "times": 2}, ["a and A"], ["a cat"]),
    ({"type": "exclude", "words": [",", "，"]}, ["no commas"], ["one, two", "一，二"]),
    ({"type": "exclude", "words": ["pain"]}, ["painful"], ["Pain is felt", ""]),
    ({"type": "items", "style": "bullet", "n": 2}, ["- a\n- b", "Do:\n* a\n• b"], ["- a", "1. a\n2. b"]),
    ({"type": "items", "style": "bullet", "n": 0}, ["no list"], ["- a"]),
    (
        {"type": "items", "style": "numbered", "n": 2},
        ["1. a\n2. b", "1、甲\n2、乙"],
        ["1. a\n3. b", "1. a", "- a\n- b"],
    ),
    (
        {"type": "json", "keys": ["a", "b"]},
        ['{"a": 1, "b": []}', '```json\n{"a": 1, "b": 2}\n```'],
        ['{"a": 1}', "a, b"],
    ),
    ({"type": "json", "keys": ["a"]}, ['{"a": 1}'], ['Here: {"a": 1}', '{"a": 1, "b": 2}', "[1]", "{'a': 1}"]),
    ({"type": "json", "keys": ["a"], "lists": ["a"]}, ['{"a": [1]}'], ['{"a": 1}']),
    ({"type": "starts_with", "text": "In short,"}, ["In short, rest."], ["Rest, in short,"]),
    ({"type": "ends_with", "text": "谢谢。"}, ["请空腹。谢谢。", "谢谢。\n"], ["谢谢。请空腹。"]),
    ({"type": "each_line", "text": "◆"}, ["◆一\n\n◆二"], ["◆一\n二"]),
    (
        {"type": "table", "columns": 2, "rows": 2},
        [TABLE, f"See:\n{TABLE}"],
        [TABLE + "\n| 5 | 6 |", "| a | b |\n| 1 | 2 |"],
    ),
    ({"type": "headings", "titles": ["A", "B"]}, ["# A\nx\n## B ##\ny"], ["# B\n# A", "A\nB", "# A\n# B\n# C"]),
    ({"type": "one_of", "options": ["Yes", "No"]}, ["yes", "No."], ["Yes, it is", "Maybe"]),
]


@pytest.mark.parametrize(("constraint", "good", "bad"), CASES)
def test_check(constraint: dict, good: list[str], bad: list[str]) -> None:
    assert [answer for answer in good if not check(constraint, answer)] == []
    assert [answer for answer in bad if check(constraint, answer)] == []


def test_every_kind_has_a_case() -> None:
    assert {case["type"] for case, _, _ in CASES} == set(CHECKS)
    assert {case["unit"] for case, _, _ in CASES if "unit" in case} == set(UNITS)


def test_an_empty_answer_follows_nothing() -> None:
    assert [constraint for constraint, _, _ in CASES if check(constraint, " \n")] == []


def test_all_constraints_must_hold() -> None:
    record = {"constraints": [{"type": "include", "words": ["iron"]}, {"type": "count", "unit": "words", "max": 4}]}
    assert score(record, "Eat iron.") == {"strict": True, "constraints": [True, True]}
    assert score(record, "Eat red meat.") == {"strict": False, "constraints": [False, True]}
    assert score(record, "") == {"strict": False, "constraints": [False, False]}


@pytest.mark.parametrize(("lang", "name"), [("en", "instructions_en.jsonl"), ("zh", "instructions_zh.jsonl")])
def test_the_shipped_prompts_are_valid_and_many(lang: str, name: str) -> None:
    prompts = load_prompts(DATA / name)
    assert len(prompts) >= 60
    for name in ("id", "prompt"):
        assert len({prompt[name] for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert prompt["lang"] == lang
        assert 1 <= len(prompt["constraints"]) <= 3
        bounds = [each for each in prompt["constraints"] if each["type"] == "count"]
        assert all(each.get("min", 0) <= each.get("max", 1 << 31) for each in bounds), prompt["id"]
        for evasive in EVASIVE:
            assert not all(check(each, evasive) for each in prompt["constraints"]), f"{prompt['id']}: {evasive[:30]}"


@pytest.mark.parametrize("constraint", ['{"type": "rhyme"}', '{"type": "count"}', '{"type": "items", "m": 2}', "{}"])
def test_a_constraint_that_cannot_be_checked_is_named_with_its_line(tmp_path: Path, constraint: str) -> None:
    path = tmp_path / "p.jsonl"
    lines = [
        f'{{"id": "a", "lang": "en", "prompt": "p", "constraints": [{c}]}}'
        for c in ('{"type": "include", "words": ["iron"]}', constraint)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match=r"p\.jsonl:2: .*among count, language"):
        load_prompts(path)
