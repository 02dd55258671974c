# ruff: noqa: E501 - texts in tables stay on one line
"""Every format gives the same rows; a bad row is named with its line; a broken file is refused with file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
from pyarrow import parquet

from scripts.common import UserError
from scripts.prepare import load

ROWS = [{"Question": "Why?\nNow, “so”", "Complex_CoT": "因为，\"a\"", "Response": "b"}, {"Question": "q2", "Complex_CoT": "", "Response": "c"}]  # fmt: skip
A, B = {"a": 1}, {"b": "二"}


def make(path: Path, rows: list[dict]) -> Path:
    """Write rows in the format of a path's suffixes, by pandas."""
    table, kind = pandas.DataFrame(rows), load.file_format(path.name)
    if kind == ".parquet":
        table.to_parquet(path)
    elif kind in (".csv", ".tsv"):
        table.to_csv(path, index=False, sep="\t" if kind == ".tsv" else ",")
    else:
        table.to_json(path, orient="records", lines=kind == ".jsonl")
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
    ("a comma before every line", '{"a": 1}\n, {"b": "二"}\n', [(1, A), (2, B)]),
    ("broken first line", '{"a": 1\n{"b": "二"}\n', [(1, "not_json"), (2, B)]),
    ("two objects on one line", '{"b": "二"}\n{"a": 1} {"a": 1}\n', [(1, B), (2, "not_json")]),
    ("rows that are no objects", '[1]\n{"a": 1}\n"x"\n3', [(1, "not_an_object"), (2, A), (3, "not_an_object"), (4, "not_an_object")]),
    ("array", '[{"a": 1}, {"b": "二"}]', [(1, A), (2, B)]),
    ("array over lines", json.dumps([A, B], indent=1), [(1, A), (2, B)]),
    ("array of other things", '[{"a": 1}, null, [2]]', [(1, A), (2, "not_an_object"), (3, "not_an_object")]),
    ("wrapped", '{"version": "1", "data": [{"a": 1}, {"b": "二"}]}', [(1, A), (2, B)]),
    ("one record with a list", '{"Question": "q", "refs": [{"a": 1}]}', [(1, {"Question": "q", "refs": [A]})]),
    ("half a surrogate pair", '{"a": "\\ud83d"}', [(1, {"a": "\ud83d"})]),
]  # fmt: skip


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in LAYOUTS], ids=[case[0] for case in LAYOUTS])
def test_json_is_read_however_it_is_laid_out(tmp_path: Path, name: str, content: str, expected: list) -> None:
    assert read(tmp_path / name, content) == expected


def test_a_name_given_twice_is_remembered(tmp_path: Path) -> None:
    expected = [{"a": ["1", "2"], "b": "3"}]
    for name, content in {"a.jsonl": '{"a": "1", "a": "2", "b": "3"}', "a.csv": "a,b,a\n1,3,2\n"}.items():
        found = [row for _, row in read(tmp_path / name, content)]
        assert found == expected
        assert isinstance(found[0]["a"], load.Repeated)


X = {"q": "x", "a": "y"}
TABLES: list[tuple[str, str, list]] = [
    ("semicolons", "q;a\nx;y\n", [(2, X)]),
    ("tabs, carriage returns alone", "q\ta\rx\ty\r", [(2, X)]),
    ("told separator", "sep=;\r\nq;a\r\nx;y\r\n", [(3, X)]),
    ("told separator in mixed text", "sep=|\nq|a\nx, x; x|y\n", [(3, {"q": "x, x; x", "a": "y"})]),
    ("commas in fields", 'q;a\n"x, x";"y, y, y"\n', [(2, {"q": "x, x", "a": "y, y, y"})]),
    ("a row names the line where it begins", 'q,a\n"one\nmore",y\nx,y\n"three\n\n",y\nx,y\n', [(2, {"q": "one\nmore", "a": "y"}), (4, X), (5, {"q": "three\n\n", "a": "y"}), (8, X)]),
    ("blank lines", "q,a\n\nx,y\n,\n", [(3, X), (4, {"q": "", "a": ""})]),
    ("wrong number of fields", "q,a\nx\nx,y\nx,y,z\n", [(2, "wrong_fields"), (3, X), (4, "wrong_fields")]),
    ("quote in the middle", 'q,a\nx,y\n5" tall,y\n"x"x,y\nx,y', [(2, X), (3, {"q": '5" tall', "a": "y"}), (4, "bad_quotes"), (5, X)]),
    ("quote in the last line", 'q,a\nx,y\n"x,y\n', [(2, X), (3, "bad_quotes")]),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in TABLES], ids=[case[0] for case in TABLES])
def test_tables(tmp_path: Path, content: str, expected: list) -> None:
    assert read(tmp_path / "a.csv", content) == expected


def test_parquet_bytes_are_text_and_no_value_of_an_unused_column_stops(tmp_path: Path) -> None:
    columns = {
        "text": pyarrow.array(["二".encode()], pyarrow.binary()),
        "bytes": pyarrow.array([b"\xff"], pyarrow.binary()),
        "far": pyarrow.array([10**13], pyarrow.timestamp("s")),
        "nowhere": pyarrow.array([0], pyarrow.timestamp("s", "Mars/Phobos")),
        "turns": [[{"role": "user", "content": b"q"}]],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    ((number, row),) = load.load_rows(str(tmp_path / "a.parquet"))
    assert "timestamp[ms]" in row.pop("far")
    assert "Mars/Phobos" in str(row.pop("nowhere"))
    assert (number, row) == (1, {"text": "二", "bytes": "\udcff", "turns": [{"role": "user", "content": "q"}]})


BROKEN: list[tuple[str, bytes, str]] = [
    ("notes.txt", b"text", "unknown kind of file"),
    ("empty.jsonl", b"", "empty.jsonl:1: holds no record"),
    ("empty.json", b"[]", "empty.json:1: holds no record"),
    ("cut.json", b'[{"a": 1},\n{"a": 2},\n{"a":', "cut.json:3: not valid JSON"),
    ("tail.json", b'[{"a": 1}] more', "tail.json:1: not valid JSON"),
    ("text.json", b"Dear all,\n", "text.json:1: not valid JSON"),
    ("utf16le.jsonl", '{"a": "患者"}'.encode("utf-16-le"), "it may be UTF-16"),
    ("gbk.jsonl", '{"a": 1}\n{"a": "患者"}'.encode("gbk"), "gbk.jsonl:2: not UTF-8; it may be GB18030: iconv -f GB18030 -t UTF-8 /"),
    ("latin.csv", "a,b\n1,Behçet disease\n".encode("latin-1"), "latin.csv:2: not UTF-8; it may be WINDOWS-1252"),
    ("mixed.jsonl", '{"a": "患者"}\n'.encode() + '{"a": "患者"}\n'.encode("gbk"), "mixed.jsonl:2: not UTF-8, as the lines before it are"),
    ("quote.csv", b'a,"b"c\n1,2\n', "quote.csv:1: not valid CSV"),
    ("open.csv", b'q,a\nx,y\n"x,y\nx,y\nx,y\n', "open.csv:3: a quote opens in this row"),
    ("open2.csv", b'q,a\n"x,y\nx,"y"\nx,y\n', "open2.csv:2: a quote opens in this row and does not close where a field ends (',' expected after '\"' in line 3)"),
    ("several.json", b'{\n"a": 1\n}\n{\n"a": 2\n}', "several.json:4: not valid JSON (Extra data)"),
    ("head.csv", b"a,b\n", "head.csv:1: holds no record"),
    ("no.parquet", b"not parquet at all", "not a readable parquet"),
    ("plain.jsonl.gz", b'{"a": 1}\n', "plain.jsonl.gz:1: cannot be read on"),
    ("cut.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9999)[:-20], "cannot be read on"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path / name, content)
    assert message in str(error.value)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "x.jsonl", "x.jsonl: no such file"), (tmp_path, "is a folder; name its files")):
        with pytest.raises(UserError, match=message):
            list(load.load_rows(str(path)))


def test_hub_data(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*asked: object, **flags: object) -> list[dict]:
        if asked[1] is None:
            raise ConnectionError("no route")
        return [{"asked": asked, **flags}]

    monkeypatch.delenv("USE_MODELSCOPE_HUB", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    asked = {"asked": ["owner/name", "zh"], "split": "train", "streaming": True}
    assert list(load.load_rows("owner/name:zh")) == [(1, asked)]
    with pytest.raises(UserError, match=r"owner/name: cannot be read from the hub.*HF_ENDPOINT.*USE_MODELSCOPE_HUB"):
        list(load.load_rows("owner/name"))


def test_what_reads_modelscope_s_datasets_is_installed():
    """modelscope asks for a part of it in an extra only."""
    from modelscope import MsDataset

    assert callable(MsDataset.load)
