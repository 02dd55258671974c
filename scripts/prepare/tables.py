"""Tables to raw rows, streaming: CSV by any of the usual separators, and parquet. ``load.load_rows`` opens them."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.common import UserError
from scripts.prepare.load import BLOCK, BadRow, Row, as_object, file_format, open_bytes, open_text

LONGEST_ROW = 5000  # lines of one CSV row; more means a quote that never closes


def csv_rows(path: Path) -> Iterator[Row]:
    """Rows of a table whose first line names the columns; ``sep=;`` may stand before it, as Excel writes it."""
    csv.field_size_limit(1 << 30)
    with open_text(path, "") as file:
        head = file.read(BLOCK)
    told = re.match(r"sep=(.)[\r\n]+", head)
    usual = "\t,;|" if file_format(path.name) == ".tsv" else ",;\t|"
    separator = told[1] if told else max(usual, key=lambda mark: width(head, mark))
    with open_text(path, "") as file:
        rows = split_rows(itertools.islice(file, bool(told), None), separator)
        _, names = next(rows, (1, []))
        if isinstance(names, BadRow):
            raise UserError(f"{path}:{1 + bool(told)}: not valid CSV ({names.matched}); quote the column names")
        for number, fields in rows:
            if fields:  # a blank line has none
                yield number + bool(told), table_row(names, fields)


def table_row(names: list[str], fields: list[str] | BadRow) -> dict | BadRow:
    """A row by its column names."""
    if isinstance(fields, BadRow):
        return fields
    if len(fields) != len(names):
        return BadRow("wrong_fields", f"{len(fields)} fields, expected {len(names)}", fields)
    return as_object(zip(names, fields, strict=True))


def width(head: str, separator: str) -> int:
    """Columns that a table has with this separator; 0 where the first rows are not as wide as the names."""
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
    names, *rows = [fields for fields in itertools.islice(reader, 20) if fields] or [[]]
    alike = not rows or any(len(fields) == len(names) for fields in rows)
    return len(names) if len(names) > 1 and alike else 0


def split_rows(lines: Iterator[str], separator: str) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Fields of each row with the line where it begins.

    A quote that does not close, or closes in the middle of a field, would take the rows after it along: the line
    where that row begins is given as a BadRow, and reading goes on with the line after it.
    """
    number = 1
    taken: list[str] = []  # lines of the row being read
    ahead: deque[str] = deque()  # lines to be read once more

    def feed() -> Iterator[str]:
        while line := ahead.popleft() if ahead else next(lines, ""):
            taken.append(line)
            if len(taken) > LONGEST_ROW:
                raise csv.Error(f"a quote not closed within {LONGEST_ROW} lines")
            yield line

    while True:
        reader = csv.reader(feed(), delimiter=separator, strict=True)
        try:
            for fields in reader:
                yield number, fields
                number += len(taken)
                taken.clear()
            return
        except csv.Error as error:
            yield number, BadRow("bad_quotes", str(error), taken[0])
            number += 1
            ahead.extendleft(reversed(taken[1:]))
            taken.clear()


def parquet_rows(path: Path) -> Iterator[Row]:
    """Rows of a parquet file as values that JSON can hold."""
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with open_bytes(path) as file:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=512):
                columns = [column_values(column) for column in batch.columns]
                for fields in zip(*columns, strict=True):
                    number += 1
                    yield number, as_object(zip(batch.schema.names, fields, strict=True))
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable parquet file ({error})") from error


def column_values(column: Any) -> list:
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
