"""Preflight: what would waste hours stops before they are spent, with a row that says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from scripts.common import UserError, load_recipe
from scripts.train import duration, preflight
from scripts.train import run as runs
from scripts.train.planned import PlannedRun, plan
from tests.conftest import write_records, write_registry

RECIPE = """
model_name_or_path: {model}
stage: sft
do_train: true
finetuning_type: lora
lora_target: all
dataset_dir: {data}
dataset: demo_train
template: deepseekr1
cutoff_len: 512
learning_rate: 1.0e-4
num_train_epochs: 1
per_device_train_batch_size: 2
use_cpu: true
bf16: true
output_dir: {output}
report_to: none
"""


@pytest.fixture
def recipe(tmp_path, tiny_model) -> Path:
    """A sound recipe over splits of six and two records, in a folder of its own."""
    write_records(tmp_path / "train.jsonl")
    write_records(tmp_path / "test.jsonl", 2, "Another thought.")
    rows = (tmp_path / "test.jsonl").read_text().replace("(0)", "(held out)").replace("(1)", "(held out)")
    (tmp_path / "test.jsonl").write_text(rows)
    write_registry(tmp_path, demo_train="train.jsonl", demo_test="test.jsonl")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(model=tiny_model, data=tmp_path, output=tmp_path / "run"))
    return path


def examine(recipe: Path, overrides: list[str] | str = "") -> dict[str, preflight.Row]:
    overrides = overrides.split() if isinstance(overrides, str) else overrides
    return {row.name: row for row in preflight.examine(PlannedRun(str(recipe), overrides))}


def failures(recipe: Path, overrides: list[str] | str = "") -> dict[str, str]:
    return {name: row.found for name, row in examine(recipe, overrides).items() if row.status == "FAIL"}


def test_a_sound_run_passes_and_nothing_is_written(tmp_path, recipe, capsys):
    run = PlannedRun(str(recipe), ["learning_rate=2e-4"])
    assert preflight.ready(run), capsys.readouterr().out
    said = capsys.readouterr().out
    assert "Ready" in said
    assert "learning_rate=2e-4" in said, "the overrides are repeated"
    assert "3 steps of 2 records" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "row", "says"),
    [
        ("learning_rat=1e-4", "recipe", "learning_rat"),
        ("quantization_bit=4 finetuning_type=full", "recipe", "Quantization"),
        ("learning_rate='1e-4'", "recipe", "learning_rate is '1e-4', expected a valid number: write it without quotes"),
        ("bf16='yes'", "recipe", "bf16 is 'yes', expected a valid boolean: write it without quotes"),
        ("cutoff_len=512.5", "recipe", "cutoff_len is 512.5, expected a valid integer"),
        ("learning_rate=true", "recipe", "learning_rate is True, expected a valid number"),
        ("lora_rank=[8]", "recipe", "lora_rank is [8], expected a valid integer: one value"),
        ("run_name=2024", "recipe", "run_name is 2024, expected a valid string: one value; quote a text of digits"),
        (
            "default_system=Answer_in_X:_briefly",
            "recipe",
            "default_system is {'Answer in X': 'briefly'}, expected a valid string: one value; quote a text",
        ),
        ("packing=true", "packing", "neat_packing=true"),
        ("dataset=nobody", "dataset", "no dataset named 'nobody'"),
        ("eval_dataset=nope", "dataset", "no dataset named 'nope'"),
        ("model_name_or_path=no/such-model", "base model", "no/such-model"),
        ("cutoff_len=32", "lengths", "cutoff_len 32"),
        ("template=qwen", "template", "set `template`"),
        ("enable_thinking=false", "thoughts", "train no thought"),
        ("dataset=demo_train,demo_test", "held out", "demo_test: a test split must not be trained on"),
        ("use_cpu=false", "accelerator", "no NVIDIA GPU"),
        ("report_to=nosuchlogger", "libraries", "make setup-dev"),
    ],
)
def test_a_mistake_is_a_failed_row_with_its_remedy(recipe, override, row, says):
    import torch

    if row == "accelerator" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    overrides = [part.replace("'", '"').replace("_in_X:_", " in X: ") for part in override.split()]
    found = failures(recipe, overrides)
    assert row in found, found
    assert says in found[row]


def test_one_mistake_is_one_failure(recipe):
    """Thinking off is no wrong template, and a missing dataset is said once."""
    assert list(failures(recipe, "enable_thinking=false")) == ["thoughts"]
    assert list(failures(recipe, "dataset=nobody")) == ["dataset"]


def test_a_system_text_is_said(recipe):
    row = examine(recipe, ["default_system=You are a careful doctor."])["thoughts"]
    assert row.status == "warn"
    assert "careful doctor" in row.found


def test_a_question_that_is_trained_on_and_held_out_stops(tmp_path, recipe):
    shutil.copy(tmp_path / "train.jsonl", tmp_path / "test.jsonl")
    assert "6 questions of demo_test are trained on" in failures(recipe)["held out"]


def test_a_validation_split_is_read_and_must_not_be_trained_on(tmp_path, recipe):
    registry = json.loads((tmp_path / "dataset_info.json").read_text())
    registry["demo_val"] = registry["demo_train"]
    (tmp_path / "dataset_info.json").write_text(json.dumps(registry))
    assert "demo_val are trained on" in failures(recipe, "eval_dataset=demo_val eval_strategy=epoch")["held out"]


@pytest.mark.parametrize(
    ("val", "overrides", "left_out"),
    [
        ("", "num_train_epochs=9", "its split is empty"),
        (None, "num_train_epochs=9", "its split is empty"),
        ("same", "num_train_epochs=1", "3 steps are too short"),
        ("same", "num_train_epochs=9 dataset=other_train", "other_train has no split other_val"),
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
    validating(recipe, "demo_val")
    run = plan(str(recipe), overrides.split())
    assert (run.parsed["data"].eval_dataset is None) == bool(left_out)
    assert run.parsed["training"].do_eval == (not left_out)
    assert (left_out or "") in capsys.readouterr().out
    assert bool(left_out) == ("eval_dataset=null" in run.identity["overrides"])


def validating(recipe: Path, split: str) -> None:
    """Give the recipe validation on a split."""
    recipe.write_text(recipe.read_text() + f"eval_dataset: {split}\neval_strategy: steps\neval_steps: 0.2\n")


def test_own_data_is_validated_on_its_own_split(tmp_path, recipe):
    """As `make train ARGS="dataset_dir=data/own dataset=own_train"` with yamls/qlora.yaml, which names med_o1_val."""
    shutil.copy(tmp_path / "test.jsonl", tmp_path / "val.jsonl")
    write_registry(tmp_path, own_train="train.jsonl", own_val="val.jsonl")
    validating(recipe, "med_o1_val")
    run = plan(str(recipe), ["dataset=own_train", "num_train_epochs=9"])
    assert run.parsed["data"].eval_dataset == ["own_val"]
    named = plan(str(recipe), ["dataset=own_train", "num_train_epochs=9", "eval_dataset=nope"])
    found = {row.name: row.found for row in preflight.examine(named) if row.status == "FAIL"}
    assert "no dataset named 'nope'" in found["dataset"], "what was asked for is not replaced"


THOUGHT = "<think>\nFirst the temperature.\n</think>\n\nRest."
SHAPES = {
    "alpaca array": ("a.json", json.dumps([{"instruction": "Fever?", "input": "", "output": THOUGHT}] * 3), {}),
    "long instruction": (
        "l.jsonl",
        json.dumps({"instruction": "Fever for days. " * 400, "input": "", "output": THOUGHT}) + "\n",
        {},
    ),
    "sharegpt": (
        "s.jsonl",
        json.dumps({"conversations": [{"from": "human", "value": "Fever?"}, {"from": "gpt", "value": THOUGHT}]}) + "\n",
        {"formatting": "sharegpt", "columns": {"messages": "conversations"}},
    ),
    "no thought": ("n.jsonl", json.dumps({"instruction": "Fever?", "input": "", "output": "Rest."}) + "\n", {}),
    "folder": ("folder", None, {}),
}


@pytest.mark.parametrize(
    ("shape", "row", "says"),
    [
        ("alpaca array", None, ""),
        ("sharegpt", None, ""),
        ("folder", None, ""),
        ("long instruction", "lengths", "longer than cutoff_len 512"),
        ("no thought", "thoughts", "1 of 1 records train no thought"),
    ],
)
def test_records_are_read_as_llama_factory_reads_them(tmp_path, recipe, shape, row, says):
    name, text, about = SHAPES[shape]
    if text is None:
        (tmp_path / "folder").mkdir()
        for i in range(2):
            (tmp_path / f"folder/{i}.json").write_text(SHAPES["alpaca array"][1])
    else:
        (tmp_path / name).write_text(text)
    (tmp_path / "dataset_info.json").write_text(json.dumps({"own": {"file_name": name, **about}}))
    found = failures(recipe, "dataset=own")
    assert list(found) == ([row] if row else [])
    assert says in found.get(row, "")


def test_a_base_model_that_is_not_here_is_said_without_a_minute_of_retries(recipe, monkeypatch):
    import time

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    assert "HF_ENDPOINT" in failures(recipe, "model_name_or_path=no/such-model")["base model"]
    assert time.monotonic() - began < 20


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


def test_an_empty_dataset_stops(tmp_path, recipe):
    (tmp_path / "train.jsonl").write_text("\n")
    assert "dataset" in failures(recipe)


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
    [
        ("NVIDIA H100 80GB HBM3", "minutes"),
        ("NVIDIA GeForce RTX 4090", "hours"),
        ("Some New Card", "--time"),
    ],
)
def test_how_long_the_main_recipe_takes_is_foretold(monkeypatch, card, says):
    """20,000 records of 570 tokens on the 7B shape: 17 minutes at 11,300 tokens/s on an H100."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: card)
    recipe = load_recipe("yamls/qlora.yaml", [])
    config = {"hidden_size": 3584, "num_hidden_layers": 28, "intermediate_size": 18944, "num_attention_heads": 28}

    class Arguments:
        packing, cutoff_len, max_steps, num_train_epochs = False, 2048, -1, 1.0
        per_device_train_batch_size, gradient_accumulation_steps = 48, 1

    parsed = {"training": Arguments, "data": Arguments}
    said = duration.estimate(recipe, config | {"num_key_value_heads": 4}, [570] * 20_000, parsed)
    assert said.startswith("417 steps of 48 records")
    assert says in said


@pytest.mark.slow
def test_the_first_steps_foretell_the_rest(recipe):
    assert "s a step" in duration.time_first_steps(str(recipe), ["num_train_epochs=40"])
