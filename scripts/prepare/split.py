"""Which split a record belongs to: records that are alike, or that share their reasoning, stay together."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from itertools import zip_longest
from pathlib import Path

from rensa import RMinHash

from scripts.common import read_json, read_jsonl

SPLITS = ("train", "val", "test")
BANDS, ROWS = 4, 8  # equal reasoning shares every band, reasoning of similarity 0.9 one of them nine times of ten


def reasoning_keys(parts: list[str], seed: int) -> list[int]:
    """Keys of a thought (as tokens), one for each band; two thoughts with a key in common share their reasoning."""
    minhash = RMinHash(BANDS * ROWS, seed)
    minhash.update([one + other for one, other in zip_longest(parts, parts[1:], fillvalue="")])
    values = minhash.digest()
    return [hash((band, *values[band * ROWS : (band + 1) * ROWS])) for band in range(BANDS)]


def groups(indices: Iterable[int], linked: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Index of each record → the first index of its group, where linked records are in one group."""
    parent = {index: index for index in indices}

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for one, other in linked:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return {index: root(index) for index in parent}


def shared_reasoning(keys: dict[int, list[int]]) -> Iterable[tuple[int, int]]:
    """Pairs of records (index → its reasoning's keys) that have a key in common."""
    for band in range(BANDS):
        first: dict[int, int] = {}
        for index, own in keys.items():
            other = first.setdefault(own[band], index)
            if other != index:
                yield other, index


def drawn(key: str, seed: int, val: float, test: float) -> str:
    """A split by chance, but always the same one for a question (``key``) and a seed."""
    digest = blake2b(f"{seed} {key}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest) / 2**64
    return "test" if share < test else "val" if share < test + val else "train"


def previous_splits(out: Path, name: str, settings: dict) -> dict[str, str]:
    """Id of each record → its split in an earlier run of this name with the same seed and shares; else nothing."""
    report = out / f"{name}_report.json"
    if not report.exists():
        return {}
    before = read_json(report).get("settings", {})
    if any(before.get(key) != settings[key] for key in ("seed", "val", "test")):
        return {}
    paths = {split: out / f"{name}_{split}.jsonl" for split in SPLITS}
    return {row["id"]: split for split, path in paths.items() if path.exists() for _, row in read_jsonl(path)}


def assign(
    records: dict[int, tuple[str, str]], group: dict[int, int], settings: dict, previous: dict[str, str]
) -> dict[int, str]:
    """Index → split of each record, given as (id, key); ``settings``: seed and the shares val and test.

    A group goes where its first member was in the run before, else where its first member is drawn, so that rows
    added at the end move nothing.
    """
    home: dict[int, str] = {}
    for index, (own, _) in records.items():
        if own in previous:
            home.setdefault(group[index], previous[own])
    for index, (_, key) in records.items():
        if group[index] not in home:
            home[group[index]] = drawn(key, settings["seed"], settings["val"], settings["test"])
    return {index: home[group[index]] for index in records}
