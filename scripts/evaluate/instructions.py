"""Instruction following that code can verify: prompts with constraints, checked on the answer after the reasoning.

python -m scripts.evaluate runs them from data/instructions_{en,zh}.jsonl. IFEval's own checkers are not used: they are
English only, need two more packages, and fetch nltk data from the network when they are imported.

A constraint is ``{"type": a key of CHECKS, …its parameters}``. An empty answer follows no constraint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, read_jsonl
from scripts.evaluate.texts import in_language

PROMPTS = (ROOT / "data/instructions_en.jsonl", ROOT / "data/instructions_zh.jsonl")
SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!\bDr)(?<!\bvs)[.!?]+[\"'”’)]*(?=\s|$)|[。！？]+[”’」）]*|\n+")
LIST_MARK = re.compile(r"^\s*(?:[-*•#>]+|\d+\s*[.)、．])\s*", re.M)
ITEM = {"bullet": r"^\s*[-*•]\s+\S", "numbered": r"^\s*\d+\s*[.)、．]\s*\S"}
CHARACTER = re.compile(r"[\u3400-\u9fff]|[A-Za-z0-9]+(?:[.,][0-9]+)*")


def _sentences(text: str) -> list[str]:
    plain = LIST_MARK.sub("", text).replace("*", "")
    return [sentence for sentence in SENTENCE_END.split(plain) if re.search(r"\w", sentence)]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _times(answer: str, word: str) -> int:
    """Occurrences, case ignored; a Latin word only as a whole word."""
    edges = [r"[A-Za-z0-9]" if end.isascii() and end.isalnum() else r"(?!)" for end in (word[0], word[-1])]
    return len(re.findall(f"(?<!{edges[0]}){re.escape(word)}(?!{edges[1]})", answer, re.I))


def _items(answer: str, style: str, n: int) -> bool:
    found = re.findall(ITEM[style], answer, re.M)
    counted = style == "bullet" or [int(re.search(r"\d+", item)[0]) for item in found] == list(range(1, n + 1))
    return len(found) == n and counted


def _json_object(answer: str, keys: list[str], lists: Iterable[str] = ()) -> bool:
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?```", answer, re.S)
    try:
        value = json.loads(fenced[1] if fenced else answer)
    except ValueError:
        return False
    return isinstance(value, dict) and set(value) == set(keys) and all(isinstance(value[key], list) for key in lists)


def _table(answer: str, columns: int, rows: int) -> bool:
    lines = [line.strip("|").split("|") for line in _lines(answer) if line.startswith("|")]
    ruled = len(lines) > 1 and all(re.fullmatch(r"\s*:?-+:?\s*", cell) for cell in lines[1])
    return ruled and len(lines) == rows + 2 and all(len(line) == columns for line in lines)


UNITS: dict[str, Callable[[str], list]] = {
    "words": re.compile(r"[A-Za-z0-9]+(?:['’.,/-][A-Za-z0-9]+)*").findall,
    "characters": CHARACTER.findall,  # Chinese ones; a Latin word or a number counts as one, punctuation does not count
    "sentences": _sentences,
    "lines": _lines,
    "paragraphs": lambda text: [part for part in re.split(r"\n\s*\n", text) if part.strip()],
    "questions": re.compile(r"[?？]").findall,
}
CHECKS: dict[str, Callable[..., bool]] = {
    "count": lambda answer, unit, min=0, max=1 << 31: min <= len(UNITS[unit](answer)) <= max,
    "language": lambda answer, lang: (
        in_language(answer, lang) and bool(re.search(r"[A-Za-z]{2}|[\u3400-\u9fff]", answer))
    ),
    "include": lambda answer, words, times=1: all(_times(answer, word) >= times for word in words),
    "exclude": lambda answer, words: not any(_times(answer, word) for word in words),
    "items": _items,  # exactly n list items; numbers count up from 1
    "json": _json_object,  # one object with exactly these keys and nothing else, bare or in a code fence
    "starts_with": lambda answer, text: answer.startswith(text),
    "ends_with": lambda answer, text: answer.endswith(text),
    "each_line": lambda answer, text: all(line.startswith(text) for line in _lines(answer)),
    "table": _table,  # one Markdown table; rows of data, without head and rule
    "headings": lambda answer, titles: re.findall(r"^#+\s*(.+?)\s*#*\s*$", answer, re.M) == titles,
    "one_of": lambda answer, options: answer.rstrip(".。").lower() in [option.lower() for option in options],
}


def check(constraint: dict[str, Any], answer: str) -> bool:
    """Whether an answer (without its reasoning) follows one constraint."""
    parameters = {name: value for name, value in constraint.items() if name != "type"}
    answer = answer.strip()
    return bool(answer) and bool(CHECKS[constraint["type"]](answer, **parameters))


def score(record: dict[str, Any], answer: str) -> dict[str, Any]:
    """{"strict": all constraints followed, "constraints": [bool, …]} for an answer without its reasoning."""
    followed = [check(constraint, answer) for constraint in record["constraints"]]
    return {"strict": all(followed), "constraints": followed}


def load_prompts(path: str | Path) -> list[dict[str, Any]]:
    """Prompts ``{"id", "lang", "prompt", "constraints"}``; raises UserError for a constraint that cannot be checked."""
    prompts = []
    for line, row in read_jsonl(path):
        try:
            score(row, "?")
        except (KeyError, TypeError) as error:
            kinds = ", ".join(CHECKS)
            raise UserError(f"{path}:{line}: {error!r}; expected `constraints` with a `type` among {kinds}") from error
        prompts.append(row)
    return prompts
