"""Negative controls: checks whose right outcome is known beforehand. Pure; scripts.evaluate runs them every time.

Each returns ``{"name", "status", "detail", "n"}``: status ``passed``, ``failed`` (the evaluation is not to be trusted)
or ``uninformative`` (too little was parsed or scored to tell; this is never a pass).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scripts.evaluate.stats import paired_difference, permutation_band

MIN_SHARE = 0.5  # of items parsed or scored, below which a control says nothing
MIN_ITEMS = 10


def base_against_itself(
    first: Sequence[float | None], second: Sequence[float | None], tolerance: float = 0.0, seed: int = 42
) -> dict[str, Any]:
    """Two runs of the base model over the same items, in order: the paired interval must hold zero.

    ``first``, ``second``: (items,) scores, e.g. 1/0 right or wrong, or nats per token; None where there was no answer
    to read. Differences up to ``tolerance`` count as none: rounding of sums may differ between batches.
    """
    name = "base_against_itself"
    if len(first) != len(second):
        return _outcome(name, False, f"{len(first)} items in one run, {len(second)} in the other", 0)
    changes = [b - a for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if thin := _too_few(name, len(changes), len(first)):
        return thin
    changes = [change if abs(change) > tolerance else 0.0 for change in changes]
    found = paired_difference([0.0] * len(changes), changes, seed=seed)
    low, high = found["ci95"]
    differ = f"{sum(map(bool, changes))} of {len(changes)} items differ"
    detail = f"difference {found['value']:.4g} [{low:.4g}, {high:.4g}]; {differ}"
    return _outcome(name, low <= 0 <= high, detail, len(changes))


def judge_says_first(outcomes: Sequence[str]) -> dict[str, Any]:
    """Outcomes of the pairwise evaluation with a judge that always prefers what it reads first: all must be ties.

    ``outcomes``: (pairs,) of base, tuned, tie, unscored, after both orders were joined.
    """
    scored = [outcome for outcome in outcomes if outcome != "unscored"]
    if thin := _too_few("judge_says_first", len(scored), len(outcomes)):
        return thin
    wins = {name: scored.count(name) for name in sorted(set(scored) - {"tie"})}
    return _outcome("judge_says_first", not wins, f"{scored.count('tie')} ties, wins {wins or 'none'}", len(scored))


def shuffled_answers(
    choices: Sequence[str | None],
    keys: Sequence[str],
    score: Callable[[str | None, str], float] = lambda choice, key: float(choice == key),
    seed: int = 42,
) -> dict[str, Any]:
    """Deal the answers to other items and score them as the evaluation does: accuracy must fall to what chance gives.

    ``choices``: (items,) letters read, None where unparsed; ``keys``: (items,) right letters; ``score(choice, key)``:
    the evaluation's own scorer. The 99.9% band comes from plain equality of letters, so a scorer that knows more than
    the letter, or is kinder, falls out of it. Uninformative where only one letter is chosen or right.
    """
    import numpy as np

    if thin := _too_few("shuffled_answers", sum(choice is not None for choice in choices), len(choices)):
        return thin
    if len(set(choices) - {None}) < 2 or len(set(keys)) < 2:
        detail = "only one letter is chosen or right: dealing the answers anew changes nothing"
        return _outcome("shuffled_answers", None, detail, len(keys))
    dealt = np.random.default_rng(seed + 1).permutation(len(choices))
    accuracy = sum(score(choices[i], key) for i, key in zip(dealt, keys, strict=True)) / len(keys)
    band = permutation_band(choices, keys, seed=seed)
    inside = band["low"] - 1e-9 <= accuracy <= band["high"] + 1e-9
    detail = f"shuffled {accuracy:.3f}, 99.9% band [{band['low']:.3f}, {band['high']:.3f}] around {band['mean']:.3f}"
    return _outcome("shuffled_answers", inside, detail, len(keys))


def _too_few(name: str, read: int, total: int) -> dict[str, Any] | None:
    if read >= MIN_ITEMS and read >= MIN_SHARE * total:
        return None
    detail = f"{read} of {total} items could be read; needed: {MIN_ITEMS} and {MIN_SHARE:.0%}"
    return _outcome(name, None, detail, read)


def _outcome(name: str, good: bool | None, detail: str, n: int) -> dict[str, Any]:
    status = {True: "passed", False: "failed", None: "uninformative"}[good]
    return {"name": name, "status": status, "detail": detail, "n": n}
