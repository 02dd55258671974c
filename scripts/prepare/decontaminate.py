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
from scripts.prepare.keys import Tokens, ngrams, text_keys, tokenise

WORDS, CHARACTERS = 3, 4
COVERED = 0.5  # weighted share of an item's n-grams from which a question leaks it
COMMON = 40  # an n-gram of more items than this finds no candidate
SHORT = 6  # stems of fewer tokens leak only as the whole question, or with their options


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
        self.tokens = tokenise(stems)
        folded = tokenise([f"{item['question']}\n" + "\n".join(map(str, item["options"].values())) for item in items])
        self.options = tokenise(["\n".join(map(str, item["options"].values())) for item in items])
        self.lengths = np.diff(self.tokens.starts)
        self.grams = ngrams(self.tokens, WORDS, CHARACTERS)
        owners = np.repeat(np.arange(len(items)), np.diff(self.grams.starts))
        pairs = np.unique(np.rec.fromarrays([self.grams.hashes, owners], names="gram,item"))
        self.gram, first, self.found_in = np.unique(pairs["gram"], return_index=True, return_counts=True)
        self.first, self.postings = first, pairs["item"]
        self.weights = np.log(1 + len(items) / self.found_in)
        self.exact = dict(zip(text_keys(folded).tolist(), range(len(items)), strict=True))
        self.exact |= dict(zip(text_keys(self.tokens).tolist()[::-1], range(len(items))[::-1], strict=True))
        self.exact.pop(0, None)

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, tokens: Tokens) -> list[Leak | None]:
        """The leak of each text, None for a clean one; of several items the one most covered, then the first."""
        texts = len(tokens.starts) - 1
        leaks: list[Leak | None] = [None] * texts
        if not len(self) or not len(tokens.hashes):
            return leaks
        for text, key in enumerate(text_keys(tokens).tolist()):
            if key in self.exact:
                leaks[text] = Leak(self.exact[key], "leak_verbatim", 1.0)
        grams = ngrams(tokens, WORDS, CHARACTERS)
        place = np.minimum(np.searchsorted(self.gram, grams.hashes), len(self.gram) - 1)
        known = self.gram[place] == grams.hashes
        rare = np.flatnonzero(known & (self.found_in[place] <= COMMON))
        owner = np.repeat(np.arange(texts), np.diff(grams.starts))
        counts = self.found_in[place[rare]]
        spread = np.repeat(self.first[place[rare]] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        pairs = np.unique(np.repeat(owner[rare], counts) * np.int64(len(self)) + self.postings[spread])
        for text, item in zip(*np.divmod(pairs, len(self)), strict=True):
            if leaks[text] and leaks[text].kind == "leak_verbatim" and leaks[text].share >= 1:
                continue
            leak = self._compare(int(item), tokens.of(text), grams.of(text))
            if leak and (leaks[text] is None or leak.share > leaks[text].share):
                leaks[text] = leak
        return leaks

    def _compare(self, item: int, tokens: np.ndarray, grams: np.ndarray) -> Leak | None:
        own = np.unique(self.grams.of(item))
        weights = self.weights[np.searchsorted(self.gram, own)]
        share = float(weights[np.isin(own, grams)].sum() / weights.sum())
        if share < COVERED:
            return None
        if self.lengths[item] < SHORT:
            options = self.options.of(item)
            if len(tokens) > 2 * self.lengths[item] and np.isin(options, tokens).mean() < 0.8:
                return None
        verbatim = self.tokens.of(item).tobytes() in tokens.tobytes()
        return Leak(item, "leak_verbatim" if verbatim else "leak_ngram", share)
