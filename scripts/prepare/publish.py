"""The files of a run: staged in a folder of their own, renamed at the end, registered with LLaMA-Factory."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.common import ROOT, UserError, read_json, write_json
from scripts.prepare.split import SPLITS

REPORTS = ("rejected.jsonl", "report.json", "report.html", "report.md", "report.zh.md", "DATA_CARD.md")


@contextmanager
def locked(folder: Path, flags: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a folder's lock; BlockingIOError where another process holds it and ``flags`` say not to wait."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, flags)
        yield
    finally:
        os.close(handle)


@contextmanager
def staging(out: Path, name: str) -> Iterator[Path]:
    """An empty folder for the outputs of one run; a second run of this name is refused while it lasts."""
    folder = out / f".prepare-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for left_over in folder.iterdir():  # of a run that was killed
                left_over.unlink()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError as error:
        raise UserError(f"{folder}: another run prepares {name} right now; wait for it, or stop it") from error


def registry_path(out: Path) -> Path:
    """Where LLaMA-Factory looks: the root's dataset_info.json for the root's data folder, else one in the folder."""
    return (ROOT if out.resolve() == ROOT / "data" else out) / "dataset_info.json"


def read_registry(out: Path) -> dict[str, dict]:
    """The registered data sets by name; UserError where the file holds something else."""
    path = registry_path(out)
    entries = read_json(path) if path.exists() else {}
    if not isinstance(entries, dict):
        raise UserError(f"{path}:1: found {type(entries).__name__}, expected an object of data sets; repair this file")
    return entries


def registered_file(out: Path, name: str) -> str:
    """A split's file as its registry names it."""
    return os.path.relpath(out.resolve() / f"{name}.jsonl", registry_path(out).parent.resolve())


def check_outputs(out: Path, name: str, sources: list[str]) -> None:
    """Raise UserError where an output would take the place of a source, or of another data set's registry entry."""
    entries, read = read_registry(out), [Path(source).resolve() for source in sources]
    for file in (out / f"{name}_{part}" for part in (*(f"{split}.jsonl" for split in SPLITS), *REPORTS)):
        if file.resolve() in read:
            raise UserError(f"{file}: a source would be replaced; choose another --name or --out")
    for own in (f"{name}_{split}" for split in SPLITS):
        if own in entries and entries[own].get("file_name") != registered_file(out, own):
            raise UserError(f"{registry_path(out)}: {own} is another data set ({entries[own]}); choose another --name")


def publish(folder: Path, out: Path, name: str, splits: dict[str, dict]) -> None:
    """Rename the staged files onto their final names, then register the splits (an empty one would not load).

    Where nothing was kept, an earlier run's splits stay as they are: only what says why is new.
    """
    kept = any(figures["records"] for figures in splits.values())
    reports = {f"{name}_{part}" for part in REPORTS}
    for path in sorted(folder.iterdir()):
        if kept or path.name in reports:
            os.replace(path, out / path.name)
    if not kept:
        return
    with locked(registry_path(out).parent):  # two runs at once keep each other's entries
        entries = read_registry(out)
        for split, figures in splits.items():
            own = f"{name}_{split}"
            entries.pop(own, None)
            columns = {"prompt": "input", "response": "output"}
            if figures["with_system"]:
                columns["system"] = "system"
            if figures["records"]:
                entries[own] = {"file_name": registered_file(out, own), "columns": columns}
        write_json(registry_path(out), entries)
