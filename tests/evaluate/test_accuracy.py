"""Benchmark files, and shares with what stands behind them."""

from __future__ import annotations

import pytest

from scripts.evaluate import accuracy
from scripts.evaluate.read import read_choice
from scripts.evaluate.stats import judge_table
from scripts.prepare.benchmarks import read_items
from tests.evaluate.conftest import write_benchmark


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_prompt_asks_for_the_line_that_the_reader_reads(tmp_path, lang):
    row = read_items(write_benchmark(tmp_path / "b.jsonl", 1, lang))[0]
    question = accuracy.question_of(row)
    assert "A. fever\nB. cough" in question
    wanted = {"en": "Answer: ", "zh": "答案："}[lang]
    assert wanted in question
    assert read_choice(f"Because.\n{wanted}B", "ABCD") == ("B", "read")


def row(i: int, seed: int, side: str, right: bool, status: str = "read") -> dict:
    output = {"letter": "A" if right else None, "status": status if right else "unparsed", "cut": False}
    output |= {"forced": False, "closed": True, "opened": True, "thought_tokens": 5, "answer_tokens": 1}
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
