"""Near-duplicate questions: rensa's MinHash and LSH find candidates, whole sets of features decide.

Two questions that share most of their features are near-duplicates, unless they ask something else: other numbers,
one telling word in the place of another, or a further sentence. Then both are kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby, pairwise, zip_longest
from typing import TYPE_CHECKING, NamedTuple

from rensa import RMinHash, RMinHashLSH

from scripts.prepare.text import is_han

if TYPE_CHECKING:
    from scripts.prepare.run import Row

# 64 bands of 4 values find a pair of similarity 0.5 with probability 0.98; in four rounds, so that only a quarter of
# the tables is in memory at a time.
ROUNDS, VALUES, BANDS = 4, 64, 16
SLACK = 0.12  # four standard errors of the sketches' estimate, below which a candidate is not worth verifying
WORDS = 0.1  # higher threshold for words: an edit breaks one of them, but two pairs of neighbouring characters
FURTHER, DEMAND = 6, 4  # so many new tokens in a row say something more, so many with a word that asks ask for more
PLACES = 3  # where two questions differ in more places than this, one is a rewording of the other
# So many questions like this one that ask something else, or so many candidates, are a crowd: its further members are
# found by what they hold instead.
CROWD, CANDIDATES = 8, 100
# Words too common to tell two English questions apart.
STOP_WORDS = frozenset(
    "a about after all also an and any are as at be been before best but by can could did do does due during each "  # noqa: SIM905
    "for from given had has have he her him his how if in into is it its likely may might more most no not of on or "
    "other over patient she should so some such than that the their them then there these they this to was were what "
    "when where which while who whom why will with would year old s man woman following".split()
)
# Words that make another question of one in which they change or come in: numbers, opposites, what is asked for, drugs.
TELLING = re.compile(
    r"\d+|one|two|three|four|five|six|seven|eight|nine|ten|once|twice|half|double|first|second|third|years?|months?|"
    r"weeks?|days?|hours?|minutes?|left|right|bilateral|upper|lower|anterior|posterior|medial|lateral|proximal|distal|"
    r"(?:fe)?male|(?:wo)?m[ae]n|boy|girl|infant|child|adult|before|after|during|next|most|least|best|worst|acute|"
    r"chronic|high|low|(?:in|de)creased?|mild|moderate|severe|early|late|how|why|when|who|"
    r"(?:diagnos|treat|therap|manag|caus|mechanis|complicat|prognos|prevent|symptom|risk|dos|hyper|hypo)\w*|"
    r"[a-z]{4,}(?:in|ole?|ine|ide|one|am|il|el|ab|ib|an|ium)|[左右双男女孕急慢轻重早晚高低]"
)
# Long words without an everyday ending most often name drugs, diseases and germs; they tell where they change.
NAME = re.compile(
    r"(?!\w+(?:ing|ly|ed|[ai]ble|ous|ful|ive|[ea]nt|al|ions?|ments?|ness|ity|ers?|ors?|ies|[^aeiou]s)$)[a-z]{8,}"
)
# Chinese characters that tell nothing; any other one does.
SMALL = frozenset(
    "的了呢啊吗吧呀嘛也就会很这那又是在有和与及并且或而被把给对于请问您你我他她它们个种项些哪何什么怎样可以能应该最将"
)
NOT = frozenset("no not without never except 无 不 未 非".split())  # noqa: SIM905
ASKS = frozenset("what which how why when should 什 何 怎 哪".split())  # noqa: SIM905


class Duplicates(NamedTuple):
    """``matched``: place of a dropped record → (place of the one kept for it, similarity of the two, 0-1);
    ``linked``: pairs of places of records that are alike, dropped or both kept, so they belong in one split."""

    matched: dict[int, tuple[int, float]]
    linked: list[tuple[int, int]]


def features(parts: Sequence[str]) -> list[str]:
    """What near-duplicates share: pairs of neighbouring tokens from a Chinese character on, and other tokens that are
    no stop words. Both survive reordered sentences."""
    pairs = zip_longest(parts, parts[1:], fillvalue="")
    found = [one + other if is_han(one) else one for one, other in pairs]
    return [feature for feature in found if feature not in STOP_WORDS] or found


def sketch(parts: Sequence[str], seed: int) -> list[RMinHash]:
    """The MinHash sketches of a question's features, one for each round."""
    own = features(parts)
    found = [RMinHash(VALUES, seed + number) for number in range(ROUNDS)]
    for minhash in found:
        minhash.update(own)
    return found


@lru_cache(maxsize=1 << 10)
def _set(key: str) -> frozenset[str]:
    return frozenset(features(key.split(" ")))


def alike(one: Row, other: Row, threshold: float) -> float:
    """Jaccard similarity of the features of two records' questions, 0 where it is too little for near-duplicates."""
    threshold += WORDS if "en" in (one.lang, other.lang) else 0
    pairs = zip(one.sketches, other.sketches, strict=True)
    if sum(a.jaccard(b) for a, b in pairs) / ROUNDS < threshold - SLACK:
        return 0
    left, right = _set(one.key), _set(other.key)
    found = len(left & right) / max(1, len(left | right))
    # Short questions differ in one word that matters.
    missing = max(0, 12 - min(len(left), len(right)))
    needed = max(threshold, min(0.9, threshold + 0.05 * missing))
    return found if found >= needed else 0


def tells(token: str) -> bool:
    """Whether a token carries the meaning of a question."""
    return token not in SMALL if is_han(token) else bool(TELLING.fullmatch(token) or NAME.fullmatch(token))


def changes(one: list[str], other: list[str]) -> list[list[str]]:
    """Runs of neighbouring tokens of ``one`` that are new beside ``other``: it holds fewer, and not between the same
    ones, so a sentence that only moved is no change."""
    more, known = Counter(one) - Counter(other), set(pairwise(["", *other, ""]))
    around = zip(["", *one], one, [*one[1:], ""], strict=False)
    new = [bool(more[token]) and not {(left, token), (token, right)} <= known for left, token, right in around]
    marked = groupby(zip(new, one, strict=True), lambda pair: pair[0])
    return [[token for _, token in run] for is_new, run in marked if is_new]


def other_question(one: str, other: str) -> bool:
    """Whether two similar questions (tokens with spaces) ask something else."""
    left, right = one.split(" "), other.split(" ")
    if Counter(filter(str.isdigit, left)) != Counter(filter(str.isdigit, right)):
        return True
    sides = changes(left, right), changes(right, left)
    runs = [run for side in sides for run in side]
    if any(len(run) >= (FURTHER if ASKS.isdisjoint(run) else DEMAND) for run in runs):
        return True
    if len(runs) <= 2 and any(NOT.intersection(run) for run in runs):
        return True
    if len(runs) == 1:
        return any(map(TELLING.fullmatch, runs[0]))
    told = [any(tells(token) for run in side for token in run) for side in sides]
    return all(told) and max(map(len, sides)) <= PLACES


def instead(one: str, other: str) -> frozenset[str]:
    """The telling tokens of a question that another one has not."""
    return frozenset(filter(tells, {*one.split(" ")} - {*other.split(" ")}))


def find(records: Sequence[Row], threshold: float) -> Duplicates:
    """Exact and near-duplicates among records: of each group the best is kept.

    Records come best first. Neither near-duplicates of an earlier one nor further members of a crowd of questions
    that differ in a word or number are searched among, so a group of any size costs no more than its records.
    """
    order = sorted(range(len(records)), key=lambda place: (records[place].quality, -place), reverse=True)
    first: dict[str, int] = {}
    exact = {place: kept for place in order if (kept := first.setdefault(records[place].key, place)) != place}
    linked = [(kept, place) for place, kept in exact.items()]
    better: dict[int, dict[int, float]] = {}  # place → better records → similarity, below 0 for another question

    def compare(place: int, candidates: Iterable[int]) -> None:
        record, same = records[place], better[place]
        for other in sorted(set(candidates) - same.keys()):
            if found := alike(record, records[other], threshold):
                linked.append((other, place))
                same[other] = -found if other_question(record.key, records[other].key) else found

    for number in range(ROUNDS):
        lsh = RMinHashLSH(threshold, VALUES, BANDS)
        crowds: dict[tuple[int, frozenset[str]], int] = {}
        for place in first.values():
            key, minhash, same = records[place].key, records[place].sketches[number], better.setdefault(place, {})
            candidates = sorted(lsh.query(minhash))
            compare(place, candidates)
            others = [other for other, found in same.items() if found < 0]
            if len(others) >= CROWD or len(candidates) >= CANDIDATES:
                held = [(other, instead(key, records[other].key)) for other in (others or candidates)[:CROWD]]
                compare(place, {crowds.setdefault(what, place) for what in held} - {place})
            elif not any(found > 0 for found in same.values()):
                lsh.insert(place, minhash)
    matched: dict[int, tuple[int, float]] = {}
    for place in first.values():
        kept = [(found, -other) for other, found in better[place].items() if found > 0 and other not in matched]
        if kept:
            found, other = max(kept)
            matched[place] = (-other, found)
    matched |= {place: matched.get(kept, (kept, 1.0)) for place, kept in exact.items()}
    return Duplicates(matched, linked)
