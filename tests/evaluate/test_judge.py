"""The judge over real HTTP: known verdicts come out exactly whatever the server does; no fault becomes a score."""

from __future__ import annotations

from collections import Counter

import pytest

from scripts.evaluate import judge
from scripts.evaluate.store import Store
from tests.scripted_server import Script, serve


def pair(i: int) -> dict:
    return {
        "id": f"p{i}",
        "lang": "en",
        "question": f"Q{i}?",
        "reference": "R",
        "base": f"base {i}",
        "tuned": f"tuned {i}",
    }


def scripted(request) -> str:
    """Items 0-5: tuned is better; 6-7: base; 8-9: always the first; 10: a tie; 11: no verdict in one order."""
    i = int(request.prompt.split("[Question]\nQ")[1].split("?")[0])
    tuned_first = f"[Answer A]\ntuned {i}" in request.prompt
    if i >= 11:
        return "I like both." if tuned_first else "<think>[[B]]</think>fine\n[[A]]"
    wanted = ["tuned"] * 6 + ["base"] * 2 + ["first"] * 2 + ["tie"]
    mark = {"tuned": "BA"[tuned_first], "base": "AB"[tuned_first], "first": "A", "tie": "tie"}[wanted[i]]
    return f"<think>perhaps [[{'AB'[mark == 'A']}]]</think>\nBecause.\n[[{mark}]]"


def test_win_rate_is_exact(tmp_path):
    with serve(Script(scripted)) as url:
        ask = judge.judge_from(url, "scripted", "", Counter())
        rows = judge.pairwise([pair(i) for i in range(12)], ask, {"j": 1}, Store(tmp_path / "j"))
    result = judge.summarise_pairs(rows)
    assert result["counts"] == {"tuned": 6, "base": 2, "tie": 3, "unscored": 1}
    assert result["win_rate"]["value"] == pytest.approx(7.5 / 11)
    assert (result["win_rate"]["n"], result["n"]) == (11, 12)
    assert result["win_rate"]["p"] == pytest.approx(74 / 256)  # exact sign test, 6 wins to 2: 2 * (1 + 8 + 28) / 2**8
    assert result["orders_disagree"] == 2


def test_freeform_counts_unscored_apart_and_empty_as_different(tmp_path):
    answers = [
        {"id": str(i), "model": name, "lang": "en", "question": "Q {answer}?", "reference": "R", "answer": text}
        for name, texts in {"base": ["no", "", "hm", "no"], "tuned": ["yes", "yes", "yes", "hm"]}.items()
        for i, text in enumerate(texts)
    ]
    said = {"yes": "[[equivalent]]", "no": "[[different]]", "hm": "I cannot say"}
    ask = lambda prompt: said[prompt.split("[Answer to check]\n")[1].split("\n")[0]]  # noqa: E731
    result = judge.summarise_freeform(judge.freeform(answers, ask, {}, Store(tmp_path / "j")))
    assert (result["base"]["acc"], result["base"]["n"], result["base"]["unscored"]) == (0.0, 3, 0.25)
    assert (result["tuned"]["acc"], result["tuned"]["n"]) == (1.0, 3)
    assert result["difference"]["n"] == 2  # scored for both models
