"""Sources to raw rows, streaming: .jsonl, .ndjson, .json, .parquet, .csv, .tsv (.gz too) and hub data sets.

``load_rows`` gives ``(number, row)``. The number is the 1-based line where the row begins (JSON lines, CSV) or the
1-based record (JSON array, parquet, hub). A row is a dict, or a BadRow where it cannot be read. What would lose the
meaning of a whole file raises UserError: a wrong encoding, a cut file, a broken array.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scripts.common import UserError

FORMATS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
BLOCK = 1 << 20  # characters read at once
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(:[\w.-]+)?$")
BLANK = " \t\r\n\ufeff"
SEPARATOR = re.compile(rf"[{BLANK}]*,?[{BLANK}]*")
# An object with one of these is a record; one without may be a wrapper such as {"data": [records]}.
RECORD_COLUMNS = {"question", "response", "instruction", "input", "output", "conversations", "messages"}


@dataclass(slots=True)
class BadRow:
    """A row that cannot be read. ``reason``: its name, ``matched``: what was found, ``raw``: the row as it lies."""

    reason: str
    matched: str
    raw: Any


class Repeated(dict):
    """An object in which a name stands more than once (the last value counts); ``pairs`` keeps all of it."""

    pairs: list[tuple[str, Any]]

    def names(self) -> set[str]:
        """The names that stand more than once."""
        return {name for name, count in Counter(name for name, _ in self.pairs).items() if count > 1}


Row = tuple[int, dict | BadRow]


def as_object(pairs: Iterable[tuple[str, Any]]) -> dict:
    """A dict of the pairs, a Repeated where a name is given twice."""
    pairs = list(pairs)
    value = dict(pairs)
    if len(value) < len(pairs):
        value = Repeated(value)
        value.pairs = pairs
    return value


# Not strict: a raw tab or line break inside a text is no valid JSON, yet its meaning is clear.
DECODER = json.JSONDecoder(object_pairs_hook=as_object, strict=False)


def file_format(spec: str) -> str:
    """The format named by a path's suffixes (``x.jsonl.gz`` -> ``.jsonl``), or "" where it names none."""
    suffixes = [suffix.lower() for suffix in Path(spec).suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else ""


def is_hub(spec: str) -> bool:
    """Whether a source is a hub id (``owner/name`` or ``owner/name:configuration``) and not a local file."""
    return bool(HUB_ID.match(spec)) and not Path(spec).exists() and not file_format(spec)


def load_rows(spec: str) -> Iterator[Row]:
    """Rows of one source. Raises UserError with file and line where it cannot be read, or holds no row."""
    from scripts.prepare.tables import as_plain, csv_rows, parquet_rows

    if is_hub(spec):
        yield from ((number, as_plain(row)) for number, row in enumerate(hub_rows(spec), 1))
        return
    path, number = Path(spec), 0
    if not path.is_file():
        found = "is a folder; name its files" if path.is_dir() else "no such file"
        raise UserError(f"{spec}: {found}; expected a hub id (owner/name:config) or a file in {', '.join(FORMATS)}")
    kind = file_format(spec)
    if not kind:
        raise UserError(f"{spec}: unknown kind of file; expected one of {', '.join(FORMATS)}, also with .gz")
    read = {".parquet": parquet_rows, ".csv": csv_rows, ".tsv": csv_rows}.get(kind, json_rows)
    try:
        for number, row in read(path):
            yield number, row
    except UnicodeDecodeError:
        raise UserError(encoding_fault(path)) from None
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{spec}:{number + 1}: cannot be read on ({error}); is the file whole?") from error
    if not number:
        raise UserError(f"{spec}:1: holds no record; expected one JSON object, array item or table row at least")


def open_bytes(path: Path) -> IO[bytes]:
    """A file opened as binary, unpacked where it ends in .gz."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def open_text(path: Path, newline: str) -> IO[str]:
    """A file opened as UTF-8 text. UTF-16 and UTF-32 of ASCII would decode too, hence the look at zero bytes."""
    with open_bytes(path) as file:
        start = file.read(100)
    if start.count(0) > len(start) / 10:
        raise UnicodeDecodeError("utf-8", start, 0, 1, "zero bytes")
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline=newline)


def encoding_fault(path: Path) -> str:
    """What to do about a file that is not UTF-8, with the first line that is not."""
    mixed = False
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            if b"\0" in line or not decodes(line, "utf-8"):
                return f"{path}:{number}: not UTF-8{encoding_remedy(path, line, mixed)}"
            mixed = mixed or not line.isascii()
    return f"{path}: not UTF-8; convert it, for example with iconv"


def encoding_remedy(path: Path, line: bytes, mixed: bool) -> str:
    """How to make UTF-8 of a file by the look of one line. ``mixed``: lines before it are UTF-8."""
    if mixed:
        return ", as the lines before it are; convert the file's parts before joining them"
    likely = "UTF-16" if b"\0" in line else "GB18030" if decodes(line, "gb18030") else "WINDOWS-1252"
    return f"; it may be {likely}: iconv -f {likely} -t UTF-8 {path.name} > utf8-{path.name}"


def decodes(line: bytes, encoding: str) -> bool:
    """Whether bytes are text in this encoding."""
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def json_rows(path: Path) -> Iterator[Row]:
    """JSON lines, one array, an object around an array, or objects one after the other, whatever the file's name."""
    with open_text(path, "\n") as file:
        by_lines = is_by_lines(file.read(BLOCK))
    if not by_lines:
        yield from json_values(path)
        return
    with open_text(path, "\n") as file:
        for number, line in enumerate(file, 1):
            if text := line.strip(BLANK):
                yield number, parse_line(text)


def is_by_lines(head: str) -> bool:
    """Whether every line is a row of its own. A broken first line does not hide the good ones after it."""
    lines = [line for line in head.split("\n") if line.strip(BLANK)]
    if not lines:
        return False
    first = parse_line(lines[0].strip(BLANK))
    if lines[0].startswith("["):
        return len(lines) > 1 and isinstance(first, BadRow) and first.reason == "not_an_object"
    if isinstance(first, dict):
        return unwrap(first) is None
    return any(line.startswith("{") and isinstance(parse_line(line.strip(BLANK)), dict) for line in lines[:100])


def parse_line(text: str) -> dict | BadRow:
    """The object of one JSON line; a comma after it (a list without its brackets) is let go."""
    try:
        value = DECODER.decode(text.removesuffix(","))
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", str(error), text)
    return checked(value)


def checked(value: Any) -> dict | BadRow:
    """A JSON value as a row."""
    return value if isinstance(value, dict) else BadRow("not_an_object", type(value).__name__, value)


def json_values(path: Path) -> Iterator[Row]:
    """Rows of one array, or of values one after the other; a value may span lines and blocks."""
    number = passed = 0  # rows given, lines left behind
    with open_text(path, "\n") as file:
        buffer = file.read(BLOCK).lstrip(BLANK)
        array = buffer.startswith("[")
        position = int(array)
        while True:
            position = SEPARATOR.match(buffer, position).end()
            if array and buffer.startswith("]", position):
                if (buffer[position + 1 :] + file.read(BLOCK)).strip(BLANK):
                    raise UserError(f"{path}: text after the array's end; expected one array of objects")
                return
            try:
                value, end = DECODER.raw_decode(buffer, position)
                fault = None
            except (ValueError, RecursionError) as error:
                end, fault = len(buffer), error
            if end == len(buffer) and (more := file.read(max(BLOCK, end - position))):
                passed += buffer.count("\n", 0, position)  # the value may go on in this block
                buffer, position = buffer[position:] + more, 0
                continue
            if fault and position == len(buffer) and not array:
                return
            if fault:
                line = passed + buffer.count("\n", 0, getattr(fault, "pos", position)) + 1
                raise UserError(
                    f"{path}:{line}: record {number + 1} is not valid JSON ({getattr(fault, 'msg', fault)}); "
                    "expected JSON lines or one array of objects: is the file whole?"
                )
            wrapped = unwrap(value) if isinstance(value, dict) and not array else None
            for row in wrapped or [value]:
                number += 1
                yield number, checked(row)
            position = end


def unwrap(value: dict) -> list | None:
    """The records of a wrapper such as {"data": [...]} or {"id 1": {...}, "id 2": {...}}; None for a record."""
    if RECORD_COLUMNS & {name.casefold() for name in value}:
        return None
    lists = [rows for rows in value.values() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    if lists:
        return lists[0] if len(lists) == 1 else None
    objects = [{"id": name, **row} for name, row in value.items() if isinstance(row, dict)]
    return objects if len(objects) == len(value) > 1 else None


def use_modelscope() -> bool:
    """Whether USE_MODELSCOPE_HUB asks for ModelScope, as LLaMA-Factory reads it (whose own helper imports torch)."""
    return os.environ.get("USE_MODELSCOPE_HUB", "0").lower() in ("1", "true", "y")


def hub_rows(spec: str, split: str = "train") -> Iterator[dict]:
    """Rows of a hub data set as objects, streaming: ModelScope where USE_MODELSCOPE_HUB=1, else Hugging Face."""
    name, _, config = spec.partition(":")
    try:
        if use_modelscope():
            from modelscope import MsDataset

            yield from MsDataset.load(name, subset_name=config or None, split=split, use_streaming=True)
        else:
            from datasets import load_dataset

            yield from load_dataset(name, config or None, split=split, streaming=True)
    except Exception as error:  # the hubs' clients raise dozens of types; all mean that the rows do not come
        raise UserError(
            f"{spec}: cannot be read from the hub ({type(error).__name__}: {str(error)[:300]}). If it is a local file, "
            f"give its path ending in one of {', '.join(FORMATS)}; if the hub is out of reach, set HF_ENDPOINT to a "
            "mirror, or USE_MODELSCOPE_HUB=1"
        ) from error
