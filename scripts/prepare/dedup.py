"""Near-duplicate questions: rensa's MinHash finds candidates, whole sets of features decide.

Two questions that share most of their features are near-duplicates, unless they ask something else: other numbers,
one telling word in the place of another, or a further sentence. Then both are kept.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, NamedTuple

import numpy
from rensa import RMinHash

from scripts.prepare.text import HAN_FROM, WORD_LISTS, is_han

if TYPE_CHECKING:
    from scripts.prepare.run import Row

BANDS, VALUES = 64, 4  # find a pair of similarity 0.5 with probability 0.98
WORDS = 0.1  # higher threshold for words: an edit breaks one of them, but two pairs of neighbouring characters
FURTHER, DEMAND = 6, 4  # so many new tokens in a row say something more, so many with a word that asks ask for more
PLACES = 3  # where two questions differ in more places than this, one is a rewording of the other
STOP_WORDS, NOT, ASKS, SMALL = (
    frozenset(WORD_LISTS[kind].split()) for kind in ("too_common", "negations", "asking", "chinese_particles")
)
TELLING = re.compile("|".join(WORD_LISTS["telling"].split()))
# What tells, and long words without an everyday ending, which most often name drugs, diseases and germs.
NAME = re.compile(
    rf"{TELLING.pattern}|"
    r"(?!\w+(?:ing|ly|ed|[ai]ble|ous|ful|ive|[ea]nt|al|ions?|ments?|ness|ity|ers?|ors?|ies|[^aeiou]s)$)[a-z]{8,}"
)


def features(parts: Sequence[str]) -> list[str]:
    """What near-duplicates share: pairs of neighbouring tokens from a Chinese character on, and other tokens that are
    no stop words. Both survive reordered sentences."""
    pairs = zip_longest(parts, parts[1:], fillvalue="")
    found = [one + other if one >= HAN_FROM else one for one, other in pairs]
    return [feature for feature in found if feature not in STOP_WORDS] or found


def bands(parts: list[str], count: int, values: int, seed: int) -> array:
    """``count`` numbers of a MinHash sketch, each of ``values`` of its values: texts that share many parts have some of
    them in common at the same place."""
    minhash = RMinHash(count * values, seed)
    minhash.update(parts)
    digest = minhash.digest()
    return array("q", [hash(tuple(digest[start : start + values])) for start in range(0, count * values, values)])


def sketch(parts: Sequence[str], seed: int) -> array:
    """The bands of a question, by its tokens."""
    return bands(features(parts), BANDS, VALUES, seed)


def same_band(sketches: Sequence[Sequence[int]]) -> list[list[int]]:
    """Pairs [later, earlier] of places in ``sketches`` that have a band in common, each once and in order.

    Each place is paired with the first one that has its band and with the last one before it, so a group of any size
    costs no more than its members.
    """
    size = len(sketches)
    found = [numpy.empty(0, dtype=int)]  # of pairs: the later one's place times size, and the earlier one's
    for number in range(len(sketches[0]) if size else 0):
        own = numpy.array([sketch[number] for sketch in sketches])
        order = numpy.argsort(own, kind="stable")  # equal bands side by side
        again = own[order[1:]] == own[order[:-1]]
        begins = numpy.concatenate([[0], numpy.where(again, 0, numpy.arange(1, size))])
        first = order[numpy.maximum.accumulate(begins)]
        found += [(order[1:] * size + earlier)[again] for earlier in (order[:-1], first[1:])]
    return [list(divmod(pair, size)) for pair in numpy.unique(numpy.concatenate(found)).tolist()]


@lru_cache(maxsize=1 << 10)
def _set(key: str) -> frozenset[str]:
    return frozenset(features(key.split(" ")))


def alike(one: Row, other: Row, threshold: float) -> float:
    """Jaccard similarity of the features of two records' questions, 0 where it is too little for near-duplicates."""
    threshold += WORDS if "en" in (one.lang, other.lang) else 0
    left, right = _set(one.key), _set(other.key)
    found = len(left & right) / max(1, len(left | right))
    # Short questions differ in one word that matters.
    missing = max(0, 12 - min(len(left), len(right)))
    needed = max(threshold, min(0.9, threshold + 0.05 * missing))
    return found if found >= needed else 0


def tells(token: str) -> bool:
    """Whether a token carries meaning: a name, or any Chinese character but particles."""
    return token not in SMALL if is_han(token) else bool(NAME.fullmatch(token))


class Change(NamedTuple):
    """Neighbouring tokens of one question that another has not, and the tokens around them."""

    before: str
    tokens: list[str]
    after: str


def changes(one: list[str], other: list[str]) -> list[Change]:
    """What is new in ``one`` beside ``other``: tokens of which the other holds fewer, and not between the same ones, so
    a sentence that only moved is no change."""
    more, known = Counter(one) - Counter(other), set(pairwise(["^", *other, "$"]))
    found: list[Change] = []
    begun = False
    for before, token, after in zip(["^", *one], one, [*one[1:], "$"], strict=False):
        new = bool(more[token]) and not {(before, token), (token, after)} <= known
        if new and begun:
            found[-1] = Change(found[-1].before, [*found[-1].tokens, token], after)
        elif new:
            found.append(Change(before, [token], after))
        begun = new
    return found


def other_question(one: str, other: str) -> bool:
    """Whether two similar questions (tokens with spaces) ask something else."""
    left, right = one.split(" "), other.split(" ")
    if Counter(filter(str.isdigit, left)) != Counter(filter(str.isdigit, right)):
        return True
    gone, come = changes(left, right), changes(right, left)
    runs = [change.tokens for change in gone + come]
    if any(len(run) >= (FURTHER if ASKS.isdisjoint(run) else DEMAND) for run in runs):
        return True
    if len(runs) <= 2 and any(NOT.intersection(run) for run in runs):
        return True
    if len(runs) == 1:
        return any(map(TELLING.fullmatch, runs[0]))
    return max(len(gone), len(come)) <= PLACES and any(instead(a, b) for a in gone for b in come)


def instead(one: Change, other: Change) -> bool:
    """Whether one came for the other: both hold a name, or both something that tells beside the same word."""
    if {one.before, one.after} & {other.before, other.after}:
        return any(map(tells, one.tokens)) and any(map(tells, other.tokens))
    return holds_name(one.tokens) and holds_name(other.tokens)


def holds_name(run: list[str]) -> bool:
    """Whether tokens in a row hold a name; in Chinese two characters that tell are a word."""
    return any(map(NAME.fullmatch, run)) or sum(is_han(token) and tells(token) for token in run) > 1


Matched = dict[int, tuple[int, float]]  # a dropped record → the one kept for it, and their similarity (0 to 1)
Pairs = list[tuple[int, int]]


def find(records: Sequence[Row], threshold: float) -> tuple[Matched, Pairs]:
    """Exact and near-duplicates among records, by their places: of each group the best is kept.

    And pairs of records that are alike, dropped or both kept, so they belong in one split.
    """
    best_first = sorted(range(len(records)), key=lambda place: (records[place].quality, -place), reverse=True)
    first: dict[str, int] = {}
    exact = {place: kept for place in best_first if (kept := first.setdefault(records[place].key, place)) != place}
    linked = [(kept, place) for place, kept in exact.items()]
    left = list(first.values())
    matched: Matched = {}
    compared: set[tuple[int, int]] = set()
    while True:
        pairs = [(left[later], left[earlier]) for later, earlier in same_band([records[place].bands for place in left])]
        dropped, alike_ones = compare(records, [pair for pair in pairs if pair not in compared], threshold)
        compared.update(pairs)
        linked += alike_ones
        if not dropped:
            break
        matched |= dropped
        # What shared its bands with a dropped one is compared with another one now.
        left = [place for place in left if place not in dropped]
    return matched | {place: matched.get(kept, (kept, 1.0)) for place, kept in exact.items()}, linked


def compare(records: Sequence[Row], pairs: Pairs, threshold: float) -> tuple[Matched, Pairs]:
    """The same for near-duplicates among pairs, each of a place and a better record's, the best first."""
    matched: Matched = {}
    linked: Pairs = []
    for place, other in pairs:
        similarity = alike(records[place], records[other], threshold)
        if not similarity:
            continue
        linked.append((other, place))
        better = other not in matched and similarity > matched.get(place, (other, 0))[1]
        if better and not other_question(records[place].key, records[other].key):
            matched[place] = other, similarity
    return matched, linked
