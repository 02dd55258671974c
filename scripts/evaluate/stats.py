"""Intervals, tests and corrections for paired results, from scipy and statsmodels; imported by scripts.evaluate.

Every function is deterministic: the same input and ``seed`` give the same numbers. An estimate is a dict
``{"value", "n", "ci95"}``: ``n`` counts records or items, ``ci95`` is ``[low, high]``, None where there is too little.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

RESAMPLES = 9999


def proportion_ci(k: int, n: int) -> list[float] | None:
    """Wilson's 95% interval of k successes in n trials; None without trials. Never outside [0, 1]."""
    from scipy.stats import binomtest

    if n == 0:
        return None
    interval = binomtest(k, n).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def bootstrap_ppl(
    nll: Sequence[float],
    tokens: Sequence[int],
    tuned_nll: Sequence[float] | None = None,
    tuned_tokens: Sequence[int] | None = None,
    seed: int = 42,
) -> dict[str, Any]:
    """Perplexity exp(sum nll / sum tokens), or with the tuned model's columns the paired difference tuned - base.

    ``nll``: (records,) sums of -log p in nats; ``tokens``: (records,) counts. Whole records are drawn, for both
    models the same ones. Value None where no tokens are, interval None for fewer than two records.
    """
    import numpy as np

    columns = [nll, tokens] if tuned_nll is None else [nll, tokens, tuned_nll, tuned_tokens]

    def ppl(*sums: Any, axis: int = -1) -> Any:
        found = [np.exp(sums[i].sum(axis) / sums[i + 1].sum(axis)) for i in range(0, len(sums), 2)]
        return found[0] if len(found) == 1 else found[1] - found[0]

    if any(sum(counts) == 0 for counts in columns[1::2]):
        return {"value": None, "n": len(nll), "ci95": None}
    return _bootstrap(columns, ppl, seed)[0]


def paired_difference(
    base: Sequence[float], tuned: Sequence[float], clusters: Sequence[Hashable] | None = None, seed: int = 42
) -> dict[str, Any]:
    """Mean of tuned - base with interval and two-sided p; whole clusters are drawn.

    ``base``, ``tuned``: (answers,) scores in the same order, e.g. 0/1. ``clusters``: (answers,) item ids where an item
    was answered several times (seeds); without, each answer is its own. ``n`` counts clusters.
    """
    import numpy as np

    if not len(base) == len(tuned) == len(base if clusters is None else clusters):
        raise ValueError(f"paired scores differ in length: {len(base)} and {len(tuned)}")
    difference = np.asarray(tuned, dtype=float) - np.asarray(base, dtype=float)
    if not len(difference):
        return {"value": None, "n": 0, "ci95": None, "p": None}
    names = range(len(difference)) if clusters is None else clusters
    at = {name: i for i, name in enumerate(dict.fromkeys(names))}
    place = np.fromiter((at[name] for name in names), dtype=int)
    columns = [np.bincount(place, difference), np.bincount(place)]
    estimate, drawn = _bootstrap(columns, lambda total, count, axis=-1: total.sum(axis) / count.sum(axis), seed)
    tail = 1.0 if drawn is None else (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (1 + len(drawn))
    return estimate | {"p": float(min(1.0, 2 * tail))}


def mcnemar_exact(base: Sequence[bool], tuned: Sequence[bool]) -> dict[str, Any]:
    """Exact McNemar test of two (items,) sequences of right/wrong: items only tuned got, only base got, and p."""
    from statsmodels.stats.contingency_tables import mcnemar

    table = [[0, 0], [0, 0]]
    for before, after in zip(base, tuned, strict=True):
        table[bool(before)][bool(after)] += 1
    return {"gained": table[0][1], "lost": table[1][0], "p": min(1.0, float(mcnemar(table, exact=True).pvalue))}


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's adjusted p values in the order given; compare them with 0.05."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(pvalues, method="holm")[1]] if len(pvalues) else []


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> dict[str, Any]:
    """Cohen's kappa of two (items,) sequences of labels; value None where chance agreement is 1 (one label only)."""
    import numpy as np
    from statsmodels.stats.inter_rater import cohens_kappa

    labels = {label: i for i, label in enumerate(dict.fromkeys([*first, *second]))}
    if len(labels) < 2:
        return {"value": None, "n": len(first), "ci95": None}
    table = np.zeros((len(labels), len(labels)), dtype=int)
    for one, other in zip(first, second, strict=True):
        table[labels[one], labels[other]] += 1
    found = cohens_kappa(table)
    interval = [max(-1.0, float(found.kappa_low)), min(1.0, float(found.kappa_upp))]
    return {"value": float(found.kappa), "n": len(first), "ci95": interval}


def permutation_band(
    choices: Sequence[str | None], keys: Sequence[str], share: float = 0.999, seed: int = 42, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Accuracy of (items,) choices dealt at random to the items: exact mean and the central ``share`` of deals.

    None never matches a key. ``mean`` is the sum over letters of share chosen times share of keys.
    """
    import numpy as np

    codes = {letter: i for i, letter in enumerate(dict.fromkeys(keys))}
    key = np.array([codes[letter] for letter in keys], dtype=np.int8)
    chosen = np.array([codes.get(letter, -1) for letter in choices], dtype=np.int8)
    if not len(key) == len(chosen) > 0:
        raise ValueError(f"found {len(chosen)} choices for {len(key)} keys")
    rng = np.random.default_rng(seed)
    sizes = [min(500, resamples - start) for start in range(0, resamples, 500)]
    hits = [(rng.permuted(np.tile(chosen, (size, 1)), axis=1) == key).mean(1) for size in sizes]
    low, high = np.quantile(np.concatenate(hits), [(1 - share) / 2, (1 + share) / 2])
    mean = sum(float((chosen == code).mean() * (key == code).mean()) for code in codes.values())
    return {"mean": mean, "low": float(low), "high": float(high), "n": len(key)}


def is_gain(ci95: Sequence[float] | None, p: float | None = None, better: int = 1) -> bool:
    """Whether a difference may be called a gain: its interval lies beyond zero on the ``better`` side (+1 or -1).

    Where a (Holm-adjusted) ``p`` is given it must be below 0.05 too: a bootstrap of few items is too narrow.
    """
    if not ci95 or (p is not None and p >= 0.05):
        return False
    return ci95[0] > 0 if better > 0 else ci95[1] < 0


def compare(
    scores: Mapping[str, Mapping[Hashable, float]],
    name: str = "acc",
    item: Callable[[Any], Hashable] = lambda key: key,
    seed: int = 42,
) -> dict[str, Any]:
    """Each model's share of right answers, and the difference tuned - base over the answers that both have.

    ``scores``: model → answer's key → 0/1. ``item(key)``: the item that was answered, where seeds answer one several
    times. Returns model → ``{name, "n" (items), "ci95"}``; ``difference`` also has p (exact McNemar where each item was
    answered once, else from the clustered bootstrap) and ``gain``.
    """
    result: dict[str, Any] = {}
    for model, mine in scores.items():
        right, items = list(mine.values()), [item(key) for key in mine]
        n = len(set(items))
        if n == len(items):
            interval = proportion_ci(int(sum(right)), n)
        else:
            interval = paired_difference([0] * len(right), right, items, seed)["ci95"]
        result[model] = {name: sum(right) / len(right) if right else None, "n": n, "ci95": interval}
    if {"base", "tuned"} <= scores.keys():
        keys = [key for key in scores["base"] if key in scores["tuned"]]
        base, tuned = ([scores[model][key] for key in keys] for model in ("base", "tuned"))
        items = [item(key) for key in keys]
        difference = paired_difference(base, tuned, items, seed)
        if len(set(items)) == len(items):
            difference |= mcnemar_exact(base, tuned)
        result["difference"] = difference | {"gain": is_gain(difference["ci95"], difference["p"])}
    return result


def _bootstrap(columns: Sequence[Any], statistic: Any, seed: int) -> tuple[dict[str, Any], Any]:
    """Estimate with a percentile interval, and the statistic's bootstrap distribution (resamples,) or None."""
    import numpy as np
    from scipy.stats import bootstrap

    data = [np.asarray(column, dtype=float) for column in columns]
    value, n = float(statistic(*data)), len(data[0])
    if n < 2:
        return {"value": value, "n": n, "ci95": None}, None
    options = {"paired": True, "vectorized": True, "method": "percentile", "batch": 500, "n_resamples": RESAMPLES}
    with np.errstate(invalid="ignore"):
        found = bootstrap(data, statistic, **options, rng=np.random.default_rng(seed))
    interval = [float(found.confidence_interval.low), float(found.confidence_interval.high)]
    return {"value": value, "n": n, "ci95": interval}, found.bootstrap_distribution
