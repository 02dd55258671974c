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
    """What is remembered of one row; its line is in the spool. ``tokens``: its length in tokens of the model."""

    source: str
    line: int
    reason: str | None = None
    id: str = ""
    key: str = ""  # the question's tokens, spaces between them
    lang: str = ""
    tokens: int = 0
    quality: tuple[int, int] = (0, 0)  # higher is better: no personal data, long reasoning
    sketches: list = field(default_factory=list)
    reasoning: list[int] = field(default_factory=list)
    noted: tuple[str, ...] = ()  # repairs
    personal: tuple[str, ...] = ()
    system: str = ""


class Judge:
    """Everything that decides about one record by itself; made once, shared by all worker processes."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.skip = frozenset(args.skip)
        self.index = leaks.Index([item for path in sorted(args.benchmarks) for item in read_items(path)])
        self.lengths = Lengths(args.template, None if args.no_lengths else args.tokenizer)

    def batch(self, batch: list[Record | Unreadable]) -> list[tuple[Row, bytes]]:
        """What is remembered of each row, and its line: the prepared record, or the rejected one."""
        done = [self.one(record) for record in batch]
        whole = [(row, found) for row, found in done if row.reason is None]
        counts = self.lengths.count([(found.get("system", ""), found["input"], found["output"]) for _, found in whole])
        for (row, found), count in zip(whole, counts, strict=True):
            row.tokens = count
            if count > self.args.cutoff_len:
                row.reason = "too_long"
                found["matched"] = f"{count} tokens"
        lines = []
        for record, (row, found) in zip(batch, done, strict=True):
            lines.append((row, line_of(found if row.reason is None else rejected(row, found, record.raw))))
        return lines

    def one(self, record: Record | Unreadable) -> tuple[Row, dict]:
        """One row without its length: what is remembered, and the prepared record or what it matched."""
        row = Row(record.source, record.line)
        if isinstance(record, Unreadable):
            row.reason = record.reason
            return row, {"matched": record.matched}
        raw = record.raw if isinstance(record.raw, dict) else {}
        claimed = raw.get("lang") if raw.get("lang") in ("zh", "en") else claimed_language(record.source)
        text, noted = clean.Text.of(record.question, record.thought, record.answer, claimed)
        row.noted, row.lang = tuple(sorted(noted)), text.lang or ""
        # Leaks come before the filters, so that each is listed with its item.
        leak = self.index.find(text.question, text.thought, text.answer)
        if leak:
            row.reason = leak.reason
            found = {"matched": self.index.name(leak), "where": leak.where, "leaked": getattr(text, leak.where)}
            return row, found | {"item_text": self.index.items[leak.item]["question"]}
        row.reason = clean.reject_reason(text, self.skip)
        row.personal = tuple(clean.personal_data(f"{text.question}\n{text.thought}\n{text.answer}"))
        if row.reason is None and text.lang not in self.args.lang:
            row.reason = "other_language"
        if row.reason is None and row.personal and self.args.reject_personal:
            row.reason = "personal_data"
        if row.reason:
            return row, {"matched": evidence(row, text)}
        question, thought = tokens(text.question), tokens(text.thought)
        row.key, row.system = " ".join(question), record.system
        row.id = own_id(raw) or f"{row.lang}-{blake2b(row.key.encode(), digest_size=8).hexdigest()}"
        row.quality = (-len(row.personal), len(text.thought))
        row.sketches = dedup.sketch(question, self.args.seed)
        row.reasoning = split.reasoning_keys(thought, self.args.seed)
        output = self.lengths.output(text.thought, text.answer)
        prepared = {"id": row.id, "lang": row.lang, "input": text.question, "output": output}
        prepared |= {"system": record.system} if record.system else {}
        return row, prepared | {"source": record.source, "line": record.line}


def evidence(row: Row, text: clean.Text) -> str:
    """The place of a record that speaks for its rejection; empty where its question or the reason says enough."""
    shown = {
        "refusal": text.answer[:EVIDENCE],
        "mixed_language": f"{text.thought[:EVIDENCE]} … {text.answer[:EVIDENCE]}",
        "personal_data": ", ".join(row.personal),
    }
    if row.reason in shown:
        return shown[row.reason]
    own = {"reasoning": text.thought, "answer": text.answer}.get(row.reason.rpartition("_")[2], "")
    at_its_end = row.reason.startswith(("cut_off_", "looping_"))
    return f"… {own[-EVIDENCE:]}" if at_its_end else own[:EVIDENCE]


def own_id(raw: dict) -> str:
    """The id that a raw record brings, where it is a plain one."""
    own = raw.get("id")
    plain = isinstance(own, (str, int)) and 0 < len(str(own)) <= 64 and str(own).isprintable()
    return str(own) if plain else ""


def rejected(row: Row, found: dict, raw: Any) -> dict:
    """The rejected record of a row."""
    why = {key: found[key] for key in ("where", "leaked", "item_text", "similarity") if key in found}
    where = {"source": row.source, "line": row.line, "reason": row.reason, "matched": found.get("matched", "")}
    return {**where, **why, "record": raw}


def line_of(value: dict) -> bytes:
    """One JSON line, also of values that JSON has no form for."""
    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # huge numbers, half of a surrogate pair, deep nesting, dates of a Parquet file
        return json.dumps(value, default=str).encode() + b"\n"
