"""What happens to a record on its way: read, judged by itself, compared with all others, put into a split, written.

Worker processes do what needs one record alone, and its line goes to a spool file; what needs all records at once
looks at what is remembered of each (`judge.Row`).
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from scripts.common import UserError, write_json
from scripts.prepare import dedup, split
from scripts.prepare.figures import figures, of_files
from scripts.prepare.judge import Judge, Row
from scripts.prepare.outputs import check_outputs, publish, registry_path, staging, write_rows
from scripts.prepare.records import Record, Unreadable, check_sources, read_source
from scripts.prepare.report import Words, attention, write_reports

WINDOW = 8192  # records that are in memory at once
CHUNK = 64  # records that a worker takes at a time


def prepare(args: argparse.Namespace) -> dict:
    """Run every step; the report. ``args``: of __main__.parse_args.

    Raises UserError where the input cannot be used, or nothing was kept of it.
    """
    check_outputs(args)
    check_sources(args.sources, args.columns, args.thought_tags)
    judge = Judge(args)
    with staging(args.out, args.name) as folder:
        rows = judge_all(args, judge, folder / "spool")
        moved = compare(args, [row for row in rows if row.reason is None])
        examples = write_rows(folder, args.name, rows)
        report = figures(args, rows, moved)
        report |= {"examples": examples, "benchmarks": judge.benchmarks, "files": of_files(folder, report)}
        write_json(folder / f"{args.name}_report.json", report)
        write_reports(folder, args.name, report)
        publish(folder, args.out, args.name, report["splits"])
    tell(args, report)
    return report


def judge_all(args: argparse.Namespace, judge: Judge, spool: Path) -> list[Row]:
    """Judge every row by itself; its line goes to the spool, what is remembered of it comes back."""
    records = itertools.chain.from_iterable(
        read_source(source, args.columns, args.thought_tags) for source in args.sources
    )
    rows = []
    with spool.open("wb") as file:
        for row, line in tqdm(judged(judge, records, args.num_proc), "prepare", unit=" records", unit_scale=True):
            file.write(line)
            rows.append(row)
    return rows


_JUDGE: Judge  # set before the workers fork, so that they share it


def _judge(record: Record | Unreadable) -> tuple[Row, bytes]:
    return _JUDGE.one(record)


def judged(judge: Judge, records: Iterator[Record | Unreadable], processes: int) -> Iterator[tuple[Row, bytes]]:
    """Each row's memory and line, in input order, by as many processes."""
    global _JUDGE
    _JUDGE = judge
    if processes == 1:
        yield from map(_judge, records)
        return
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
            while window := list(itertools.islice(records, WINDOW)):
                yield from pool.map(_judge, window, chunksize=CHUNK)
    except BrokenProcessPool as error:
        raise UserError("a worker process died, most likely for want of memory; use a smaller --num-proc") from error


def compare(args: argparse.Namespace, rows: list[Row]) -> int:
    """Give each sound row its split, or its duplicate's reason; how many moved to another split since the run before.

    A dropped duplicate still ties what is alike to it into one split.
    """
    unique_ids(rows)
    found = dedup.find(rows, args.threshold)
    linked = itertools.chain(found.linked, split.shared_reasoning([row.reasoning for row in rows]))
    before = split.previous_splits(args)
    home = split.assign(rows, split.groups(len(rows), linked), before, args)
    moved = 0
    for place, (row, own) in enumerate(zip(rows, home, strict=True)):
        if place in found.matched:
            twin, row.similarity = found.matched[place]
            row.twin = rows[twin]
            row.reason = "duplicate_exact" if row.key == row.twin.key else "duplicate_near"
        else:
            row.split = own
            moved += before.get(row.id, own) != own
    return moved


def unique_ids(rows: Iterable[Row]) -> None:
    """Give every record an id of its own: what brings an id twice is numbered."""
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row.id] += 1
        while seen[row.id] > 1:
            row.id = f"{row.id}-{seen[row.id]}"
            seen[row.id] += 1


def tell(args: argparse.Namespace, report: dict) -> None:
    """The result on the screen; UserError where nothing was kept."""
    where = args.out / f"{args.name}_report.md"
    print(f"{report['read']:,} read, {report['kept']:,} kept, {report['rejected']:,} rejected: {where}")
    if not report["kept"]:
        most = ", ".join(f"{reason} {count:,}" for reason, count in list(report["reasons"].items())[:3])
        place = args.out / f"{args.name}_rejected.jsonl"
        raise UserError(f"{place}: no record was kept of {report['read']:,} ({most}); see there why")
    for line in attention(report, Words("en")):
        print(f"warning: {line}")
    print(f"registered in {registry_path(args.out)}")
