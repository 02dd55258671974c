"""Sources to raw rows: .jsonl, .ndjson, .json, .parquet, .csv, .tsv (.gz too) and hub data sets.

``load_rows`` gives ``(number, row)``. The number is the 1-based line where the row begins (JSON lines, CSV) or the
1-based record (JSON array, parquet, hub). A row is a dict, or a BadRow where it cannot be read. What would lose the
meaning of a whole file raises UserError: a wrong encoding, a cut file, a broken array. All but a JSON array streams.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import IO, Any

from scripts.common import UserError, first_line, hub_address, hub_answers, quiet_libraries

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
        counts = Counter(name for name, _ in pairs)
        for name in (name for name, count in counts.items() if count > 1):
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
    if is_hub(spec):
        yield from enumerate(hub_rows(spec), 1)
        return
    path, kind, number = Path(spec), file_format(spec), 0
    if not kind or not path.is_file():
        found = "unknown kind of file" if path.is_file() else "no such file"
        found = "is a folder; name its files" if path.is_dir() else found
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
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            # UTF-16 decodes as UTF-8 where all of it is ASCII, with many zeros.
            if not decodes(line, "utf-8") or line.count(0) > len(line) / 10:
                raise UserError(f"{path}:{number}: not UTF-8{encoding_remedy(path, line, number)}")
            yield line.decode().removeprefix("\ufeff")


def decodes(line: bytes, encoding: str) -> bool:
    """Whether bytes are text in this encoding."""
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def encoding_remedy(path: Path, line: bytes, number: int) -> str:
    """How to make UTF-8 of a file by the look of one line."""
    with open_bytes(path) as file:
        if any(not before.isascii() for before in islice(file, number - 1)):
            return ", as the lines before it are; convert the file's parts before joining them"
    # Chinese comes in pairs of bytes; an accented letter stands alone.
    chinese = re.search(rb"[\x81-\xfe]{2}", line) and decodes(line, "gb18030")
    likely = "UTF-16" if b"\0" in line else "GB18030" if chinese else "WINDOWS-1252"
    given, made = quote(str(path)), quote(str(path.with_name(f"utf8-{path.name}")))
    return f"; it may be {likely}: iconv -f {likely} -t UTF-8 {given} > {made}"


def json_rows(path: Path) -> Iterator[Row]:
    """Rows of JSON lines, of one array, or of an object around an array, whatever the file's name."""
    head = [text for line in islice(text_lines(path), HEAD) if (text := line.strip())]
    if head and not is_by_lines(head):
        yield from enumerate(whole_json(path), 1)
        return
    for number, line in enumerate(text_lines(path), 1):
        if text := line.strip():
            yield number, parse_line(text)


def is_by_lines(head: list[str]) -> bool:
    """Whether every line is a row of its own. A broken first line does not hide the good ones after it."""
    rows = [parse_line(line) for line in head]
    if len(rows) == 1:
        return isinstance(rows[0], dict) and wrapped(rows[0]) is None
    if head[0].startswith("["):
        return rows[0].reason == "not_an_object"  # an array over lines is not_json here
    return any(isinstance(row, dict) for row in rows)


def parse_line(text: str) -> dict | BadRow:
    """The object of one JSON line; a comma before or after it (a list without its brackets) is let go."""
    try:
        return as_row(DECODER.decode(text.strip(", \t")))
    except (ValueError, RecursionError) as error:
        return BadRow("not_json", str(error), text)


def as_row(value: Any) -> dict | BadRow:
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
    return [as_row(row) for row in rows]


def wrapped(value: Any) -> list | None:
    """The records of a wrapper such as {"data": [records]}; None where the value is none."""
    if not isinstance(value, dict) or RECORD_COLUMNS & {name.casefold() for name in value}:
        return None
    lists = [rows for rows in value.values() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    return lists[0] if len(lists) == 1 else None


def csv_rows(path: Path) -> Iterator[Row]:
    """Rows of a table whose first line names the columns; ``sep=;`` may stand before it, as Excel writes it."""
    csv.field_size_limit(1 << 30)
    head = list(islice(table_lines(path), HEAD))
    told = re.fullmatch(r"sep=(.)\s*", head[0]) if head else None
    usual = "\t,;|" if file_format(path.name) == ".tsv" else ",;\t|"
    separator = told[1] if told else max(usual, key=lambda mark: width(head, mark))
    rows = split_rows(path, separator, skip=int(bool(told)))
    line, names = next(rows, (1, []))
    if isinstance(names, BadRow):
        raise UserError(f"{path}:{line}: not valid CSV ({names.matched}); quote the column names")
    for line, fields in rows:
        if isinstance(fields, BadRow):
            yield line, fields
        elif len(fields) == len(names):
            yield line, as_object(list(zip(names, fields, strict=True)))
        elif fields:  # a blank line has none
            yield line, BadRow("wrong_fields", f"fields: {len(fields)}, expected {len(names)}", fields)


def table_lines(path: Path) -> Iterator[str]:
    """Lines of a table; some programs end them with a carriage return alone."""
    for line in text_lines(path):
        yield from io.StringIO(line, newline="")


def width(head: list[str], separator: str) -> int:
    """Columns that a table has with this separator; 0 where no row is as wide as the names."""
    names, *rows = [fields for fields in csv.reader(head, delimiter=separator) if fields] or [[]]
    alike = not rows or any(len(fields) == len(names) for fields in rows)
    return len(names) if len(names) > 1 and alike else 0


def split_rows(path: Path, separator: str, skip: int) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Fields of each row with the line where it begins, after ``skip`` lines.

    Text after a closing quote makes one line a BadRow. A quote that closes in no or in another row would take rows
    along: UserError with the line where that row begins.
    """
    last: deque[str] = deque(maxlen=1)

    def lines() -> Iterator[str]:
        for line in islice(table_lines(path), skip, None):
            last.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1 + skip
        try:
            row: list[str] | BadRow = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            end = reader.line_num + skip
            if end > line:
                raise UserError(
                    f"{path}:{line}: a quote opens in this row and does not close where a field ends ({error} in line "
                    f"{end}); double the quotes inside a quoted field, or save the table as JSON lines"
                ) from error
            row = BadRow("bad_quotes", str(error), last[0])
        yield line, row


def parquet_rows(path: Path) -> Iterator[Row]:
    """Rows of a parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with open_bytes(path) as file:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=512):
                columns = [column_values(column) for column in batch.columns]
                for fields in zip(*columns, strict=True):
                    number += 1
                    yield number, as_object(list(zip(batch.schema.names, fields, strict=True)))
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable parquet file ({error})") from error


def column_values(column: Any) -> list:
    """A parquet column as Python's values; what Python has no value for (a date of the year 200,000) as text."""
    try:
        return as_text(column.to_pylist())
    except (ValueError, OverflowError, LookupError):  # the last: an unknown time zone
        return [{str(column.type): str(column.slice(row, 1))} for row in range(len(column))]


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
    quiet_libraries()
    why = "" if hub_answers() else f"{hub_address()} does not answer. "
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
            f"{spec}: cannot be read from the hub. {why or first_line(error) + '. '}If it is a local file, "
            f"give its path ending in one of {', '.join(FORMATS)}; if the hub is out of reach, set HF_ENDPOINT to a "
            "mirror, or USE_MODELSCOPE_HUB=1"
        ) from error
