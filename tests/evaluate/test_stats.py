"""Intervals and tests against hand-computed values and known coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scripts.evaluate import stats


@pytest.mark.parametrize(
    ("k", "n", "want"), [(5, 10, (0.2366, 0.7634)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0))]
)
def test_proportion_ci_is_wilsons(k: int, n: int, want: tuple) -> None:
    assert stats.proportion_ci(k, n) == pytest.approx(want, abs=1e-4)


def test_no_trials_have_no_interval() -> None:
    assert stats.proportion_ci(0, 0) is None


def test_ppl_is_a_mean_over_tokens_not_records() -> None:
    found = stats.bootstrap_ppl([10.0, 1.0], [10, 1])
    assert found["value"] == pytest.approx(math.e)
    found = stats.bootstrap_ppl([20.0, 1.0], [10, 1])
    assert found["value"] == pytest.approx(math.exp(21 / 11))
    assert found["ci95"] == pytest.approx([math.e, math.exp(2)])


def test_paired_ppl_interval_is_narrower_than_the_spread_of_records() -> None:
    base = np.linspace(100, 900, 50)
    tokens = [100] * 50
    found = stats.bootstrap_ppl(base, tokens, base - 5, tokens)
    assert found["value"] < 0
    assert found["ci95"][1] < 0, "every record is better by as much; drawing the models apart would hide it"
    assert stats.bootstrap_ppl(base, tokens, base, tokens)["ci95"] == [0, 0]


def test_ppl_without_tokens_or_with_one_record() -> None:
    assert stats.bootstrap_ppl([0.0], [0]) == {"value": None, "n": 1, "ci95": None}
    assert stats.bootstrap_ppl([2.0], [1])["ci95"] is None


def test_paired_difference_and_its_seed() -> None:
    base, tuned = [0, 0, 1, 1] * 25, [0, 1, 1, 1] * 25
    found = stats.paired_difference(base, tuned)
    assert found["value"] == 0.25
    assert found["n"] == 100
    assert found["ci95"] == pytest.approx([0.17, 0.34], abs=0.02)
    assert found["p"] < 0.001
    assert found == stats.paired_difference(base, tuned)
    assert stats.paired_difference(base, base)["p"] == 1


def test_repeating_every_item_does_not_narrow_the_clustered_interval() -> None:
    rng = np.random.default_rng(0)
    base, tuned = rng.random(60) < 0.4, rng.random(60) < 0.6
    once = stats.paired_difference(base, tuned)
    items = np.repeat(np.arange(60), 8)
    clustered = stats.paired_difference(np.repeat(base, 8), np.repeat(tuned, 8), items)
    naive = stats.paired_difference(np.repeat(base, 8), np.repeat(tuned, 8))
    assert clustered["ci95"] == pytest.approx(once["ci95"])
    assert clustered["n"] == 60
    assert np.diff(naive["ci95"]) < np.diff(once["ci95"]) / 2


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_covers_the_truth_about_as_often_as_it_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(60):
        base = rng.random(120) < 0.5
        tuned = np.where(rng.random(120) < 0.3, rng.random(120) < 0.8, base)
        low, high = stats.paired_difference(base, tuned)["ci95"]
        hits += low <= 0.3 * 0.3 <= high
    assert hits >= 50  # 57 expected; fewer than 50 of 60 has a chance below 1 in 400


def test_paired_scores_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="length"):
        stats.paired_difference([1, 0], [1])


def test_mcnemar_counts_only_items_that_changed() -> None:
    base = [False] * 8 + [True] * 2 + [True] * 90
    tuned = [True] * 8 + [False] * 2 + [True] * 90
    found = stats.mcnemar_exact(base, tuned)
    assert found == {"gained": 8, "lost": 2, "p": pytest.approx(2 * sum(math.comb(10, i) for i in range(3)) / 2**10)}
    assert stats.mcnemar_exact([True], [True])["p"] == 1


def test_holm_in_the_order_given() -> None:
    assert stats.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert stats.holm([]) == []


def test_kappa_by_hand() -> None:
    first, second = list("aaabbb"), list("aabbbb")
    assert stats.cohen_kappa(first, second)["value"] == pytest.approx((5 / 6 - 0.5) / 0.5)
    assert stats.cohen_kappa("aaa", "aaa")["value"] is None, "one label only: chance agrees as well"
    low, high = stats.cohen_kappa(first, second)["ci95"]
    assert -1 <= low < 2 / 3 < high <= 1


def test_permutation_band_mean_is_exact_and_unparsed_never_match() -> None:
    found = stats.permutation_band(["A"] * 50 + [None] * 50, ["A"] * 20 + ["B"] * 80)
    assert found["mean"] == pytest.approx(0.5 * 0.2)
    assert found["low"] < 0.1 < found["high"]
    assert stats.permutation_band([None] * 5, list("ABCDA"))["high"] == 0


def test_permutation_band_holds_what_it_says() -> None:
    rng = np.random.default_rng(1)
    choices, keys = rng.choice(list("ABCD"), 200), rng.choice(list("ABCD"), 200)
    band = stats.permutation_band(choices, keys)
    shuffled = [(rng.permutation(choices) == keys).mean() for _ in range(2000)]
    outside = np.mean([(value < band["low"]) | (value > band["high"]) for value in shuffled])
    assert outside < 0.004


@pytest.mark.parametrize(
    ("ci95", "p", "better", "want"),
    [
        ([0.01, 0.2], None, 1, True),
        ([0.0, 0.2], None, 1, False),
        ([-0.1, 0.2], None, 1, False),
        ([-0.2, -0.1], None, 1, False),
        ([-0.2, -0.1], None, -1, True),
        ([1.0, 1.0], 0.5, 1, False),
        (None, None, 1, False),
    ],
)
def test_is_gain(ci95: list | None, p: float | None, better: int, want: bool) -> None:
    assert stats.is_gain(ci95, p, better) is want
