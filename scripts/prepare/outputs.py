"""The files of a run: staged in a folder of their own, renamed at the end, registered with LLaMA-Factory."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, read_json, write_json
from scripts.prepare import dedup, split
from scripts.prepare.judge import Row, line_of, rejected

PAIRS, EXAMPLES, EXCERPT = 20, 3, 300  # shown in the report: pairs of each kind, rejections of each reason, characters


@contextmanager
def staging(out: Path, name: str) -> Iterator[Path]:
    """An empty folder for the outputs of one run; a second run of this name is refused while it lasts."""
    folder = out / f".prepare-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(f"{folder}: another run prepares {name} right now; wait for it, or stop it") from error
    try:
        for left_over in folder.iterdir():  # of a run that was killed
            left_over.unlink()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def registry_path(out: Path) -> Path:
    """Where LLaMA-Factory looks: the root's dataset_info.json for the root's data folder, else one in the folder."""
    return (ROOT if out.resolve() == ROOT / "data" else out) / "dataset_info.json"


def check_outputs(args: argparse.Namespace) -> None:
    """Raise UserError where an output would take the place of a source, or of another data set's registry entry."""
    files = {f"{args.name}_{part}": f"{args.name}_{part}.jsonl" for part in split.SPLITS}
    sources = [Path(source).resolve() for source in args.sources]
    taken = [file for file in files.values() if (args.out / file).resolve() in sources]
    if taken:
        raise UserError(f"{args.out / taken[0]}: a source would be replaced; choose another --name or --out")
    path = registry_path(args.out)
    entries = read_json(path) if path.exists() else {}
    if not isinstance(entries, dict):
        raise UserError(f"{path}:1: found {type(entries).__name__}, expected an object of data sets; repair this file")
    for name, file in files.items():
        own = os.path.relpath(args.out.resolve() / file, path.parent.resolve())
        if name in entries and entries[name].get("file_name") != own:
            raise UserError(f"{path}: {name} is another data set ({entries[name]}); choose another --name")


def publish(folder: Path, out: Path, name: str, splits: dict[str, dict], systems: dict[str, str]) -> None:
    """Rename the staged files onto their final names, then register the splits (an empty one would not load)."""
    for path in sorted(folder.iterdir()):
        os.replace(path, out / path.name)
    path = registry_path(out)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # two runs at once keep each other's entries
        entries = read_json(path) if path.exists() else {}
        for part, figures in splits.items():
            entries.pop(f"{name}_{part}", None)
            if figures["records"]:
                file = os.path.relpath(out.resolve() / f"{name}_{part}.jsonl", path.parent.resolve())
                columns = {"prompt": "input", "response": "output"}
                columns |= {"system": "system"} if systems.get(part) else {}
                entries[f"{name}_{part}"] = {"file_name": file, "columns": columns}
        write_json(path, entries)
    finally:
        os.close(handle)


class Writer:
    """Each row's line to its file; on the way the report's examples are gathered."""

    def __init__(self, folder: Path, name: str) -> None:
        self.files = {part: (folder / f"{name}_{part}.jsonl").open("wb") for part in (*split.SPLITS, "rejected")}
        self.examples: dict[str, list[dict]] = {}
        self.leaks: list[dict] = []
        self.shown: dict[int, dict] = {}  # rows of the pairs to show

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def reject(self, row: Row, line: bytes) -> None:
        """Write a rejected row; the first of each reason and the first leaks are remembered."""
        self.files["rejected"].write(line)
        shown = self.examples.setdefault(row.reason, [])
        leak = row.reason.startswith("leak") and len(self.leaks) < PAIRS
        if not leak and len(shown) >= EXAMPLES:
            return
        value = shown_value(line)
        text = excerpt(value["record"])
        place = {"source": row.source, "line": row.line}
        if len(shown) < EXAMPLES:
            shown.append({**place, "matched": value["matched"], "text": text})
        if leak:
            benchmark, _, item = value["matched"].partition("/")
            pair = {"where": value["where"], "reason": row.reason, **place, "text": value["leaked"]}
            self.leaks.append({**pair, "benchmark": benchmark, "item": item, "item_text": value["item_text"]})


def shown_value(line: bytes) -> dict[str, Any]:
    """A line's value as UTF-8 can hold it, which half of a surrogate pair it cannot: a question mark stands there."""
    return json.loads(json.dumps(json.loads(line), ensure_ascii=False).encode(errors="replace"))


def excerpt(record: Any) -> str:
    """The beginning of a record's question, or of the whole row."""
    if isinstance(record, dict):
        record = record.get("Question") or record
    text = record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, default=str)
    return text[:EXCERPT]


def write_rows(
    folder: Path, name: str, rows: list[Row], found: dedup.Duplicates, home: dict[int, str]
) -> tuple[Writer, list[dict]]:
    """Second pass: every line of the spool to its file; the writer, and the pairs of duplicates to show."""
    writer = Writer(folder, name)
    pairs = [index for index in sorted(found.matched) if found.matched[index][1] < 1][:PAIRS]
    wanted = {*pairs, *(found.matched[index][0] for index in pairs)}
    with (folder / "spool").open("rb") as spool:
        for index, (row, line) in enumerate(zip(rows, spool, strict=True)):
            if index in wanted:
                value = json.loads(line)
                writer.shown[index] = {"source": row.source, "line": row.line, "text": value["input"][:EXCERPT]}
            if index in found.matched:
                line = duplicate(row, line, rows, *found.matched[index])
            if row.reason is None:
                writer.files[home[index]].write(with_id(line, row.id))
            else:
                writer.reject(row, line)
    writer.close()
    (folder / "spool").unlink()
    shown = []
    for index in pairs:
        kept, similarity = found.matched[index]
        pair = {"kept": writer.shown[kept], "dropped": writer.shown[index]}
        shown.append({**pair, "similarity": round(similarity, 3)})
    return writer, shown


def with_id(line: bytes, own: str) -> bytes:
    """A prepared line under its unique id."""
    value = json.loads(line)
    return line if value["id"] == own else line_of({**value, "id": own})


def duplicate(row: Row, line: bytes, rows: list[Row], kept: int, similarity: float) -> bytes:
    """The rejected line of a duplicate, with the record that is kept for it."""
    value = json.loads(line)
    row.reason = "duplicate_exact" if row.key == rows[kept].key else "duplicate_near"
    personal, thought = (one - other for one, other in zip(rows[kept].quality, row.quality, strict=True))
    why = "less personal data" if personal else f"reasoning {thought} characters longer" if thought else "came first"
    found = {"matched": rows[kept].id, "similarity": round(similarity, 3), "kept_because": why}
    record = {"Question": value["input"], "output": value["output"]}
    return line_of(rejected(row, found, record))
