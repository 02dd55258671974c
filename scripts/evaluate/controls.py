"""Negative controls: checks whose right outcome is known beforehand. Pure; scripts.evaluate runs them every time.

Each returns ``{"name", "status", "detail", "n"}``: status ``passed``, ``failed`` (the evaluation is not to be trusted)
or ``uninformative`` (too little was read or scored to tell; this is never a pass).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scripts.evaluate.stats import ALPHA, SEED, paired, permutation_band

MIN_SHARE = 0.5  # of items read or scored, below which a control says nothing
MIN_ITEMS = 10


def base_against_itself(first: Sequence[float | None], second: Sequence[float | None]) -> dict[str, Any]:
    """Two runs of the base model over the same items, in order: the verdicts' own test must show no difference.

    ``first``, ``second``: (items,) 1 right or 0 wrong; None, which is wrong too, where no letter was read.
    """
    name = "base_against_itself"
    read = min(sum(score is not None for score in run) for run in (first, second))
    if thin := _too_few(name, read, len(first)):
        return thin
    found = paired([score or 0.0 for score in first], [score or 0.0 for score in second])
    differ = f"{found['gained'] + found['lost']} of {found['n']} items differ"
    detail = f"{differ}: {found['gained']} gained, {found['lost']} lost, p = {found['p']:.2g}"
    return _outcome(name, found["p"] >= ALPHA, detail, found["n"])


def judge_says_first(outcomes: Sequence[str]) -> dict[str, Any]:
    """Outcomes of the pairwise evaluation with a judge that always prefers what it reads first: all must be ties.

    ``outcomes``: (pairs,) of base, tuned, tie, after both orders were joined.
    """
    wins = {name: outcomes.count(name) for name in sorted(set(outcomes) - {"tie"})}
    detail = f"{outcomes.count('tie')} ties, wins {wins or 'none'}"
    return _outcome("judge_says_first", not wins, detail, len(outcomes))


def shuffled_answers(
    choices: Sequence[str | None], keys: Sequence[str], score: Callable[[str | None, str], float]
) -> dict[str, Any]:
    """Deal the answers to other items and score them as the evaluation does: accuracy must fall to what chance gives.

    ``choices``: (items,) letters, None where none or several were read; ``keys``: (items,) right letters;
    ``score(choice, key)``: the evaluation's own scorer. The 99.9% band comes from plain equality of letters, so a
    scorer that knows more than the letter, or is kinder, falls out of it. Uninformative where only one letter is chosen
    or right.
    """
    import numpy as np

    name = "shuffled_answers"
    if thin := _too_few(name, sum(choice is not None for choice in choices), len(choices)):
        return thin
    if len(set(choices) - {None}) < 2 or len(set(keys)) < 2:
        return _outcome(name, None, "only one letter is chosen or right: dealing anew changes nothing", len(keys))
    dealt = np.random.default_rng(SEED + 1).permutation(len(choices))
    accuracy = sum(score(choices[i], key) for i, key in zip(dealt, keys, strict=True)) / len(keys)
    band = permutation_band(choices, keys)
    inside = band["low"] - 1e-9 <= accuracy <= band["high"] + 1e-9
    detail = f"shuffled {accuracy:.3f}, 99.9% band [{band['low']:.3f}, {band['high']:.3f}] around {band['mean']:.3f}"
    return _outcome(name, inside, detail, len(keys))


def _too_few(name: str, read: int, total: int) -> dict[str, Any] | None:
    if read >= MIN_ITEMS and read >= MIN_SHARE * total:
        return None
    detail = f"{read} of {total} items could be read; needed: {MIN_ITEMS} and {MIN_SHARE:.0%}"
    return _outcome(name, None, detail, read)


def _outcome(name: str, good: bool | None, detail: str, n: int) -> dict[str, Any]:
    status = {True: "passed", False: "failed", None: "uninformative"}[good]
    return {"name": name, "status": status, "detail": detail, "n": n}
