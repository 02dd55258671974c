"""Comparison keys: texts to hashed tokens, n-grams and features, a whole batch at once in numpy.

Keys fold harder than any text that is kept: NFKD's first letter, case, traditional Chinese to simplified, marks
and punctuation gone. A token is one Chinese character, one run of letters or one run of digits. All hashes are
polynomial modulo 2^64 with mixed coefficients: the same on every machine and in every process.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

import numpy as np

BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
INVERSE = pow(BASE, -1, 1 << 64)
HAN, WORD, DIGIT = 3, 2, 1
# Words too common to tell two English questions apart; they count in n-grams, not in features.
STOP_WORDS = (  # noqa: SIM905
    "a about after all also an and any are as at be been before best but by can could did do does due during each "
    "for from given had has have he her him his how if in into is it its likely may might more most no not of on or "
    "other over patient she should so some such than that the their them then there these they this to was were what "
    "when where which while who whom why will with would year old s man woman following"
).split()


class Tokens(NamedTuple):
    """Tokens of ``n`` texts, flat: ``hashes`` (t,) uint64, ``han`` (t,) bool, ``starts`` (n + 1,) int64 offsets."""

    hashes: np.ndarray
    han: np.ndarray
    starts: np.ndarray

    def of(self, index: int) -> np.ndarray:
        """Token hashes of one text."""
        return self.hashes[self.starts[index] : self.starts[index + 1]]

    def take(self, chosen: np.ndarray) -> Tokens:
        """The texts of the chosen indices alone."""
        lengths = np.diff(self.starts)[chosen]
        starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        places = np.arange(starts[-1]) + np.repeat(self.starts[chosen] - starts[:-1], lengths)
        return Tokens(self.hashes[places], self.han[places], starts)


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64 in, well-spread uint64 out."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=1)
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Per code point: hash of its folded form (0 where it separates), and its class (HAN, WORD, DIGIT or 0)."""
    size = 0x110000
    folded = np.zeros(size, np.uint64)
    kind = np.zeros(size, np.uint8)
    for code in (*range(0x3400), *range(0xA000, 0xD800), *range(0xF900, 0x10000), *range(0x1D400, 0x1D800)):
        char = chr(code)
        if 0xAC00 <= code < 0xD7B0:  # Hangul stays whole
            folded[code], kind[code] = code, WORD
            continue
        letter = next((c for c in unicodedata.normalize("NFKD", char) if c.isalnum()), "").casefold()[:1]
        if letter:
            folded[code] = ord(letter)
            kind[code] = HAN if 0x3400 <= ord(letter) < 0xA000 else DIGIT if letter.isdigit() else WORD
    for low, high in ((0x3400, 0xA000), (0x20000, 0x32000)):
        folded[low:high], kind[low:high] = np.arange(low, high), HAN
    table = resources.files("opencc").joinpath("dictionary/TSCharacters.txt").read_text("utf-8")
    for line in table.splitlines():  # traditional<TAB>simplified [others]
        traditional, simplified = line.split("\t")
        folded[ord(traditional)] = ord(simplified[0])
    return np.where(folded == 0, np.uint64(0), mix(folded * np.uint64(BASE))), kind


@lru_cache(maxsize=4)
def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE^i and BASE^-i modulo 2^64 for i < size."""
    powers = np.full((2, size), [[BASE], [INVERSE]], np.uint64)
    powers[:, 0] = 1
    return tuple(np.cumprod(powers, axis=1, dtype=np.uint64))


def tokenise(texts: list[str]) -> Tokens:
    """Hashed tokens of each text. Texts must hold no lone surrogates (JSON parsers refuse them)."""
    codes = np.frombuffer(("\0".join(texts) + "\0").encode("utf-32-le"), np.uint32)
    hashes, kinds = _tables()
    kind = kinds[codes]
    new = (kind != 0) & ((kind == HAN) | (kind != np.concatenate(([0], kind[:-1]))))
    begins = np.flatnonzero(new)
    ends_of_texts = np.cumsum(np.fromiter((len(text) + 1 for text in texts), np.int64, len(texts)))
    starts = np.concatenate(([0], np.searchsorted(begins, ends_of_texts))).astype(np.int64)
    if not len(begins):
        return Tokens(np.zeros(0, np.uint64), np.zeros(0, bool), starts)
    power, inverse = _powers(1 << (len(codes) - 1).bit_length())
    sums = np.add.reduceat(hashes[codes] * power[: len(codes)], begins)
    return Tokens(mix(sums * inverse[begins]), kind[begins] == HAN, starts)


def text_keys(tokens: Tokens) -> np.ndarray:
    """One key (n,) uint64 per text: equal where the texts have the same tokens in the same order; 0 for no token."""
    count = len(tokens.hashes)
    if not count:
        return np.zeros(len(tokens.starts) - 1, np.uint64)
    power, inverse = _powers(1 << count.bit_length())
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(tokens.hashes * power[:count], dtype=np.uint64)))
    begin, end = tokens.starts[:-1], tokens.starts[1:]
    return mix((sums[end] - sums[begin]) * inverse[begin])


def ngrams(tokens: Tokens, words: int, characters: int) -> Tokens:
    """Hashed n-grams of each text, in order: ``characters`` tokens long where they begin at a Chinese character,
    ``words`` long elsewhere. A text shorter than its n-gram gives one n-gram of all its tokens."""
    count, lengths = len(tokens.hashes), np.diff(tokens.starts)
    power, _ = _powers(16)
    place = np.arange(count) - np.repeat(tokens.starts[:-1], lengths)
    left = np.repeat(lengths, lengths) - place
    wanted = np.where(tokens.han, characters, words)
    keep = (left >= wanted) | (place == 0)
    grams = np.zeros(count, np.uint64)
    for step in range(max(words, characters)):
        used = np.flatnonzero((left > step) & (wanted > step))
        grams[used] += tokens.hashes[used + step] * power[step]
    starts = np.concatenate(([0], np.cumsum(keep)))[tokens.starts]
    return Tokens(mix(grams[keep]), tokens.han[keep], starts)


@lru_cache(maxsize=1)
def _stop_hashes() -> np.ndarray:
    return np.sort(np.unique(tokenise(STOP_WORDS).hashes))


def features(tokens: Tokens) -> Tokens:
    """What near-duplicates share, as a set per text in ascending order: pairs of neighbouring Chinese characters
    and single words that are not stop words. Both survive reordered sentences."""
    pairs = ngrams(tokens, 1, 2)
    stop = _stop_hashes()
    common = ~pairs.han & np.isin(pairs.hashes, mix(stop), kind="sort")
    owner = np.repeat(np.arange(len(pairs.starts) - 1), np.diff(pairs.starts))
    all_common = np.bincount(owner[~common], minlength=len(pairs.starts) - 1) == 0
    keep = ~common | all_common[owner]
    values, owner, han = pairs.hashes[keep], owner[keep], pairs.han[keep]
    order = np.lexsort((values, owner))
    values, owner, han = values[order], owner[order], han[order]
    first = np.ones(len(values), bool)
    first[1:] = (values[1:] != values[:-1]) | (owner[1:] != owner[:-1])
    starts = np.searchsorted(owner[first], np.arange(len(tokens.starts)))
    return Tokens(values[first], han[first], starts)
