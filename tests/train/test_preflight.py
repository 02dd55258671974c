"""Preflight: what would waste hours stops before they are spent, with a row that says what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.bench.stand_in import SHAPES
from scripts.common import UserError
from scripts.train import duration, planned, preflight
from scripts.train import run as runs
from scripts.train.planned import PlannedRun, Records, plan
from tests.conftest import write_registry
from tests.processes import start

VALIDATION = "eval_dataset: {}\neval_strategy: steps\neval_steps: 0.2\n"


def failures(recipe: Path, *overrides: str) -> dict[str, str]:
    """Name of each failed check → what it found."""
    rows = preflight.examine(PlannedRun(str(recipe), list(overrides)))
    return {row.name: row.found for row in rows if row.status == "FAIL"}


def test_a_sound_run_passes_and_nothing_is_written(tmp_path, recipe, capsys):
    run = PlannedRun(str(recipe), ["default_system=You are careful."])
    assert preflight.ready(run), capsys.readouterr().out
    preflight.show_records(run)
    said = capsys.readouterr().out
    assert "Ready: " + str(recipe) + " with default_system=You are careful." in said
    assert "3 steps of 2 records: under a minute on 2 cores" in said
    assert "this system text before it: 'You are careful.'" in said
    read, trained = said.split("Read, not trained:")[1].split("--- trained:")[:2]
    assert "<think>" not in read
    assert trained.strip().startswith("<think>")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "row", "says"),
    [
        ("learning_rat=1e-4", "recipe", "learning_rat"),
        ("finetuning_type=full", "recipe", "Quantization"),
        ('learning_rate="1e-4"', "recipe", "is '1e-4', expected a valid number: write it without quotes"),
        ('bf16="yes"', "recipe", "bf16 is 'yes', expected a valid boolean: write it without quotes"),
        ("cutoff_len=512.5", "recipe", "cutoff_len is 512.5, expected a valid integer"),
        ("learning_rate=true", "recipe", "learning_rate is True, expected a valid number"),
        ("lora_rank=[8]", "recipe", "lora_rank is [8], expected a valid integer: one value"),
        ("run_name=2024", "recipe", "run_name is 2024, expected a valid string: one value; quote a text of digits"),
        ("default_system=Answer in X: briefly", "recipe", "default_system is {'Answer in X': 'briefly'}, expected"),
        ("learning_rate=0", "recipe", "learning_rate is 0, expected more than 0 and less than 1"),
        ("learning_rate=1e4", "recipe", "learning_rate is 10000.0, expected more than 0 and less than 1"),
        ("do_train=false", "recipe", "nothing would be trained"),
        ("stage=pt", "recipe", "stage is pt; only sft is known here"),
        ("packing=true", "packing", "neat_packing=true"),
        ("dataset=nobody", "dataset", "no dataset named 'nobody'"),
        ("eval_dataset=nope", "dataset", "no dataset named 'nope'"),
        ("cutoff_len=32", "lengths", "cutoff_len 32"),
        ("template=qwen", "template", "set `template`"),
        ("enable_thinking=false", "thoughts", "no thought between"),
        ("dataset=demo_train,demo_test", "held out", "demo_test: a test split must not be trained on"),
        ("train_on_prompt=true", None, None),
        ("dataset=demo_train,demo_train", None, None),
        ("eval_dataset=demo_copy", "held out", "trained on too: 6 questions of demo_copy"),
        ("use_cpu=false", "accelerator", "no NVIDIA GPU"),
    ],
)
def test_a_mistake_is_one_failed_row_with_its_remedy(tmp_path, recipe, override, row, says):
    import torch

    if row == "accelerator" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    write_registry(tmp_path, demo_train="train.jsonl", demo_test="test.jsonl", demo_copy="train.jsonl")
    found = failures(recipe, override)
    assert list(found) == ([row] if row else []), found
    assert not row or says in found[row]


@pytest.mark.parametrize(
    ("val", "overrides", "left_out"),
    [
        ("", "num_train_epochs=9", "found no records of demo_val"),
        (None, "num_train_epochs=9", "found no records of demo_val"),
        ("same", "num_train_epochs=1", "3 steps: too short"),
        ("same", "num_train_epochs=9 dataset=other_train", "found no records of other_val"),
        ("same", "num_train_epochs=9", None),
    ],
)
def test_validation_is_left_out_where_it_would_stop_the_run_or_say_nothing(
    tmp_path, recipe, capsys, val, overrides, left_out
):
    """Left out by overrides, part of the identity. Prepare does not register an empty split (None)."""
    (tmp_path / "val.jsonl").write_text((tmp_path / "test.jsonl").read_text() if val else "")
    (tmp_path / "demo_val.jsonl").write_text("")
    names = {"demo_train": "train.jsonl", "other_train": "train.jsonl", "demo_test": "test.jsonl"}
    write_registry(tmp_path, **names | ({} if val is None else {"demo_val": "val.jsonl"}))
    recipe.write_text(recipe.read_text() + VALIDATION.format("demo_val"))
    run = plan(str(recipe), overrides.split())
    assert (run.parsed["data"].eval_dataset is None) == bool(left_out)
    assert run.parsed["training"].do_eval == (not left_out)
    assert (left_out or "") in capsys.readouterr().out
    assert bool(left_out) == ("eval_dataset=null" in run.identity["overrides"])


def test_own_data_is_validated_on_its_own_split(tmp_path, recipe):
    """As `make train ARGS="dataset_dir=data/own dataset=own_train"` with yamls/qlora.yaml, which names med_o1_val."""
    write_registry(tmp_path, own_train="train.jsonl", own_val="test.jsonl")
    recipe.write_text(recipe.read_text() + VALIDATION.format("med_o1_val"))
    own = ["dataset=own_train", "num_train_epochs=9"]
    assert plan(str(recipe), own).parsed["data"].eval_dataset == ["own_val"]
    asked = plan(str(recipe), [*own, "eval_dataset=nope"])
    assert asked.parsed["data"].eval_dataset == ["nope"], "what was asked for is not replaced"


THOUGHT = "<think>\nFirst the temperature.\n</think>\n\nRest."
ALPACA = {"instruction": "Fever?", "input": "", "output": THOUGHT}
TURNS = [{"from": "human", "value": "Fever?"}, {"from": "gpt", "value": THOUGHT}]
SHAREGPT = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}


@pytest.mark.parametrize(
    ("file", "rows", "about", "row", "says"),
    [
        ("a.json", [ALPACA] * 3, {}, None, ""),
        ("folder/a.json", [ALPACA] * 3, {}, None, ""),
        ("s.jsonl", {"conversations": TURNS}, SHAREGPT, None, ""),
        ("l.jsonl", ALPACA | {"instruction": "Fever. " * 700}, {}, "lengths", "longer than cutoff_len 512"),
        ("e.jsonl", "", {}, "dataset", "no data"),
        ("n.jsonl", ALPACA | {"output": "Rest."}, {}, "thoughts", "is trained by 1 of the 1 record "),
        ("d.json", [ALPACA, ALPACA | {"output": None}], {}, "dataset", "drops 1 record "),
        ("c.json", [ALPACA] * 3, {"num_samples": 2}, None, ""),
        ("k.json", [ALPACA], {"columns": {"prompt": "q", "response": "output"}}, "dataset", "its rows have no 'q'"),
    ],
)
def test_records_are_read_as_llama_factory_reads_them(tmp_path, recipe, file, rows, about, row, says):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(rows) if rows else "\n")
    entry = {"file_name": file.split("/")[0], **about}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"own": entry}))
    found = failures(recipe, "dataset=own")
    assert list(found) == ([row] if row else [])
    assert says in found.get(row, "")


@pytest.mark.parametrize("hub", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"USE_MODELSCOPE_HUB": "1"}])
def test_a_hub_that_does_not_answer_is_said_in_seconds(tmp_path, recipe, hub):
    """As a program, with no variable that says offline: the hubs' clients would retry for minutes, each check anew."""
    command = [sys.executable, "-m", "scripts.train.preflight", recipe, "model_name_or_path=no/such-model"]
    began = time.monotonic()
    program = start(command, tmp_path / "log", HF_HUB_OFFLINE="", MODELSCOPE_ENDPOINT="http://127.0.0.1:9", **hub)
    assert program.wait() == 1
    assert time.monotonic() - began < 15, "on a busy machine"
    said = program.text().removeprefix("checking the recipe, its records and this machine …\n")
    assert re.fullmatch(r"error: no/such-model: .*127.0.0.1:9 does not answer.*HF_ENDPOINT.*\n", said)


def test_a_dataset_of_a_hub_that_does_not_answer_is_not_waited_for(recipe, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    PlannedRun(str(recipe), [])
    assert os.environ["HF_HUB_OFFLINE"] == "1", "before any of the hub's libraries is imported"


@pytest.mark.parametrize("dataset", ["demo_train", "none_train,demo_train"])
def test_without_a_hub_a_missing_dataset_is_said_too(recipe, monkeypatch, dataset):
    monkeypatch.setattr(planned, "hub_answers", lambda: False)
    monkeypatch.setattr("scripts.common.server_answers", lambda address: False)
    with pytest.raises(UserError) as caught:
        PlannedRun(str(recipe), ["model_name_or_path=no/such-model", f"dataset={dataset}"])
    *data, hub = str(caught.value).splitlines()
    assert "does not answer" in hub
    assert [line.partition("named ")[2].partition(";")[0] for line in data] == (
        ["'none_train'"] if "none" in dataset else []
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such recipe"),
        ("a: [", "not a YAML mapping"),
        ("- a", "not a YAML mapping|expected keys"),
        ("a: 1", "expected keys"),
    ],
)
def test_an_unreadable_recipe_is_named(tmp_path, text, says):
    path = tmp_path / "r.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=says):
        PlannedRun(str(path), [])


def test_a_finished_or_foreign_run_is_refused(tmp_path, recipe, tiny_adapter):
    run = PlannedRun(str(recipe), [])
    shutil.copytree(tiny_adapter, tmp_path / "run")
    (tmp_path / "run/train_results.json").write_text("{}")
    runs.begin(run.output, run.identity)
    assert "finished" in failures(recipe)["output_dir"]
    assert "another recipe" in failures(recipe, "learning_rate=0.5")["output_dir"]


def test_checkpoints_and_a_download_want_room(recipe, monkeypatch):
    """A 14B model is 28 GB; one that is cached, or a folder, wants none."""
    free = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=18 * 2**30))
    run = PlannedRun(str(recipe), [])
    assert "checkpoints" in preflight.check_disk(run)
    big = {"hidden_size": 5120, "num_hidden_layers": 48, "intermediate_size": 13824, "num_attention_heads": 40}
    run.config = big | {"num_key_value_heads": 8, "vocab_size": 152064}
    run.model = "some/14b-model"
    with pytest.raises(UserError, match=r"base model want 2\d"):
        preflight.check_disk(run)
    monkeypatch.setattr(preflight, "is_cached", lambda model: True)
    assert "base model" not in preflight.check_disk(run)


@pytest.mark.parametrize(
    ("card", "says"),
    [("NVIDIA H100 80GB HBM3", "minutes"), ("NVIDIA GeForce RTX 4090", "hours"), ("Some New Card", "--time")],
)
def test_how_long_the_main_recipe_takes_is_foretold(monkeypatch, card, says):
    """20,000 records of 570 tokens on the 7B shape: 17 minutes at 11,095 tokens/s on an H100."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: card)
    monkeypatch.setattr(planned, "look_for_hub", lambda model: None)
    monkeypatch.setattr(planned, "read_config", lambda model: SHAPES["7b"])
    run = PlannedRun("yamls/qlora.yaml", [])
    settings = SimpleNamespace(**run.recipe, max_steps=-1)
    run.parsed = {"training": settings, "data": settings}
    run.records = Records([[0] * 570] * 20_000, [], 0)
    said = duration.estimate(run)
    assert said.startswith("417 steps of 48 records")
    assert says in said


@pytest.mark.slow
def test_the_first_steps_foretell_the_rest(recipe):
    assert "s a step" in duration.time_first_steps(PlannedRun(str(recipe), ["num_train_epochs=40"]))
