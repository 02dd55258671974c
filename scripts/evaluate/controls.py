"""Negative controls: checks whose right outcome is known beforehand. Pure; scripts.evaluate runs them every time.

They take scored rows (``answer_idx``, ``outputs``: budget → ``letter`` and ``status``) and return ``{"name", "status",
"detail", "figures", "n"}``: status ``passed``, ``failed`` (the evaluation is not to be trusted) or ``uninformative``
(too little was read to tell; this is never a pass). ``detail`` is a sentence whose {places} ``figures`` fill.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scripts.evaluate.accuracy import is_right
from scripts.evaluate.stats import ALPHA, RESAMPLES, SEED, paired

MIN_SHARE = 0.5  # of items read, below which a control says nothing
MIN_ITEMS = 10


def base_against_itself(first: Sequence[dict], second: Sequence[dict], budget: str) -> dict[str, Any]:
    """Two runs of the base model over the same items, in order: the verdicts' own test must show no difference."""
    name = "base_against_itself"
    if thin := _too_few(name, min(_letters(first, budget), _letters(second, budget), key=_read)):
        return thin
    found = paired(*([float(is_right(row, budget)) for row in rows] for rows in (first, second)))
    figures = {key: found[key] for key in ("n", "gained", "lost")} | {"p": f"{found['p']:.2g}"}
    detail = "of {n} items {gained} were right only the second time and {lost} only the first, p = {p}"
    return _outcome(name, found["p"] >= ALPHA, detail, found["n"], figures)


def shuffled_answers(
    rows: Sequence[dict], budget: str, score: Callable[[dict, str], bool] = is_right
) -> dict[str, Any]:
    """Deal the answers to other items and score them as the evaluation does: accuracy must fall to what chance gives.

    The 99.9% band of random deals comes from plain equality of letters, so a scorer that knows more than the letter, or
    is kinder, falls out of it. Uninformative where only one letter is chosen or right.
    """
    import numpy as np

    name = "shuffled_answers"
    letters, keys = _letters(rows, budget), [row["answer_idx"] for row in rows]
    if thin := _too_few(name, letters):
        return thin
    if len(set(letters) - {None}) < 2 or len(set(keys)) < 2:
        return _outcome(name, None, "only one letter is chosen or right: dealing anew changes nothing", len(rows))
    rng = np.random.default_rng(SEED)
    dealt = [rows[i]["outputs"] for i in rng.permutation(len(rows))]
    right = [score({**row, "outputs": outputs}, budget) for row, outputs in zip(rows, dealt, strict=True)]
    chosen = np.array([letter or "" for letter in letters])
    chance = [(rng.permutation(chosen) == keys).mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(chance, [0.0005, 0.9995])
    accuracy = float(np.mean(right))
    values = {"accuracy": accuracy, "low": low, "high": high, "mean": np.mean(chance)}
    detail = "dealt anew, accuracy is {accuracy}; random deals give {mean} on average, 99.9% of them {low} to {high}"
    figures = {key: f"{100 * value:.1f}%" for key, value in values.items()}
    return _outcome(name, bool(low - 1e-9 <= accuracy <= high + 1e-9), detail, len(rows), figures)


def _letters(rows: Sequence[dict], budget: str) -> list[str | None]:
    return [row["outputs"][budget]["letter"] for row in rows]


def _read(letters: Sequence[str | None]) -> int:
    return sum(letter is not None for letter in letters)


def _too_few(name: str, letters: Sequence[str | None]) -> dict[str, Any] | None:
    read = _read(letters)
    if read >= MIN_ITEMS and read >= MIN_SHARE * len(letters):
        return None
    figures = {"read": read, "n": len(letters), "least": MIN_ITEMS, "share": f"{MIN_SHARE:.0%}"}
    detail = "a letter was read in {read} of {n} items; needed: {least} and {share}"
    return _outcome(name, None, detail, read, figures)


def _outcome(
    name: str, good: bool | None, detail: str, n: int, figures: dict[str, Any] | None = None
) -> dict[str, Any]:
    status = {True: "passed", False: "failed", None: "uninformative"}[good]
    return {"name": name, "status": status, "detail": detail, "figures": figures or {}, "n": n}
