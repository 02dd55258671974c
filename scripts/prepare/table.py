"""What is remembered of every row once its batch is done: arrays, never texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.prepare.batch import KEPT
from scripts.prepare.keys import Tokens


@dataclass
class Table:
    """What is remembered of ``n`` rows, ``k`` of which passed every step before de-duplication.

    ``rows``: arrays (n,) reason, lang, tokens, repairs, warnings, source; ``passed``: their k indices;
    ``ids`` (k,) bytes, ``key`` (k,), ``thought`` (k,) characters, ``sketch`` (k, 256), ``features`` of each.
    """

    stems: list[Path]
    rows: dict[str, np.ndarray]
    passed: np.ndarray
    ids: list[bytes]
    key: np.ndarray
    thought: np.ndarray
    sketch: np.ndarray
    features: Tokens


def load_table(stems: list[tuple[Path, int]]) -> Table:
    """Gather what the batches remember."""
    names = ("reason", "lang", "tokens", "repairs", "warnings")
    parts: dict[str, list] = {
        name: [] for name in (*names, "source", "key", "thought", "sketch", "feature", "features")
    }
    ids: list[bytes] = []
    for stem, source in stems:
        with np.load(f"{stem}.npz") as file:
            for name in (*names, "key", "thought", "sketch", "feature", "features"):
                parts[name].append(file[name])
            ids += file["ids"].tolist()
            parts["source"].append(np.full(len(parts["reason"][-1]), source, np.int16))
    joined = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
    starts = np.concatenate(([0], np.cumsum(joined.pop("features"), dtype=np.int64)))
    features = Tokens(joined.pop("feature"), np.zeros(0, bool), starts)
    own = [joined.pop(name) for name in ("key", "thought", "sketch")]
    return Table(
        [s for s, _ in stems], joined, np.flatnonzero(joined["reason"] == KEPT), unique_ids(ids, own[0]), *own, features
    )


def unique_ids(ids: list[bytes], keys: np.ndarray) -> list[bytes]:
    """Ids that differ for different questions: the second and later uses of one get their question's key."""
    seen: dict[bytes, int] = {}
    result = []
    for own, key in zip(ids, keys.tolist(), strict=True):
        if seen.setdefault(own, key) != key:
            own = b"%s~%016x" % (own, key)
        result.append(own)
    return result
