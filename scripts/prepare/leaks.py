"""Leaks: which benchmark item, if any, a record holds - in its question, in its thought or in its answer.

An item's stem is compared by runs of 3 words or 4 Chinese characters that weigh as much as they are rare among the
items, so that "which of the following is the most likely diagnosis" weighs little.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Set
from typing import NamedTuple

from scripts.prepare.dedup import features
from scripts.prepare.text import HAN_FROM, is_han, tokens

COVERED = 0.4  # share of an item's weight from which a question may leak it ...
CONTAINED = 0.65  # ... where it also holds this share of the item's words that are not stop words (pairs in Chinese)
QUOTED = 0.7  # share of an item's weight from which a thought or an answer quotes it
COMMON = 40  # a run of more items than this is nobody's own
INSIDE = 0.7  # the same where the stem is short (up to twice SHORT) and the question much longer
SHORT = 14  # a stem of fewer tokens leaks only where it is most of the question, or comes with its options
QUOTE = 8  # a stem of fewer Chinese characters, or half as many words, is not told from ordinary talk in a thought
TITLE = re.compile("《[^》]*》")  # the long name of a law, which many questions share
EDGES = "。？！?!：:；;，,_ 　（）()\n"


def tokens_of(text: str) -> list[str]:
    """Tokens of a text, titles of laws and books left out."""
    return tokens(TITLE.sub("《》", text))


class Leak(NamedTuple):
    """``item``: the item's number; ``reason``: leak_verbatim, leak_ngram or leak_quoted; ``where``: the field."""

    item: int
    reason: str
    where: str


def runs(parts: list[str]) -> set[tuple[str, ...]]:
    """Runs of tokens: 4 that begin at a Chinese character, 3 elsewhere; a shorter text is one run."""
    words = {run for run in zip(parts, parts[1:], parts[2:], strict=False) if run[0] < HAN_FROM}
    characters = {run for run in zip(parts, parts[1:], parts[2:], parts[3:], strict=False) if run[0] >= HAN_FROM}
    return words | characters or {tuple(parts)}


class Variant(NamedTuple):
    """A text of an item that is looked for: its stem, or a short stem with its options. ``item``: the item's number."""

    item: int
    tokens: list[str]


class Index:
    """Benchmark items by their runs of tokens; built once, shared by all worker processes.

    ``items``: dictionaries with ``question``, ``options`` (letter to text), ``benchmark`` and ``id``.
    """

    def __init__(self, items: list[dict]) -> None:
        self.items = items
        self.stems = [tokens_of(item["question"]) for item in items]
        self.variants: list[Variant] = []
        for number, (item, stem) in enumerate(zip(items, self.stems, strict=True)):
            self.variants.append(Variant(number, stem))
            if len(stem) < 2 * SHORT:
                plain, lettered = item["options"].values(), (f"{k} {v}" for k, v in item["options"].items())
                for options in (plain, lettered):
                    self.variants.append(Variant(number, stem + tokens_of("\n".join(options))))
        held: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for place, variant in enumerate(self.variants):
            for run in runs(variant.tokens):
                held[run].append(place)
        # A run weighs as much as it is rare, in whole thousandths: sums then do not depend on the order of a set.
        self.holders = {
            run: (round(1000 * math.log(1 + len(self.variants) / len(places))), places)
            for run, places in held.items()
            if len(places) <= COMMON
        }
        self.whole = self.weigh(self.holders.keys())

    def weigh(self, found: Set[tuple[str, ...]]) -> Counter[int]:
        """How much of each variant these runs are."""
        weights: Counter[int] = Counter()
        for run in self.holders.keys() & found:
            weight, places = self.holders[run]
            for place in places:
                weights[place] += weight
        return weights

    def covered(self, parts: list[str], least: float) -> list[tuple[float, Variant]]:
        """Each variant that a text holds ``least`` of, with its share, the most covered first."""
        shares = [(weight / self.whole[place], place) for place, weight in self.weigh(runs(parts)).items()]
        enough = sorted((-share, place) for share, place in shares if share >= least)
        return [(-share, self.variants[place]) for share, place in enough]

    def in_question(self, question: str) -> Leak | None:
        """The item that a question is, holds or rewords lightly."""
        parts = tokens_of(question)
        words, whole = set(features(parts)), f" {' '.join(parts)} "
        for share, (item, own) in self.covered(parts, COVERED):
            inside = len(parts) > 1.6 * len(own)
            if inside and (len(own) < SHORT or (len(own) < 2 * SHORT and share < INSIDE)):
                continue
            wanted = [set(features(own)), set(features(self.stems[item]))]
            if all(len(features_ & words) >= CONTAINED * len(features_) for features_ in wanted):
                verbatim = share > 0.99 and f" {' '.join(own)} " in whole
                return Leak(item, "leak_verbatim" if verbatim else "leak_ngram", "question")
        return None

    def quoted(self, text: str, where: str) -> Leak | None:
        """The item that a thought or an answer quotes; a short stem where it stands alone, or with its options."""
        for share, (item, own) in self.covered(tokens_of(text), QUOTED):
            size = sum(1 if is_han(token) else 2 for token in own)
            if len(own) >= SHORT or (size >= QUOTE and share > 0.99 and self.alone(item, text)):
                return Leak(item, "leak_quoted", where)
        return None

    def alone(self, item: int, text: str) -> bool:
        """Whether an item's stem stands in a text between punctuation marks, and not within a sentence."""
        words = self.items[item]["question"].strip(EDGES).split()
        stem = r"\s+".join(map(re.escape, words))
        return bool(re.search(rf"(?<!\w){stem}(?!\w)", text, re.I))

    def find(self, question: str, thought: str, answer: str) -> Leak | None:
        """The first leak of a record."""
        return self.in_question(question) or self.quoted(thought, "thought") or self.quoted(answer, "answer")
