"""A sound recipe over tiny prepared splits, in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_records, write_registry

RECIPE = """
model_name_or_path: {model}
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 4
lora_alpha: 8
dataset_dir: {folder}
dataset: demo_train
template: deepseekr1
cutoff_len: 512
quantization_bit: 4
learning_rate: 1.0e-4
num_train_epochs: 1
per_device_train_batch_size: 2
use_cpu: true
bf16: true
output_dir: {folder}/run
report_to: none
"""


@pytest.fixture
def recipe(tmp_path, tiny_model) -> Path:
    """A recipe that trains on six records in steps of two; two others are held out."""
    write_records(tmp_path / "train.jsonl")
    write_records(tmp_path / "test.jsonl", 2, "Another thought.")
    rows = (tmp_path / "test.jsonl").read_text().replace("(0)", "(held out)").replace("(1)", "(held out)")
    (tmp_path / "test.jsonl").write_text(rows)
    write_registry(tmp_path, demo_train="train.jsonl", demo_test="test.jsonl")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(model=tiny_model, folder=tmp_path))
    return path
