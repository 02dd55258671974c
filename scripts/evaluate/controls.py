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
    if len(first) != len(second):
        return _outcome("base_against_itself", False, f"{len(first)} items in one run, {len(second)} in the other", 0)
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if (thin := _too_few("base_against_itself", len(pairs), len(first))) is not None:
        return thin
    settled = [b if abs(a - b) > tolerance else a for a, b in pairs]
    found = paired_difference([a for a, _ in pairs], settled, seed=seed)
    low, high = found["ci95"]
    changed = sum(a != b for (a, _), b in zip(pairs, settled, strict=True))
    detail = f"difference {found['value']:.4g} [{low:.4g}, {high:.4g}]; {changed} of {len(pairs)} items differ"
    return _outcome("base_against_itself", low <= 0 <= high, detail, len(pairs))


def judge_says_first(outcomes: Sequence[str]) -> dict[str, Any]:
    """Outcomes of the pairwise evaluation with a judge that always prefers what it reads first: all must be ties.

    ``outcomes``: (pairs,) of base, tuned, tie, unscored, after both orders were joined.
    """
    scored = [outcome for outcome in outcomes if outcome != "unscored"]
    if (thin := _too_few("judge_says_first", len(scored), len(outcomes))) is not None:
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

    if (thin := _too_few("shuffled_answers", sum(c is not None for c in choices), len(choices))) is not None:
        return thin
    if len(set(choices) - {None}) < 2 or len(set(keys)) < 2:
        detail = "only one letter is chosen or right: dealing the answers anew changes nothing"
        return {"name": "shuffled_answers", "status": "uninformative", "detail": detail, "n": len(keys)}
    dealt = np.random.default_rng(seed + 1).permutation(len(choices))
    accuracy = sum(score(choices[i], key) for i, key in zip(dealt, keys, strict=True)) / len(keys)
    band = permutation_band(choices, keys, seed=seed)
    inside = band["low"] - 1e-9 <= accuracy <= band["high"] + 1e-9
    detail = f"shuffled {accuracy:.3f}, 99.9% band [{band['low']:.3f}, {band['high']:.3f}] around {band['mean']:.3f}"
    return _outcome("shuffled_answers", inside, detail, len(keys))


def _too_few(name: str, informative: int, total: int) -> dict[str, Any] | None:
    if informative >= MIN_ITEMS and informative >= MIN_SHARE * total:
        return None
    needed = f"needed: {MIN_ITEMS} and {MIN_SHARE:.0%}"
    detail = f"{informative} of {total} items could be read; {needed}"
    return {"name": name, "status": "uninformative", "detail": detail, "n": informative}


def _outcome(name: str, good: bool, detail: str, n: int) -> dict[str, Any]:
    return {"name": name, "status": "passed" if good else "failed", "detail": detail, "n": n}
