"""Repairs and filters for one record. A repair changes text and is counted; a filter keeps, or rejects by its name.

`repair` and `reject_reason` take plain values, so datatrove or Ray Data can import them unchanged (data/README.md).
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from scripts.common import ASSISTANT, BOS, EOS, USER

CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
)
ODD_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
LINE_END = re.compile("\r\n?|[\x85\u2028\u2029]")
# The first characters that UTF-8 read as Latin-1 or Windows-1252 gives; only such texts are worth ftfy's time.
BROKEN = re.compile(
    "[\u00c2\u00c3\u00c5\u00ce\u00cf\u00d0\u00d1\u00e2-\u00ef\ufffd][\u0080-\u00bf\u0152-\u0178\u0192\u02c6\u02dc\u2013-\u2122]"
)
TAG_NAMES = "p|br|div|span|b|i|u|em|strong|ul|ol|li|a|table|thead|tbody|tr|td|th|h[1-6]|img|font|hr|pre|code|center"
TAG = re.compile(rf"</?(?:{TAG_NAMES})(?:\s+[\w:-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s<>\"']+))*\s*/?>", re.I)
BLOCK_TAG = re.compile(r"</?(?:p|br|div|li|tr|h[1-6]|hr|table|ul|ol)\b", re.I)
RAISED = re.compile(r"<(sup|sub)>([^<>]{0,40})</\1>", re.I)  # 10<sup>9</sup>/L must not become 109/L
SUPERSCRIPT = str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻")
SUBSCRIPT = str.maketrans("0123456789+-", "₀₁₂₃₄₅₆₇₈₉₊₋")
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,24}\d{0,2});")
SPACES = re.compile(r"[ \t]{2,}")
EDGE_SPACES = re.compile(r"[ \t]+(?=\n)|(?<=\n\n)\n+")
EDGE_MARKS = re.compile(rf"^(?:\s*(?:{BOS}|{USER}|{ASSISTANT}))+|(?:{EOS}\s*)+$")
THINK_TAG = re.compile(r"</?think(?:ing)?>", re.I)
THINK_EDGE = re.compile(r"^\s*<think(?:ing)?>|</think(?:ing)?>\s*$", re.I)
SPECIAL = re.compile(r"<[|｜][^<>|｜\n]{1,40}[|｜]>|</?tool_call>")
HAN = re.compile("[\u3400-\u9fff]+")
LETTERS = re.compile(r"[^\W\d_]+")
OTHER_SCRIPT = re.compile("[\u0400-\u052f\u0590-\u06ff\u0900-\u0dff\u0e00-\u0eff\u3040-\u30ff\uac00-\ud7af]")
ENGLISH = frozenset(
    "the of and to in is was were with for are that it what which this she he his her be or not by as an at from has "  # noqa: SIM905
    "have if can how does do than after based when most these it's let's i'm so we my you your likely".split()
)
SENTENCE = re.compile(r"[.!?。！？，；;\n]+")
ENDS = tuple(".!?。！？…”\"’')）】》」』]}*`:：;；|~>-%％℃°+=•—")
REFUSAL = re.compile(
    r"(?:i(?:'|’)?m|i am) (?:really |very |truly )?(?:sorry|unable|not able)[^.!?\n]{0,30}"
    r"\b(?:can(?:no|'|’)?t|cannot|unable|not able)\b"
    r"|\bi (?:cannot|can(?:'|’)t|am unable to|won(?:'|’)t) "
    r"(?:assist|help (?:you|with)|comply|fulfil|answer (?:this|that|your)"
    r"|(?:provide|give|offer) (?:you )?(?:with )?(?:any |specific |personal(?:ized)? )?(?:medical|advice|a diagnosis))"
    r"|\bas an? (?:ai|artificial intelligence|large language|language model)\b"
    r"|(?:抱歉|对不起|很遗憾)[^。！？\n]{0,20}(?:无法|不能|没法)(?:为您|给您|向您|帮|提供|回答|协助|满足|诊断)"
    r"|作为(?:一个|一名|一款)?(?:AI|人工智能|语言模型|大模型|大型语言模型)",
    re.I,
)
LONG_NUMBER = re.compile(r"\d[\d .()-]{8,}")  # cheap: most texts hold none
EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[a-zA-Z]{2,}")
ID_NUMBER = re.compile(
    r"(?<!\d)\d{6}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])\d{3}[\dXx](?!\d)|(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)"
)
PHONE = re.compile(
    r"(?<![\d.])(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\d)|\(?(?<!\d)\d{3}\)?[-. ]\d{3}[-. ]\d{4}(?!\d)"
)


@dataclass(slots=True)
class Record:
    """One cleaned record. ``lang``: zh, en or None (neither); ``claimed``: the language that its source claims."""

    question: str
    thought: str
    answer: str
    lang: str | None = None
    claimed: str | None = None


def repair_characters(text: str) -> str:
    """Undo what encodings did: mojibake, decomposed letters, control characters, odd line ends and spaces.

    Only NFC, never NFKC, and ftfy's encoding repair alone: µg, ℃, ², ½, ① and full-width marks stay as they are.
    """
    if not text.isascii():
        if BROKEN.search(text):
            import ftfy

            text = ftfy.fix_encoding(text)
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
        text = ODD_SPACE.sub(" ", text)
    return CONTROL.sub("", LINE_END.sub("\n", text))


def repair_markup(text: str) -> str:
    """Undo HTML: entities, tags (powers and indices keep their meaning). ``p<0.05`` and ``a < b`` are no tags."""
    for _ in range(3):  # entities may have been escaped twice
        if "&" not in text or (plain := ENTITY.sub(lambda match: html.unescape(match[0]), text)) == text:
            break
        text = plain
    if "<" in text:
        text = RAISED.sub(_raise, text)
        text = TAG.sub(lambda match: "\n" if BLOCK_TAG.match(match[0]) else "", text)
    return text


def _raise(match: re.Match) -> str:
    table, sign = (SUBSCRIPT, "_") if match[1].lower() == "sub" else (SUPERSCRIPT, "^")
    return match[2].translate(table) if all(ord(c) in table for c in match[2]) else f"{sign}{{{match[2]}}}"


def repair_spaces(text: str) -> str:
    """One space for a run of spaces or tabs, none at a line's end, at most one empty line, none around the text."""
    if "\t" in text or "  " in text:
        text = SPACES.sub(" ", text)
    if " \n" in text or "\t\n" in text or "\n\n\n" in text:
        text = EDGE_SPACES.sub("", text)
        text = re.sub(r"\n{3,}", "\n\n", text)
    return text.strip()


def repair(text: str) -> str:
    """All repairs of one text, and marks of a turn at its very ends; running it twice changes nothing more."""
    for _ in range(4):
        before = text
        text = repair_characters(text)
        if "&" in text or "<" in text:
            text = EDGE_MARKS.sub("", repair_markup(text))
        text = repair_spaces(text)
        if text == before:
            break
    return text


def repair_thought(text: str) -> str:
    """A thought without the ``<think>`` that opens it or the ``</think>`` that ends it."""
    while "<" in text and (inner := THINK_EDGE.sub("", text).strip()) != text:
        text = inner
    return text


def language(text: str) -> str | None:
    """zh, en, or None for neither. Counts Chinese characters against words; English by its common words."""
    text, han = text[:2000], 0
    if not text.isascii():
        if len(OTHER_SCRIPT.findall(text)) > 0.1 * len(text):
            return None
        text = unicodedata.normalize("NFKC", text)
        han = sum(map(len, HAN.findall(text)))
    words = LETTERS.findall(HAN.sub(" ", text) if han else text)
    if han and han >= 0.35 * len(words):
        return "zh"
    if not words or han > len(words):
        return None
    if len(words) >= 12:
        return "en" if sum(word in ENGLISH for word in map(str.lower, words)) >= 0.08 * len(words) else None
    return "en" if "".join(words).isascii() else None


def short_reasoning(record: Record) -> bool:
    """Reasoning too short to be any: under 20 Chinese characters or 10 English words."""
    if record.lang == "zh":
        return len(record.thought) < 20
    return len(record.thought) < 200 and len(record.thought.split()) < 10


def holds(pattern: re.Pattern, record: Record) -> bool:
    """Whether any text of a record matches a pattern of tags."""
    return any("<" in text and pattern.search(text) for text in (record.question, record.thought, record.answer))


def loops(text: str) -> bool:
    """Whether a text loops: a quarter of it is sentences said four times and more, or its end repeats."""
    if len(text) < 60:
        return False
    tail = text[-24:]
    if len(set(tail)) > 1 and text.count(tail) >= 4 and _periodic(text[-240:]):
        return True
    if len(set(text[-60:])) == 1:
        return True
    sentences = Counter(part.strip() for part in SENTENCE.split(text))
    repeated = sum(len(part) * times for part, times in sentences.items() if times >= 4 and len(part) >= 4)
    return repeated > 0.25 * len(text)


def _periodic(text: str) -> bool:
    """Whether a text repeats itself with a period of at most a quarter of its length."""
    period = text.find(text[-24:], 0)
    step = len(text) - 24 - text.rfind(text[-24:], 0, len(text) - 1)
    return period >= 0 and 0 < step <= len(text) // 4 and text[step:] == text[:-step]


def cut_off(text: str) -> bool:
    """Whether a text stops in the middle of a sentence."""
    if text.endswith((",", "，", "、")):
        return True
    last = text[text.rfind("\n") + 1 :]
    if text.endswith(ENDS) or (len(last) < 200 and re.match(r"\s*(?:[-*•#]|\d+[.、)])", last)):
        return False
    return unicodedata.category(text[-1]).startswith("L")


# A record that one of these rejects would not train as it reads, so they cannot be left out.
NEEDED = ("no_question", "no_reasoning", "no_answer", "think_tag", "special_token")
# Name: whether it rejects a record. In this order; the first that applies names the rejection.
FILTERS: dict[str, Callable[[Record], bool]] = {
    "no_question": lambda r: not r.question,
    "no_reasoning": lambda r: not r.thought,
    "no_answer": lambda r: not r.answer,
    "short_question": lambda r: len(r.question) < 4 or not any(map(str.isalpha, r.question)),
    # A tag of reasoning in a text would fold the model's output at the wrong place; a special token would forge a turn.
    "think_tag": lambda r: holds(THINK_TAG, r),
    "special_token": lambda r: holds(SPECIAL, r),
    # Not the claimed language, or neither Chinese nor English; or reasoning in another language than the question's.
    "wrong_language": lambda r: r.lang is None or r.claimed not in (None, r.lang),
    "mixed_language": lambda r: language(r.thought) not in (r.lang, None),
    "short_reasoning": short_reasoning,
    "reasoning_is_answer": lambda r: r.thought.casefold().split() == r.answer.casefold().split(),
    "looping_reasoning": lambda r: loops(r.thought),
    "looping_answer": lambda r: loops(r.answer),
    "refusal": lambda r: bool(REFUSAL.search(r.answer[:200]) or REFUSAL.search(r.thought[:100])),
    "cut_off_reasoning": lambda r: cut_off(r.thought),
    # Short answers are often a mere name.
    "cut_off_answer": lambda r: len(r.answer) > (60 if r.lang == "zh" else 200) and cut_off(r.answer),
}


def reject_reason(record: Record, skip: frozenset[str] = frozenset()) -> str | None:
    """The name of the first filter that rejects the record, None where it is kept."""
    return next((name for name, rule in FILTERS.items() if name not in skip and rule(record)), None)


def personal_data(text: str) -> list[str]:
    """What looks like personal data in a text: of "email", "id_number", "phone" (a warning, not a rejection)."""
    found = ["email"] if "@" in text and EMAIL.search(text) else []
    if LONG_NUMBER.search(text):
        found += ["id_number"] if ID_NUMBER.search(text) else []
        found += ["phone"] if PHONE.search(text) else []
    return found
