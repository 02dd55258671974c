"""All steps in order: batches over worker processes, then what needs all rows, then the outputs in one go."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import orjson
from tqdm import tqdm

from scripts.common import THINK_CLOSE, THINK_OPEN, UserError, file_hash, read_json, read_jsonl, write_json
from scripts.prepare import batch
from scripts.prepare.batch import KEPT, REASONS, Rules
from scripts.prepare.decontaminate import BenchmarkIndex, read_items
from scripts.prepare.dedup import Duplicates, deduplicate
from scripts.prepare.keys import Tokens, mix
from scripts.prepare.load import Row, claimed_language, read_rows
from scripts.prepare.publish import SPLITS, publish, registry, registry_path, work_folder
from scripts.prepare.report import Counts, build_report, write_reports

BATCH_BYTES = 4 << 20
_INDEX: BenchmarkIndex  # set before the workers fork, so that they share it


@dataclass
class Table:
    """What is remembered of ``n`` rows, ``k`` of which passed every step before de-duplication.

    ``rows``: arrays (n,) reason, lang, tokens, leak, repairs, warnings, source; ``passed``: their k indices;
    ``ids`` (k,) bytes, ``key`` (k,), ``thought`` (k,) characters, ``sketch`` (k, 256), ``features`` of each.
    """

    stems: list[Path]
    rows: dict[str, np.ndarray]
    passed: np.ndarray
    ids: list[bytes]
    key: np.ndarray
    thought: np.ndarray
    sketch: np.ndarray
    features: Tokens


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
    bar = tqdm(desc="prepare", unit=" records", unit_scale=True)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, mp_context=context) if processes > 1 else _Here() as pool:
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


class _Here:
    """An executor for one process: runs the work at once, in this process."""

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def submit(self, work, *args) -> Future:
        future: Future = Future()
        future.set_result(work(*args))
        return future


def load_table(stems: list[tuple[Path, int]]) -> Table:
    """Gather what the batches remember."""
    names = ("reason", "lang", "tokens", "leak", "repairs", "warnings")
    parts: dict[str, list] = {
        name: [] for name in (*names, "source", "key", "thought", "sketch", "feature", "features")
    }
    ids: list[bytes] = []
    for stem, source in stems:
        with np.load(f"{stem}.npz") as file:
            for name in (*names, "key", "thought", "sketch", "feature", "features"):
                parts[name].append(file[name])
            ids += file["ids"].tolist()
            parts["source"].append(np.full(len(parts["reason"][-1]), source, np.int16))
    joined = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
    starts = np.concatenate(([0], np.cumsum(joined.pop("features"), dtype=np.int64)))
    features = Tokens(joined.pop("feature"), np.zeros(0, bool), starts)
    own = [joined.pop(name) for name in ("key", "thought", "sketch")]
    return Table(
        [s for s, _ in stems], joined, np.flatnonzero(joined["reason"] == KEPT), unique_ids(ids, own[0]), *own, features
    )


def unique_ids(ids: list[bytes], keys: np.ndarray) -> list[bytes]:
    """Ids that differ for different questions: the second and later uses of one get their question's key."""
    seen: dict[bytes, int] = {}
    result = []
    for own, key in zip(ids, keys.tolist(), strict=True):
        if seen.setdefault(own, key) != key:
            own = b"%s~%016x" % (own, key)
        result.append(own)
    return result


def previous_splits(out: Path, name: str, settings: dict) -> dict[bytes, int]:
    """Each kept id's split in the outputs of an earlier run with the same seed and shares; else nothing."""
    report = out / "report.json"
    if not report.exists() or any(read_json(report).get("settings", {}).get(k) != v for k, v in settings.items()):
        return {}
    found = {}
    for number, split in enumerate(SPLITS):
        path = out / f"{name}_{split}.jsonl"
        if path.exists():
            found |= {str(row.get("id")).encode(): number for _, row in read_jsonl(path)}
    return found


def assign_splits(
    table: Table, duplicates: Duplicates, shares: tuple[float, float], seed: int, previous: dict[bytes, int]
) -> tuple[np.ndarray, list[dict]]:
    """Each passed record's split (k,) as an index of SPLITS, and the kept records that moved since the last run.

    A cluster's split comes from a hash of its first record and the seed - or, where members of it have a split from
    an earlier run, from the first such member, so that rows added anywhere move nothing.
    """
    anchors = duplicates.anchor
    drawn = mix(mix(table.key[anchors]) ^ mix(np.uint64([seed & (2**64 - 1)]))) / 2.0**64
    splits = np.where(drawn < shares[1], 2, np.where(drawn < sum(shares), 1, 0))
    if not previous:
        return splits, []
    before = [previous.get(own) for own in table.ids]
    settled: dict[int, int] = {}
    for anchor, split in zip(anchors.tolist(), before, strict=True):
        if split is not None:
            settled.setdefault(anchor, split)
    splits = np.array([settled.get(a, s) for a, s in zip(anchors.tolist(), splits.tolist(), strict=True)], np.int64)
    moves = [
        {"id": table.ids[i].decode(), "from": SPLITS[before[i]], "to": SPLITS[splits[i]]}
        for i in np.flatnonzero(duplicates.kept == np.arange(len(splits))).tolist()
        if before[i] is not None and before[i] != splits[i]
    ]
    return splits, moves


def write_outputs(
    work: Path, name: str, table: Table, duplicates: Duplicates, splits: np.ndarray, counts: Counts
) -> dict[Path, str]:
    """Second pass: every line to its split or to the rejected ones; (staged path -> file name)."""
    staged = {work / f"staged-{name}_{split}.jsonl": f"{name}_{split}.jsonl" for split in SPLITS}
    staged[work / "staged-rejected.jsonl"] = "rejected.jsonl"
    files = [path.open("wb", buffering=1 << 20) for path in staged]
    position = dict(zip(table.passed.tolist(), range(len(table.passed)), strict=True))
    reasons, row = table.rows["reason"].tolist(), 0
    for stem in tqdm(table.stems, desc="write", unit=" batches"):
        for line in Path(f"{stem}.jsonl").open("rb"):
            k = position.get(row)
            if k is None:
                counts.example(REASONS[reasons[row]], line)
                files[-1].write(line)
            elif (kept := int(duplicates.kept[k])) != k:
                line = rejected_duplicate(line, table, duplicates, k, kept)
                reason = "duplicate_exact" if table.key[k] == table.key[kept] else "duplicate_near"
                reasons[row] = REASONS.index(reason)
                counts.example(reason, line)
                files[-1].write(line)
            else:
                files[splits[k]].write(with_id(line, table.ids[k]))
            row += 1
    for file in files:
        file.close()
    table.rows["reason"] = np.array(reasons, np.int8)
    return staged


def with_id(line: bytes, own: bytes) -> bytes:
    """A prepared line under its unique id."""
    if line.startswith(b'{"id":"%s"' % own):
        return line
    return orjson.dumps({**orjson.loads(line), "id": own.decode()}, option=orjson.OPT_APPEND_NEWLINE)


def rejected_duplicate(line: bytes, table: Table, duplicates: Duplicates, k: int, kept: int) -> bytes:
    """The rejected line of a duplicate, with its kept record, their similarity and why that one was kept."""
    row = orjson.loads(line)
    thought, _, answer = row["output"].removeprefix(THINK_OPEN).partition(THINK_CLOSE)
    longer = table.thought[kept] - table.thought[k]
    warned = [int(table.rows["warnings"][table.passed[i]] > 0) for i in (kept, k)]
    why = (
        "no personal data"
        if warned[0] < warned[1]
        else f"reasoning {longer} characters longer"
        if longer > 0
        else "came first"
    )
    exact = table.key[k] == table.key[kept]
    value = {
        "source": row["source"], "line": row["line"], "reason": "duplicate_exact" if exact else "duplicate_near",
        "matched": table.ids[kept].decode(), "similarity": round(float(duplicates.similarity[k]), 3), "kept_because": why,
        "record": {"Question": row["input"], "Complex_CoT": thought, "Response": answer},
    }  # fmt: skip
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def refuse_wrong_columns(sources: list[str], table: Table, columns: dict[str, str]) -> None:
    """UserError for a source none of whose rows has a question: its columns have other names."""
    missing = table.rows["reason"] == REASONS.index("no_question")
    for number, source in enumerate(sources):
        own = table.rows["source"] == number
        if own.any() and missing[own].all():
            line, raw = next(iter(read_rows(source)))
            raise UserError(
                f"{source}:{line}: no row has the column {columns['Question']!r}; found "
                f"{', '.join(map(str, orjson.loads(raw)))}; map yours with --columns Question=... Complex_CoT=... Response=..."
            )


def prepare(args: argparse.Namespace, tokenizer: str) -> dict:
    """Run every step; the report. Raises UserError where the input cannot be used, or nothing was kept of it."""
    index = BenchmarkIndex(read_items(args.benchmarks))
    columns = tuple(args.columns.items())
    rules = Rules(tokenizer, args.cutoff_len, tuple(args.lang), frozenset(args.skip), columns, args.seed)
    unknown = rules.skip - set(REASONS[4:])
    if unknown:
        raise UserError(
            f"--skip {' '.join(sorted(unknown))}: no such filter; expected some of {', '.join(REASONS[4:])}"
        )
    batch.load_tokenizer(tokenizer)
    with work_folder(args.out, args.name) as work:
        settings = {"seed": args.seed, "val": args.val, "test": args.test}
        previous = previous_splits(args.out, args.name, settings)
        table = load_table(run_batches(args.sources, rules, index, work, args.num_proc))
        refuse_wrong_columns(args.sources, table, args.columns)
        warned = table.rows["warnings"][table.passed] > 0
        quality = table.thought.astype(np.int64) - (warned.astype(np.int64) << 32)
        duplicates = deduplicate(table.key, table.sketch, table.features, quality, args.threshold)
        splits, moves = assign_splits(table, duplicates, (args.val, args.test), args.seed, previous)
        counts = Counts(args.sources, index)
        staged = write_outputs(work, args.name, table, duplicates, splits, counts)
        report = build_report(args, tokenizer, table.rows, splits, duplicates, counts, moves, list(staged))
        written = {path: args.out / name for path, name in staged.items()}
        written |= {path: args.out / path.name for path in write_reports(work / "report", report)}
        entries = registry(args.out, args.name, {s: report["splits"][s]["records"] for s in SPLITS})
        write_json(work / "dataset_info.json", entries)
        publish(work, written | {work / "dataset_info.json": registry_path(args.out)})
    print(
        f"{report['read']:,} read, {report['kept']:,} kept, {report['rejected']:,} rejected: {args.out / 'report.md'}"
    )
    if not report["kept"]:
        most = ", ".join(f"{reason} {count:,}" for reason, count in itertools.islice(report["reasons"].items(), 3))
        raise UserError(
            f"{args.out / 'rejected.jsonl'}: no record was kept of {report['read']:,} ({most}); see there why"
        )
    return report
