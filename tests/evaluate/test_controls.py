"""Each control passes on a sound evaluation, fails when its cause is planted, and never passes on too little."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.evaluate.controls import base_against_itself, judge_says_first, shuffled_answers
from scripts.evaluate.judge import outcomes_of_one_who_says_first

RNG = np.random.default_rng(0)
KEYS = list(RNG.choice(list("ABCD"), 200))
GOOD = [key if RNG.random() < 0.7 else "A" for key in KEYS]
RIGHT = [float(choice == key) for choice, key in zip(GOOD, KEYS, strict=True)]


def equal(choice: str | None, key: str) -> float:
    return float(choice == key)


def test_the_same_run_twice_shows_no_difference() -> None:
    found = base_against_itself(RIGHT, RIGHT)
    assert found["status"] == "passed"
    assert "0 of 200 items differ" in found["detail"]


def test_planted_another_model_in_the_second_run() -> None:
    second = [1.0 if i % 5 == 0 else right for i, right in enumerate(RIGHT)]
    assert base_against_itself(RIGHT, second)["status"] == "failed"


def test_planted_letters_that_are_not_read_in_the_second_run() -> None:
    second = [None if i % 5 == 0 else right for i, right in enumerate(RIGHT)]
    assert base_against_itself(RIGHT, second)["status"] == "failed"
    assert base_against_itself(second, second)["status"] == "passed"


def test_a_few_items_that_come_out_otherwise_are_no_difference() -> None:
    second = [1 - right if i in (3, 50, 120) else right for i, right in enumerate(RIGHT)]
    found = base_against_itself(RIGHT, second)
    assert found["status"] == "passed"
    assert "3 of 200 items differ" in found["detail"]


def test_a_judge_that_says_first_ends_in_ties() -> None:
    assert judge_says_first(outcomes_of_one_who_says_first())["status"] == "passed"


def test_planted_only_one_order_is_asked() -> None:
    assert judge_says_first(["base"] * 20)["status"] == "failed"
    assert judge_says_first(["tie"] * 19 + ["tuned"])["status"] == "failed"


def test_shuffled_answers_fall_to_chance() -> None:
    assert shuffled_answers(GOOD, KEYS, equal)["status"] == "passed"


@pytest.mark.parametrize(
    ("name", "scorer"),
    [
        ("unparsed counts as right", lambda choice, key: float(choice == key or choice is None)),
        ("everything is right", lambda choice, key: 1.0),
        ("nothing is right", lambda choice, key: 0.0),
        ("the better of two guesses", lambda choice, key: float(key in (choice, "A"))),
    ],
)
def test_planted_a_scorer_that_does_not_compare_letters(name: str, scorer) -> None:
    choices = [choice if i % 4 else None for i, choice in enumerate(GOOD)]
    assert shuffled_answers(choices, KEYS, scorer)["status"] == "failed", name


@pytest.mark.parametrize(
    "found",
    [
        base_against_itself([], []),
        base_against_itself([1.0] * 5, [1.0] * 5),
        base_against_itself([None] * 150 + [1.0] * 50, [None] * 150 + [1.0] * 50),
        base_against_itself(RIGHT, [None] * 150 + RIGHT[150:]),
        shuffled_answers([], [], equal),
        shuffled_answers([None] * 120 + GOOD[120:], KEYS, equal),
        shuffled_answers(["A"] * 200, KEYS, equal),
        shuffled_answers(GOOD, ["A"] * 200, equal),
    ],
)
def test_too_little_is_uninformative_never_passed(found: dict) -> None:
    assert found["status"] == "uninformative"
