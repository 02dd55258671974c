"""Outputs that appear all at once: staged in a work folder, then renamed by a journal that a later run can finish."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.common import ROOT, UserError, read_json, write_json

SPLITS = ("train", "val", "test")
JOURNAL = "commit.json"


@contextmanager
def work_folder(out: Path, name: str) -> Iterator[Path]:
    """The folder of one run in progress, locked against a second run; finishes an interrupted publication first."""
    work = out / f".prepare-{name}"
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{work}: another run prepares {name} right now; wait for it, or stop it") from error
        if (work / JOURNAL).exists():
            _rename(work)
        yield work


def publish(work: Path, staged: dict[Path, Path]) -> None:
    """Rename staged files (inside ``work``) onto their final paths, then remove the work folder.

    The journal makes the set whole: a kill between two renames is finished by the next run before it starts.
    """
    for path in staged:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    write_json(work / JOURNAL, [[str(path.resolve()), str(final.resolve())] for path, final in staged.items()])
    _rename(work)
    shutil.rmtree(work, ignore_errors=True)


def _rename(work: Path) -> None:
    for staged, final in json.loads((work / JOURNAL).read_text("utf-8")):
        if os.path.exists(staged):
            os.replace(staged, final)
    (work / JOURNAL).unlink()


def registry_path(out: Path) -> Path:
    """Where LLaMA-Factory looks: the root's dataset_info.json for the root's data folder, else one in the folder."""
    return (ROOT if out.resolve() == ROOT / "data" else out) / "dataset_info.json"


def registry(out: Path, name: str, counts: dict[str, int]) -> dict:
    """The registry's new content: other entries untouched, an empty split left out (it would not load)."""
    path = registry_path(out)
    entries = read_json(path) if path.exists() else {}
    if not isinstance(entries, dict):
        raise UserError(f"{path}:1: found {type(entries).__name__}, expected an object of data sets; repair this file")
    for split in SPLITS:
        entries.pop(f"{name}_{split}", None)
        if counts[split]:
            file = os.path.relpath(out.resolve() / f"{name}_{split}.jsonl", path.parent.resolve())
            entries[f"{name}_{split}"] = {"file_name": file, "columns": {"prompt": "input", "response": "output"}}
    return entries
