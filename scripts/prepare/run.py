"""What happens to a record on its way: read, judged by itself, compared with all others, put into a split, written.

Worker processes do what needs one record alone, and its line goes to a spool file; what needs all records at once
looks at what is remembered of each (`judge.Row`).
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import shlex
import statistics
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm

from scripts.common import UserError, file_hash, provenance, write_json
from scripts.prepare import clean, dedup, split
from scripts.prepare.judge import Judge, Row
from scripts.prepare.outputs import Writer, check_outputs, publish, registry_path, staging, write_rows
from scripts.prepare.records import Record, Unreadable, check_sources, read_source
from scripts.prepare.report import write_reports

BATCH = 256  # records that a worker takes at a time
Batch = list[Record | Unreadable]
FLAGS = (
    *("out", "name", "benchmarks", "lang", "columns", "thought_tags", "template", "tokenizer", "cutoff_len"),
    *("threshold", "val", "test", "skip", "seed"),
)


def batches(records: Iterable[Record | Unreadable]) -> Iterator[Batch]:
    """Records in batches."""
    iterator = iter(records)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch


_JUDGE: Judge  # set before the workers fork, so that they share it


def _work(batch: Batch) -> list[tuple[Row, bytes]]:
    return _JUDGE.batch(batch)


def judged(judge: Judge, records: Iterable[Record | Unreadable], processes: int) -> Iterator[tuple[Row, bytes]]:
    """Each row's memory and line, in input order, by as many processes."""
    global _JUDGE
    _JUDGE = judge
    if processes == 1:
        for batch in batches(records):
            yield from judge.batch(batch)
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
            pending: deque = deque()
            for batch in batches(records):
                pending.append(pool.submit(_work, batch))
                if len(pending) > 3 * processes:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError("a worker process died, most likely for want of memory; use a smaller --num-proc") from error


def read_all(args: argparse.Namespace) -> Iterator[Record | Unreadable]:
    """Every row of every source, in order."""
    for source in args.sources:
        yield from read_source(source, args.columns, args.thought_tags)


def judge_all(args: argparse.Namespace, judge: Judge, spool: Path) -> list[Row]:
    """Judge every row by itself; its line goes to the spool, what is remembered of it comes back."""
    rows = []
    with spool.open("wb") as file:
        for row, line in tqdm(
            judged(judge, read_all(args), args.num_proc), "prepare", unit=" records", unit_scale=True
        ):
            file.write(line)
            rows.append(row)
    return rows


def unique_ids(rows: Iterable[Row]) -> None:
    """Give every record an id of its own: what brings an id twice is numbered."""
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row.id] += 1
        while seen[row.id] > 1:
            row.id = f"{row.id}-{seen[row.id]}"
            seen[row.id] += 1


def assign_splits(
    args: argparse.Namespace, rows: dict[int, Row], found: dedup.Duplicates
) -> tuple[dict[int, str], int]:
    """Index → split of each kept record, and how many are elsewhere than in the run before."""
    linked = itertools.chain(
        found.linked, split.shared_reasoning({index: row.reasoning for index, row in rows.items()})
    )
    group = split.groups(rows, linked)
    before = split.previous_splits(args.out, args.name, vars(args))
    home = split.assign({index: (row.id, row.key) for index, row in rows.items()}, group, vars(args), before)
    kept = {index: part for index, part in home.items() if index not in found.matched}
    return kept, sum(before.get(rows[index].id, part) != part for index, part in kept.items())


def command(args: argparse.Namespace) -> str:
    """The command that writes the same files; the number of processes is of no account."""
    parts = ["python", "-m", "scripts.prepare", *args.sources]
    for flag in FLAGS:
        value = getattr(args, flag)
        if isinstance(value, dict):
            value = [f"{ours}={theirs}" for ours, theirs in value.items()]
        values = (
            [str(v) for v in (sorted(value) if flag == "benchmarks" else value)]
            if isinstance(value, (list, tuple))
            else [str(value)]
        )
        if values or flag == "benchmarks":
            parts += [f"--{flag.replace('_', '-')}", *values]
    parts += [f"--{flag.replace('_', '-')}" for flag in ("no_lengths", "reject_personal") if getattr(args, flag)]
    return shlex.join(parts)


def origin(args: argparse.Namespace) -> dict:
    """Where the files come from; without date and machine, so that the same input gives the same bytes."""
    found = {key: value for key, value in provenance().items() if key not in ("date", "machine")}
    return {**found, "command": command(args)}


def lengths(counts: list[int], args: argparse.Namespace) -> dict:
    """Tokens of the kept records: median, 95th percentile and the longest."""
    figures = {"checked": not args.no_lengths, "p50": 0, "p95": 0, "max": 0, "cutoff_len": args.cutoff_len}
    if counts and not args.no_lengths:
        ordered = sorted(counts)
        figures |= {"p50": int(statistics.median(ordered)), "p95": ordered[int(0.95 * (len(ordered) - 1))]}
        figures["max"] = ordered[-1]
    return figures


def build_report(
    args: argparse.Namespace, rows: list[Row], home: dict[int, str], writer: Writer, pairs: list[dict], moved: int
) -> dict:
    """All that the reports say; rows read = kept + rejected, by reason."""
    kept = [rows[index] for index in sorted(home)]
    reasons = Counter(row.reason for row in rows if row.reason)
    parts: dict[str, list[Row]] = {part: [] for part in split.SPLITS}
    for index, part in home.items():
        parts[part].append(rows[index])
    sources = []
    for source in dict.fromkeys(args.sources):
        own = [row.reason is None for row in rows if row.source == source]
        sources.append({"source": source, "read": len(own), "kept": sum(own), "rejected": len(own) - sum(own)})
    warnings = Counter(f"repaired_{kind}" for row in rows for kind in row.noted)
    warnings["moved_to_another_split"] = moved
    personal = [row for row in rows if row.personal and row.reason in (None, "personal_data")]
    return {
        "name": args.name,
        "provenance": origin(args),
        "settings": {
            key: getattr(args, key)
            for key in ("seed", "val", "test", "threshold", "lang", "cutoff_len", "template", "tokenizer", "skip")
        },
        "sources": sources,
        "read": len(rows),
        "kept": len(kept),
        "rejected": len(rows) - len(kept),
        "reasons": dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))),
        "warnings": {kind: count for kind, count in sorted(warnings.items()) if count},
        "personal": {
            "rows": len(personal),
            "kinds": dict(sorted(Counter(kind for row in personal for kind in row.personal).items())),
            "rejected": args.reject_personal,
        },
        "system_texts": dict(Counter(row.system for row in kept if row.system).most_common()),
        "splits": {
            part: {
                "records": len(own),
                "tokens": sum(row.tokens for row in own),
                **{lang: sum(row.lang == lang for row in own) for lang in ("zh", "en")},
            }
            for part, own in parts.items()
        },
        "lengths": lengths([row.tokens for row in kept], args),
        "examples": dict(sorted(writer.examples.items())),
        "duplicates": pairs,
        "leaks": writer.leaks,
    }


def prepare(args: argparse.Namespace) -> dict:
    """Run every step; the report. ``args``: of __main__.parse_args.

    Raises UserError where the input cannot be used, or nothing was kept of it.
    """
    optional = [name for name in (*clean.FILTERS, "other_language") if name not in clean.NEEDED]
    if unknown := sorted(set(args.skip) - set(optional)):
        raise UserError(f"--skip {' '.join(unknown)}: no such filter; expected some of {', '.join(optional)}")
    check_outputs(args)
    check_sources(args.sources, args.columns, args.thought_tags)
    judge = Judge(args)
    with staging(args.out, args.name) as folder:
        rows = judge_all(args, judge, folder / "spool")
        whole = {index: row for index, row in enumerate(rows) if row.reason is None}
        unique_ids(whole.values())
        found = dedup.find(whole, args.threshold)
        home, moved = assign_splits(args, whole, found)
        writer, pairs = write_rows(folder, args.name, rows, found, home)
        report = build_report(args, rows, home, writer, pairs, moved)
        items = Counter(item["benchmark"] for item in judge.index.items)
        report["benchmarks"] = [{"file": f"{name}.jsonl", "items": count} for name, count in sorted(items.items())]
        counts = {part: figures["records"] for part, figures in report["splits"].items()}
        counts["rejected"] = report["rejected"]
        files = {part: folder / f"{args.name}_{part}.jsonl" for part in counts}
        report["files"] = {
            files[part].name: {"records": count, "sha256": file_hash(files[part])} for part, count in counts.items()
        }
        write_json(folder / f"{args.name}_report.json", report)
        write_reports(folder, args.name, report)
        systems = {part: any(rows[i].system for i, own in home.items() if own == part) for part in split.SPLITS}
        publish(folder, args.out, args.name, report["splits"], systems)
    tell(args, report)
    return report


def tell(args: argparse.Namespace, report: dict) -> None:
    """The result on the screen; UserError where nothing was kept."""
    where = args.out / f"{args.name}_report.md"
    print(f"{report['read']:,} read, {report['kept']:,} kept, {report['rejected']:,} rejected: {where}")
    if not report["kept"]:
        most = ", ".join(f"{reason} {count:,}" for reason, count in list(report["reasons"].items())[:3])
        place = args.out / f"{args.name}_rejected.jsonl"
        raise UserError(f"{place}: no record was kept of {report['read']:,} ({most}); see there why")
    if args.test and not report["splits"]["test"]["records"]:
        print("warning: the test split is empty, so no perplexity can be measured: raise --test, or add records")
    cut = sum(count for reason, count in report["reasons"].items() if reason.startswith("cut_off"))
    if cut > 0.2 * report["read"]:
        print("warning: many texts end without a full stop; is that a habit? --skip cut_off_reasoning cut_off_answer")
    if args.no_lengths:
        print("warning: lengths were not checked: training cuts what is longer than its cutoff_len")
    if report["personal"]["rows"] and not args.reject_personal:
        kinds = ", ".join(f"{name} {count:,}" for name, count in report["personal"]["kinds"].items())
        print(f"warning: kept records look as if they held personal data ({kinds}); leave out: --reject-personal")
    print(f"registered in {registry_path(args.out)}")
