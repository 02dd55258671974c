"""Sources to raw rows, streaming: .jsonl, .ndjson, .json, .parquet, .csv, .tsv (.gz too) and hub data sets.

``load_rows`` gives ``(number, row)``. The number is the 1-based line where the row begins (JSON lines, CSV) or the
1-based record (JSON array, parquet, hub). A row is a dict, or a BadRow where it cannot be read. What would lose the
meaning of a whole file raises UserError: a wrong encoding, a cut file, a broken array.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import re
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scripts.common import UserError

FORMATS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
BLOCK = 1 << 20  # characters read at once
LONGEST_ROW = 5000  # lines of one CSV row; more means a quote that never closes
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


DECODER = json.JSONDecoder(object_pairs_hook=as_object)


def file_format(spec: str) -> str:
    """The format named by a path's suffixes (``x.jsonl.gz`` -> ``.jsonl``), or "" where it names none."""
    suffixes = [suffix.lower() for suffix in Path(spec).suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else ""


def is_hub(spec: str) -> bool:
    """Whether a source is a hub id (``owner/name`` or ``owner/name:configuration``) and not a local file."""
    return bool(HUB_ID.match(spec)) and not Path(spec).exists() and not file_format(spec)


def load_rows(spec: str) -> Iterator[Row]:
    """Rows of one source. Raises UserError with file and line where it cannot be read, or holds no row."""
    if is_hub(spec):
        yield from ((number, as_plain(row)) for number, row in enumerate(hub_rows(spec), 1))
        return
    path, number = Path(spec), 0
    if not path.is_file():
        found = "is a folder; name its files" if path.is_dir() else "no such file"
        raise UserError(f"{spec}: {found}; expected a hub id (owner/name:config) or a file in {', '.join(FORMATS)}")
    readers = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv}
    kind = file_format(spec)
    if not kind:
        raise UserError(f"{spec}: unknown kind of file; expected one of {', '.join(FORMATS)}, also with .gz")
    try:
        for number, row in readers.get(kind, _json)(path):
            yield number, row
    except UnicodeDecodeError:
        raise UserError(_encoding_fault(path)) from None
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{spec}:{number + 1}: cannot be read on ({error}); is the file whole?") from error
    if not number:
        raise UserError(f"{spec}:1: holds no record; expected one JSON object, array item or table row at least")


def _open(path: Path) -> IO[bytes]:
    """A file opened as binary, unpacked where it ends in .gz."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _open_text(path: Path, newline: str) -> IO[str]:
    return io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline=newline)


def _encoding_fault(path: Path) -> str:
    """What to do about a file that is not UTF-8, with the first line that is not."""
    others = False
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
                others = others or not line.isascii()
            except UnicodeDecodeError as error:
                known = "UTF-16" if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff") else _guess(line)
                if others:
                    remedy = "lines before it are UTF-8, so the file mixes encodings: convert its parts before joining"
                else:
                    remedy = f"it may be {known}: iconv -f {known} -t UTF-8 {path.name} > utf8-{path.name}"
                return f"{path}:{number}: not UTF-8 ({error.reason}); {remedy}"
    return f"{path}: not UTF-8; convert it, for example with iconv"


def _guess(line: bytes) -> str:
    try:
        line.decode("gb18030")
    except UnicodeDecodeError:
        return "WINDOWS-1252"
    return "GB18030"


def _json(path: Path) -> Iterator[Row]:
    """JSON lines, one array, an object around an array, or objects one after the other, whatever the file's name."""
    with _open_text(path, "\n") as file:
        head = file.read(BLOCK)
    if "\0" in head[:4]:
        raise UserError(f"{path}:1: not UTF-8 (zero bytes, as in UTF-16); convert it, for example with iconv")
    yield from _json_lines(path) if _is_by_lines(head) else _json_values(path)


def _is_by_lines(head: str) -> bool:
    """Whether every line is a row of its own. A broken first line does not hide the good ones after it."""
    lines = [line for line in head.split("\n") if line.strip(BLANK)]
    if not lines:
        return False
    first = parse_line(lines[0].strip(BLANK))
    if lines[0].startswith("["):
        return len(lines) > 1 and not (isinstance(first, BadRow) and first.reason == "not_json")
    if isinstance(first, dict):
        return _unwrap(first) is None
    return any(line.startswith("{") and isinstance(parse_line(line.strip(BLANK)), dict) for line in lines[:100])


def parse_line(text: str) -> dict | BadRow:
    """The object of one JSON line; a comma after it (a list without its brackets) is let go."""
    try:
        value = DECODER.decode(text.removesuffix(","))
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", str(error), text)
    if not isinstance(value, dict):
        return BadRow("not_an_object", type(value).__name__, value)
    return value


def _json_lines(path: Path) -> Iterator[Row]:
    with _open_text(path, "\n") as file:
        for number, line in enumerate(file, 1):
            if text := line.strip(BLANK):
                yield number, parse_line(text)


def _json_values(path: Path) -> Iterator[Row]:
    """Rows of one array, or of values one after the other; a value may span lines and blocks."""
    number = passed = position = 0  # rows given, lines left behind, where the next value begins
    with _open_text(path, "\n") as file:
        buffer = file.read(BLOCK).lstrip(BLANK)
        array = buffer.startswith("[")
        position = int(array)
        while True:
            position = SEPARATOR.match(buffer, position).end()
            if array and buffer[position : position + 1] == "]":
                if (buffer[position + 1 :] + file.read(BLOCK)).strip(BLANK):
                    raise UserError(f"{path}: text after the array's end; expected one array of objects")
                return
            try:
                value, end = DECODER.raw_decode(buffer, position)
                fault = None
            except (ValueError, RecursionError) as error:
                end, fault = len(buffer), error
            if end == len(buffer):  # the value may go on in the next block
                more = file.read(max(BLOCK, len(buffer) - position))
                if more:
                    passed += buffer.count("\n", 0, position)
                    buffer, position = buffer[position:] + more, 0
                    continue
                if fault and not array and position == len(buffer):
                    return
            if fault:
                line = passed + buffer.count("\n", 0, getattr(fault, "pos", position)) + 1
                reason = getattr(fault, "msg", str(fault))
                raise UserError(
                    f"{path}:{line}: record {number + 1} is not valid JSON ({reason}); expected JSON lines or one "
                    "array of objects: is the file whole?"
                )
            for row in (not array and isinstance(value, dict) and _unwrap(value)) or [value]:
                number += 1
                is_object = isinstance(row, dict)
                yield number, row if is_object else BadRow("not_an_object", type(row).__name__, row)
            position = end


def _unwrap(value: dict) -> list | None:
    """The records of a wrapper such as {"data": [...]} or {"id 1": {...}, "id 2": {...}}; None for a record."""
    if RECORD_COLUMNS & {name.casefold() for name in value}:
        return None
    lists = [rows for rows in value.values() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    if lists:
        return lists[0] if len(lists) == 1 else None
    objects = [{"id": name, **row} for name, row in value.items() if isinstance(row, dict)]
    return objects if len(objects) == len(value) > 1 else None


def _csv(path: Path) -> Iterator[Row]:
    """Rows of a table with a head, by any of the usual separators; ``sep=;`` may stand before the head."""
    csv.field_size_limit(1 << 30)
    with _open_text(path, "") as file:
        head = file.read(BLOCK)
    if "\0" in head[:4]:
        raise UserError(f"{path}:1: not UTF-8 (zero bytes, as in UTF-16); convert it, for example with iconv")
    told = re.match(r"sep=(.)[\r\n]+", head)
    usual = "\t,;|" if file_format(path.name) == ".tsv" else ",;\t|"
    separator = told[1] if told else max(usual, key=lambda mark: _width(head, mark))
    with _open_text(path, "") as file:
        lines = itertools.islice(file, bool(told), None)
        names = None
        for number, fields in _table_rows(lines, separator):
            line = number + bool(told)
            if names is None:
                if isinstance(fields, BadRow):
                    raise UserError(f"{path}:{line}: not valid CSV ({fields.matched}); quote the column names")
                names = fields
            elif isinstance(fields, BadRow):
                yield line, fields
            elif len(fields) == len(names):
                yield line, as_object(zip(names, fields, strict=True))
            elif fields:
                found = f"{len(fields)} fields, expected {len(names)}"
                yield line, BadRow("wrong_fields", found, fields)


def _width(head: str, separator: str) -> int:
    """Columns of a table's head with this separator; 0 where the rows after it are not as wide."""
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
    try:
        names, *rows = [fields for fields in itertools.islice(reader, 20) if fields] or [[]]
    except csv.Error:
        return 0
    alike = not rows or any(len(fields) == len(names) for fields in rows)
    return len(names) if len(names) > 1 and alike else 0


def _table_rows(lines: Iterator[str], separator: str) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Fields of each row with the line where it begins.

    A quote that does not close, or closes in the middle of a field, would take the rows after it along: the line
    where that row begins is given as a BadRow, and reading goes on with the line after it.
    """
    taken: list[str] = []  # lines of the row being read
    returned: deque[str] = deque()  # lines to be read once more

    def feed() -> Iterator[str]:
        for line in itertools.chain(iter(lambda: returned.popleft() if returned else None, None), lines):
            if len(taken) == LONGEST_ROW:
                returned.appendleft(line)
                raise csv.Error(f"a quote not closed within {LONGEST_ROW} lines")
            taken.append(line)
            yield line

    number = 1
    reader = csv.reader(feed(), delimiter=separator, strict=True)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields = BadRow("bad_quotes", str(error), taken[0])
            returned.extendleft(reversed(taken[1:]))
            del taken[1:]
            reader = csv.reader(feed(), delimiter=separator, strict=True)
        yield number, fields
        number += len(taken)
        taken.clear()


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with _open(path) as file:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=512):
                columns = [_values(column) for column in batch.columns]
                for fields in zip(*columns, strict=True):
                    number += 1
                    yield number, as_object(zip(batch.schema.names, fields, strict=True))
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable parquet file ({error})") from error


def _values(column: Any) -> list:
    """A parquet column as plain values; one that Python has no value for (a date of the year 200,000) as its text."""
    try:
        return [as_plain(value) for value in column.to_pylist()]
    except (ValueError, OverflowError):
        return [{str(column.type): str(column.slice(row, 1))} for row in range(len(column))]


def as_plain(value: Any) -> Any:
    """A value that JSON can hold: bytes as the UTF-8 text that they are, anything else as {kind: text}."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict):
        return {str(name): as_plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(part) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"bytes": value.hex()}
    return {type(value).__name__: str(value)}


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


def claimed_language(spec: str) -> str | None:
    """For scripts.prepare.pipeline until it reads records: the language that a hub configuration claims."""
    config = spec.partition(":")[2] if is_hub(spec) else ""
    return config if config in ("zh", "en") else None


def read_rows(spec: str) -> Iterator[tuple[int, bytes]]:
    """For scripts.prepare.pipeline until it reads records: rows as JSON bytes."""
    for number, row in load_rows(spec):
        raw = row.raw if isinstance(row, BadRow) else row
        unparsed = isinstance(row, BadRow) and row.reason in ("not_json", "bad_quotes")
        text = raw if unparsed else json.dumps(raw, ensure_ascii=False)
        yield number, text.encode("utf-8", "surrogatepass")
