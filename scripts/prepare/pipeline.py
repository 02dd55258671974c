"""All steps in order: batches over worker processes, then what needs all rows, then the outputs in one go."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import orjson
from tqdm import tqdm

from scripts.common import UserError, file_hash, write_json
from scripts.prepare import batch, clean
from scripts.prepare.batch import REASONS, Rules
from scripts.prepare.decontaminate import BenchmarkIndex, read_items
from scripts.prepare.dedup import deduplicate
from scripts.prepare.load import Row, claimed_language, read_rows
from scripts.prepare.old_report import Examples, build_report, write_reports
from scripts.prepare.outputs import write_outputs
from scripts.prepare.publish import SPLITS, publish, registry, registry_path, work_folder
from scripts.prepare.split import assign_splits, previous_splits
from scripts.prepare.table import Table, load_table

BATCH_BYTES = 1 << 20
_INDEX: BenchmarkIndex  # set before the workers fork, so that they share it


def batches(source: str) -> Iterator[list[Row]]:
    """Rows of one source in batches of some megabytes; the cut depends on the rows alone."""
    rows, size = [], 0
    for row in read_rows(source):
        rows.append(row)
        size += len(row[1])
        if size >= BATCH_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _work(rows: list[Row], source: str, claimed: str | None, rules: Rules, stem: Path) -> None:
    batch.process(rows, source, claimed, rules, _INDEX, stem)


def run_batches(
    sources: list[str], rules: Rules, index: BenchmarkIndex, work: Path, processes: int
) -> list[tuple[Path, int]]:
    """Process every batch that has no result yet; (stem of its files, index of its source) in input order."""
    global _INDEX
    _INDEX, stems, pending = index, [], deque()
    code, tokenizer = file_hash(*sorted(Path(__file__).parent.glob("*.py"))), file_hash(rules.tokenizer)
    items = blake2b(orjson.dumps([*index.ids, index.tokens.hashes.tolist()])).hexdigest()
    several = partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context("fork"))
    with (several if processes > 1 else ThreadPoolExecutor)(processes) as pool:
        pool.submit(int)  # forks the workers now, before a progress bar or a hub's client starts threads
        bar = tqdm(desc="prepare", unit=" records", unit_scale=True)
        try:
            for number, source in enumerate(sources):
                claimed = claimed_language(source) or (rules.langs[0] if len(rules.langs) == 1 else None)
                fingerprint = repr((code, items, source, claimed, rules, tokenizer)).encode()
                for rows in batches(source):
                    stem = work / batch.batch_key(rows, fingerprint)
                    stems.append((stem, number))
                    if not stem.with_suffix(".npz").exists():
                        pending.append((pool.submit(_work, rows, source, claimed, rules, stem), len(rows)))
                    else:
                        bar.update(len(rows))
                    while len(pending) > 2 * processes:
                        _finish(pending, bar)
            while pending:
                _finish(pending, bar)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, most likely for want of memory; use a smaller --num-proc"
            ) from error
    bar.close()
    return stems


def _finish(pending: deque, bar: tqdm) -> None:
    future, rows = pending.popleft()
    future.result()
    bar.update(rows)


def refuse_wrong_columns(sources: list[str], table: Table, column: str) -> None:
    """UserError for a source none of whose rows has a question, where its first row lacks the question's column."""
    missing = table.rows["reason"] == REASONS.index("no_question")
    for number, source in enumerate(sources):
        own = table.rows["source"] == number
        if not own.any() or not missing[own].all():
            continue
        line, raw = next(iter(read_rows(source)))
        if column not in (found := orjson.loads(raw)):
            raise UserError(
                f"{source}:{line}: no row has the column {column!r}; found {', '.join(found)}; "
                "map yours with --columns Question=... Complex_CoT=... Response=..."
            )


def prepare(args: argparse.Namespace) -> dict:
    """Run every step; the report. ``args``: of __main__.parse_args, with ``tokenizer_file``, the path found.

    Raises UserError where the input cannot be used, or nothing was kept of it.
    """
    optional = [name for name in (*clean.FILTERS, "other_language") if name not in clean.NEEDED]
    if unknown := sorted(set(args.skip) - set(optional)):
        raise UserError(f"--skip {' '.join(unknown)}: no such filter; expected some of {', '.join(optional)}")
    index = BenchmarkIndex(read_items(args.benchmarks))
    columns = tuple(args.columns.items())
    rules = Rules(args.tokenizer_file, args.cutoff_len, tuple(args.lang), frozenset(args.skip), columns, args.seed)
    batch.load_tokenizer(args.tokenizer_file)
    with work_folder(args.out, args.name) as work:
        settings = {"seed": args.seed, "val": args.val, "test": args.test}
        previous = previous_splits(args.out, args.name, settings)
        table = load_table(run_batches(args.sources, rules, index, work, args.num_proc))
        refuse_wrong_columns(args.sources, table, args.columns["Question"])
        warned = table.rows["warnings"][table.passed] > 0
        quality = table.thought.astype(np.int64) - (warned.astype(np.int64) << 32)
        english = table.rows["lang"][table.passed] == batch.LANGUAGES.index("en")
        duplicates = deduplicate(table.key, table.sketch, table.features, quality, english, args.threshold)
        splits, moves = assign_splits(table, duplicates, (args.val, args.test), args.seed, previous)
        examples = Examples()
        staged = write_outputs(work, args.name, table, duplicates, splits, examples)
        files = list(staged)[: len(SPLITS)]
        report = build_report(args, table.rows, splits, duplicates, index, examples, moves, files)
        written = {path: args.out / name for path, name in staged.items()}
        written |= {path: args.out / path.name for path in write_reports(work / "report", report)}
        entries = registry(args.out, args.name, {s: report["splits"][s]["records"] for s in SPLITS})
        write_json(work / "dataset_info.json", entries)
        publish(work, written | {work / "dataset_info.json": registry_path(args.out)})
    print(
        f"{report['read']:,} read, {report['kept']:,} kept, {report['rejected']:,} rejected: {args.out / 'report.md'}"
    )
    if report["kept"] and args.test and not report["splits"]["test"]["records"]:
        print("warning: the test split is empty, so no perplexity can be measured: raise --test, or add records")
    looks = ", ".join(f"{name} {count:,}" for name, count in report["warnings"].items() if count)
    if looks:
        print(f"warning: kept records that look as if they held personal data ({looks}); the report names them")
    if not report["kept"]:
        most = ", ".join(f"{reason} {count:,}" for reason, count in itertools.islice(report["reasons"].items(), 3))
        raise UserError(
            f"{args.out / 'rejected.jsonl'}: no record was kept of {report['read']:,} ({most}); see there why"
        )
    return report
