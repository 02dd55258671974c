"""Each control passes on a sound evaluation, fails when its cause is planted, and never passes on too little."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.evaluate.accuracy import is_right
from scripts.evaluate.controls import base_against_itself, shuffled_answers

RNG = np.random.default_rng(0)
KEYS = list(RNG.choice(list("ABCD"), 200))
GOOD = [key if RNG.random() < 0.7 else "A" for key in KEYS]
OTHER = [{"A": "B", "B": "C", "C": "D", "D": "A"}[key] for key in KEYS]


def rows(letters: list, keys: list | None = None) -> list[dict]:
    """Scored rows of one budget."""
    found = zip(letters, keys or KEYS[: len(letters)], strict=True)
    return [{"answer_idx": k, "outputs": {"8": {"letter": x, "status": "read" if x else "several"}}} for x, k in found]


@pytest.mark.parametrize(
    ("second", "differ", "status"),
    [
        (GOOD, 0, "passed"),
        ([OTHER[i] if i in (1, 50, 120) else x for i, x in enumerate(KEYS)], None, "failed"),  # another model
        ([None if i % 5 == 0 else x for i, x in enumerate(GOOD)], None, "failed"),
        (
            [OTHER[i] if i in (0, 1, 2) else x for i, x in enumerate(GOOD)],
            None,
            "passed",
        ),  # a few that differ by chance
    ],
)
def test_the_base_model_asked_twice(second: list, differ: int | None, status: str) -> None:
    found = base_against_itself(rows(GOOD), rows(second), "8")
    assert found["status"] == status
    if differ is not None:
        assert (found["figures"]["gained"], found["figures"]["lost"]) == (differ, 0)


def test_shuffled_answers_fall_to_chance() -> None:
    assert shuffled_answers(rows(GOOD), "8")["status"] == "passed"


@pytest.mark.parametrize(
    ("name", "scorer"),
    [
        ("unparsed counts as right", lambda row, budget: is_right(row, "8") or not row["outputs"]["8"]["letter"]),
        ("everything is right", lambda row, budget: True),
        ("nothing is right", lambda row, budget: False),
        ("the better of two guesses", lambda row, budget: is_right(row, "8") or row["answer_idx"] == "A"),
    ],
)
def test_planted_a_scorer_that_does_not_compare_letters(name: str, scorer) -> None:
    letters = [letter if i % 4 else None for i, letter in enumerate(GOOD)]
    assert shuffled_answers(rows(letters), "8", scorer)["status"] == "failed", name


@pytest.mark.parametrize(
    "found",
    [
        base_against_itself([], [], "8"),
        base_against_itself(rows(GOOD[:5]), rows(GOOD[:5]), "8"),
        base_against_itself(rows(GOOD), rows([None] * 150 + GOOD[150:]), "8"),
        shuffled_answers([], "8"),
        shuffled_answers(rows([None] * 120 + GOOD[120:]), "8"),
        shuffled_answers(rows(["A"] * 200), "8"),
        shuffled_answers(rows(GOOD, ["A"] * 200), "8"),
    ],
)
def test_too_little_is_uninformative_never_passed(found: dict) -> None:
    assert found["status"] == "uninformative"
