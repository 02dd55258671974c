# ruff: noqa: E501 - texts in tables stay on one line
"""Every format gives the same rows; a bad row is named with its line; a broken file is refused with file and line."""

from __future__ import annotations

import datetime
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from scripts.common import UserError
from scripts.prepare import load

ROWS = [{"Question": "Why?\nNow, “so”", "Complex_CoT": "因为，\"a\"", "Response": "b"}, {"Question": "q2", "Complex_CoT": "", "Response": "c"}]  # fmt: skip
A, B = {"a": 1}, {"b": "二"}


def make(path: Path, rows: list[dict]) -> Path:
    """Write rows in the format of a path's suffixes."""
    opener = gzip.open if path.suffix == ".gz" else open
    kind = load.file_format(path.name)
    if kind == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
        return path
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        if kind == ".json":
            json.dump(rows, file, ensure_ascii=False, indent=2)
        elif kind == ".jsonl":
            file.write("\n" + "\n\n".join(json.dumps(row) for row in rows) + "\n")
        else:
            import csv

            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path, content: bytes | str) -> list[tuple[int, Any]]:
    """Rows of a file of this content; a bad row as its reason."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(n, row.reason if isinstance(row, load.BadRow) else row) for n, row in load.load_rows(str(path))]


@pytest.mark.parametrize(
    "name", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.json.gz", "a.jsonl.gz", "a.csv.gz"]
)
def test_formats_give_the_same_rows(tmp_path: Path, name: str) -> None:
    assert [row for _, row in load.load_rows(str(make(tmp_path / name, ROWS)))] == ROWS


LAYOUTS: list[tuple[str, bytes | str, list]] = [
    ("lines", '\ufeff{"a": 1}\n\n{"b": "二"}\n', [(1, A), (3, B)]),
    ("two files joined, each with its mark", '\ufeff{"a": 1}\r\n\ufeff{"b": "二"}', [(1, A), (2, B)]),
    ("a comma after every line", '{"a": 1},\n{"b": "二"},\n', [(1, A), (2, B)]),
    ("broken first line", '{"a": 1\n{"b": "二"}\n', [(1, "not_json"), (2, B)]),
    ("two objects on one line", '{"b": "二"}\n{"a": 1} {"a": 1}\n', [(1, B), (2, "not_json")]),
    ("trailing comma in a row", '{"b": "二"}\n{"a": 1,}\n', [(1, B), (2, "not_json")]),
    ("rows that are no objects", '[1]\n{"a": 1}\n"x"\n3', [(1, "not_an_object"), (2, A), (3, "not_an_object"), (4, "not_an_object")]),
    ("array", '[{"a": 1}, {"b": "二"}]', [(1, A), (2, B)]),
    ("array, an object on each line", '[\n{"a": 1},\n{"b": "二"},\n]\n', [(1, A), (2, B)]),
    ("array of other things", '[{"a": 1}, null, [2]]', [(1, A), (2, "not_an_object"), (3, "not_an_object")]),
    ("objects over several lines", '{\n "a": 1\n}\n{\n "b": "二"\n}\n', [(1, A), (2, B)]),
    ("objects without a break", '{"a": 1}{"b": "二"}', [(1, A), (2, B)]),
    ("wrapped", '{"version": "1", "data": [{"a": 1}, {"b": "二"}]}', [(1, A), (2, B)]),
    ("wrapped over lines", json.dumps({"train": [A, B]}, indent=1), [(1, A), (2, B)]),
    ("wrapped by id", '{"x": {"a": 1}, "y": {"a": 1}}', [(1, {"id": "x", "a": 1}), (2, {"id": "y", "a": 1})]),
    ("one record with a list", '{"Question": "q", "refs": [{"a": 1}]}', [(1, {"Question": "q", "refs": [A]})]),
    ("half a surrogate pair", '{"a": "\\ud83d"}', [(1, {"a": "\ud83d"})]),
    ("infinity", '{"a": Infinity}', [(1, {"a": float("inf")})]),
]  # fmt: skip


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in LAYOUTS], ids=[case[0] for case in LAYOUTS])
def test_json_is_read_however_it_is_laid_out(tmp_path: Path, name: str, content: str, expected: list) -> None:
    assert read(tmp_path / name, content) == expected


def test_json_array_is_read_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BLOCK", 7)
    rows = [{"a": "x" * n, "n": [n, {"b": None}], "t": "text, ] with \\ marks", "f": 1.5e300} for n in range(30)]
    path = tmp_path / "a.json"
    path.write_text("\n " + json.dumps(rows), "utf-8")
    assert [row for _, row in load.load_rows(str(path))] == rows


def test_a_name_given_twice_is_remembered(tmp_path: Path) -> None:
    ((_, row),) = read(tmp_path / "a.jsonl", '{"a": 1, "a": 2, "b": 3}')
    assert isinstance(row, load.Repeated)
    assert (row, row.names(), row.pairs) == ({"a": 2, "b": 3}, {"a"}, [("a", 1), ("a", 2), ("b", 3)])
    ((_, row),) = read(tmp_path / "a.csv", "a,b,a\n1,3,2\n")
    assert row.names() == {"a"}


X = {"q": "x", "a": "y"}
TABLES: list[tuple[str, str, list]] = [
    ("semicolons", "q;a\nx;y\n", [(2, X)]),
    ("bars", "q|a\nx|y", [(2, X)]),
    ("tabs", "q\ta\nx\ty", [(2, X)]),
    ("told separator", "sep=;\r\nq;a\r\nx;y\r\n", [(3, X)]),
    ("told separator in mixed text", "sep=|\nq|a\nx, x; x|y\n", [(3, {"q": "x, x; x", "a": "y"})]),
    ("commas in fields", 'q;a\n"x, x";"y, y, y"\n', [(2, {"q": "x, x", "a": "y, y, y"})]),
    ("a row names the line where it begins", 'q,a\n"one\nmore",y\nx,y\n"three\n\n",y\nx,y\n', [(2, {"q": "one\nmore", "a": "y"}), (4, X), (5, {"q": "three\n\n", "a": "y"}), (8, X)]),
    ("blank lines", "q,a\n\nx,y\n,\n", [(3, X), (4, {"q": "", "a": ""})]),
    ("wrong number of fields", "q,a\nx\nx,y\nx,y,z\n", [(2, "wrong_fields"), (3, X), (4, "wrong_fields")]),
    ("quote that never closes", 'q,a\nx,y\n"x,y\nx,y\nx,y\n', [(2, X), (3, "bad_quotes"), (4, X), (5, X)]),
    ("quote that closes in another row", 'q,a\n"x,y\nx,"y"\nx,y\n', [(2, "bad_quotes"), (3, X), (4, X)]),
    ("quote in the middle", 'q,a\nx,y\n5" tall,y\n"x"x,y\nx,y', [(2, X), (3, {"q": '5" tall', "a": "y"}), (4, "bad_quotes"), (5, X)]),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in TABLES], ids=[case[0] for case in TABLES])
def test_tables(tmp_path: Path, content: str, expected: list) -> None:
    assert read(tmp_path / "a.csv", content) == expected


def test_a_quote_does_not_take_a_long_table_along(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", 'q,a\n"x,y\n' + "x,y\n" * 20_000)
    assert found[:2] == [(2, "bad_quotes"), (3, X)]
    assert len(found) == 20_001


def test_parquet_values_become_what_json_can_hold(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table(
        {
            "text": pa.array(["二".encode()], pa.binary()),
            "bytes": pa.array([b"\xff"], pa.binary()),
            "far": pa.array([10**13], pa.timestamp("s")),
            "day": [datetime.date(2020, 1, 2)],
            "cost": [Decimal("1.50")],
            "turns": [[{"role": "user", "content": "q"}]],
            "none": pa.nulls(1),
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    ((number, row),) = load.load_rows(str(tmp_path / "a.parquet"))
    far = row.pop("far")
    assert "timestamp[ms]" in far
    assert (number, row) == (
        1,
        {
            "text": "二",
            "bytes": {"bytes": "ff"},
            "day": {"date": "2020-01-02"},
            "cost": {"Decimal": "1.50"},
            "turns": [{"role": "user", "content": "q"}],
            "none": None,
        },
    )


BROKEN: list[tuple[str, bytes | None, str]] = [
    ("missing.jsonl", None, "missing.jsonl: no such file"),
    ("folder.d", b"", "folder.d: no such file"),
    ("notes.txt", b"text", "unknown kind of file"),
    ("empty.jsonl", b"", "empty.jsonl:1: holds no record"),
    ("blank.jsonl", b"\n\n  \n", "blank.jsonl:1: holds no record"),
    ("empty.json", b"[]", "empty.json:1: holds no record"),
    ("cut.json", b'[{"a": 1},\n{"a": 2},\n{"a":', "cut.json:3: record 3 is not valid JSON"),
    ("cut_between.json", b'[{"a": 1},\n{"a": 2}', "cut_between.json:2: record 3 is not valid JSON"),
    ("comma.json", b'[{"a": 1},\n\n,{"a": 2}' + b" " * 50 + b"]", "comma.json:3: record 2 is not valid JSON"),
    ("tail.json", b'[{"a": 1}] more', "text after the array's end"),
    ("scalar.json", b"{\n", "scalar.json:2: record 1 is not valid JSON"),
    ("text.json", b"Dear all,\n", "text.json:1: record 1 is not valid JSON"),
    ("utf16.jsonl", '{"a": 1}'.encode("utf-16"), "utf16.jsonl:1: not UTF-8"),
    ("utf16le.jsonl", '{"a": "患者"}'.encode("utf-16-le"), "it may be UTF-16"),
    ("utf16le.csv", "a,b\n1,2\n".encode("utf-16-le"), "utf16le.csv:1: not UTF-8"),
    ("gbk.jsonl", '{"a": 1}\n{"a": "患者"}'.encode("gbk"), "gbk.jsonl:2: not UTF-8; it may be GB18030: iconv -f GB18030 -t UTF-8 gbk.jsonl"),
    ("latin.csv", "a,b\n1,café au lait\n".encode("latin-1"), "latin.csv:2: not UTF-8"),
    ("mixed.jsonl", '{"a": "患者"}\n'.encode() + '{"a": "患者"}\n'.encode("gbk"), "mixed.jsonl:2: not UTF-8, as the lines before it are"),
    ("gbk.csv", "问,答\n".encode("gbk"), "not UTF-8"),
    ("quote.csv", b'a,"b"c\n1,2\n', "quote.csv:1: not valid CSV"),
    ("head.csv", b"a,b\n", "head.csv:1: holds no record"),
    ("no.parquet", b"not parquet at all", "not a readable parquet"),
    ("plain.jsonl.gz", b'{"a": 1}\n', "plain.jsonl.gz:1: cannot be read on"),
    ("cut.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9999)[:-20], "cannot be read on"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None and not name.endswith(".d"):
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        list(load.load_rows(str(path)))
    assert message in str(error.value)


def test_hub_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []
    monkeypatch.delenv("USE_MODELSCOPE_HUB", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or [{"Question": "q"}])
    assert list(load.load_rows("owner/name:zh")) == [(1, {"Question": "q"})]
    assert asked == [(("owner/name", "zh"), {"split": "train", "streaming": True})]


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.delenv("USE_MODELSCOPE_HUB", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"owner/name:en: cannot be read from the hub.*HF_ENDPOINT.*USE_MODELSCOPE_HUB"):
        list(load.load_rows("owner/name:en"))
