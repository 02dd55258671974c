"""Preflight: what would waste hours stops before they are spent, with a row that says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from scripts.common import UserError
from scripts.train import preflight

RECIPE = Path("examples/qlora_cpu.yaml")


@pytest.fixture
def overrides(tmp_path, tiny_model) -> list[str]:
    """The CPU recipe pointed at a tiny model and two records in a folder of its own."""
    rows = [
        {"input": f"患者发热{n}天？", "output": "<think>\nFirst the temperature.\n</think>\n\nRest.", "lang": "zh"}
        for n in (2, 3)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"demo_train": {"file_name": "train.jsonl", "columns": {"prompt": "input", "response": "output"}}})
    )
    model = shutil.copytree(tiny_model, tmp_path / "model")
    return [f"model_name_or_path={model}", f"dataset_dir={tmp_path}", f"output_dir={tmp_path / 'run'}"]


def failures(overrides: list[str], recipe: Path = RECIPE) -> dict[str, str]:
    return {row.name: row.found for row in preflight.examine(str(recipe), overrides) if row.status == "FAIL"}


def test_a_sound_run_passes_and_leaves_its_identity(tmp_path, overrides):
    rows = preflight.examine(str(RECIPE), overrides)
    assert [row for row in rows if row.status == "FAIL"] == []
    assert {"recipe", "dataset", "base model", "tokenizer", "template", "lengths", "output_dir"} <= {
        r.name for r in rows
    }
    assert json.loads((tmp_path / "run/medcot.json").read_text())["dataset"] == "demo_train"


@pytest.mark.parametrize(
    ("override", "row", "says"),
    [
        ("learning_rat=1e-4", "recipe", "learning_rat"),
        ("quantization_bit=4 finetuning_type=full", "recipe", "Quantization"),
        ("dataset=nobody", "datasets", "no dataset named 'nobody'"),
        ("model_name_or_path=no/such-model", "base model", "HF_ENDPOINT"),
        ("cutoff_len=8", "lengths", "cutoff_len is 8"),
        ("template=qwen", "template", "set `template`"),
        ("use_cpu=false", "accelerator", "no NVIDIA GPU"),
    ],
)
def test_a_mistake_is_a_failed_row_with_its_remedy(overrides, override, row, says):
    import torch

    if "accelerator" in row and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    found = failures(overrides + override.split())
    assert row in found, found
    assert says in found[row]


def test_the_tokenizer_that_transformers_5_would_make_is_stopped(overrides):
    """transformers#45488: SentencePiece's pre-tokenizer over a byte-level vocabulary loses spaces and Chinese."""
    path = Path(overrides[0].partition("=")[2]) / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
    path.write_text(json.dumps(tokenizer))
    found = failures(overrides)
    assert "患者发热3天" in found["tokenizer"]
    assert "transformers 5" in found["tokenizer"]


def test_the_real_tokenizer_passes_and_its_transformers_5_form_does_not(shared, tmp_path):
    from transformers import AutoTokenizer

    folder = shutil.copytree(shared / "tokenizer/deepseek-r1-distill-qwen", tmp_path / "real")
    run = preflight.Run(str(RECIPE), [f"model_name_or_path={folder}"])
    run.tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [*preflight.check_tokenizer(run), *preflight.check_template(run)]
    assert [row.status for row in rows] == ["ok", "ok"], rows
    from tokenizers import pre_tokenizers

    run.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert [row.status for row in preflight.check_tokenizer(run)] == ["FAIL"]


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
        preflight.examine(str(path), [])


def test_an_empty_dataset_stops(tmp_path, overrides):
    (tmp_path / "train.jsonl").write_text("\n")
    assert "no records" in failures(overrides)["dataset"]


def test_a_finished_or_foreign_run_is_refused(tmp_path, overrides):
    preflight.examine(str(RECIPE), overrides)
    (tmp_path / "run/train_results.json").write_text("{}")
    (tmp_path / "run/adapter_model.safetensors").write_bytes(b"w")
    assert "finished" in failures(overrides)["output_dir"]
    assert "another recipe" in failures([*overrides, "learning_rate=0.5"])["output_dir"]
