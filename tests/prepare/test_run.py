# ruff: noqa: E501 - texts in tables stay on one line
"""The command as a whole: nothing lost, the same bytes every time, splits that stay, files that LLaMA-Factory loads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.common import UserError
from scripts.prepare.split import SPLITS
from tests.prepare.conftest import EN, read, record, write

DATA = (
    *(f"t_{part}.jsonl" for part in (*SPLITS, "rejected")),
    *("t_report.json", "t_report.md", "t_report.html", "t_DATA_CARD.md", "dataset_info.json"),
)
GOOD = record(*EN[0], "en")
BAD_ROWS = [
    ("{not json", "not_json"),
    ("[1, 2]", "not_an_object"),
    (GOOD | {"Question": 7}, "not_text"),
    (GOOD | {"Question": None}, "no_question"),
    ({k: v for k, v in GOOD.items() if k != "Complex_CoT"}, "no_reasoning"),
    (GOOD | {"Response": " \n\u200b "}, "no_answer"),
    (GOOD | {"Complex_CoT": "Short."}, "short_reasoning"),
    (GOOD | {"lang": "zh"}, "wrong_language"),
    (GOOD | {"Complex_CoT": " ".join(f"Point {i} is that value {i * i} was seen on day {i + 3}." for i in range(400))}, "too_long"),
    (GOOD, "duplicate_exact"),
    (GOOD | {"Question": EN[0][0].replace("crushing", "terrible")}, "duplicate_near"),
    (record("A 71-year-old woman with atrial fibrillation and a metallic mitral valve asks which drug prevents stroke best?", "warfarin", "en"), "leak_verbatim"),
]  # fmt: skip


def many(count: int, start: int = 0) -> list[dict]:
    """Clean English records that differ: eight invented words each, which no other record has."""
    rows = []
    for n in range(start, start + count):
        stems = ("cardi", "hepat", "neur", "derm", "nephr", "ost", "my", "splen")
        names = ", ".join(f"{stem}{chr(97 + n % 26)}{chr(97 + n // 26)}ia" for stem in stems)
        thought = f"The names are {names}. None of them is known, so they need time, and {names[:9]} first."
        question = f"What should a doctor do for someone who has {names} and no other signs?"
        rows.append(record(question, "to wait", "en", Complex_CoT=thought))
    return rows


def split_of(out: Path) -> dict[str, str]:
    return {row["input"]: part for part in SPLITS for row in read(out / f"t_{part}.jsonl")}


def test_every_row_is_kept_or_rejected_with_its_reason(tmp_path: Path, run: Callable, rows: list[dict]) -> None:
    report = run(write(tmp_path / "raw.jsonl", rows + [row for row, _ in BAD_ROWS]))
    rejected = read(tmp_path / "out/t_rejected.jsonl")
    found = {row["line"]: row["reason"] for row in rejected}
    assert found == {len(rows) + 1 + n: reason for n, (_, reason) in enumerate(BAD_ROWS)}
    kept = [row for part in SPLITS for row in read(tmp_path / f"out/t_{part}.jsonl")]
    assert report["read"] == len(rows) + len(BAD_ROWS) == len(kept) + len(rejected)
    assert report["reasons"] == Counter(found.values())
    assert [source["read"] - source["kept"] for source in report["sources"]] == [len(BAD_ROWS)]
    assert {row["matched"] for row in rejected if row["reason"].startswith("leak")} == {"items/en1"}
    ids = {row["id"] for row in kept}
    assert {row["matched"] for row in rejected if row["reason"].startswith("duplicate")} <= ids
    assert len(ids) == len(kept)
    assert all("record" in row for row in rejected)


def test_prepared_records_have_the_contracts_form(tmp_path: Path, run: Callable, rows: list[dict]) -> None:
    rows[0]["id"] = rows[1]["id"] = "own"
    run(write(tmp_path / "raw.jsonl", rows))
    kept = {row["line"]: row for part in SPLITS for row in read(tmp_path / f"out/t_{part}.jsonl")}
    assert [kept[1]["id"], kept[2]["id"]] == ["own", "own-2"]
    assert (kept[1]["lang"], kept[1]["source"]) == ("en", str(tmp_path / "raw.jsonl"))
    assert kept[1]["input"] == rows[0]["Question"]
    assert kept[1]["output"] == f"<think>\n{rows[0]['Complex_CoT']}\n</think>\n\n{rows[0]['Response']}"
    assert set(kept[1]) == {"id", "lang", "source", "line", "input", "output"}


def test_lengths_are_those_that_llamafactory_trains(rows: list[dict], tiny_models: dict[str, Path]) -> None:
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.hparams import DataArguments

    from scripts.prepare.lengths import Lengths

    for template, model in tiny_models.items():
        lengths = Lengths(template, str(model))
        output = lengths.output(rows[4]["Complex_CoT"], rows[4]["Response"])
        form = lengths.format
        data = DataArguments(template=template, cutoff_len=10_000)
        processor = SupervisedDatasetProcessor(form.template, form.tokenizer, None, data)
        for system in ("", "Answer in one word."):
            prompt = [{"role": "user", "content": rows[4]["Question"]}]
            response = [{"role": "assistant", "content": output}]
            ids, _ = processor._encode_data_example(prompt, response, system or None, None, [], [], [])
            assert lengths.count(system, rows[4]["Question"], output) == len(ids), template


def test_the_files_are_the_same_for_any_number_of_processes(tmp_path: Path, run: Callable, rows: list[dict], items: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from scripts.prepare import run as module

    monkeypatch.setattr(module, "WINDOW", 10)
    monkeypatch.setattr(module, "CHUNK", 3)
    (tmp_path / "another").mkdir()
    other = shutil.copy(items, tmp_path / "another")
    source = write(tmp_path / "raw.jsonl", rows + [row for row, _ in BAD_ROWS] + rows[::-1])
    out, seen = tmp_path / "out", []
    for processes in (1, 3):
        report = run(source, "--num-proc", processes, "--benchmarks", items, other)
        assert report["benchmarks"] == {str(items): 2, str(other): 2}, "two files of one name stay two"
        seen.append({name: (out / name).read_bytes() for name in DATA})
    assert seen[0] == seen[1]
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("same_folder", [True, False])
def test_a_split_stays_when_rows_are_added(tmp_path: Path, run: Callable, same_folder: bool) -> None:
    flags = ("--val", "0.3", "--test", "0.3")
    rows = many(60)
    run(write(tmp_path / "raw.jsonl", rows), *flags)
    before = split_of(tmp_path / "out")
    assert len(set(before.values())) == 3
    out = tmp_path / ("out" if same_folder else "fresh")
    run(write(tmp_path / "raw.jsonl", (many(40, 60) + rows) if same_folder else (rows + many(40, 60))), *flags, out=out)
    after = split_of(out)
    assert {text: after[text] for text in before} == before


def test_records_that_share_their_reasoning_do_not_straddle_splits(tmp_path: Path, run: Callable) -> None:
    rows = many(40)
    for number, row in enumerate(rows):
        row["Complex_CoT"] = rows[number // 2 * 2]["Complex_CoT"]
    run(write(tmp_path / "raw.jsonl", rows), "--val", "0.3", "--test", "0.3")
    home = split_of(tmp_path / "out")
    assert all(home[rows[n]["Question"]] == home[rows[n + 1]["Question"]] for n in range(0, 40, 2))
    assert len(set(home.values())) == 3


def test_the_registry_keeps_other_entries_and_leaves_empty_splits_out(tmp_path: Path, run: Callable, rows: list[dict]) -> None:  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    old = {"own": {"file_name": "x.json"}, "t_val": {"file_name": "t_val.jsonl"}}
    (out / "dataset_info.json").write_text(json.dumps(old))
    run(write(tmp_path / "raw.jsonl", rows), "--val", "0", "--test", "0")
    assert set(json.loads((out / "dataset_info.json").read_text())) == {"own", "t_train"}


def test_a_run_that_keeps_nothing_leaves_the_earlier_splits(tmp_path: Path, run: Callable, rows: list[dict]) -> None:
    out = tmp_path / "out"
    run(write(tmp_path / "raw.jsonl", rows))
    splits = [*out.glob("t_t*.jsonl"), out / "t_val.jsonl", out / "dataset_info.json"]
    before = {path: path.read_bytes() for path in splits}
    empty = write(tmp_path / "empty.jsonl", [row | {"Complex_CoT": ""} for row in rows])
    with pytest.raises(UserError, match=f"no record was kept of {len(rows)} .no_reasoning {len(rows)}"):
        run(empty)
    assert {path: path.read_bytes() for path in splits} == before
    assert len((out / "t_rejected.jsonl").read_text().splitlines()) == len(rows)


@pytest.mark.parametrize("name", ["t_val.jsonl", "t_rejected.jsonl", "t_report.json"])
def test_no_source_is_replaced(tmp_path: Path, run: Callable, rows: list[dict], name: str) -> None:
    (tmp_path / "out").mkdir()
    source = write(tmp_path / "out" / name, rows)
    before = source.read_bytes()
    with pytest.raises(UserError, match="a source would be replaced"):
        run(source)
    assert source.read_bytes() == before


def test_nothing_of_another_name_is_replaced(tmp_path: Path, run: Callable, rows: list[dict]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    source = write(out / "t_train.jsonl", rows)
    with pytest.raises(UserError, match="a source would be replaced"):
        run(source)
    (out / "dataset_info.json").write_text(json.dumps({"u_train": {"file_name": "elsewhere.json"}}))
    with pytest.raises(UserError, match="u_train is another data set"):
        run(source, "--name", "u")
    before = source.read_bytes()
    run(source, "--name", "v")
    assert source.read_bytes() == before
    assert set(json.loads((out / "dataset_info.json").read_text())) >= {"u_train", "v_train"}


def test_runs_at_once_keep_each_others_entries(tmp_path: Path) -> None:
    from scripts.prepare.publish import publish, staging

    def one(number: int) -> None:
        with staging(tmp_path, f"n{number}") as folder:
            (folder / f"n{number}_train.jsonl").write_text("{}\n")
            publish(folder, tmp_path, f"n{number}", {"train": {"records": 1, "with_system": 0}})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(24)))
    assert len(json.loads((tmp_path / "dataset_info.json").read_text())) == 24
    with staging(tmp_path, "x"), pytest.raises(UserError, match="another run prepares x"):  # noqa: SIM117
        with staging(tmp_path, "x"):
            pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["raw.jsonl", "--columns", "Frage=q"], "--columns Frage=q: expected OURS=THEIRS"),
        (["raw.jsonl", "--val", "0.6", "--test", "0.5"], "--val and --test: found"),
        (["raw.jsonl", "--cutoff-len", "0"], "--cutoff-len: found 0"),
        (["raw.jsonl", "--name", "a/b"], "--name: found a/b"),
        (["raw.jsonl", "--num-proc", "0"], "--num-proc: found 0"),
        (["raw.jsonl", "--threshold", "0.01"], "--threshold: found 0.01"),
        (["raw.jsonl", "--template", "nope"], "--template nope: LLaMA-Factory has no template"),
        (["raw.jsonl", "--tokenizer", "no/where/at/all"], "--tokenizer no/where/at/all: no such folder"),
        (["raw.jsonl", "--tokenizer", "."], "no tokenizer.json in this folder"),
        (["raw.jsonl", "--benchmarks", "nothing.jsonl"], "nothing.jsonl"),
        (["raw.jsonl", "absent.json"], "absent.json"),
        (["raw.jsonl", "--lang", "zh", "--cutoff-len", "5"], "no record was kept of"),
    ],
)
def test_wrong_calls_say_what_to_do(tmp_path: Path, run: Callable, rows: list[dict], monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "raw.jsonl", rows)
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert message in str(error.value)
    assert not (tmp_path / "out/t_train.jsonl").exists()


def test_without_a_hub_it_says_so_at_once_or_goes_on_when_asked(tmp_path: Path, run: Callable, rows: list[dict], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:  # fmt: skip
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    source, begin = write(tmp_path / "raw.jsonl", rows), time.perf_counter()
    with pytest.raises(UserError, match=r"--tokenizer no/hub.*--no-lengths"):
        run(source, "--tokenizer", "no/hub")
    assert time.perf_counter() - begin < 20
    report = run(source, "--tokenizer", "no/hub", "--no-lengths", "--template", "qwen3")
    assert report["kept"] == len(rows)
    assert report["lengths"]["checked"] is False
    assert "Lengths were not checked" in capsys.readouterr().out


def test_personal_data_is_reported_and_can_be_left_out(tmp_path: Path, run: Callable, rows: list[dict], capsys: pytest.CaptureFixture) -> None:  # fmt: skip
    rows[1]["Question"] += " Her mother can be reached under jane.doe@example.org."
    source = write(tmp_path / "raw.jsonl", rows)
    report = run(source)
    assert "personal data: 1 (email 1)" in capsys.readouterr().out
    assert report["personal"] == {"rows": 1, "kinds": {"email": 1}, "rejected": False}
    assert run(source, "--reject-personal")["reasons"] == {"personal_data": 1}


def test_thoughts_in_the_answer_with_a_system_text(tmp_path: Path, run: Callable, rows: list[dict]) -> None:
    thoughts = [f"<r>{row['Complex_CoT']}</r>{row['Response']}" for row in rows]
    texts = zip(rows, thoughts, strict=True)
    alpaca = [{"instruction": "You are a doctor.", "input": r["Question"], "output": text} for r, text in texts]
    report = run(write(tmp_path / "raw.jsonl", alpaca), "--thought-tags", "<r>", "</r>", "--val", 0, "--test", 0)
    kept = read(tmp_path / "out/t_train.jsonl")
    assert report["system_texts"] == {"You are a doctor.": len(rows)}
    assert {row["system"] for row in kept} == {"You are a doctor."}
    assert kept[0]["output"] == f"<think>\n{rows[0]['Complex_CoT']}\n</think>\n\n{rows[0]['Response']}"
    registry = json.loads((tmp_path / "out/dataset_info.json").read_text())
    assert registry["t_train"]["columns"] == {"prompt": "input", "response": "output", "system": "system"}


KEYS = st.sampled_from(["Question", "Complex_CoT", "Response", "lang", "id", "other"])
TEXT = st.one_of(st.text(max_size=40), st.sampled_from([GOOD[k] for k in ("Question", "Complex_CoT", "Response")]))
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT)
VALUES = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=8
)
ROWS = st.one_of(VALUES, st.fixed_dictionaries({"Question": TEXT, "Complex_CoT": TEXT, "Response": TEXT}))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(ROWS, max_size=8))
def test_any_json_is_counted_and_what_is_kept_is_whole(tmp_path: Path, run: Callable, rows: list) -> None:
    out = tmp_path / "any"
    shutil.rmtree(out, ignore_errors=True)
    lines = [json.dumps(row) for row in (GOOD, *rows)]  # a text too: as it is it would be another line, or none
    report = run(write(tmp_path / "any.jsonl", lines), "--val", 0, "--test", 0, out=out)
    kept, rejected = read(out / "t_train.jsonl"), read(out / "t_rejected.jsonl")
    assert report["read"] == 1 + len(rows) == len(kept) + len(rejected)
    for row in kept:
        assert row["input"].strip() == row["input"] != ""
        assert row["output"].count("<think>") == row["output"].count("</think>") == 1


def test_llamafactory_loads_what_was_prepared(tmp_path: Path, run: Callable, rows: list[dict]) -> None:
    from datasets import load_dataset
    from llamafactory.data.converter import AlpacaDatasetConverter
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments

    run(write(tmp_path / "raw.jsonl", rows), "--val", "0", "--test", "0.5")
    for name in ("t_train", "t_test"):
        convert = AlpacaDatasetConverter(get_dataset_list([name], str(tmp_path / "out"))[0], DataArguments())
        path = tmp_path / f"out/{name}.jsonl"
        for row in load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")):
            turn = convert(row)
            assert turn["_prompt"] == [{"role": "user", "content": row["input"]}]
            assert turn["_response"] == [{"role": "assistant", "content": row["output"]}]


def test_a_killed_run_leaves_the_previous_outputs_whole(tmp_path: Path, run: Callable, rows: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from scripts.prepare import run as module

    source = write(tmp_path / "raw.jsonl", rows)
    run(source)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in DATA}
    write(source, rows + many(3))
    with monkeypatch.context() as patch:
        patch.setattr(module, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(source)
    (tmp_path / "out/.prepare-t").mkdir()
    (tmp_path / "out/.prepare-t/spool").write_text("left over by a kill")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in DATA} == before
    assert run(source)["read"] == len(rows) + 3


@pytest.mark.slow
def test_no_worker_outlives_a_killed_command(tmp_path: Path) -> None:
    source = write(tmp_path / "raw.jsonl", [record(f"Why does sign {n} come?", "so", "en") for n in range(50_000)])
    command = [sys.executable, "-m", "scripts.prepare", str(source), "--out", str(tmp_path / "out"), "--name", "t"]
    started = psutil.Popen([*command, "--no-lengths", "--num-proc", "2"], stderr=subprocess.DEVNULL)
    while len(workers := started.children()) < 2:
        assert started.poll() is None
        time.sleep(0.05)
    started.kill()
    started.wait()
    assert not psutil.wait_procs(workers, timeout=60)[1]


def test_a_rejected_row_that_utf8_cannot_hold_is_shown_all_the_same(tmp_path, run):
    broken = GOOD | {"Question": GOOD["Question"] + " \ud83d <img src=http://x.example/y.png>"}
    report = run(write(tmp_path / "a.jsonl", [*many(6), json.dumps(broken)]))
    assert report["reasons"] == {"not_text": 1}
    assert "? <img" in report["examples"]["not_text"][0]["text"]
    assert "\\<img" in (tmp_path / "out/t_report.md").read_text()


@pytest.mark.parametrize(
    ("changed", "reason", "evidence"),
    [
        ({"Response": "I'm sorry, but I cannot help with that."}, "refusal", "I cannot help"),
        ({"Response": "The artery is blocked. " * 3 + "Therefore the most likely one is the right cor"}, "cut_off_answer", "the right cor"),
        ({"Complex_CoT": GOOD["Complex_CoT"] + " And then the patient should"}, "cut_off_reasoning", "the patient should"),
    ],
)  # fmt: skip
def test_what_a_filter_found_is_shown(tmp_path, run, changed, reason, evidence):
    report = run(write(tmp_path / "a.jsonl", [*many(6), GOOD | changed]))
    assert evidence in report["examples"][reason][0]["matched"]
