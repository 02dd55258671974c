"""Which split a record belongs to: records that are alike, or that share their reasoning, stay together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import zip_longest

from rensa import RMinHash

SPLITS = ("train", "val", "test")
BANDS, ROWS = 4, 8  # equal reasoning shares every band, reasoning of similarity 0.9 one of them nine times of ten


def reasoning_keys(parts: list[str], seed: int) -> list[int]:
    """Keys of a thought (as tokens), one for each band; two thoughts with a key in common share their reasoning."""
    minhash = RMinHash(BANDS * ROWS, seed)
    minhash.update([one + other for one, other in zip_longest(parts, parts[1:], fillvalue="")])
    values = minhash.digest()
    return [hash((band, *values[band * ROWS : (band + 1) * ROWS])) for band in range(BANDS)]


def shared_reasoning(keys: Sequence[list[int]]) -> Iterator[tuple[int, int]]:
    """Pairs of records, by their places in ``keys``, whose reasoning has a key in common."""
    first: dict[int, int] = {}
    for place, own in enumerate(keys):
        for key in own:
            if (other := first.setdefault(key, place)) != place:
                yield other, place


def groups(size: int, linked: Iterable[tuple[int, int]]) -> list[int]:
    """The number of each record's group, where linked records are in one group."""
    import numpy
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = numpy.array(list(linked), dtype=int).reshape(-1, 2)
    graph = coo_array((numpy.ones(len(pairs)), pairs.T), shape=(size, size))
    return connected_components(graph, directed=False)[1].tolist()


def assign(keys: Sequence[str], group: Sequence[int], seed: int, val: float, test: float) -> list[str]:
    """The split of each record, by its question (``keys``) and its group.

    A group goes where its first member is drawn: by chance, but always to the same split for a question and a seed,
    so that rows added at the end move nothing. ``val``, ``test``: shares of these splits.
    """
    home: dict[int, str] = {}
    for key, own in zip(keys, group, strict=True):
        if own not in home:
            digest = blake2b(f"{seed} {key}".encode(), digest_size=8).digest()
            share = int.from_bytes(digest) / 2**64
            home[own] = "test" if share < test else "val" if share < test + val else "train"
    return [home[own] for own in group]
