"""Leaks: which benchmark item, if any, a question holds - verbatim, by n-grams, or lightly edited.

An item's stem is compared by n-grams (3 words or 4 Chinese characters) that weigh as much as they are rare among
the items, so that "which of the following is the most likely diagnosis" weighs little. Rare n-grams also find the
candidates: an inverted index over all items, looked up for a whole batch at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from scripts.common import UserError, read_jsonl
from scripts.prepare.keys import Tokens, features, ngrams, text_keys, tokenise

WORDS, CHARACTERS = 3, 4
COVERED = 0.4  # weighted share of an item's n-grams from which a question may leak it ...
CONTAINED = 0.65  # ... where it also holds this share of the item's words that are not stop words (pairs in Chinese)
COMMON = 40  # an n-gram of more items than this finds no candidate
SHORT = 14  # a stem of fewer tokens leaks only where it is most of the question, or comes with its options


class Leak(NamedTuple):
    """``item``: index into the index's ids; ``kind``: leak_verbatim or leak_ngram; ``share``: of its n-grams, 0-1."""

    item: int
    kind: str
    share: float


def read_items(paths: list[Path]) -> list[dict]:
    """Benchmark items of all files, sorted by file name and then id, so that the order of files is of no account.

    Adds ``benchmark`` (the file's stem). Raises UserError with file and line for a malformed item.
    """
    items = []
    for path in paths:
        count = len(items)
        for line, row in read_jsonl(path):
            question, options = row.get("question"), row.get("options")
            if not (isinstance(question, str) and question.strip() and isinstance(options, dict) and "id" in row):
                raise UserError(
                    f"{path}:{line}: found fields {', '.join(row) or 'none'}; expected a benchmark item with id, lang, "
                    "question, options (letter to text), answer_idx; write it with python -m scripts.prepare.benchmarks"
                )
            items.append({**row, "id": str(row["id"]), "benchmark": path.stem})
        if len(items) == count:
            raise UserError(f"{path}:1: holds no benchmark item; expected at least one")
    return sorted(items, key=lambda item: (item["benchmark"], item["id"], item["question"]))


class BenchmarkIndex:
    """Inverted index of benchmark items; built once, shared by all worker processes."""

    def __init__(self, items: list[dict]):
        self.ids = [f"{item['benchmark']}/{item['id']}" for item in items]
        self.benchmarks = [item["benchmark"] for item in items]
        stems = [item["question"] for item in items]
        short = np.flatnonzero(np.diff(tokenise(stems).starts) < 2 * SHORT).tolist()
        folded = []
        for marked in (False, True):
            for i in short:
                options = [f"{letter} {text}" if marked else str(text) for letter, text in items[i]["options"].items()]
                folded.append("\n".join([stems[i], *options]))
        # What is compared: every stem, and where it is short also the stem with its options, without and with letters.
        self.items = np.array([*range(len(items)), *short, *short])
        self.tokens = tokenise(stems + folded)
        self.features = features(self.tokens)
        self.lengths = np.diff(self.tokens.starts)
        grams = ngrams(self.tokens, WORDS, CHARACTERS)
        owners = np.repeat(np.arange(len(self.items)), np.diff(grams.starts))
        pairs = np.unique(np.rec.fromarrays([grams.hashes, owners], names="gram,item"))
        found_in = np.unique(pairs["gram"], return_inverse=True, return_counts=True)
        rare = found_in[2][found_in[1]] <= COMMON  # the others are nobody's own words, and would slow the search
        self.gram, self.first, self.found_in = np.unique(pairs["gram"][rare], return_index=True, return_counts=True)
        self.postings = pairs["item"][rare]
        self.weights = np.log(1 + len(self.items) / self.found_in)
        self.total = np.bincount(self.postings, np.repeat(self.weights, self.found_in), len(self.items))
        self.exact = dict(zip(text_keys(self.tokens).tolist()[::-1], self.items.tolist()[::-1], strict=True))
        self.exact.pop(0, None)

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, tokens: Tokens, sets: Tokens) -> list[Leak | None]:
        """The leak of each text (its tokens and feature sets), None for a clean one.

        Of several items it is the one most covered, then the first.
        """
        texts = len(tokens.starts) - 1
        leaks: list[Leak | None] = [None] * texts
        if not len(self) or not len(tokens.hashes):
            return leaks
        for text, key in enumerate(text_keys(tokens).tolist()):
            if key in self.exact:
                leaks[text] = Leak(self.exact[key], "leak_verbatim", 1.0)
        grams = ngrams(tokens, WORDS, CHARACTERS)
        place = np.minimum(np.searchsorted(self.gram, grams.hashes), len(self.gram) - 1)
        known = np.flatnonzero(self.gram[place] == grams.hashes)
        owner = np.repeat(np.arange(texts), np.diff(grams.starts))
        owner, gram = np.divmod(np.unique(owner[known] * len(self.gram) + place[known]), len(self.gram))
        counts = self.found_in[gram]
        spread = np.repeat(self.first[gram] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        pairs = np.repeat(owner, counts) * len(self.items) + self.postings[spread]
        pairs, inverse = np.unique(pairs, return_inverse=True)
        shares = (
            np.bincount(inverse, np.repeat(self.weights[gram], counts), len(pairs))
            / self.total[pairs % len(self.items)]
        )
        for pair in np.flatnonzero(shares >= COVERED):
            text, item = (int(part) for part in divmod(pairs[pair], len(self.items)))
            best = leaks[text]
            if (best is None or shares[pair] > best.share) and self._holds(item, tokens.of(text), sets.of(text)):
                verbatim = self.tokens.of(item).tobytes() in tokens.of(text).tobytes()
                leaks[text] = Leak(
                    int(self.items[item]), "leak_verbatim" if verbatim else "leak_ngram", float(shares[pair])
                )
        return leaks

    def _holds(self, item: int, tokens: np.ndarray, words: np.ndarray) -> bool:
        """Whether a text (its tokens and feature set) holds the item's own words, and is about it where it is short."""
        short = self.lengths[item] < SHORT and len(tokens) > 1.6 * self.lengths[item]
        return not short and np.isin(self.features.of(item), words).mean() >= CONTAINED
