"""What is decided about one row by itself: repaired, searched for leaks, judged by the filters, measured."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import orjson

from scripts.prepare import clean, dedup, leaks, split
from scripts.prepare.items import read_items
from scripts.prepare.lengths import Lengths
from scripts.prepare.records import Record, Unreadable, claimed_language
from scripts.prepare.text import tokens

EVIDENCE = 100  # characters of the place that speaks for a rejection


@dataclass(slots=True)
class Row:
    """What is remembered of one row, while its line lies in the spool."""

    source: str
    line: int
    reason: str | None = None  # why it is rejected
    id: str = ""
    key: str = ""  # the question's tokens, spaces between them
    lang: str = ""
    tokens: int = 0  # its length, in tokens of the model
    quality: tuple[int, int] = (0, 0)  # higher is better: no personal data, long reasoning
    sketches: list = field(default_factory=list)
    reasoning: list[int] = field(default_factory=list)
    repairs: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()
    system: str = ""
    split: str = ""
    twin: Row | None = None  # of a duplicate: the record that is kept for it
    similarity: float = 0  # to its twin, 0 to 1


class Judge:
    """Everything that decides about one record by itself; made once, shared by all worker processes."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.skip = frozenset(args.skip)
        benchmarks = {str(path): read_items(path) for path in sorted(args.benchmarks)}
        self.benchmarks = {path: len(items) for path, items in benchmarks.items()}
        self.index = leaks.Index([item for items in benchmarks.values() for item in items])
        self.lengths = Lengths(args.template, None if args.no_lengths else args.tokenizer)

    def one(self, record: Record | Unreadable) -> tuple[Row, bytes]:
        """What is remembered of a row, and its line: the prepared record, or the rejected one."""
        row = Row(record.source, record.line)
        if isinstance(record, Unreadable):
            return rejected(row, record.reason, record.matched, record.raw)
        raw = record.raw if isinstance(record.raw, dict) else {}
        claimed = raw.get("lang") if raw.get("lang") in ("zh", "en") else claimed_language(record.source)
        text, repairs = clean.Text.of(record.question, record.thought, record.answer, claimed)
        row.repairs, row.lang = tuple(sorted(repairs)), text.lang or ""
        row.personal = tuple(clean.personal_data(f"{text.question}\n{text.thought}\n{text.answer}"))

        # Leaks come before the filters, so that each is listed with its item.
        if leak := self.index.find(text.question, text.thought, text.answer):
            found = {"leaked": getattr(text, leak.where), "item_text": self.index.items[leak.item]["question"]}
            return rejected(row, leak.reason, self.index.name(leak), record.raw, where=leak.where, **found)
        if reason := clean.reject_reason(text, self.skip) or self.unwanted(row):
            return rejected(row, reason, evidence(reason, text, row.personal), record.raw)
        output = self.lengths.output(text.thought, text.answer)
        row.tokens = self.lengths.count(record.system, text.question, output)
        if row.tokens > self.args.cutoff_len:
            return rejected(row, "too_long", f"{row.tokens} tokens", record.raw)

        question = tokens(text.question)
        row.key, row.system = " ".join(question), record.system
        row.id = own_id(raw) or f"{row.lang}-{blake2b(row.key.encode(), digest_size=8).hexdigest()}"
        row.quality = (-len(row.personal), len(text.thought))
        row.sketches = dedup.sketch(question, self.args.seed)
        row.reasoning = split.reasoning_keys(tokens(text.thought), self.args.seed)
        prepared = {"id": row.id, "lang": row.lang, "input": text.question, "output": output}
        system = {"system": record.system} if record.system else {}
        return row, line_of({**prepared, **system, "source": record.source, "line": record.line})

    def unwanted(self, row: Row) -> str | None:
        """The reason of a sound record that the options leave out."""
        if row.lang not in self.args.lang:
            return "other_language"
        return "personal_data" if row.personal and self.args.reject_personal else None


def evidence(reason: str, text: clean.Text, personal: tuple[str, ...]) -> str:
    """The place of a record that speaks for its rejection; empty where its question or the reason says enough."""
    shown = {
        "refusal": text.answer[:EVIDENCE],
        "mixed_language": f"{text.thought[:EVIDENCE]} … {text.answer[:EVIDENCE]}",
        "personal_data": ", ".join(personal),
    }
    if reason in shown:
        return shown[reason]
    own = {"reasoning": text.thought, "answer": text.answer}.get(reason.rpartition("_")[2], "")
    at_its_end = reason.startswith(("cut_off_", "looping_"))
    return f"… {own[-EVIDENCE:]}" if at_its_end else own[:EVIDENCE]


def own_id(raw: dict) -> str:
    """The id that a raw record brings, where it is a plain one."""
    own = raw.get("id")
    plain = isinstance(own, (str, int)) and 0 < len(str(own)) <= 64 and str(own).isprintable()
    return str(own) if plain else ""


def rejected(row: Row, reason: str, matched: str, record: Any, **why: Any) -> tuple[Row, bytes]:
    """The row, now with its reason, and the rejected line."""
    row.reason = reason
    place = {"source": row.source, "line": row.line, "reason": reason, "matched": matched}
    return row, line_of({**place, **why, "record": record})


def line_of(value: dict) -> bytes:
    """One JSON line, also of values that JSON has no form for."""
    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # huge numbers, half of a surrogate pair, deep nesting, dates of a Parquet file
        return json.dumps(value, default=str).encode() + b"\n"
