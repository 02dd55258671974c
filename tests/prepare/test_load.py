# ruff: noqa: E501 - texts in tables stay on one line
"""Every format gives the same rows; every broken file a message with file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import orjson
import pytest

from scripts.common import UserError
from scripts.prepare import load

ROWS = [{"Question": "Why?\nNow, “so”", "Complex_CoT": "因为，\"a\"", "Response": "b"}, {"Question": "q2", "Complex_CoT": "", "Response": "c"}]  # fmt: skip


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


@pytest.mark.parametrize(
    "name", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.json.gz", "a.jsonl.gz", "a.csv.gz"]
)
def test_formats_give_the_same_rows(tmp_path: Path, name: str) -> None:
    found = [orjson.loads(raw) for _, raw in load.read_rows(str(make(tmp_path / name, ROWS)))]
    assert found == ROWS


def test_numbers_are_lines_or_records(tmp_path: Path) -> None:
    assert [n for n, _ in load.read_rows(str(make(tmp_path / "a.jsonl", ROWS)))] == [2, 4]
    assert [n for n, _ in load.read_rows(str(make(tmp_path / "a.json", ROWS)))] == [1, 2]
    (tmp_path / "a.csv").write_text('q,a\n"one\nline more",x\ntwo,y\n"three\n\n",z\nfour,w\n')
    assert [n for n, _ in load.read_rows(str(tmp_path / "a.csv"))] == [2, 4, 5, 8], "the line where a row begins"


def test_json_array_is_read_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BLOCK", 7)
    values = [{"a": "x" * n, "n": [n, {"b": None}]} for n in range(30)] + [
        12345678901234,
        "text, ] with \\ marks",
        1.5e300,
    ]
    path = tmp_path / "a.json"
    path.write_text("\n " + json.dumps(values), "utf-8")
    assert [orjson.loads(raw) for _, raw in load.read_rows(str(path))] == values


def test_json_lines_under_a_json_name(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}\n{"a": 2}\n', "utf-8")
    assert [raw for _, raw in load.read_rows(str(path))] == [b'{"a": 1}', b'{"a": 2}']


BROKEN: list[tuple[str, bytes | None, str]] = [
    ("missing.jsonl", None, "missing.jsonl: no such file"),
    ("folder.d", b"", "folder.d: no such file"),
    ("notes.txt", b"text", "unknown kind of file"),
    ("empty.jsonl", b"", "empty.jsonl:1: holds no record"),
    ("blank.jsonl", b"\n\n  \n", "blank.jsonl:1: holds no record"),
    ("empty.json", b"[]", "empty.json:1: holds no record"),
    ("cut.json", b'[{"a": 1},\n{"a": 2},\n{"a":', "cut.json:3: record 3 is not valid JSON"),
    ("comma.json", b'[{"a": 1},\n\n,{"a": 2}' + b" " * 50 + b"]", "comma.json:3: record 2 is not valid JSON"),
    ("tail.json", b'[{"a": 1}] more', "text after the array's end"),
    ("scalar.json", b"{\n", "scalar.json:1: found"),
    ("utf16.jsonl", '{"a": 1}'.encode("utf-16"), "utf16.jsonl:1: not UTF-8"),
    ("gbk.jsonl", '{"a": "患者"}'.encode("gbk"), "gbk.jsonl:1: not UTF-8"),
    ("gbk.csv", "问,答\n".encode("gbk"), "not UTF-8"),
    ("short.csv", b"a,b\n1,2\n3\n", "short.csv:3: found 1 fields, expected 2"),
    ("long.csv", b"a,b\n1,2,3\n", "long.csv:2: found 3 fields, expected 2"),
    ("quote.csv", b'a,"b"c\n1,2\n', "quote.csv:1: not valid CSV"),
    ("head.csv", b"a,b\n", "head.csv:1: holds no record"),
    ("no.parquet", b"not parquet at all", "not a readable parquet"),
    ("plain.jsonl.gz", b'{"a": 1}\n', "plain.jsonl.gz:1: cannot be read on"),
    ("cut.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9999)[:-20], "cannot be read on"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None and not name.endswith(".d"):
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        list(load.read_rows(str(path)))
    assert message in str(error.value)


def test_hub_ids_and_their_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []
    monkeypatch.delenv("USE_MODELSCOPE_HUB", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or [{"Question": "q"}])
    assert list(load.read_rows("owner/name:zh")) == [(1, b'{"Question":"q"}')]
    assert asked == [(("owner/name", "zh"), {"split": "train", "streaming": True})]
    assert [load.claimed_language(s) for s in ("o/n:zh", "o/n:en", "o/n:en_mix", "o/n", "data/x:zh.json")] == [
        "zh",
        "en",
        None,
        None,
        None,
    ]


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.delenv("USE_MODELSCOPE_HUB", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"owner/name:en: cannot be read from the hub.*HF_ENDPOINT.*USE_MODELSCOPE_HUB"):
        list(load.read_rows("owner/name:en"))
