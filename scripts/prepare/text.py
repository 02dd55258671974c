"""What a text is: its repairs, its language, and the tokens by which texts are compared."""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache
from importlib import resources
from pathlib import Path

import yaml

CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
)
ODD_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
LINE_END = re.compile("\r\n?|[\x85\u2028\u2029]")
# The first characters that UTF-8 read as Latin-1 or Windows-1252 gives; only such texts are worth ftfy's time.
MOJIBAKE = re.compile(
    "[\u00c2\u00c3\u00c5\u00ce\u00cf\u00d0\u00d1\u00e2-\u00ef\ufffd][\u0080-\u00bf\u0152-\u0178\u0192\u02c6\u02dc\u2013-\u2122]"
)
TAG_NAMES = "p|br|div|span|b|i|u|em|strong|ul|ol|li|a|table|thead|tbody|tr|td|th|h[1-6]|img|font|hr|pre|code|center"
TAG = re.compile(rf"</?(?:{TAG_NAMES})(?:\s+[\w:-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s<>\"']+))*\s*/?>", re.I)
BLOCK_TAG = re.compile(r"</?(?:p|br|div|li|tr|h[1-6]|hr|table|ul|ol)\b", re.I)
RAISED = re.compile(r"<(sup|sub)>([^<>]{0,40})</\1>", re.I)  # 10<sup>9</sup>/L must not become 109/L
SUPERSCRIPT = str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻")
SUBSCRIPT = str.maketrans("0123456789+-", "₀₁₂₃₄₅₆₇₈₉₊₋")
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,24}\d{0,2});")
SPACE_AT_END = re.compile(r"(?<![ \t])[ \t]+$", re.M)  # looks at each run of spaces once
EMPTY_LINES = re.compile(r"\n{3,}")
MARK = r"<[|｜][^<>|｜\n]{1,40}[|｜]>"  # of any model's chat template
EDGE_MARKS = re.compile(rf"^(?:\s*{MARK}(?!\s*(?:system|user|assistant)\b))+|(?:{MARK}\s*)+$")

HAN_FROM = "\u3400"  # all Chinese characters stand behind this one, and no other letters that count
HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
HAN_RUN = re.compile(f"[{HAN}]+")
WORD = re.compile(rf"[^\W\d_{HAN}]+")
TOKEN = re.compile(rf"[{HAN}]|\d+|[^\W\d_{HAN}]+")
ACCENT = re.compile("[\u0300-\u036f]")
OTHER_SCRIPT = re.compile("[\u0400-\u052f\u0590-\u06ff\u0900-\u0dff\u0e00-\u0eff\u3040-\u30ff\uac00-\ud7af]")
WORD_LISTS = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
ENGLISH, FOREIGN = frozenset(WORD_LISTS["english"].split()), frozenset(WORD_LISTS["foreign"].split())
PLAIN_LETTERS = re.compile("[^a-z\u0370-\u03ff\u00b5]")


def repair_characters(text: str) -> str:
    """Undo what encodings did: mojibake, decomposed letters, control characters, odd line ends and spaces.

    Only NFC, never NFKC, and ftfy's encoding repair alone: µg, ℃, ², ½, ① and full-width marks stay as they are.
    """
    if not text.isascii():
        if MOJIBAKE.search(text):
            import ftfy

            text = ftfy.fix_encoding(text)
        text = ODD_SPACE.sub(" ", unicodedata.normalize("NFC", text))
    return CONTROL.sub("", LINE_END.sub("\n", text))


def repair_markup(text: str) -> str:
    """Undo HTML: entities, tags (powers and indices keep their meaning). ``p<0.05`` and ``a < b`` are no tags."""
    for _ in range(3):  # entities may have been escaped twice
        plain = ENTITY.sub(lambda match: html.unescape(match[0]), text)
        if plain == text:
            break
        text = plain
    text = RAISED.sub(_raise, text)
    return TAG.sub(lambda match: "\n" if BLOCK_TAG.match(match[0]) else "", text)


def _raise(match: re.Match) -> str:
    table, sign = (SUBSCRIPT, "_") if match[1].lower() == "sub" else (SUPERSCRIPT, "^")
    return match[2].translate(table) if all(ord(c) in table for c in match[2]) else f"{sign}{{{match[2]}}}"


def repair_spaces(text: str) -> str:
    """No space at a line's end, at most one empty line, none around the text; what indents or aligns stays."""
    return EMPTY_LINES.sub("\n\n", SPACE_AT_END.sub("", text)).strip()


def repair(text: str) -> tuple[str, set[str]]:
    """A text with all repairs and the kinds that were needed; running it twice changes nothing more."""
    kinds = set()
    for _ in range(4):
        before = text
        text = repair_characters(text)
        if text != before:
            kinds.add("characters")
        if "&" in text or "<" in text:
            plain = EDGE_MARKS.sub("", repair_markup(text))
            if plain != text:
                kinds.add("markup")
            text = plain
        tidy = repair_spaces(text)
        if tidy != text.strip():
            kinds.add("spaces")
        text = tidy
        if text == before:
            break
    return text, kinds


def language(text: str) -> str | None:
    """zh, en, None for another language, "" for too little to tell.

    Chinese by its characters against English's common words, English by those words against other languages' own.
    """
    text = text[:4000]
    if len(OTHER_SCRIPT.findall(text)) > 0.1 * len(text):
        return None
    han = sum(map(len, HAN_RUN.findall(text)))
    words = [word.casefold() for word in WORD.findall(text)]
    common = sum(word in ENGLISH for word in words)
    if han >= max(2, 0.35 * len(words), 3 * common):
        return "zh"
    foreign = sum(word in FOREIGN for word in words)
    if common > foreign and common >= 0.08 * len(words):
        return "en"
    accented = [word for word in WORD.findall(text) if PLAIN_LETTERS.search(word.casefold())]
    name = len(accented) == 1 and len(words) > 1 and accented[0].istitle()  # Sjögren syndrome
    short = len(words) < 12 and not foreign and (name or not accented)
    return "" if short else None


def mixed(text: str, lang: str) -> bool:
    """Whether more than a third of a text is in the other of the two languages; names do not count."""
    han = sum(map(len, HAN_RUN.findall(text))) / 1.6  # characters to a word
    words = [word.casefold() for word in WORD.findall(text)]
    if lang == "en":
        return han >= 6 and han > 0.5 * len(words)
    english = len(words) if sum(word in ENGLISH for word in words) > 0.1 * len(words) else 0
    return english >= 8 and english > 0.5 * han


@lru_cache(maxsize=1)
def _simplified() -> dict[int, str]:
    """Traditional characters to simplified ones, from OpenCC's table."""
    table = resources.files("opencc").joinpath("dictionary/TSCharacters.txt").read_text("utf-8")
    pairs = (line.split("\t") for line in table.splitlines())
    return {ord(traditional): simplified[0] for traditional, simplified in pairs}


@lru_cache(maxsize=16)  # leaks, loops and splits look at the same texts
def tokens(text: str) -> list[str]:
    """Chinese characters, runs of letters and runs of digits, without case, width, accents and punctuation.

    Traditional characters become simplified ones. For comparing only: what is written is never folded. The list is
    shared between calls: do not change it.
    """
    if not text.isascii():
        text = ACCENT.sub("", unicodedata.normalize("NFKD", text)).translate(_simplified())
    return TOKEN.findall(text.casefold())


def is_han(token: str) -> bool:
    """Whether a token is a Chinese character."""
    return token >= HAN_FROM
