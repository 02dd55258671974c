# ruff: noqa: E501 - texts in tables stay on one line
"""The command as a whole: nothing lost, the same bytes every time, splits that stay, files that LLaMA-Factory loads."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.json as paj
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.common import THINK_CLOSE, THINK_OPEN, UserError
from tests.prepare.conftest import EN, read, record, write

SPLITS = ("train", "val", "test")
REPORTS = ("rejected.jsonl", "report.json", "report.md", "report.html", "DATA_CARD.md", "dataset_info.json")
DATA = (*(f"t_{split}.jsonl" for split in SPLITS), *REPORTS)
GOOD = record(*EN[0], "en")
BAD_ROWS = [
    ("{not json", "not_json"), ('{"Question": "\\ud800"}', "not_json"), ('{"a": NaN}', "not_json"), ("\x00", "not_json"),
    ("[1, 2]", "not_object"), ("null", "not_object"), ('"text"', "not_object"),
    (GOOD | {"Question": 7}, "not_text"), (GOOD | {"Response": ["a"]}, "not_text"), (GOOD | {"Complex_CoT": {"a": 1}}, "not_text"),
    (GOOD | {"Question": None}, "no_question"), ({k: v for k, v in GOOD.items() if k != "Complex_CoT"}, "no_reasoning"),
    (GOOD | {"Response": " \n\u200b "}, "no_answer"), (GOOD | {"Question": "?!"}, "short_question"),
    (GOOD | {"Complex_CoT": "Short."}, "short_reasoning"), (GOOD | {"lang": "zh"}, "wrong_language"),
    (GOOD | {"Response": GOOD["Complex_CoT"]}, "reasoning_is_answer"), (GOOD | {"Response": "x <think> y"}, "think_tag"),
    (GOOD | {"Response": "a <｜Assistant｜> b"}, "special_token"), (GOOD | {"Complex_CoT": GOOD["Complex_CoT"] + " and the"}, "cut_off_reasoning"),
    (GOOD | {"Complex_CoT": "So we think of the heart first. " * 9}, "looping_reasoning"),
    (GOOD | {"Response": "I'm sorry, but I can't help with that."}, "refusal"),
    (GOOD | {"Complex_CoT": " ".join(f"Point {i} is that value {i * i} was seen on day {i + 3}." for i in range(400))}, "too_long"),
    (GOOD, "duplicate_exact"), (GOOD | {"Question": EN[0][0].replace("crushing", "severe")}, "duplicate_near"),
    (record("A 71-year-old woman with atrial fibrillation and a metallic mitral valve asks which drug prevents stroke best?", "warfarin", "en"), "leak_verbatim"),
    ({"deep": json.loads("[" * 400 + "]" * 400)}, "no_question"),
]  # fmt: skip


def test_every_row_is_kept_or_rejected_with_its_reason(tmp_path: Path, run: Callable, rows: list[dict]) -> None:
    source = write(tmp_path / "raw.jsonl", rows + [row for row, _ in BAD_ROWS])
    report = run(source)
    rejected = read(tmp_path / "out/rejected.jsonl")
    found = {row["line"]: row["reason"] for row in rejected}
    expected = {len(rows) + 1 + n: reason for n, (_, reason) in enumerate(BAD_ROWS)}
    # the better of the two near-duplicates is kept, whichever it is
    assert {n: r for n, r in found.items() if n > len(rows)} == expected
    kept = [row for split in SPLITS for row in read(tmp_path / f"out/t_{split}.jsonl")]
    assert report["read"] == len(rows) + len(BAD_ROWS) == len(kept) + len(rejected)
    assert report["reasons"] == dict(Counter(found.values()).most_common()) or Counter(report["reasons"]) == Counter(
        found.values()
    )
    for groups in (report["by_language"], report["by_source"]):
        assert sum(g["read"] for g in groups.values()) == report["read"]
        assert all(g["read"] == g["kept"] + sum(g["reasons"].values()) for g in groups.values())
    assert {row["matched"] for row in rejected if row["reason"].startswith("leak")} == {"items/en1"}
    ids = {row["id"] for row in kept}
    assert {row["matched"] for row in rejected if row["reason"].startswith("duplicate")} <= ids
    assert len(ids) == len(kept)


def test_prepared_records_have_the_contracts_form(tmp_path: Path, run: Callable, rows: list[dict]) -> None:
    rows[0]["id"] = "own-1"
    run(write(tmp_path / "raw.jsonl", rows))
    kept = {row["line"]: row for split in SPLITS for row in read(tmp_path / f"out/t_{split}.jsonl")}
    first = kept[1]
    assert first["id"] == "own-1"
    assert (first["lang"], first["source"]) == ("en", str(tmp_path / "raw.jsonl"))
    assert first["input"] == rows[0]["Question"]
    assert first["output"] == f"{THINK_OPEN}{rows[0]['Complex_CoT']}{THINK_CLOSE}{rows[0]['Response']}"
    assert set(first) == {"id", "lang", "source", "line", "input", "output"}


def test_lengths_are_those_of_llamafactorys_template(
    tmp_path: Path, run: Callable, rows: list[dict], tokenizer: Path
) -> None:
    from llamafactory.data.template import TEMPLATES
    from transformers import PreTrainedTokenizerFast

    from scripts.common import BOS, EOS
    from scripts.prepare.batch import count_tokens

    engine = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer / "tokenizer.json"), bos_token=BOS, eos_token=EOS)
    output = f"{THINK_OPEN}{rows[4]['Complex_CoT']}{THINK_CLOSE}{rows[4]['Response']}"
    messages = [{"role": "user", "content": rows[4]["Question"]}, {"role": "assistant", "content": output}]
    prompt, answer = TEMPLATES["deepseekr1"].encode_oneturn(engine, messages)
    ours = count_tokens(str(tokenizer / "tokenizer.json"), [rows[4]["Question"]], [output])
    # LLaMA-Factory's trainer adds the end token to what encode_oneturn gives where the template has not
    assert ours == [len(prompt) + len(answer) + (answer[-1] != engine.eos_token_id)]


def test_the_files_are_the_same_for_any_processes_and_order_of_benchmarks(tmp_path: Path, run: Callable, rows: list[dict], items: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from scripts.prepare import pipeline

    monkeypatch.setattr(pipeline, "BATCH_BYTES", 2000)
    other = tmp_path / "another.jsonl"
    shutil.copy(items, other)
    source = write(tmp_path / "raw.jsonl", rows + [row for row, _ in BAD_ROWS] + rows[::-1])
    out = tmp_path / "out"
    run(source, "--num-proc", 1, "--benchmarks", items, other)
    first = {name: (out / name).read_bytes() for name in DATA}
    shutil.rmtree(out)
    run(source, "--num-proc", 3, "--benchmarks", other, items)
    assert {name: (out / name).read_bytes() for name in DATA} == first
    run(source, "--num-proc", 2, "--benchmarks", other, items)
    assert {name: (out / name).read_bytes() for name in DATA} == first
    assert not list(out.glob(".*"))


def many(count: int, start: int = 0) -> list[dict]:
    """Clean English records that differ: eight invented words each, which no other record has."""
    rows = []
    for n in range(start, start + count):
        names = ", ".join(
            f"{a}{chr(97 + n % 26)}{chr(97 + n // 26)}ia"
            for a in ("cardi", "hepat", "neur", "derm", "nephr", "ost", "my", "splen")
        )
        text = f"What should a doctor do for someone who has {names} and no other signs?"
        rows.append(record(text, "to wait and see", "en"))
    return rows


def split_of(out: Path) -> dict[str, str]:
    return {row["input"]: split for split in SPLITS for row in read(out / f"t_{split}.jsonl")}


@pytest.mark.parametrize("same_folder", [True, False])
def test_a_split_stays_when_rows_are_added(tmp_path: Path, run: Callable, same_folder: bool) -> None:
    flags = ("--val", "0.3", "--test", "0.3")
    rows = many(60)
    run(write(tmp_path / "raw.jsonl", rows), *flags)
    before = split_of(tmp_path / "out")
    assert len(set(before.values())) == 3
    out = tmp_path / ("out" if same_folder else "fresh")
    added = many(40, 60)
    new = (
        added + rows if same_folder else rows + added
    )  # in a fresh folder only rows at the end can stay where they are
    report = run(write(tmp_path / "raw.jsonl", new), *flags, out=out)
    after = split_of(out)
    assert {text: after[text] for text in before} == before
    assert report["moves"] == []


def test_a_cluster_that_new_rows_join_moves_and_is_listed(tmp_path: Path, run: Callable) -> None:
    flags = ("--val", "0.3", "--test", "0.3", "--threshold", "0.4")
    words = [f"finding{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(60)]
    texts = {n: "What is it with " + " ".join(words[n : n + 24]) + "?" for n in range(0, 36)}

    def row(n: int) -> dict:
        return record(texts[n], "a cause that fits", "en")

    for far in range(12, 18):  # a pair too far apart to be one cluster, in different splits
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        run(write(tmp_path / "raw.jsonl", [row(0), row(far)]), *flags, "--skip", "wrong_language", "mixed_language")
        before = split_of(tmp_path / "out")
        if len(before) == 2 and len(set(before.values())) == 2:
            break
    else:
        pytest.fail("no pair fell into two splits")
    report = run(
        write(tmp_path / "raw.jsonl", [row(0), row(far), row(far // 2)]),
        *flags,
        "--skip",
        "wrong_language",
        "mixed_language",
    )
    after = split_of(tmp_path / "out")
    assert len({after[text] for text in before if text in after}) == 1
    moved = [text for text in before if text in after and after[text] != before[text]]
    assert len(report["moves"]) == len(moved) == 1


def test_the_registry_keeps_other_entries_and_leaves_empty_splits_out(
    tmp_path: Path, run: Callable, rows: list[dict]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset_info.json").write_text(json.dumps({"own": {"file_name": "x.json"}, "t_val": {"file_name": "old"}}))
    run(write(tmp_path / "raw.jsonl", rows), "--val", "0", "--test", "0")
    entries = json.loads((out / "dataset_info.json").read_text())
    assert set(entries) == {"own", "t_train"}


def test_a_kill_before_publishing_is_resumed_and_old_outputs_stay(tmp_path: Path, run: Callable, rows: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from scripts.prepare import batch, pipeline

    source = write(tmp_path / "raw.jsonl", rows)
    run(source)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in DATA}
    write(source, rows + many(3))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(source)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in DATA} == before
    with monkeypatch.context() as patch:
        patch.setattr(batch, "process", lambda *_: pytest.fail("a finished batch ran again"))
        assert run(source)["read"] == len(rows) + 3


def test_a_kill_between_two_renames_is_finished_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scripts.prepare import publish

    replace = os.replace

    def killed(one: str, other: str) -> None:
        if str(other).endswith("final2"):
            raise KeyboardInterrupt
        replace(one, other)

    def state() -> list[str]:
        return [(tmp_path / f"final{n}").read_text() for n in range(4)]

    for n in range(4):
        (tmp_path / f"final{n}").write_text("old")
    with monkeypatch.context() as patch, publish.work_folder(tmp_path, "t") as work:
        staged = {work / f"staged{n}": tmp_path / f"final{n}" for n in range(4)}
        for path in staged:
            path.write_text("new")
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            publish.publish(work, staged)
    assert state() == ["new", "new", "old", "old"]
    with publish.work_folder(tmp_path, "t"):
        assert state() == ["new"] * 4


def test_two_runs_of_one_name_at_once_are_refused(tmp_path: Path) -> None:
    from scripts.prepare import publish

    with publish.work_folder(tmp_path, "t"), pytest.raises(UserError, match="another run prepares t"):  # noqa: SIM117
        with publish.work_folder(tmp_path, "t"):
            pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["raw.jsonl", "--columns", "Question=nope"], "no row has the column 'nope'; found Question, Complex_CoT"),
        (["raw.jsonl", "--columns", "Frage=q"], "--columns Frage=q: expected OURS=THEIRS"),
        (["raw.jsonl", "--skip", "nonsense"], "--skip nonsense: no such filter"),
        (["raw.jsonl", "--val", "0.6", "--test", "0.5"], "--val and --test: found"),
        (["raw.jsonl", "--cutoff-len", "0"], "--cutoff-len: found 0"),
        (["raw.jsonl", "--name", "a/b"], "--name: found a/b"),
        (["raw.jsonl", "--num-proc", "0"], "--num-proc: found 0"),
        (["raw.jsonl", "--threshold", "0.01"], "--threshold: found 0.01"),
        (["raw.jsonl", "--tokenizer", "no/where/at/all"], "--tokenizer no/where/at/all: no such folder"),
        (["raw.jsonl", "--tokenizer", "."], "no tokenizer.json in this folder"),
        (["raw.jsonl", "--benchmarks", "raw.jsonl"], "raw.jsonl:1: found fields Question"),
        (["raw.jsonl", "--benchmarks", "nothing.jsonl"], "nothing.jsonl: no such file"),
        (["raw.jsonl", "absent.json"], "absent.json: no such file"),
        (["raw.jsonl", "--lang", "zh", "--cutoff-len", "5"], "no record was kept of"),
    ],
)
def test_wrong_calls_say_what_to_do(tmp_path: Path, run: Callable, rows: list[dict], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "raw.jsonl", rows)
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert message in str(error.value)
    assert not (tmp_path / "out/t_train.jsonl").exists() or "no record" in message


def test_own_columns_and_several_sources(tmp_path: Path, run: Callable, rows: list[dict]) -> None:
    one = write(
        tmp_path / "one.jsonl", [{"q": r["Question"], "t": r["Complex_CoT"], "a": r["Response"]} for r in rows[:3]]
    )
    two = write(
        tmp_path / "two.jsonl", [{"q": r["Question"], "t": r["Complex_CoT"], "a": r["Response"]} for r in rows[2:]]
    )
    report = run(one, two, "--columns", "Question=q", "Complex_CoT=t", "Response=a")
    assert report["by_source"][str(two)] == {"read": 5, "kept": 4, "reasons": {"duplicate_exact": 1}}


def test_exact_case_comes_first(tmp_path: Path, run: Callable, rows: list[dict]) -> None:
    run(write(tmp_path / "raw.jsonl", [row | {"question": "the multiple-choice form"} for row in rows]))
    assert all(
        row["input"] != "the multiple-choice form" for s in SPLITS for row in read(tmp_path / f"out/t_{s}.jsonl")
    )


def test_what_records_hold_is_shown_as_text_in_the_page(tmp_path: Path, run: Callable, rows: list[dict]) -> None:
    rows.append({"Question": "<script>alert(1)</script> | a", "Complex_CoT": "", "Response": ""})
    run(write(tmp_path / "raw.jsonl", rows))
    page = (tmp_path / "out/report.html").read_text("utf-8")
    assert "<script" not in page
    assert "alert(1)" in page


def converter(name: str, folder: Path) -> Callable[[dict], dict]:
    """LLaMA-Factory's own reading of one registered data set."""
    from llamafactory.data.converter import AlpacaDatasetConverter
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments

    return AlpacaDatasetConverter(get_dataset_list([name], str(folder))[0], DataArguments())


KEYS = st.sampled_from(["Question", "Complex_CoT", "Response", "lang", "id", "other"])
TEXT = st.one_of(st.text(max_size=40), st.sampled_from([GOOD[k] for k in ("Question", "Complex_CoT", "Response")]))
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT)
VALUES = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=8
)
ROWS = st.one_of(VALUES, st.fixed_dictionaries({"Question": TEXT, "Complex_CoT": TEXT, "Response": TEXT}))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(ROWS, max_size=8), raw=st.lists(st.binary(max_size=30), max_size=2))
def test_any_json_is_counted_and_what_is_kept_loads(
    tmp_path: Path, run: Callable, rows: list, raw: list[bytes]
) -> None:
    source, out = tmp_path / "any.jsonl", tmp_path / "any"
    shutil.rmtree(out, ignore_errors=True)
    lines = [json.dumps(row).encode() for row in rows] + [line.replace(b"\n", b" ") for line in raw]
    source.write_bytes(b"\n".join([json.dumps(GOOD).encode(), *lines]))
    report = run(source, "--val", 0, "--test", 0, out=out)  # the first row is good, so something is kept
    kept = [row for split in SPLITS for row in read(out / f"t_{split}.jsonl")]
    rejected = read(out / "rejected.jsonl")
    read_lines = sum(bool(line.strip()) for line in source.read_bytes().split(b"\n"))
    assert report["read"] == read_lines == len(kept) + len(rejected)
    assert report["kept"] + sum(report["reasons"].values()) == read_lines
    convert = converter("t_train", out)
    for split in SPLITS:
        path = out / f"t_{split}.jsonl"
        assert not path.stat().st_size or paj.read_json(path).num_rows == report["splits"][split]["records"]
    for row in kept:
        assert convert(row)["_response"] == [{"role": "assistant", "content": row["output"]}]
        assert row["input"].strip() == row["input"] != ""
        assert row["output"].count("<think>") == row["output"].count("</think>") == 1


def test_llamafactory_loads_what_was_prepared(tmp_path: Path, run: Callable, rows: list[dict]) -> None:
    from datasets import load_dataset

    run(write(tmp_path / "raw.jsonl", rows), "--val", "0", "--test", "0.5")
    for name in ("t_train", "t_test"):
        path, convert = tmp_path / f"out/{name}.jsonl", converter(name, tmp_path / "out")
        for row in load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")):
            turn = convert(row)
            assert turn["_prompt"] == [{"role": "user", "content": row["input"]}]
            assert turn["_response"] == [{"role": "assistant", "content": row["output"]}]


def test_what_looks_like_personal_data_is_kept_and_listed(
    tmp_path: Path, run: Callable, rows: list[dict], capsys: pytest.CaptureFixture
) -> None:
    rows[1]["Question"] += " Her mother can be reached under jane.doe@example.org."
    report = run(write(tmp_path / "raw.jsonl", rows))
    assert "personal data (email 1)" in capsys.readouterr().out
    assert [(row["line"], row["looks_like"]) for row in report["personal_data"]] == [(2, ["email"])]
    assert report["warnings"]["email"] == 1


def test_the_real_records_go_through(tmp_path: Path, run: Callable, shared: Path) -> None:
    source = shared / "data/raw/medical_o1_demo_en.json"
    report = run(source, "--tokenizer", shared / "tokenizer/deepseek-r1-distill-qwen")
    assert report["read"] == 198
    assert report["reasons"] == {"duplicate_near": 1}  # record 190 asks 149's question in other words
