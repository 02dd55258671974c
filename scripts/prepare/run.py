"""What happens to a record on its way: read, judged by itself, compared with all others, put into a split, written.

Worker processes do what needs one record alone, and its line goes to a spool file; what needs all records at once
looks at what is remembered of each (`Row`).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any

import orjson
from tqdm import tqdm

from scripts.common import UserError
from scripts.prepare import clean, dedup, leaks, report, split
from scripts.prepare.benchmarks import read_items
from scripts.prepare.lengths import Lengths
from scripts.prepare.publish import check_outputs, publish, registry_path, staging
from scripts.prepare.records import Record, check_sources, read_source
from scripts.prepare.text import tokens

WINDOW, CHUNK = 8192, 64  # records that are in memory at once, and that a worker takes at a time
PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>
EVIDENCE = 100  # characters of the place that speaks for a rejection


@dataclass(slots=True)
class Row:
    """What is remembered of one row, while its line lies in the spool."""

    source: str
    line: int
    reason: str | None = None  # why it is rejected
    benchmark: str = ""  # the file whose item it leaks
    id: str = ""
    key: str = ""  # the question's tokens, spaces between them
    lang: str = ""
    tokens: int = 0  # its length, in tokens of the model
    quality: tuple[int, int] = (0, 0)  # higher is better: no personal data, long reasoning
    bands: Sequence[int] = ()  # of its question, by dedup.sketch
    reasoning: Sequence[int] = ()  # the same of its thought, by split.reasoning_bands
    repairs: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()
    system: str = ""
    split: str = ""
    twin: Row | None = None  # of a duplicate: the record that is kept for it
    similarity: float = 0  # to its twin, 0 to 1


def prepare(args: argparse.Namespace) -> dict:
    """Run every step; the report. ``args``: of __main__.parse_args.

    Raises UserError where the input cannot be used, or nothing was kept of it.
    """
    check_outputs(args.out, args.name, args.sources)
    check_sources(args.sources, args.columns, args.thought_tags)
    with staging(args.out, args.name) as folder:  # first, since a folder that cannot be written to is told at once
        judge = Judge(args)
        rows = judge_all(args, judge, folder / "spool")
        moved = compare(args, [row for row in rows if row.reason is None])
        examples = write_rows(folder, args.name, rows)
        found = report.figures(args, rows, moved, folder)
        found |= {"examples": examples, "benchmarks": judge.benchmarks}
        report.write_reports(folder, args.name, found)
        publish(folder, args.out, args.name, found["splits"])
    tell(args, found)
    return found


class Judge:
    """Everything that decides about one record by itself; made once, shared by all worker processes."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        benchmarks = {str(path): read_items(path) for path in sorted(args.benchmarks)}
        self.benchmarks = {path: len(items) for path, items in benchmarks.items()}
        self.index = leaks.Index([item for items in benchmarks.values() for item in items])
        self.file_of = [path for path, items in benchmarks.items() for _ in items]
        self.lengths = Lengths(args.template, None if args.no_lengths else args.tokenizer)

    def one(self, record: Record) -> tuple[Row, bytes]:
        """What is remembered of a row, and its line: the prepared record, or the rejected one."""
        row = Row(record.source, record.line)
        if record.reason:
            return rejected(row, record.reason, record.matched, record.raw)
        row.repairs = tuple(sorted(clean.repair_record(record)))
        row.lang = record.lang or ""
        row.personal = tuple(clean.personal_data(f"{record.question}\n{record.thought}\n{record.answer}"))

        # Leaks come before the filters, so that each is listed with its item.
        if leak := self.index.find(record.question, record.thought, record.answer):
            item = self.index.items[leak.item]
            row.benchmark = self.file_of[leak.item]
            matched = f"{item['benchmark']}/{item['id']}"
            found = {"where": leak.where, "leaked": getattr(record, leak.where), "item_text": item["question"]}
            return rejected(row, leak.reason, matched, record.raw, **found)
        if reason := clean.reject_reason(record, frozenset(self.args.skip)):
            return rejected(row, reason, evidence(reason, record), record.raw)
        if row.lang not in self.args.lang:
            return rejected(row, "other_language", row.lang, record.raw)
        if row.personal and self.args.reject_personal:
            return rejected(row, "personal_data", ", ".join(row.personal), record.raw)
        output = self.lengths.output(record.thought, record.answer)
        row.tokens = self.lengths.count(record.system, record.question, output)
        if row.tokens > self.args.cutoff_len:
            return rejected(row, "too_long", f"{row.tokens} tokens", record.raw)

        question = tokens(record.question)
        row.key = " ".join(question)
        row.system = record.system
        row.id = own_id(record.raw) or f"{row.lang}-{blake2b(row.key.encode(), digest_size=8).hexdigest()}"
        row.quality = (-len(row.personal), len(record.thought))
        row.bands = dedup.sketch(question, self.args.seed)
        row.reasoning = split.reasoning_bands(tokens(record.thought), self.args.seed)
        prepared = {"id": row.id, "lang": row.lang, "input": record.question, "output": output}
        system = {"system": record.system} if record.system else {}
        return row, line_of({**prepared, **system, "source": record.source, "line": record.line})


def evidence(reason: str, record: Record) -> str:
    """The place of a record that speaks for its rejection; empty where its question or the reason says enough."""
    if reason == "mixed_language":
        return f"{record.thought[:EVIDENCE]} … {record.answer[:EVIDENCE]}"
    own = record.thought if reason.endswith("_reasoning") else record.answer
    if reason.startswith(("cut_off_", "looping_")):
        return f"… {own[-EVIDENCE:]}"
    return own[:EVIDENCE] if reason in ("refusal", "short_reasoning", "reasoning_is_answer") else ""


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


def judge_all(args: argparse.Namespace, judge: Judge, spool: Path) -> list[Row]:
    """Judge every row by itself; its line goes to the spool, what is remembered of it comes back."""
    records = chain.from_iterable(read_source(source, args.columns, args.thought_tags) for source in args.sources)
    rows = []
    with spool.open("wb") as file:
        for row, line in tqdm(judged(judge, records, args.num_proc), "prepare", unit=" records", unit_scale=True):
            file.write(line)
            rows.append(row)
    return rows


_JUDGE: Judge  # set before the workers fork, so that they share it


def _end_with_parent() -> None:
    """Have Linux end this worker when the command is killed, which would else leave it waiting for ever."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _judge(record: Record) -> tuple[Row, bytes]:
    return _JUDGE.one(record)


def judged(judge: Judge, records: Iterator[Record], processes: int) -> Iterator[tuple[Row, bytes]]:
    """Each row's memory and line, in input order, by as many processes."""
    global _JUDGE
    _JUDGE = judge
    if processes == 1:
        yield from map(_judge, records)
        return
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _end_with_parent) as pool:
            while window := list(islice(records, WINDOW)):
                yield from pool.map(_judge, window, chunksize=CHUNK)
    except BrokenProcessPool as error:
        raise UserError("a worker process died, most likely for want of memory; use a smaller --num-proc") from error


def compare(args: argparse.Namespace, rows: list[Row]) -> int:
    """Give each sound row its split, or its duplicate's reason; how many moved to another split since the run before.

    A dropped duplicate still ties what is alike to it into one split.
    """
    unique_ids(rows)
    matched, alike = dedup.find(rows, args.threshold)
    for place, (twin, similarity) in matched.items():
        row = rows[place]
        row.twin, row.similarity = rows[twin], similarity
        row.reason = "duplicate_exact" if row.key == row.twin.key else "duplicate_near"
    group = split.groups(len(rows), chain(alike, dedup.same_band([row.reasoning for row in rows])))
    before = split.previous_splits(args)
    for row, own in zip(rows, split.assign(rows, group, before, args), strict=True):
        row.split = own
    return sum(before.get(row.id, row.split) != row.split for row in rows if row.reason is None)


def unique_ids(rows: Iterable[Row]) -> None:
    """Give every record an id of its own: what brings an id twice is numbered."""
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row.id] += 1
        while seen[row.id] > 1:
            row.id = f"{row.id}-{seen[row.id]}"
            seen[row.id] += 1


def write_rows(folder: Path, name: str, rows: list[Row]) -> dict[str, list[dict]]:
    """Every line of the spool to its split's file or the rejected ones; by reason, the first that the report shows."""
    twins = {row.twin.id: {"source": row.twin.source, "line": row.twin.line} for row in rows if row.twin}
    examples: dict[str, list[dict]] = {}
    with ExitStack() as stack:
        spool = stack.enter_context((folder / "spool").open("rb"))
        paths = {part: folder / f"{name}_{part}.jsonl" for part in (*split.SPLITS, "rejected")}
        files = {part: stack.enter_context(path.open("wb")) for part, path in paths.items()}
        for row, line in zip(rows, spool, strict=True):
            if row.reason is None:
                record = json.loads(line)
                files[row.split].write(line_of(record | {"id": row.id}))
                if row.id in twins:
                    twins[row.id]["text"] = record["input"][: report.EXCERPT]
                continue
            if row.twin:
                line = duplicate(row, row.twin, line)
            files["rejected"].write(line)
            own = examples.setdefault(row.reason, [])
            if len(own) < report.examples_of(row.reason):
                own.append(report.example(line) | ({"kept": twins[row.twin.id]} if row.twin else {}))
    (folder / "spool").unlink()
    return examples


def duplicate(row: Row, twin: Row, line: bytes) -> bytes:
    """The rejected line of a duplicate, from its prepared one, with the id of the record that is kept for it."""
    value = json.loads(line)
    record = {"Question": value["input"], "output": value["output"]}
    return rejected(row, row.reason, twin.id, record, similarity=round(row.similarity, 3))[1]


def tell(args: argparse.Namespace, found: dict) -> None:
    """The result on the screen; UserError where nothing was kept."""
    where = args.out / f"{args.name}_report.html"
    most = ", ".join(f"{reason} {count:,}" for reason, count in list(found["reasons"].items())[:3])
    why = f" ({most})" if most else ""
    print(f"{found['read']:,} read, {found['kept']:,} kept, {found['rejected']:,} rejected{why}: {where}")
    if not found["kept"]:
        place = args.out / f"{args.name}_rejected.jsonl"
        raise UserError(f"{place}: no record was kept of {found['read']:,} ({most}); see there why")
    for line in report.attention(found, report.speaker("en")):
        print(f"warning: {line}")
    print(f"registered in {registry_path(args.out)}")
