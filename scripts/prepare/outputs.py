"""The files of a run: staged in a folder of their own, renamed at the end, registered with LLaMA-Factory."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, read_json, write_json
from scripts.prepare.judge import Row, line_of, rejected
from scripts.prepare.report import PAIRED
from scripts.prepare.split import SPLITS

EXAMPLES, PAIRS = 3, 20  # rejections of each reason that the report shows; those that stand beside what they match
EXCERPT = 300  # characters of a question


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


def registered_file(out: Path, name: str) -> str:
    """A split's file as its registry names it."""
    return os.path.relpath(out.resolve() / f"{name}.jsonl", registry_path(out).parent.resolve())


def check_outputs(args: argparse.Namespace) -> None:
    """Raise UserError where an output would take the place of a source, or of another data set's registry entry."""
    path = registry_path(args.out)
    entries = read_json(path) if path.exists() else {}
    if not isinstance(entries, dict):
        raise UserError(f"{path}:1: found {type(entries).__name__}, expected an object of data sets; repair this file")
    sources = [Path(source).resolve() for source in args.sources]
    for name in (f"{args.name}_{split}" for split in SPLITS):
        file = args.out / f"{name}.jsonl"
        if file.resolve() in sources:
            raise UserError(f"{file}: a source would be replaced; choose another --name or --out")
        if name in entries and entries[name].get("file_name") != registered_file(args.out, name):
            raise UserError(f"{path}: {name} is another data set ({entries[name]}); choose another --name")


def publish(folder: Path, out: Path, name: str, splits: dict[str, dict]) -> None:
    """Rename the staged files onto their final names, then register the splits (an empty one would not load)."""
    for path in sorted(folder.iterdir()):
        os.replace(path, out / path.name)
    path = registry_path(out)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # two runs at once keep each other's entries
        entries = read_json(path) if path.exists() else {}
        for split, figures in splits.items():
            entries.pop(f"{name}_{split}", None)
            if figures["records"]:
                system = {"system": "system"} if figures["with_system"] else {}
                columns = {"prompt": "input", "response": "output", **system}
                file = registered_file(out, f"{name}_{split}")
                entries[f"{name}_{split}"] = {"file_name": file, "columns": columns}
        write_json(path, entries)
    finally:
        os.close(handle)


def write_rows(folder: Path, name: str, rows: list[Row]) -> dict[str, list[dict]]:
    """Every line of the spool to its split's file or the rejected ones; by reason, the first that the report shows."""
    twins = {row.twin.id: {"source": row.twin.source, "line": row.twin.line} for row in rows if row.twin}
    examples: dict[str, list[dict]] = {}
    with ExitStack() as stack:
        spool = stack.enter_context((folder / "spool").open("rb"))
        paths = {part: folder / f"{name}_{part}.jsonl" for part in (*SPLITS, "rejected")}
        files = {part: stack.enter_context(path.open("wb")) for part, path in paths.items()}
        for row, line in zip(rows, spool, strict=True):
            if row.reason is None:
                record = json.loads(line)
                files[row.split].write(line_of(record | {"id": row.id}))
                if row.id in twins:
                    twins[row.id]["text"] = record["input"][:EXCERPT]
                continue
            if row.twin:
                line = duplicate(row, row.twin, line)
            files["rejected"].write(line)
            own = examples.setdefault(row.reason, [])
            if len(own) < (PAIRS if row.reason.startswith(PAIRED) else EXAMPLES):
                own.append({**example(line), "kept": twins[row.twin.id]} if row.twin else example(line))
    (folder / "spool").unlink()
    return examples


def duplicate(row: Row, twin: Row, line: bytes) -> bytes:
    """The rejected line of a duplicate, from its prepared one, with the id of the record that is kept for it."""
    value = json.loads(line)
    record = {"Question": value["input"], "output": value["output"]}
    return rejected(row, row.reason, twin.id, record, similarity=round(row.similarity, 3))[1]


def example(line: bytes) -> dict[str, Any]:
    """What the report shows of a rejected line: its question's beginning, or the whole row's, in place of the record.

    Half of a surrogate pair, which UTF-8 cannot hold, becomes a question mark.
    """
    value = json.loads(json.dumps(json.loads(line), ensure_ascii=False).encode(errors="replace"))
    record = value.pop("record")
    if isinstance(record, dict):
        record = record.get("Question") or record
    text = record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, default=str)
    return {**value, "text": text[:EXCERPT]}
