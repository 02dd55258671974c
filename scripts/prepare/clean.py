"""Filters: each looks at one repaired record and keeps it, or rejects it by the filter's name.

They need nothing but the record, so datatrove or Ray Data can import them unchanged (data/README.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from scripts.prepare.records import Record
from scripts.prepare.text import language, mixed, repair, tokens

THINK_TAG = re.compile(r"</?think(?:ing)?>", re.I)
THINK_EDGE = re.compile(r"^\s*<think(?:ing)?>|</think(?:ing)?>\s*$", re.I)
SPECIAL = re.compile(r"<[|｜][^<>|｜\n]{1,40}[|｜]>|</?tool_call>|\[/?INST\]|<(?:start|end)_of_turn>")
# Beginnings of an answer that refuses. Sympathy ("I'm sorry to hear that you can't sleep") is none.
CANNOT = (
    r"(?:can(?:no|['’])?t|can not|won['’]t|will not|must decline|(?:do not|don['’]t) feel"
    r"|(?:am |['’]m )?(?:not able|unable))"
)
AI = r"an? (?:ai|artificial intelligence|(?:large )?language model)\b"
REFUSAL_EN = re.compile(
    rf"\b(?:sorry|apolog\w+|unfortunately|regret)\b[^.!?\n]{{0,40}}\bi ?{CANNOT}\b"
    rf"|(?:^|[.!?\n,]\s*|\bbut )(?:i|we) ?{CANNOT} (?:to |be able to )?(?:assist|help|comply|fulfil|answer|respond"
    r"|discuss|engage|continue|recommend|diagnose|prescribe|comfortable|(?:provide|give|offer|make)\b.{0,40}\b(?:advice"
    r"|medical|diagnos[ei]s|information|guidance|recommendation|response|instruction))"
    rf"|\bas {AI}[^.\n]{{0,30}}\bi\b|\bi(?:'|’| a)m (?:just |only )?{AI}"
    r"|\b(?:goes|is) against my (?:guidelines|programming|polic)",
    re.I | re.M,
)
CANNOT_ZH = r"(?:暂时|目前|恐怕|并)?(?:无法|不能|没法|不便|难以|无权|拒绝)"
REFUSAL_ZH = re.compile(
    r"(?:抱歉|对不起|不好意思|遗憾)"
    rf"(?:(?:您的|[^您你。！？\n]){{0,12}}?我们?|[，,。！!\s]*(?:(?:关于|对于|这个|该|您的|此)?(?:问题|请求|内容))?){CANNOT_ZH}"
    r"(?:[为给向对就帮替]|协助|提供|回答|满足|诊断|继续|处理|完成|讨论|回应|参与|执行|做出|作出)"
    rf"|(?:^|[。！？\n，,])我们?{CANNOT_ZH}(?:[为给向对帮]您|帮助|协助|提供|回答|满足您|讨论|参与|给出|替代)"
    r"|作为[^。，,\n]{0,4}(?:AI|人工智能|语言模型|大模型)[^。，,\n]{0,8}[，,]\s*我",
    re.I | re.M,
)
SENTENCE_END = re.compile(r"(?<!\b[A-Za-z])(?<!Dr|vs)\.(?=\s|$)|[!?。！？…]")  # not in 2.5 mg or E. coli
CLOSED = tuple(".!?。！？…”\"’')）】》」』]}*`~>-%％℃°+=•—|;；")
OPEN_END = tuple(",，、:：(（[【-–—/")
LIST_LINE = re.compile(
    r"\s*(?:[-*•#>|①-⑳]|\(?\d{1,2}[.、):）]|[（(][一二三四五六七八九十\d]{1,2}[)）]|[一二三四五六七八九十]、)"
)
# An option, bare or after "the answer is:", e.g. "答案是：\n\nE. 800ml".
OPTION_END = re.compile(
    r"(?:^|[:：\n])[\s*]*[A-Ha-hＡ-Ｈ][.．、:：)）\s][^。！？!?\n]{1,80}$"
    r"|(?:答案|[应故]选|\b(?:answer|option|choice))(?:是|为|选项?|\bis\b|\boption\b|[\s:：*(（])*[A-HＡ-Ｈ]"
    r"(?![A-Za-z])(?!.*\b(?:because|since|as|for|due|which|with)\b)[\s.．、:：)）,，*]*[^。！？!?，,；;\n]{0,20}$",
    re.I,
)
LONG_NUMBER = re.compile(r"\d[\d .()-]{8,}")  # cheap: most texts hold none
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}\.[a-zA-Z]{2,}")  # bounded: a gene is one long word
ID_NUMBER = re.compile(
    r"(?<!\d)\d{6}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])\d{3}[\dXx](?!\d)|(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)"
)
PHONE = re.compile(
    r"(?<![\d.])(?:\+?86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?!\d)|\(?(?<!\d)\d{3}\)?[-. ]\d{3}[-. ]\d{4}(?!\d)"
)


def repair_record(record: Record) -> set[str]:
    """Repair a record's texts where they stand, and tell its language; the kinds of repairs that it needed.

    A ``<think>`` around a thought goes.
    """
    kinds = set()
    for field in ("question", "thought", "answer"):
        text, needed = repair(getattr(record, field))
        setattr(record, field, text)
        kinds |= needed
    while "<" in record.thought and (inner := THINK_EDGE.sub("", record.thought).strip()) != record.thought:
        record.thought = inner
        kinds.add("think_tag")
    record.lang = language(record.question)
    if record.lang == "":
        record.lang = language(record.thought) or None
    return kinds


def short_reasoning(record: Record) -> bool:
    """Reasoning too short to be any: under 20 Chinese characters or 10 English words."""
    if record.lang == "zh":
        return len(record.thought) < 20
    return len(record.thought) < 200 and len(record.thought.split()) < 10


def holds(pattern: re.Pattern, record: Record) -> bool:
    """Whether any text of a record matches a pattern."""
    return any(pattern.search(text) for text in (record.question, record.thought, record.answer))


def loops(text: str) -> bool:
    """Whether a text repeats itself: a fifth of its runs of ten tokens were there before, or its end was, twice."""
    if len(text) < 60:
        return False
    parts = tokens(text)
    runs = Counter(zip(*(parts[i:] for i in range(10)), strict=False))
    if runs.total() < 20:
        return False
    return runs.total() - len(runs) > 0.2 * runs.total() or runs[tuple(parts[-10:])] >= 4


def cut_off(text: str) -> bool:
    """Whether a text stops in the middle of a sentence.

    A list that leaves full stops out, an option, a bare name or a short last line after a colon is whole.
    """
    if text.endswith(OPEN_END):
        return not text.endswith(("---", "——"))
    if text.endswith(CLOSED) or not text[-1].isalnum():
        return False
    if OPTION_END.search(text[-120:]):
        return False
    *before, last = [line for line in text.split("\n") if line.strip()]
    if before and len(last) < 60 and before[-1].rstrip("* ").endswith((":", "：")):
        return False
    if LIST_LINE.match(last):
        siblings = [line for line in before if LIST_LINE.match(line)]
        open_ones = sum(line.rstrip()[-1].isalnum() for line in siblings)
        return bool(siblings) and open_ones < 0.3 * len(siblings)
    return True


def cut_off_answer(record: Record) -> bool:
    """An answer that stops in the middle; a short one without any sentence is often a mere name."""
    if len(record.answer) <= (60 if record.lang == "zh" else 200) and not SENTENCE_END.search(record.answer):
        return record.answer.endswith((",", "，", "、"))
    return cut_off(record.answer)


def refuses(record: Record) -> bool:
    """Whether an answer or a thought begins with a refusal and is not much more than that."""
    length = 300 if record.lang == "zh" else 900
    texts = ((record.answer, 200), (record.thought, 100))  # with the characters that are its beginning
    beginnings = [text[:size] for text, size in texts if len(text) < length]
    return any(REFUSAL_EN.search(text) or REFUSAL_ZH.search(text) for text in beginnings)


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
    "mixed_language": lambda r: mixed(r.thought, r.lang) or mixed(r.answer, r.lang),
    "short_reasoning": short_reasoning,
    "reasoning_is_answer": lambda r: r.thought.casefold().split() == r.answer.casefold().split(),
    "looping_reasoning": lambda r: loops(r.thought),
    "looping_answer": lambda r: loops(r.answer),
    "refusal": refuses,
    "cut_off_reasoning": lambda r: cut_off(r.thought),
    "cut_off_answer": cut_off_answer,
}


def reject_reason(record: Record, skip: frozenset[str] = frozenset()) -> str | None:
    """The name of the first filter that rejects the record, None where it is kept."""
    return next((name for name, rule in FILTERS.items() if name not in skip and rule(record)), None)


def personal_data(text: str) -> list[str]:
    """What looks like personal data in a text: of "email", "id_number", "phone"."""
    found = ["email"] if "@" in text and EMAIL.search(text) else []
    if LONG_NUMBER.search(text):
        found += ["id_number"] if ID_NUMBER.search(text) else []
        found += ["phone"] if PHONE.search(text) else []
    return found
