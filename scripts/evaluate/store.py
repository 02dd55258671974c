"""Finished items, one JSON line each, appended at once and under a lock: a kill loses at most the item in hand.

Several processes may write one file; each sees what the others have finished when it next adds something.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from scripts.common import UserError


class Store:
    """Rows by their ``key``; raises UserError for a file that is none of ours."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: dict[str, dict[str, Any]] = {}
        self.read_to = 0  # bytes of the file that are in ``rows``
        self.mutex = threading.Lock()  # a file's lock is between processes, this one between threads
        if self.path.exists():
            with self._locked() as file:
                self._read_new(file)

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows that nobody has finished yet and flush them to the disk."""
        with self._locked() as file:
            self._read_new(file)
            for row in rows:
                if row["key"] not in self.rows:
                    self.rows[row["key"]] = row
                    file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self.read_to = file.tell()

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.mutex, self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file
            yield file

    def _read_new(self, file: BinaryIO) -> None:
        """Take in what was appended since; half a line at the end is of a process that was killed, and goes."""
        file.seek(self.read_to)
        data = file.read()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].split(b"\n")):  # not splitlines: texts hold other line separators
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                self.rows[row["key"]] = row
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self.path}: line {number + 1} is not a finished item; delete this file") from error
        self.read_to += whole
        if whole < len(data):
            file.truncate(self.read_to)
        file.seek(0, os.SEEK_END)
