"""Near-duplicate questions: MinHash sketches (rensa), LSH bands, candidates verified on exact feature sets.

Only sketches and features stay in memory, never texts: 512 bytes of sketch and 4 bytes per feature a record.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np

from scripts.prepare.keys import Tokens

PERMUTATIONS, ROWS = 256, 4  # 64 bands of 4 rows: a pair of Jaccard 0.5 is found with probability 0.98
WINDOW = 4  # compared neighbours within a band's bucket: candidates grow with the records, not with their square
WORDS = 0.1  # higher threshold for words: an edit breaks one of them, but two pairs of neighbouring characters
SLACK = 0.12  # four standard errors of the sketch's estimate, below which a candidate is not worth verifying


class Duplicates(NamedTuple):
    """``kept`` (n,): index of the record that stands for each (its own where kept); ``similarity`` (n,) to it, 0-1;
    ``anchor`` (n,): the first record of its cluster in input order."""

    kept: np.ndarray
    similarity: np.ndarray
    anchor: np.ndarray


def sketch(features: Tokens, seed: int) -> np.ndarray:
    """MinHash sketches (n, PERMUTATIONS) uint16 of feature sets: the low bits, which is enough for an estimate."""
    from rensa import RMinHash

    count = len(features.starts) - 1
    if not count:
        return np.zeros((0, PERMUTATIONS), np.uint16)
    offsets = features.starts.astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(features.hashes, offsets, PERMUTATIONS, seed)
    values = np.fromiter(chain.from_iterable(matrix.to_rows()), np.uint32, count * PERMUTATIONS)
    return values.astype(np.uint16).reshape(count, PERMUTATIONS)


def candidate_pairs(sketches: np.ndarray, threshold: float) -> np.ndarray:
    """Pairs (p, 2) int64, first index smaller, whose sketches share a band and agree enough to be verified."""
    bands = np.ascontiguousarray(sketches).view(np.uint64)
    found: list[np.ndarray] = []
    for band in range(bands.shape[1]):
        keys = bands[:, band]
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        for lag in range(1, WINDOW + 1):
            same = np.flatnonzero(ordered[lag:] == ordered[:-lag])
            pairs = np.stack((order[same], order[same + lag]), axis=1)
            agree = np.concatenate(
                [
                    (sketches[part[:, 0]] == sketches[part[:, 1]]).mean(axis=1)
                    for part in np.array_split(pairs, 1 + len(pairs) // 20_000)
                ]
            )
            found.append(pairs[agree >= threshold - SLACK])
    pairs = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
    packed = np.unique(pairs[:, 0] << np.int64(32) | pairs[:, 1])
    return np.stack((packed >> np.int64(32), packed & np.int64(0xFFFFFFFF)), axis=1)


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Jaccard similarity of two feature sets."""
    shared = len(set(left.tolist()) & set(right.tolist()))
    return shared / max(1, len(left) + len(right) - shared)


def needed(size: int, threshold: float) -> float:
    """The similarity that a set of ``size`` features needs: short questions differ in one word that matters."""
    return threshold if size >= 12 else min(max(0.9, threshold), threshold + 0.05 * (12 - size))


def deduplicate(
    keys: np.ndarray,
    sketches: np.ndarray,
    features: Tokens,
    quality: np.ndarray,
    english: np.ndarray,
    threshold: float,
) -> Duplicates:
    """Cluster n records and choose which are kept.

    Args:
        keys: (n,) uint64, equal for exact duplicates after normalisation.
        sketches, features: of each record, as `sketch` and `keys.features` give them.
        quality: (n,) int64, higher is better; ties go to the earlier record.
        english: (n,) bool, records whose features are words.
        threshold: Jaccard similarity of character pairs from which two questions are near-duplicates.
    """
    count = len(keys)
    best_first = np.lexsort((np.arange(count), -quality))
    _, first, group = np.unique(keys[best_first], return_index=True, return_inverse=True)
    stands = np.empty(count, np.int64)
    stands[best_first] = best_first[first][group]
    similarity = np.ones(count)
    nodes = np.flatnonzero(stands == np.arange(count))
    neighbours: dict[int, list[tuple[float, int]]] = {}
    parent = stands.copy()
    for a, b in nodes[candidate_pairs(sketches[nodes], threshold)].tolist():
        left, right = features.of(a), features.of(b)
        alike = jaccard(left, right)
        if alike >= needed(min(len(left), len(right)), threshold + WORDS * max(english[a], english[b])):
            neighbours.setdefault(a, []).append((alike, b))
            neighbours.setdefault(b, []).append((alike, a))
            parent[_root(parent, b)] = _root(parent, a)
    kept = stands.copy()
    near = np.fromiter(neighbours, np.int64, len(neighbours))
    for node in near[np.lexsort((near, -quality[near]))].tolist():  # best first: a star around each kept record
        choices = [
            (alike, -other) for alike, other in neighbours[node] if kept[other] == other and _done(other, node, quality)
        ]
        if choices:
            similarity[node], other = max(choices)
            kept[node] = -other
    similarity = np.where(stands == np.arange(count), similarity, similarity[stands])
    kept = kept[stands]
    roots = np.fromiter((_root(parent, index) for index in range(count)), np.int64, count)
    _, first, group = np.unique(roots, return_index=True, return_inverse=True)
    return Duplicates(kept, similarity, first[group])


def _done(other: int, node: int, quality: np.ndarray) -> bool:
    """Whether ``other`` was decided before ``node`` in the order best first."""
    return (-quality[other], other) < (-quality[node], node)


def _root(parent: np.ndarray, index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = int(parent[index])
    return index
