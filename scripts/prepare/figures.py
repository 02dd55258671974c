"""All that the reports say, counted: rows read = kept + rejected, by reason."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from scripts.common import file_hash, provenance
from scripts.prepare.judge import Row
from scripts.prepare.split import SPLITS

SETTINGS = ("seed", "val", "test", "threshold", "lang", "cutoff_len", "template", "tokenizer", "skip")


def figures(args: argparse.Namespace, rows: list[Row], moved: int) -> dict:
    """What became of the rows, where the files come from, and by which settings.

    ``moved``: records that are in another split than in the run before.
    """
    kept = [row for row in rows if row.reason is None]
    warnings = Counter(f"repaired_{kind}" for row in rows for kind in row.repairs)
    warnings += Counter(moved_to_another_split=moved)  # which leaves 0 out
    personal = [row for row in rows if row.personal and row.reason in (None, "personal_data")]
    return {
        "name": args.name,
        "provenance": origin(args),
        "settings": {key: getattr(args, key) for key in SETTINGS},
        "sources": [of_source(source, rows) for source in dict.fromkeys(args.sources)],
        "read": len(rows),
        "kept": len(kept),
        "rejected": len(rows) - len(kept),
        "reasons": dict(Counter(row.reason for row in rows if row.reason).most_common()),
        "warnings": dict(warnings.most_common()),
        "personal": {
            "rows": len(personal),
            "kinds": dict(Counter(kind for row in personal for kind in row.personal)),
            "rejected": args.reject_personal,
        },
        "system_texts": dict(Counter(row.system for row in kept if row.system)),
        "splits": {split: of_split([row for row in kept if row.split == split]) for split in SPLITS},
        "lengths": lengths(sorted(row.tokens for row in kept), args),
    }


def origin(args: argparse.Namespace) -> dict:
    """Where the files come from; without date and machine, so that the same input gives the same bytes."""
    found = {key: value for key, value in provenance().items() if key not in ("date", "machine")}
    return {**found, "command": args.command}


def of_source(source: str, rows: list[Row]) -> dict:
    """How many rows of a source were read, kept and rejected."""
    kept = [row.reason is None for row in rows if row.source == source]
    return {"source": source, "read": len(kept), "kept": sum(kept), "rejected": len(kept) - sum(kept)}


def of_split(rows: list[Row]) -> dict:
    """Records and tokens of a split, its records by language, and those with a system text."""
    by_language = {lang: sum(row.lang == lang for row in rows) for lang in ("zh", "en")}
    with_system = sum(bool(row.system) for row in rows)
    return {"records": len(rows), "tokens": sum(row.tokens for row in rows), **by_language, "with_system": with_system}


def lengths(counts: list[int], args: argparse.Namespace) -> dict:
    """Tokens of the kept records, shortest first: median, 95th percentile and the longest."""
    places = {"p50": 0.5, "p95": 0.95, "max": 1}
    found = {key: counts[int(place * (len(counts) - 1))] if counts else 0 for key, place in places.items()}
    return {"checked": not args.no_lengths, "cutoff_len": args.cutoff_len, **found}


def of_files(folder: Path, report: dict) -> dict:
    """Records and hash of each file of records."""
    counts = {split: own["records"] for split, own in report["splits"].items()} | {"rejected": report["rejected"]}
    paths = {folder / f"{report['name']}_{part}.jsonl": count for part, count in counts.items()}
    return {path.name: {"records": count, "sha256": file_hash(path)} for path, count in paths.items()}
