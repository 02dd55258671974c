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
from scripts.prepare.load import HEAD, BadRow, Row, as_object, as_text, file_format, open_bytes, text_lines


def csv_rows(path: Path) -> Iterator[Row]:
    """Rows of a table whose first line names the columns; ``sep=;`` may stand before it, as Excel writes it."""
    csv.field_size_limit(1 << 30)
    head = list(itertools.islice(table_lines(path), HEAD))
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
            yield line, BadRow("wrong_fields", f"{len(fields)} fields, expected {len(names)}", fields)


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
        for line in itertools.islice(table_lines(path), skip, None):
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
