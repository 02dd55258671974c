"""Which split a record belongs to: records that are alike, or that share their reasoning, stay together."""

from __future__ import annotations

import argparse
from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import zip_longest
from typing import TYPE_CHECKING

from scripts.common import read_json, read_jsonl
from scripts.prepare.dedup import bands

if TYPE_CHECKING:
    from scripts.prepare.run import Row

SPLITS = ("train", "val", "test")
BANDS, VALUES = 4, 8  # equal reasoning shares every band, reasoning of similarity 0.9 one of them nine times of ten


def reasoning_bands(parts: list[str], seed: int) -> array:
    """The bands of a thought (as tokens); two thoughts that have one in common share their reasoning."""
    return bands([one + other for one, other in zip_longest(parts, parts[1:], fillvalue="")], BANDS, VALUES, seed)


def groups(size: int, linked: Iterable[Sequence[int]]) -> list[int]:
    """The number of each record's group, where linked records are in one group."""
    import numpy
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = numpy.array(list(linked), dtype=int).reshape(-1, 2)
    graph = coo_array((numpy.ones(len(pairs)), pairs.T), shape=(size, size))
    return connected_components(graph, directed=False)[1].tolist()


def previous_splits(args: argparse.Namespace) -> dict[str, str]:
    """Id of each record → its split in an earlier run of this name with the same seed and shares; else nothing."""
    report = args.out / f"{args.name}_report.json"
    before = read_json(report)["settings"] if report.exists() else {}
    if any(before.get(key) != getattr(args, key) for key in ("seed", "val", "test")):
        return {}
    paths = {split: args.out / f"{args.name}_{split}.jsonl" for split in SPLITS}
    return {row["id"]: split for split, path in paths.items() if path.exists() for _, row in read_jsonl(path)}


def assign(records: Sequence[Row], group: list[int], previous: dict[str, str], args: argparse.Namespace) -> list[str]:
    """The split of each record. ``group``: of each record; ``args``: seed and the shares val and test.

    A group goes where a member was in the run before, else where its first member is drawn: by chance, but always to
    the same split for a question and a seed.
    """
    home: dict[int, str] = {}
    for record, own in zip(records, group, strict=True):
        if record.id in previous:
            home.setdefault(own, previous[record.id])
    for record, own in zip(records, group, strict=True):
        home.setdefault(own, draw(record.key, args))
    return [home[own] for own in group]


def draw(key: str, args: argparse.Namespace) -> str:
    """The split that chance gives a question."""
    share = int.from_bytes(blake2b(f"{args.seed} {key}".encode(), digest_size=8).digest()) / 2**64
    if share < args.test:
        return "test"
    return "val" if share < args.test + args.val else "train"
