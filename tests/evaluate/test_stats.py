"""Tests, intervals and verdicts against hand-computed values, and against simulations with and without an effect."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scripts.evaluate import stats

TRIALS = 1000


@pytest.mark.parametrize(
    ("p", "n", "value", "better", "want"),
    [
        (0.01, 20, 0.2, 1, "gain"),
        (0.01, 20, -0.2, 1, "loss"),
        (0.01, 20, -0.2, -1, "gain"),
        (0.01, 20, 0.2, -1, "loss"),
        (0.05, 200, 0.2, 1, "no difference shown"),
        (0.0001, 19, 0.9, 1, "too few"),
        (None, 200, None, 1, "too few"),
        (1.0, 24, 0.0, 1, "no difference shown"),
    ],
)
def test_verdict(p: float | None, n: int, value: float | None, better: int, want: str) -> None:
    assert stats.verdict(p, n, value, better) == want


def test_a_table_is_judged_as_a_whole() -> None:
    rows = [
        {"value": 0.2, "n": 100, "p": 0.01},
        {"value": 0.2, "n": 100, "p": 0.04},
        {"value": -0.3, "n": 100, "p": 0.03, "better": -1},
        {"value": 0.9, "n": 2, "p": 0.5},
        {"value": None, "n": 0, "p": None},
    ]
    stats.judge_table(rows)
    assert [row["p_holm"] for row in rows] == pytest.approx([0.04, 0.09, 0.09, 0.5, None])
    assert [row["verdict"] for row in rows] == ["gain", *["no difference shown"] * 2, "too few", "too few"]
    alone = {"value": 0.2, "n": 100, "p": 0.04}
    stats.judge_table([alone])
    assert alone["verdict"] == "gain", "what one row may say alone, a table of them may not"


def test_shares_are_tested_by_mcnemar() -> None:
    base, tuned = [0] * 8 + [1] * 2 + [1] * 90, [1] * 8 + [0] * 2 + [1] * 90
    found = stats.paired(base, tuned)
    assert found["value"] == pytest.approx(0.06)
    assert (found["gained"], found["lost"], found["n"]) == (8, 2, 100)
    assert found["p"] == pytest.approx(2 * sum(math.comb(10, i) for i in range(3)) / 2**10)
    assert found == stats.paired(base, tuned)


def test_means_are_tested_by_all_sign_flips() -> None:
    # Of the 16 sign flips of 1, 2, 3, 4 only all + and all - are as extreme as all +.
    assert stats.sign_flip_p([1, 2, 3, 4]) == pytest.approx(2 / 16)
    assert stats.sign_flip_p([1, 2, 3, 4, 0, 0]) == pytest.approx(2 / 16), "ties say nothing"
    assert stats.sign_flip_p([0, 0]) == 1
    many = list(np.random.default_rng(0).normal(0.2, 1, 200))
    assert stats.sign_flip_p(many) == stats.sign_flip_p(many), "random flips are drawn from the seed"


def test_with_several_seeds_the_item_is_the_unit() -> None:
    rng = np.random.default_rng(0)
    base, tuned = (rng.random(60) < 0.4).astype(float), (rng.random(60) < 0.6).astype(float)
    once = stats.paired(base, tuned)
    items = np.repeat(np.arange(60), 8)
    eight = stats.paired(np.repeat(base, 8), np.repeat(tuned, 8), items)
    assert eight == once, "the same answers eight times over are no more evidence"
    mixed = stats.paired([0, 0, 1, 1], [1, 0, 1, 1], ["a", "a", "b", "b"])
    assert (mixed["value"], mixed["n"], mixed["gained"], mixed["lost"]) == (0.25, 2, 1, 0)


def test_nothing_to_compare_and_unequal_columns() -> None:
    assert stats.paired([], []) == {"value": None, "n": 0, "ci95": None, "p": None, "gained": 0, "lost": 0}
    with pytest.raises(ValueError, match="shorter"):
        stats.paired([1, 0], [1])


def test_ties_have_an_honest_interval() -> None:
    low, high = stats.difference_ci([0.0] * 24)
    assert low == pytest.approx(-0.1066, abs=1e-4)
    assert high == -low
    assert stats.difference_ci([1.0] * 24)[1] == 1, "never outside of what is possible"
    assert stats.difference_ci([0.0] * 24, bound=0.5)[1] == pytest.approx(high / 2)
    low, high = stats.share_ci([0.5] * 24)
    assert low < 0.5 < high


@pytest.mark.parametrize(("lost", "gained"), [(0.05, 0.05), (0.1, 0.1), (0.05, 0.2), (0.1, 0.3)])
@pytest.mark.parametrize("n", [24, 60, 200])
def test_the_interval_covers_the_truth(n: int, lost: float, gained: float) -> None:
    rng = np.random.default_rng(7)
    drawn = rng.choice([-1, 1, 0], p=[lost, gained, 1 - lost - gained], size=(1000, n))
    intervals = [stats.difference_ci(list(map(float, row))) for row in drawn]
    assert np.mean([low <= gained - lost <= high for low, high in intervals]) >= 0.93


@pytest.mark.parametrize(
    ("k", "n", "want"), [(5, 10, (0.2366, 0.7634)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0))]
)
def test_a_share_of_right_answers_has_wilsons_interval(k: int, n: int, want: tuple) -> None:
    assert stats.share_ci([1] * k + [0] * (n - k)) == pytest.approx(want, abs=1e-4)
    assert stats.share_ci([]) is None


def test_compare_takes_the_answers_that_both_have() -> None:
    scores = {"base": {"a": 1, "b": 0, "c": 0}, "tuned": {"a": 1, "b": 1}}
    rows = [{"model": model, "id": item, "right": right} for model in scores for item, right in scores[model].items()]
    found = stats.compare(rows, lambda row: row["right"])
    assert (found["base"]["acc"], found["base"]["n"]) == (pytest.approx(1 / 3), 3)
    assert (found["difference"]["value"], found["difference"]["n"]) == (0.5, 2)
    assert "difference" not in stats.compare(rows[:3], lambda row: 1)
    assert stats.compare([], lambda row: 1) == {}


def test_perplexity_is_a_mean_over_tokens_not_records() -> None:
    found = stats.compare_nats({"base": ([20.0, 1.0], [10, 1])})["base"]
    assert found["ppl"] == pytest.approx(math.exp(21 / 11))
    assert found["ci95"] == pytest.approx([math.e, math.exp(2)])
    assert found["tokens"] == 11
    assert stats.compare_nats({"base": ([0.0], [0])})["base"]["ppl"] is None
    assert stats.compare_nats({"base": ([2.0], [1])})["base"]["ci95"] is None


def test_perplexity_is_compared_record_by_record() -> None:
    base, tokens = np.linspace(100, 900, 50), [100] * 50
    found = stats.compare_nats({"base": (base, tokens), "tuned": (base * 0.99, tokens)})["difference"]
    assert found["value"] == pytest.approx(-0.05)
    assert found["ratio"] == pytest.approx(math.exp(-0.05))
    assert found["ci95"][1] < 0, "every record is better; drawing the models apart would hide it"
    assert found["p"] < 0.001
    same = stats.compare_nats({"base": (base, tokens), "tuned": (base, tokens)})["difference"]
    assert (same["value"], same["ci95"], same["p"]) == (0, None, 1), "no spread is no certainty"
    two = stats.compare_nats({"base": ([90.0, 80.0], [10, 10]), "tuned": ([10.0, 9.0], [10, 10])})["difference"]
    assert two["p"] == 0.5, "two records cannot show anything"


def simulate(kind: str, n: int, effect: float, rng: np.random.Generator) -> dict:
    """One comparison of two models on n items whose true difference is ``effect`` (of shares, or of means in sd)."""
    if kind == "means":
        differences = effect + rng.standard_t(3, n)
        p = stats.sign_flip_p(differences, resamples=99)
        return {"value": float(differences.mean()), "n": n, "p": p}
    seeds = 4 if kind == "several seeds" else 1
    ease = rng.beta(2, 2, n)  # an item's chance to be answered right
    base = (rng.random((n, seeds)) < ease[:, None]).astype(float)
    tuned = (rng.random((n, seeds)) < np.clip(ease + effect, 0, 1)[:, None]).astype(float)
    items = np.repeat(np.arange(n), seeds)
    return stats.paired(base.ravel(), tuned.ravel(), items, resamples=99)


@pytest.mark.parametrize("kind", ["shares", "several seeds", "means"])
@pytest.mark.parametrize("n", [2, 10, 19, 20, 50, 100])
def test_without_an_effect_a_verdict_is_rare(kind: str, n: int) -> None:
    rng = np.random.default_rng(n)
    rows = [simulate(kind, n, 0.0, rng) for _ in range(TRIALS)]
    verdicts = [stats.verdict(row["p"], row["n"], row["value"]) for row in rows]  # Holm leaves one row's p as it is
    wrong = sum(verdict in ("gain", "loss") for verdict in verdicts)
    print(f"{kind}, n = {n}, no effect: {wrong / TRIALS:.1%} verdicts")
    assert wrong <= 0.07 * TRIALS
    assert (verdicts.count("too few") == TRIALS) == (n < 20)


def test_in_a_table_without_effects_a_verdict_is_rare_too() -> None:
    rng = np.random.default_rng(5)
    wrong, tables = 0, 20
    for _ in range(tables):
        rows = [simulate("shares", 60, 0.0, rng) for _ in range(8)]
        stats.judge_table(rows)
        wrong += any(row["verdict"] in ("gain", "loss") for row in rows)
    assert wrong <= 0.07 * tables


@pytest.mark.parametrize(
    ("kind", "n", "effect", "at_least"),
    [("shares", 100, 0.3, 0.9), ("several seeds", 100, 0.15, 0.9), ("means", 100, 0.6, 0.9), ("shares", 30, 0.1, 0.0)],
)
def test_with_an_effect_it_is_found(kind: str, n: int, effect: float, at_least: float) -> None:
    rng = np.random.default_rng(11)
    found = 0
    for _ in range(200):
        row = simulate(kind, n, effect, rng)
        verdict = stats.verdict(row["p"], row["n"], row["value"])
        assert verdict != "loss"
        found += verdict == "gain"
    print(f"{kind}, n = {n}, effect {effect}: power {found / 200:.0%}")
    assert found >= at_least * 200


@pytest.mark.parametrize(("n", "changed"), [(50, 0.3), (200, 0.2), (1273, 0.2)])
def test_the_smallest_visible_difference_is_seen_four_times_in_five(n: int, changed: float) -> None:
    difference = stats.smallest_visible_difference(n, changed)
    lost, gained = (changed - difference) / 2, (changed + difference) / 2
    drawn = np.random.default_rng(3).choice([-1, 1, 0], p=[lost, gained, 1 - lost - gained], size=(1000, n))
    seen = np.mean([stats.sign_flip_p(row) < 0.05 and row.sum() > 0 for row in drawn])
    assert 0.76 <= seen <= 0.85


def test_the_smallest_visible_difference_in_points() -> None:
    assert round(100 * stats.smallest_visible_difference(200)) == 9
    assert stats.smallest_visible_difference(4) == 1, "four items cannot reach p < 0.05"


def test_kappa_by_hand() -> None:
    first, second = list("aaabbb"), list("aabbbb")
    assert stats.cohen_kappa(first, second)["value"] == pytest.approx((5 / 6 - 0.5) / 0.5)
    assert stats.cohen_kappa("aaa", "aaa")["value"] is None, "one label only: chance agrees as well"
    low, high = stats.cohen_kappa(first, second)["ci95"]
    assert -1 <= low < 2 / 3 < high <= 1
