"""Leaks: which benchmark item, if any, a record holds - in its question, in its thought or in its answer.

An item's stem is compared by runs of 3 words or 4 Chinese characters that weigh as much as they are rare among the
items, so that "which of the following is the most likely diagnosis" weighs little.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from scripts.prepare.dedup import features
from scripts.prepare.text import is_han, tokens

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
    words = {run for run in zip(parts, parts[1:], parts[2:], strict=False) if not is_han(run[0])}
    characters = {run for run in zip(parts, parts[1:], parts[2:], parts[3:], strict=False) if is_han(run[0])}
    return words | characters or {tuple(parts)}


class Index:
    """Benchmark items by their runs of tokens; built once, shared by all worker processes.

    ``items``: dictionaries with ``question``, ``options`` (letter to text), ``benchmark`` and ``id``.
    """

    def __init__(self, items: list[dict]) -> None:
        self.items = items
        self.stems = [tokens_of(item["question"]) for item in items]
        # What is compared: every stem, and a short one also with its options, without and with their letters.
        self.owner: list[int] = []
        self.tokens: list[list[str]] = []
        for number, (item, stem) in enumerate(zip(items, self.stems, strict=True)):
            variants = [stem]
            if len(stem) < 2 * SHORT:
                plain, lettered = item["options"].values(), (f"{k} {v}" for k, v in item["options"].items())
                variants += [stem + tokens_of("\n".join(options)) for options in (plain, lettered)]
            self.owner += [number] * len(variants)
            self.tokens += variants
        held: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for variant, parts in enumerate(self.tokens):
            for run in sorted(runs(parts)):
                held[run].append(variant)
        self.postings = {run: found for run, found in held.items() if len(found) <= COMMON}
        self.total = self._weigh(self.postings)

    def _weigh(self, found: Iterable[tuple[str, ...]]) -> dict[int, float]:
        """The weight of each variant that holds some of these runs: each counts as much as it is rare."""
        weights: defaultdict[int, float] = defaultdict(float)
        for run in found:
            if variants := self.postings.get(run):
                weight = math.log(1 + len(self.tokens) / len(variants))
                for variant in variants:
                    weights[variant] += weight
        return weights

    def _shares(self, parts: list[str], least: float) -> list[tuple[float, int]]:
        """(share of its weight, variant) of each item that a text holds ``least`` of, the most covered first."""
        shares = [(weight / self.total[variant], variant) for variant, weight in self._weigh(runs(parts)).items()]
        return sorted((s for s in shares if s[0] >= least), key=lambda s: (-s[0], s[1]))

    def in_question(self, question: str) -> Leak | None:
        """The item that a question is, holds or rewords lightly."""
        parts = tokens_of(question)
        words, whole = set(features(parts)), f" {' '.join(parts)} "
        for share, variant in self._shares(parts, COVERED):
            own, stem = self.tokens[variant], self.stems[self.owner[variant]]
            inside = len(parts) > 1.6 * len(own)
            if inside and (len(own) < SHORT or (len(own) < 2 * SHORT and share < INSIDE)):
                continue
            wanted = [set(features(own)), set(features(stem))]
            if all(len(features_ & words) >= CONTAINED * len(features_) for features_ in wanted):
                verbatim = share > 0.99 and f" {' '.join(own)} " in whole
                return Leak(self.owner[variant], "leak_verbatim" if verbatim else "leak_ngram", "question")
        return None

    def quoted(self, text: str, where: str) -> Leak | None:
        """The item that a thought or an answer quotes; a short stem where it stands alone, or with its options."""
        parts = tokens_of(text)
        for share, variant in self._shares(parts, QUOTED):
            own, number = self.tokens[variant], self.owner[variant]
            size = sum(1 if is_han(token) else 2 for token in own)
            if len(own) >= SHORT or (size >= QUOTE and share > 0.99 and self._alone(number, text)):
                return Leak(number, "leak_quoted", where)
        return None

    def _alone(self, number: int, text: str) -> bool:
        """Whether an item's stem stands in a text between punctuation marks, and not within a sentence."""
        words = self.items[number]["question"].strip(EDGES).split()
        stem = r"\s+".join(map(re.escape, words))
        return bool(re.search(rf"(?<!\w){stem}(?!\w)", text, re.I))

    def find(self, question: str, thought: str, answer: str) -> Leak | None:
        """The first leak of a record."""
        return self.in_question(question) or self.quoted(thought, "thought") or self.quoted(answer, "answer")

    def name(self, leak: Leak) -> str:
        """``benchmark/id`` of a leaked item."""
        return f"{self.items[leak.item]['benchmark']}/{self.items[leak.item]['id']}"
