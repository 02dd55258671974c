"""What accuracy does not show, from the texts that are there: loops, mixed language, thoughts, form, rotated options.

Pure functions. What they find on real records and on planted loops and mixtures is in docs/evaluation.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.evaluate.read import DENIES, NAMED, SENTENCE_END, THINK, mark_pattern, read_choice, split_reasoning
from scripts.evaluate.stats import share

SPECIAL = re.compile(r"<[|｜][^<>|｜\n]{1,40}[|｜]>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]")
CHINESE = re.compile(r"[\u3400-\u9fff]")
LATIN = re.compile(r"[A-Za-z]{2,}")
ENGLISH = re.compile(r"(?<![A-Za-z\d\\/^_{-])[a-z]{3,}(?![A-Za-z\d_-])")  # words, not names, units or abbreviations
OTHER = re.compile(r"[\u0400-\u074f\u0900-\u0e7f\u3040-\u30fa\uac00-\ud7af]{3,}")  # neither of the two
# A term in brackets after its translation, a title, code, formulas, tags and keys are in no language.
ASIDE = re.compile(r"[(（\[【《][^()（）\[\]【】《》]*[)）\]】》]|`[^`]*`|\$[^$\n]*\$|<[^<>\n]*>|\"\w+\"\s*:")
ENGLISH_SENTENCE = re.compile(r"[A-Za-z'’-]+(?:[ ,;:]+[A-Za-z'’-]+){4,}")
CHINESE_SENTENCE = re.compile(r"[\u3400-\u9fff，、；：]{8,}")
# What sentences have and terms hardly do.
GRAMMAR = re.compile(
    r"\b(?:the|an?|is|are|was|be|this|that|it|we|s?he|they|you|i|to|of|and|in|on|for|with|not|so|but)\b", re.I
)
TAIL = 500  # characters at a thought's end, where it comes to its conclusion


def repeats_endlessly(text: str) -> bool:
    """Whether a text ends in a loop: from somewhere to its end, fewer than a third of its pieces are different ones.

    Digits count as equal, since a loop may number its rounds; the text is looked at with and without punctuation.
    """
    plain = re.sub(r"\d", "0", re.sub(r"\s+", " ", text)).strip()
    return _loops(plain) or _loops(re.sub(r"[\W_]+", "", plain))


def _loops(text: str, size: int = 10, least: int = 50) -> bool:
    """Walk back from the end over pieces of ``size`` characters; fewer than ``least`` of them say nothing."""
    seen = set()
    for count, start in enumerate(range(len(text) - size, -1, -1), 1):
        seen.add(text[start : start + size])
        if count >= least and len(seen) < count / 3:
            return True
    return False


def mixes_languages(text: str) -> bool:
    """Whether a text is in Chinese and English at once, or partly in a third script.

    One sentence in the language that the rest is not in is enough, or 3% of all words and at least three. Terms in
    brackets do not count.
    """
    text = ASIDE.sub(" ", text)
    chinese, english = len(CHINESE.findall(text)) / 2, len(ENGLISH.findall(text))  # about two characters a word
    if chinese > english:
        sentence = any(GRAMMAR.search(run) and len(ENGLISH.findall(run)) > 2 for run in ENGLISH_SENTENCE.findall(text))
    else:
        sentence = english > 0 and bool(CHINESE_SENTENCE.search(text))
    words = min(chinese, english) + len(OTHER.findall(text))
    return sentence or words >= max(3, 0.03 * (chinese + english))


def in_language(text: str, lang: str) -> bool:
    """Whether a text is in ``zh`` (at least half Chinese among Chinese characters and Latin words) or ``en`` (at most a
    fifth). True for any other ``lang``, which is not checked, and for a text like "C", which has no language.
    """
    chinese, latin = len(CHINESE.findall(text)), len(LATIN.findall(text))
    share = chinese / max(1, chinese + latin)
    return {"zh": share >= 0.5, "en": share <= 0.2}.get(lang, True) or chinese + latin == 0


def format_problems(output: Mapping[str, Any], lang: str, marks: tuple[str, str] = THINK) -> list[str]:
    """Names of what is wrong with an output's form, in a fixed order; empty where it is well formed.

    ``output``: ``text``, whether the prompt ``opened`` a thought, whether that was ``forced`` closed for the model.
    """
    text, opened = output["text"], output["opened"]
    parts = split_reasoning(text, opened, marks)
    starts, ends = (len(mark_pattern(mark).findall(text)) for mark in marks)
    problems = {
        "no_reasoning": opened and not parts.thought,
        "unclosed_reasoning": not parts.closed or output["forced"],
        "repeated_tag": max(starts + opened, ends) > 1,
        "no_answer": not parts.answer,
        "special_token": bool(SPECIAL.search(text)),
        "answer_language": not in_language(parts.answer, lang),
    }
    return [name for name, found in problems.items() if found]


def describe(
    output: Mapping[str, Any], options: Mapping[str, str], marks: tuple[str, str] = THINK
) -> dict[str, bool | None]:
    """What one answered choice shows besides its letter; None where there is no thought to look at.

    ``output``: as for `format_problems`. ``thought_unclear``: thought or answer names no single letter.
    """
    text, opened = output["text"], output["opened"]
    parts = split_reasoning(text, opened, marks)
    thinks = opened or bool(parts.thought or mark_pattern(marks[0]).search(text))
    found = {
        "repeats_endlessly": repeats_endlessly(parts.thought) or repeats_endlessly(parts.answer),
        "mixed_language": mixes_languages(f"{parts.thought}\n{parts.answer}"),
        "thought_closed": parts.closed and not output["forced"] if thinks else None,
        "empty_thought": not parts.thought if thinks else None,
    }
    agrees = thought_agrees(parts.thought, parts.answer, options) if parts.thought else None
    return found | {f"thought_{name}": agrees and agrees == name for name in ("agree", "disagree", "unclear")}


def thought_agrees(thought: str, answer: str, options: Mapping[str, str]) -> str:
    """Whether a thought concludes with the letter that the answer names: agree, disagree or unclear."""
    concluded = concluded_by(thought, options)
    named = read_choice(answer, "".join(options)).letter
    if concluded is None or named is None:
        return "unclear"
    return "agree" if concluded == named else "disagree"


def concluded_by(thought: str, options: Mapping[str, str]) -> str | None:
    """The letter a thought ends with: stated as an answer is, or of the one option named last, by letter or by text.

    More lenient than ``read_choice``, for thoughts seldom state a letter; it looks at the end only.
    """
    sentences = [part for part in SENTENCE_END.split(thought[-TAIL:]) if part.strip()]
    if len(thought) > TAIL:
        del sentences[:1]  # it may have lost its beginning
    choice = read_choice("\n".join(sentences), "".join(options))
    if choice.status != "none":
        return choice.letter
    for sentence in reversed(sentences[-2:]):
        named = {letter for name in NAMED.finditer(sentence) for letter in name.groups() if letter}
        texts = [text for text in options.values() if len(text) > 1 and text.lower() in sentence.lower()]
        longest = [text for text in texts if not any(text in other for other in texts if other != text)]
        named |= {letter for letter, text in options.items() if text in longest}
        if named:
            return min(named) if len(named) == 1 and not DENIES.search(sentence) else None
    return None


def shares(seen: Sequence[Mapping[str, bool | None]], items: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Share of each measure of `describe` over the answers that have it, as {"value", "n" (items), "ci95"}."""
    found = {}
    for measure in seen[0]:
        having = [i for i, row in enumerate(seen) if row[measure] is not None]
        found[measure] = share([float(seen[i][measure]) for i in having], [items[i] for i in having])
    return found


ROTATED = " (rotated)"  # behind the name of a task whose options stand in another order


def rotate_options(item: Mapping[str, Any], k: int) -> dict[str, Any]:
    """The item with its options' texts moved on by ``k`` places; ``answer_idx`` follows its text."""
    letters = sorted(item["options"])
    moved = {letter: letters[(i + k) % len(letters)] for i, letter in enumerate(letters)}
    options = {moved[letter]: item["options"][letter] for letter in letters}
    return {**item, "options": dict(sorted(options.items())), "answer_idx": moved[item["answer_idx"]]}


def stays(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Share of items whose chosen option's text is the same however its options stand, as {"value", "n", "ci95"}.

    ``rows``: one side's answers, each question with its options as they are and rotated (``id``, ``seed``,
    ``question``, ``options``, ``outputs``: budget → ``letter``; the largest budget counts). An item without a letter
    in any rotation does not stay; ``unread`` is their share.
    """
    chosen: dict[tuple, list[str | None]] = {}
    for row in rows:
        letter = list(row["outputs"].values())[-1]["letter"]
        place = (row["id"], row["question"], row["seed"])
        chosen.setdefault(place, []).append(row["options"][letter] if letter else None)
    turned = {place: texts for place, texts in chosen.items() if len(texts) > 1}
    same = [float(None not in texts and len(set(texts)) == 1) for texts in turned.values()]
    unread = [float(None in texts) for texts in turned.values()]
    items = [place[:2] for place in turned]
    return share(same, items) | {"unread": share(unread, items)["value"]}
