"""Sources to raw rows, streaming: local .jsonl, .json, .parquet, .csv, .tsv (.gz too) and hub data sets.

Every row comes as ``(number, JSON bytes)``; ``number`` is the 1-based line (.jsonl) or record (all others).
Faults of a whole file raise UserError here; faults of one row are left to the caller, which rejects it by name.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from scripts.common import UserError

Row = tuple[int, bytes]
FORMATS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv")
BLOCK = 1 << 20
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(:[\w.-]+)?$")


def file_format(spec: str) -> str:
    """The format named by a path's suffixes (``x.jsonl.gz`` -> ``.jsonl``), or "" where it names none."""
    suffixes = [suffix.lower() for suffix in Path(spec).suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else ""


def is_hub(spec: str) -> bool:
    """Whether a source is a hub id (``owner/name`` or ``owner/name:configuration``) and not a local file."""
    return bool(HUB_ID.match(spec)) and not Path(spec).exists() and not file_format(spec)


def claimed_language(spec: str) -> str | None:
    """The language that a hub configuration claims (``…:zh`` -> zh); mixed ones and files claim none."""
    config = spec.partition(":")[2] if is_hub(spec) else ""
    return config if config in ("zh", "en") else None


def _open(path: Path, **how: Any) -> IO:
    """A file opened as binary, or as text where ``how`` names an encoding; unpacked where it ends in .gz."""
    opener: Callable[..., Any] = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt" if how else "rb", **how)


def _jsonl(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
                line.decode("utf-8")  # a file in another encoding is a fault of the file, not of its rows
            if line := line.strip():
                yield number, line


def _json(path: Path) -> Iterator[Row]:
    """Rows of one JSON array, a block of text at a time; anything else is read as JSON lines."""
    with _open(path, encoding="utf-8-sig", newline="") as file:
        head = file.read(BLOCK)
        buffer = head.lstrip()
        if buffer[:1] != "[":
            first = buffer.partition("\n")[0]
            try:
                json.loads(first)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path}:1: found {first[:40]!r}, expected an array of objects or JSON lines"
                ) from error
            yield from _jsonl(path)
            return
        decode, number, position = json.JSONDecoder().raw_decode, 0, 1
        passed = head.count("\n") - buffer.count("\n")
        while True:
            start = _skip(buffer, position, ",") if number else _skip(buffer, position)
            if buffer[start : start + 1] == "]":
                if (buffer[start + 1 :] + file.read(BLOCK)).strip():
                    raise UserError(f"{path}: text after the array's end; expected one array of objects")
                return
            try:
                _, end = decode(buffer, start)
                if end == len(buffer) and (more := file.read(BLOCK)):
                    buffer += more  # a number may go on in the next block
                    continue
            except json.JSONDecodeError as error:
                cut = error.pos >= len(buffer) - 12 or error.msg.startswith("Unterminated string")
                if cut and (more := file.read(BLOCK)):
                    passed, buffer, position = passed + buffer.count("\n", 0, position), buffer[position:] + more, 0
                    continue
                line = passed + buffer.count("\n", 0, error.pos) + 1
                raise UserError(f"{path}:{line}: record {number + 1} is not valid JSON ({error.msg})") from error
            number += 1
            yield number, buffer[start:end].encode()
            position = end


def _skip(text: str, position: int, mark: str = "") -> int:
    """The first position at or after ``position`` that is neither white space nor one ``mark``."""
    for _ in range(1 + bool(mark)):
        while text[position : position + 1].isspace():
            position += 1
        if mark and text.startswith(mark, position):
            position, mark = position + 1, ""
    return position


def _parquet(path: Path) -> Iterator[Row]:
    import orjson
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table, number = parquet.ParquetFile(path), 0
        for batch in table.iter_batches(batch_size=512):
            for row in batch.to_pylist():
                number += 1
                yield number, orjson.dumps(row, default=str)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable parquet file ({error})") from error


def _csv(path: Path) -> Iterator[Row]:
    import orjson

    csv.field_size_limit(1 << 30)
    delimiter = "\t" if file_format(path.name) == ".tsv" else ","
    with _open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            columns = len(reader.fieldnames or [])
            end = reader.line_num  # of the head; a row may span several lines and is named by its first
            for row in reader:
                number, end = end + 1, reader.line_num
                if None in row or None in row.values():
                    found = len([v for v in row.values() if v is not None]) + (len(row[None]) - 1 if None in row else 0)
                    raise UserError(
                        f"{path}:{reader.line_num}: found {found} fields, expected {columns} as in the first line; "
                        "quote fields that hold a comma or a line break"
                    )
                yield number, orjson.dumps(row)
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num + 1}: not valid CSV ({error}); quote the field") from error


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


def read_rows(spec: str) -> Iterator[Row]:
    """Rows of one source; raises UserError with file and line where the file as a whole cannot be read."""
    if is_hub(spec):
        import orjson

        yield from ((number, orjson.dumps(row, default=str)) for number, row in enumerate(hub_rows(spec), 1))
        return
    path = Path(spec)
    if not path.is_file():
        found = "is a folder; name its files" if path.is_dir() else "no such file"
        raise UserError(f"{spec}: {found}; expected a hub id (owner/name:config) or a file in {', '.join(FORMATS)}")
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv, ".tsv": _csv}
    reader = readers.get(file_format(spec))
    if reader is None:
        raise UserError(f"{spec}: unknown kind of file; expected one of {', '.join(FORMATS)}, also with .gz")
    empty, number = True, 0
    try:
        for number, row in reader(path):
            empty = False
            yield number, row
    except UnicodeDecodeError as error:
        raise UserError(
            f"{spec}:{number + 1}: not UTF-8 ({error.reason}); convert it, for example with iconv"
        ) from error
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{spec}:{number + 1}: cannot be read on ({error}); is the file whole?") from error
    if empty:
        raise UserError(f"{spec}:1: holds no record; expected one JSON object, array item or table row at least")
