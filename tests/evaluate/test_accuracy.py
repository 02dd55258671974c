"""Benchmark files, and shares with what stands behind them."""

from __future__ import annotations

import json

import pytest

from scripts.common import UserError
from scripts.evaluate import accuracy
from scripts.evaluate.read import read_choice
from scripts.evaluate.stats import judge_table
from tests.evaluate.conftest import write_benchmark


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_idx": "E"}, r":1: answer_idx is 'E', expected one of A, B, C, D"),
        ({"answer_idx": None}, r":1: answer_idx is None"),
        ({"answer_idx": ["A", "C"]}, r":1: answer_idx is \['A', 'C'\]"),
        ({"options": {"A": "x"}}, r":1: options are A; expected at least two"),
        ({"options": ["x", "y"]}, r":1: expected `options`: letter → text"),
        ({"options": {"A": 1, "B": "y"}}, r":1: expected `options`: letter → text"),
        ({"options": {"yes": "x", "no": "y"}}, r":1: options are yes, no"),
        ({"question": ""}, r":1: expected text in `question`"),
        ({"question": 3}, r":1: expected text in `question`"),
        ({"id": None}, r":1: id None is missing"),
        ({"lang": None}, r":1: lang is None, expected one of zh, en"),
        ({"lang": "fr"}, r":1: lang is 'fr'"),
    ],
)
def test_a_bad_benchmark_stops_before_any_work(tmp_path, change, message):
    path = write_benchmark(tmp_path / "b.jsonl", 1)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        accuracy.read_benchmark(path)


def test_every_bad_line_is_named_at_once(tmp_path):
    path = write_benchmark(tmp_path / "b.jsonl", 3)
    rows = [json.loads(line) | {"lang": "fr"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as error:
        accuracy.read_benchmark(path)
    assert str(error.value).count("lang is 'fr'") == 3
    path.write_text("")
    with pytest.raises(UserError, match="no items"):
        accuracy.read_benchmark(path)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_prompt_asks_for_the_line_that_the_reader_reads(tmp_path, lang):
    row = accuracy.read_benchmark(write_benchmark(tmp_path / "b.jsonl", 1, lang))[0]
    question = accuracy.question_of(row)
    assert "A. fever\nB. cough" in question
    wanted = {"en": "Answer: ", "zh": "答案："}[lang]
    assert wanted in question
    assert read_choice(f"Because.\n{wanted}B", "ABCD") == ("B", "read")


def row(i: int, seed: int, side: str, right: bool, status: str = "read") -> dict:
    output = {"letter": "A" if right else None, "status": status if right else "unparsed", "cut": False}
    output |= {"forced": False, "closed": True, "thought_tokens": 5, "answer_tokens": 1}
    about = {"task": "t", "id": i, "seed": seed, "model": side, "lang": "en", "answer_idx": "A"}
    return {**about, "options": {"A": "x", "B": "y"}, "outputs": {"8": output}}


def test_shares_differences_and_verdicts():
    once = [row(i, 1, side, side == "tuned" or i < 4) for side in ("base", "tuned") for i in range(24)]
    cell = accuracy.summarise(once)["t"]["budgets"]["8"]
    assert (cell["base"]["acc"], cell["tuned"]["acc"], cell["base"]["unparsed"]) == (4 / 24, 1.0, 20 / 24)
    assert (cell["difference"]["gained"], cell["difference"]["lost"]) == (20, 0)
    judge_table([cell["difference"]])
    assert cell["difference"]["verdict"] == "gain"
    few = accuracy.summarise([r for r in once if r["id"] < 12])["t"]["budgets"]["8"]["difference"]
    judge_table([few])
    assert few["verdict"] == "too few"


def test_what_was_asked_by_likelihood_is_also_left_out():
    rows = [row(i, 1, side, True, "asked" if i < 10 else "read") for side in ("base", "tuned") for i in range(20)]
    cell = accuracy.summarise(rows)["t"]["budgets"]["8"]
    assert (cell["base"]["acc"], cell["without_asked"]["base"]["acc"], cell["base"]["asked"]) == (1.0, 0.5, 0.5)


def test_several_seeds_of_an_item_count_once():
    rows = [
        row(i, seed, side, side == "tuned" or i < 2)
        for side in ("base", "tuned")
        for i in range(8)
        for seed in (1, 2, 3)
    ]
    cell = accuracy.summarise(rows)["t"]["budgets"]["8"]
    assert cell["base"]["n"] == cell["difference"]["n"] == 8
