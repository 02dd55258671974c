"""The judge over real HTTP: known verdicts come out exactly whatever the server does; no fault becomes a score."""

from __future__ import annotations

import pytest

from scripts.common import UserError
from scripts.evaluate import judge, stats
from scripts.evaluate.client import Client, Fault
from scripts.evaluate.subject import Store
from tests.evaluate.servers import Script, serve

FAULTS = [500, "drop", 429, "html", 503, "empty", "slow", "drop", 429]


def pair(i: int) -> dict:
    return {
        "id": f"p{i}",
        "lang": "en",
        "question": f"Q{i}?",
        "reference": "R",
        "base": f"base {i}",
        "tuned": f"tuned {i}",
    }


def scripted(prompt: str) -> str:
    """Items 0-5: tuned is better; 6-7: base; 8-9: always the first; 10: a tie; 11: no verdict in one order."""
    i = int(prompt.split("[Question]\nQ")[1].split("?")[0])
    tuned_first = f"[Answer A]\ntuned {i}" in prompt
    if i >= 11:
        return "I like both. [[A]] or [[B]]? I mean [[maybe]]" if tuned_first else "<think>[[B]]</think>fine [[A]]"
    wanted = ["tuned"] * 6 + ["base"] * 2 + ["first"] * 2 + ["tie"]
    mark = {"tuned": "BA"[tuned_first], "base": "AB"[tuned_first], "first": "A", "tie": "tie"}[wanted[i]]
    return f"<think>perhaps [[{'AB'[mark == 'A']}]]</think>\nBecause.\n[[{mark}]]"


@pytest.mark.parametrize("faults", [[], FAULTS])
def test_win_rate_is_exact_with_and_without_faults(tmp_path, faults):
    script = Script(scripted, tuple(faults))
    with serve(script) as url:
        client = Client(url, "scripted", attempts=12, timeout=0.8, pause=0.001)
        rows = judge.pairwise([pair(i) for i in range(12)], judge.judge_from(client), {"j": 1}, Store(tmp_path / "j"))
    result = judge.summarise_pairs(rows)
    assert result["counts"] == {"tuned": 6, "base": 2, "tie": 3, "unscored": 1}
    scores = [1] * 6 + [0] * 2 + [0.5] * 3
    expected = stats.paired_difference([0] * 11, scores)
    assert result["win_rate"]["value"] == pytest.approx(7.5 / 11)
    assert result["win_rate"]["ci95"] == pytest.approx(expected["ci95"])
    assert (result["win_rate"]["n"], result["n"], result["errors"]) == (11, 12, 0)
    assert result["win_rate"]["p"] == pytest.approx(74 / 256)  # exact sign test, 6 wins to 2: 2 * (1 + 8 + 28) / 2**8
    assert result["orders_disagree"] == 2
    assert sum(client.faults.values()) == len(faults)
    with serve(Script(lambda _: pytest.fail("asked again"))) as url:  # a rerun asks nothing and gives the same
        silent = judge.judge_from(Client(url, "scripted", attempts=1))
        again = judge.pairwise([pair(i) for i in range(12)], silent, {"j": 1}, Store(tmp_path / "j"))
    assert judge.summarise_pairs(again) == result


def test_a_judge_that_always_says_first_ends_in_ties(tmp_path):
    rows = judge.pairwise([pair(i) for i in range(5)], lambda _: "[[A]]", {}, Store(tmp_path / "j"))
    result = judge.summarise_pairs(rows)
    assert result["counts"] == {"tuned": 0, "base": 0, "tie": 5, "unscored": 0}
    assert (result["orders_disagree"], result["first_preferred"], result["win_rate"]["p"]) == (5, 1.0, 1.0)


def test_a_dead_server_stops_the_run_and_scores_nothing(tmp_path):
    store = Store(tmp_path / "j")
    client = Client("http://127.0.0.1:9/v1", "gone", attempts=2, timeout=0.5, pause=0.001)
    with pytest.raises(UserError, match="failed three times in a row"):
        judge.pairwise([pair(i) for i in range(4)], judge.judge_from(client), {}, store)
    assert not store.rows
    with pytest.raises(UserError, match="no answer"):
        client.check()


def test_an_item_that_fails_for_good_is_unscored_and_asked_again(tmp_path):
    def flaky(prompt):
        if "Q1?" in prompt:
            raise Fault("timeout")
        return "[[tie]]"

    rows = judge.pairwise([pair(0), pair(1)], flaky, {}, Store(tmp_path / "j"))
    assert [(row["outcome"], row["error"]) for row in rows] == [("tie", None), ("unscored", "timeout")]
    assert judge.summarise_pairs(rows)["errors"] == 1
    rows = judge.pairwise([pair(0), pair(1)], lambda _: "[[tie]]", {}, Store(tmp_path / "j"))
    assert [row["outcome"] for row in rows] == ["tie", "tie"]


def test_status_400_is_told_at_once():
    with serve(Script(lambda _: "x", (400,))) as url, pytest.raises(UserError, match="status 400"):
        Client(url, "m").chat("q", 5)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[[A]]", "A"),
        ("better.\n[[ b ]]", "B"),
        ("[[A]] no, on reflection [[B]]", "B"),
        ("<think>[[A]]", None),
        ("Answer A is better", None),
        ("[[A]] is what you would expect me to say.\nBut I cannot decide.", None),
        ("[[equivalent]]", None),
        ("", None),
    ],
)
def test_verdicts(text, verdict):
    assert judge.read_verdict(text, "pairwise") == verdict


def test_a_verdict_that_was_cut_off_is_none(tmp_path):
    script = Script(lambda _: "Perhaps [[A]]", finish="length")
    with serve(script) as url:
        rows = judge.pairwise([pair(0)], judge.judge_from(Client(url, "m")), {}, Store(tmp_path / "j"))
    assert rows[0]["outcome"] == "unscored"


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
