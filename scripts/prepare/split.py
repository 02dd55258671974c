"""Which split a record belongs to: by a hash of its cluster, and as in the last run where there was one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scripts.common import read_json, read_jsonl
from scripts.prepare.dedup import Duplicates
from scripts.prepare.keys import mix
from scripts.prepare.publish import SPLITS
from scripts.prepare.table import Table


def previous_splits(out: Path, name: str, settings: dict) -> dict[bytes, int]:
    """Each kept id's split in the outputs of an earlier run with the same seed and shares; else nothing."""
    report = out / "report.json"
    if not report.exists() or any(read_json(report).get("settings", {}).get(k) != v for k, v in settings.items()):
        return {}
    found = {}
    for number, split in enumerate(SPLITS):
        path = out / f"{name}_{split}.jsonl"
        if path.exists():
            found |= {str(row.get("id")).encode(): number for _, row in read_jsonl(path)}
    return found


def assign_splits(
    table: Table, duplicates: Duplicates, shares: tuple[float, float], seed: int, previous: dict[bytes, int]
) -> tuple[np.ndarray, list[dict]]:
    """Each passed record's split (k,) as an index of SPLITS, and the kept records that moved since the last run.

    A cluster's split comes from a hash of its first record and the seed - or, where members of it have a split from
    an earlier run, from the first such member, so that rows added anywhere move nothing.
    """
    anchors = duplicates.anchor
    drawn = mix(mix(table.key[anchors]) ^ mix(np.uint64([seed & (2**64 - 1)]))) / 2.0**64
    splits = np.where(drawn < shares[1], 2, np.where(drawn < sum(shares), 1, 0))
    if not previous:
        return splits, []
    before = [previous.get(own) for own in table.ids]
    settled: dict[int, int] = {}
    for anchor, split in zip(anchors.tolist(), before, strict=True):
        if split is not None:
            settled.setdefault(anchor, split)
    splits = np.array([settled.get(a, s) for a, s in zip(anchors.tolist(), splits.tolist(), strict=True)], np.int64)
    moves = [
        {"id": table.ids[i].decode(), "from": SPLITS[before[i]], "to": SPLITS[splits[i]]}
        for i in np.flatnonzero(duplicates.kept == np.arange(len(splits))).tolist()
        if before[i] is not None and before[i] != splits[i]
    ]
    return splits, moves
