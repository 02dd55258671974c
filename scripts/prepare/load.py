"""Sources to raw rows: .jsonl, .ndjson, .json, .parquet, .csv, .tsv (.gz too) and hub data sets.

``load_rows`` gives ``(number, row)``. The number is the 1-based line where the row begins (JSON lines, CSV) or the
1-based record (JSON array, parquet, hub). A row is a dict, or a BadRow where it cannot be read. What would lose the
meaning of a whole file raises UserError: a wrong encoding, a cut file, a broken array. All but a JSON array streams.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from scripts.common import UserError

FORMATS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
HEAD = 100  # lines that a file's layout is told from
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(:[\w.-]+)?$")
# An object with one of these is a record; one without may be a wrapper such as {"data": [records]}.
RECORD_COLUMNS = {"question", "response", "instruction", "input", "output", "conversations", "messages"}


class BadRow(Exception):
    """Why a row cannot be read, given in its place: the reason's name, what was found, the row as it lies."""

    def __init__(self, reason: str, matched: str, raw: Any = None):
        super().__init__(reason, matched)
        self.reason, self.matched, self.raw = reason, matched, raw


class Repeated(list):
    """All values of a name that stands more than once in an object."""


Row = tuple[int, dict | BadRow]


def as_object(pairs: list[tuple[str, Any]]) -> dict:
    """A dict of the pairs; a name that is given more than once holds a Repeated."""
    value = dict(pairs)
    if len(value) < len(pairs):
        for name, count in Counter(name for name, _ in pairs).items():
            if count > 1:
                value[name] = Repeated(part for other, part in pairs if other == name)
    return value


# Not strict: a raw tab or line break inside a text is no valid JSON, yet its meaning is clear.
DECODER = json.JSONDecoder(object_pairs_hook=as_object, strict=False)


def file_format(spec: str) -> str:
    """The format named by a path's suffixes (``x.jsonl.gz`` -> ``.jsonl``), or "" where it names none."""
    suffix = Path(spec.lower().removesuffix(".gz")).suffix
    return suffix if suffix in FORMATS else ""


def is_hub(spec: str) -> bool:
    """Whether a source is a hub id (``owner/name`` or ``owner/name:configuration``) and not a local file."""
    return bool(HUB_ID.match(spec)) and not Path(spec).exists() and not file_format(spec)


def load_rows(spec: str) -> Iterator[Row]:
    """Rows of one source. Raises UserError with file and line where it cannot be read, or holds no row."""
    from scripts.prepare.tables import csv_rows, parquet_rows

    if is_hub(spec):
        yield from enumerate(hub_rows(spec), 1)
        return
    path, kind, number = Path(spec), file_format(spec), 0
    if not kind or not path.is_file():
        found = (
            "is a folder; name its files"
            if path.is_dir()
            else "unknown kind of file"
            if path.is_file()
            else "no such file"
        )
        expected = f"a hub id (owner/name:config) or a file in {', '.join(FORMATS)}, also with .gz"
        raise UserError(f"{spec}: {found}; expected {expected}")
    read = {".parquet": parquet_rows, ".csv": csv_rows, ".tsv": csv_rows}.get(kind, json_rows)
    try:
        for number, row in read(path):
            yield number, row
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{spec}:{number + 1}: cannot be read on ({error}); is the file whole?") from error
    if not number:
        raise UserError(f"{spec}:1: holds no record; expected one JSON object, array item or table row at least")


def open_bytes(path: Path) -> IO[bytes]:
    """A file opened as binary, unpacked where it ends in .gz."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def text_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file without byte order marks; UserError with the first line that is not UTF-8."""
    mixed = False  # whether a line before was UTF-8 and not ASCII
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            text = decoded(line, "utf-8")
            # UTF-16 decodes as UTF-8 where all of it is ASCII, with many zeros.
            if text is None or line.count(0) > len(line) / 10:
                raise UserError(f"{path}:{number}: not UTF-8{encoding_remedy(path, line, mixed)}")
            mixed = mixed or not line.isascii()
            yield text.removeprefix("\ufeff")


def decoded(line: bytes, encoding: str) -> str | None:
    """The text of bytes in this encoding, None where they are none."""
    try:
        return line.decode(encoding)
    except UnicodeDecodeError:
        return None


def encoding_remedy(path: Path, line: bytes, mixed: bool) -> str:
    """How to make UTF-8 of a file by the look of one line."""
    if mixed:
        return ", as the lines before it are; convert the file's parts before joining them"
    # Chinese comes in pairs of bytes; an accented letter stands alone.
    chinese = re.search(rb"[\x81-\xfe]{2}", line) and decoded(line, "gb18030") is not None
    likely = "UTF-16" if b"\0" in line else "GB18030" if chinese else "WINDOWS-1252"
    return f"; it may be {likely}: iconv -f {likely} -t UTF-8 {path.name} > utf8-{path.name}"


def json_rows(path: Path) -> Iterator[Row]:
    """Rows of JSON lines, of one array, or of an object around an array, whatever the file's name."""
    head = [text for line in itertools.islice(text_lines(path), HEAD) if (text := line.strip())]
    if not is_by_lines(head):
        yield from enumerate(whole_json(path), 1)
        return
    for number, line in enumerate(text_lines(path), 1):
        if text := line.strip():
            yield number, parse_line(text)


def is_by_lines(head: list[str]) -> bool:
    """Whether every line is a row of its own. A broken first line does not hide the good ones after it."""
    rows = [parse_line(line) for line in head]
    if len(rows) == 1 and (head[0].startswith("[") or wrapped(rows[0])):
        return False
    if head and head[0].startswith("["):
        return rows[0].reason == "not_an_object"  # one whole value; an array over lines is not_json here
    return not rows or any(isinstance(row, dict) for row in rows)


def parse_line(text: str) -> dict | BadRow:
    """The object of one JSON line; a comma before or after it (a list without its brackets) is let go."""
    try:
        value = DECODER.decode(text.strip(", \t"))
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", str(error), text)
    return checked(value)


def checked(value: Any) -> dict | BadRow:
    """A JSON value as a row."""
    return value if isinstance(value, dict) else BadRow("not_an_object", type(value).__name__, value)


def whole_json(path: Path) -> list[dict | BadRow]:
    """Rows of a file that is one JSON value; UserError with the line where it is none."""
    try:
        value = DECODER.decode("".join(text_lines(path)))
    except (ValueError, RecursionError) as error:
        line, message = getattr(error, "lineno", 1), getattr(error, "msg", error)
        raise UserError(
            f"{path}:{line}: not valid JSON ({message}); expected JSON lines or one array of objects; is it whole?"
        ) from error
    rows = value if isinstance(value, list) else wrapped(value) or [value]
    return [checked(row) for row in rows]


def wrapped(value: Any) -> list | None:
    """The records of a wrapper such as {"data": [records]}; None where the value is none."""
    if not isinstance(value, dict) or RECORD_COLUMNS & {name.casefold() for name in value}:
        return None
    lists = [rows for rows in value.values() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    return lists[0] if len(lists) == 1 else None


def as_text(value: Any) -> Any:
    """A value of a table with all bytes in it as the UTF-8 text that they are; other bytes become lone surrogates."""
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    if isinstance(value, dict):
        return {str(name): as_text(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_text(part) for part in value]
    return value


def hub_rows(spec: str, split: str = "train") -> Iterator[dict]:
    """Rows of a hub data set, streaming: ModelScope where USE_MODELSCOPE_HUB=1, else Hugging Face."""
    name, _, config = spec.partition(":")
    try:
        # As LLaMA-Factory reads the variable, whose own helper imports torch.
        if os.environ.get("USE_MODELSCOPE_HUB", "0").lower() in ("1", "true", "y"):
            from modelscope import MsDataset

            rows = MsDataset.load(name, subset_name=config or None, split=split, use_streaming=True)
        else:
            from datasets import load_dataset

            rows = load_dataset(name, config or None, split=split, streaming=True)
        for row in rows:
            yield as_text(row)
    except Exception as error:  # the hubs' clients raise dozens of types; all mean that the rows do not come
        raise UserError(
            f"{spec}: cannot be read from the hub ({type(error).__name__}: {str(error)[:300]}). If it is a local file, "
            f"give its path ending in one of {', '.join(FORMATS)}; if the hub is out of reach, set HF_ENDPOINT to a "
            "mirror, or USE_MODELSCOPE_HUB=1"
        ) from error
