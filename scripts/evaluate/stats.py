"""Exact paired tests, honest intervals and verdicts over whole tables, from scipy and statsmodels.

A verdict comes from an exact test of pairs: McNemar's for shares, sign flips of the items' differences for everything
else, corrected by Holm over all rows of the same table. Intervals are shown beside it and judge nothing. Where items
were answered several times (seeds), the item is the unit: its scores are averaged first.

Every function is deterministic. An estimate is a dict
``{"value", "n", "ci95"}``: ``n`` counts records or items, ``ci95`` is ``[low, high]``, None where nothing can be said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

RESAMPLES, SEED = 9999, 42
ALPHA = 0.05
ENOUGH = 20  # records or items, below which a table says "too few"
Z = 1.959964  # the normal distribution's 97.5% point


def verdict(p_holm: float | None, n: int, value: float | None, better: int = 1) -> str:
    """gain, loss, no difference shown, or too few (under 20 items, or no test). ``better``: an improvement's sign."""
    if n < ENOUGH or p_holm is None or value is None:
        return "too few"
    if p_holm >= ALPHA or value == 0:
        return "no difference shown"
    return "gain" if value * better > 0 else "loss"


def judge_table(rows: Iterable[dict[str, Any]]) -> None:
    """Add ``p_holm`` and ``verdict`` to the differences of one table: {"value", "n", "p"}, and "better" (-1 or 1).

    Holm's correction is over all rows that have a p, those with too few items included: give it the whole table.
    """
    from statsmodels.stats.multitest import multipletests

    rows = list(rows)
    tested = [row for row in rows if row["p"] is not None]
    corrected = multipletests([row["p"] for row in tested], method="holm")[1].tolist() if tested else []
    for row in rows:
        row["p_holm"] = corrected.pop(0) if row["p"] is not None else None
        row["verdict"] = verdict(row["p_holm"], row["n"], row["value"], row.get("better", 1))


def compare(rows: Iterable[Mapping[str, Any]], value: Callable[[Any], float], name: str = "acc") -> dict[str, Any]:
    """Each model's share of right answers, and the difference tuned - base over the answers that both have.

    ``rows``: answers with ``model``, ``id`` and, where seeds answer an item several times, ``seed``; ``value(row)``:
    0/1. Returns model → ``{name, "n" (items), "ci95"}``, and ``difference`` as ``paired`` gives it.
    """
    scores: dict[str, dict[tuple, float]] = {}
    for row in rows:
        scores.setdefault(row["model"], {})[row["id"], row.get("seed")] = float(value(row))
    result: dict[str, Any] = {}
    for model, mine in scores.items():
        found = share(list(mine.values()), [item for item, _ in mine])
        result[model] = {name: found["value"], "n": found["n"], "ci95": found["ci95"]}
    if {"base", "tuned"} <= scores.keys():
        keys = [key for key in scores["base"] if key in scores["tuned"]]
        base, tuned = ([scores[model][key] for key in keys] for model in ("base", "tuned"))
        result["difference"] = paired(base, tuned, [item for item, _ in keys])
    return result


def paired(
    base: Sequence[float],
    tuned: Sequence[float],
    items: Sequence[Hashable] | None = None,
    bound: float = 1.0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Mean of tuned - base over items, with interval, exact two-sided p, and items gained and lost.

    ``base``, ``tuned``: (answers,) scores in the same order. ``items``: (answers,) item ids where an item was answered
    several times; without, each answer is its own. ``bound``: no item's difference can be larger than this.
    """
    differences = _per_item([after - before for before, after in zip(base, tuned, strict=True)], items)
    n = len(differences)
    return {
        "value": sum(differences) / n if n else None,
        "n": n,
        "ci95": difference_ci(differences, bound),
        "p": sign_flip_p(differences, resamples) if n else None,
        "gained": sum(difference > 0 for difference in differences),
        "lost": sum(difference < 0 for difference in differences),
    }


def sign_flip_p(differences: Sequence[float], resamples: int = RESAMPLES) -> float:
    """Two-sided p that (items,) differences are as often for as against: all sign flips, or ``resamples`` random ones.

    Differences of 0 say nothing. Where the others are all of one size this is McNemar's exact test.
    """
    import numpy as np
    from scipy.stats import binomtest, permutation_test

    moved = np.array([difference for difference in differences if difference], dtype=float)
    if not len(moved):
        return 1.0
    if np.ptp(np.abs(moved)) < 1e-12:
        return float(binomtest(int((moved > 0).sum()), len(moved)).pvalue)
    options = {"permutation_type": "samples", "vectorized": True, "batch": 500, "n_resamples": resamples}
    found = permutation_test((moved,), lambda x, axis=-1: x.sum(axis), **options, rng=np.random.default_rng(SEED))
    return float(found.pvalue)


def difference_ci(differences: Sequence[float], bound: float = 1.0) -> list[float] | None:
    """95% interval of the mean of (items,) paired differences within ±``bound``: one item won and one lost are added.

    Without them, items that all agree would give [0, 0]. For 0/1 scores this is Bonett and Price's adjusted Wald
    interval (2012, Journal of Educational and Behavioral Statistics 37:479), which Fagerland, Lydersen and Laake (2014,
    Statistics in Medicine 33:2850) recommend.
    """
    return _wald([*differences, bound, -bound], -bound, bound) if len(differences) else None


def share(scores: Sequence[float], items: Sequence[Hashable] | None = None) -> dict[str, Any]:
    """Mean of (answers,) scores within [0, 1], item by item where ``items`` are given, with its 95% interval."""
    means = _per_item(scores, items)
    return {"value": sum(means) / len(means) if means else None, "n": len(means), "ci95": share_ci(means)}


def share_ci(values: Sequence[float]) -> list[float] | None:
    """95% interval of the mean of (items,) scores within [0, 1]: Wilson's for 0/1 scores; None without items.

    Where items were answered several times: two items right and two wrong are added, as Agresti and Coull (1998) do.
    """
    from statsmodels.stats.proportion import proportion_confint

    if not values:
        return None
    if all(value in (0, 1) for value in values):
        return [float(end) for end in proportion_confint(sum(values), len(values), method="wilson")]
    return _wald([*values, 0, 0, 1, 1], 0.0, 1.0)


def _wald(values: Sequence[float], low: float, high: float) -> list[float]:
    import numpy as np

    half = Z * float(np.std(values)) / len(values) ** 0.5
    mean = float(np.mean(values))
    return [max(low, mean - half), min(high, mean + half)]


def _per_item(scores: Sequence[float], items: Iterable[Hashable] | None) -> list[float]:
    """The mean score of each item, in the order in which items first come; each score for itself without ``items``."""
    by_item: dict[Hashable, list[float]] = {}
    for score, name in zip(scores, range(len(scores)) if items is None else items, strict=True):
        by_item.setdefault(name, []).append(float(score))
    return [sum(mine) / len(mine) for mine in by_item.values()]


def compare_nats(columns: Mapping[str, tuple[Sequence[float], Sequence[int]]]) -> dict[str, Any]:
    """Each model's perplexity, and the difference tuned - base in nats per token; negative is better.

    ``columns``: model → (records,) sums of -log p in nats and (records,) token counts, the same records in the same
    order. Returns model → ``{"nats", "ppl", "n", "ci95" (of ppl), "tokens"}``, and ``difference`` →
    ``{"value", "n", "ci95", "p", "ratio"}``: ``ratio`` is tuned's perplexity over base's. p comes from sign flips of
    the records' nats; intervals from a bootstrap of whole records, both models together.
    """
    result: dict[str, Any] = {}
    for model, (nll, tokens) in columns.items():
        found = _nats_per_token([nll, tokens])
        interval = found["ci95"] and [math.exp(end) for end in found["ci95"]]
        result[model] = {"nats": found["value"], "ppl": _exp(found["value"]), "n": found["n"], "ci95": interval}
        result[model]["tokens"] = sum(tokens)
    if {"base", "tuned"} <= columns.keys():
        (base, base_tokens), (tuned, tuned_tokens) = columns["base"], columns["tuned"]
        found = _nats_per_token([base, base_tokens, tuned, tuned_tokens])
        each = [after - before for before, after in zip(base, tuned, strict=True)]
        found["p"] = None if found["value"] is None else sign_flip_p(each)
        result["difference"] = found | {"ratio": _exp(found["value"])}
    return result


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)


def _nats_per_token(columns: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Of (nats, tokens) of one model, or of base then tuned: the mean, or the difference of means, with an interval."""
    import numpy as np
    from scipy.stats import bootstrap

    arrays = [np.asarray(column, dtype=float) for column in columns]

    def statistic(*drawn: Any, axis: int = -1) -> Any:
        means = [drawn[i].sum(axis) / drawn[i + 1].sum(axis) for i in range(0, len(drawn), 2)]
        return means[0] if len(means) == 1 else means[1] - means[0]

    result: dict[str, Any] = {"value": None, "n": len(arrays[0]), "ci95": None}
    if not all(tokens.sum() for tokens in arrays[1::2]):
        return result
    result["value"] = float(statistic(*arrays))
    if result["n"] > 1:
        options = {"paired": True, "vectorized": True, "method": "percentile", "batch": 500, "n_resamples": RESAMPLES}
        with np.errstate(invalid="ignore", divide="ignore"):
            found = bootstrap(arrays, statistic, **options, rng=np.random.default_rng(SEED)).confidence_interval
        if found.low < found.high:  # otherwise the records show no spread, and an interval would pretend certainty
            result["ci95"] = [float(found.low), float(found.high)]
    return result


def smallest_visible_difference(n: int, changed: float = 0.2) -> float:
    """The smallest difference of two shares that McNemar's exact test shows in 80% of runs with ``n`` items.

    ``changed``: the share of items that only one of the models gets, an assumption. 1.0 where nothing would show.
    """
    import numpy as np
    from scipy.stats import binom

    moved = np.arange(n + 1)  # items that changed
    least = binom.isf(ALPHA / 2, moved, 0.5) + 1  # gained among them, from where on it is significant

    def shown(difference: float) -> float:
        share = max(changed, difference)
        gained = (1 + difference / share) / 2
        return float((binom.pmf(moved, n, share) * binom.sf(least - 1, moved, gained)).sum())

    return next((step / 1000 for step in range(1, 1000) if shown(step / 1000) >= 0.8), 1.0)


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> dict[str, Any]:
    """Cohen's kappa of two (items,) sequences of labels; value None where chance agreement is 1 (one label only)."""
    import numpy as np
    from statsmodels.stats.inter_rater import cohens_kappa, to_table

    labels, codes = np.unique([first, second], return_inverse=True)
    if len(labels) < 2:
        return {"value": None, "n": len(first), "ci95": None}
    found = cohens_kappa(to_table(codes.reshape(2, -1).T)[0])
    interval = [max(-1.0, float(found.kappa_low)), min(1.0, float(found.kappa_upp))]
    return {"value": float(found.kappa), "n": len(first), "ci95": interval}
