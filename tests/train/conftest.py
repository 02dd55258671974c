"""A sound recipe over tiny prepared splits, in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import write_recipe, write_records, write_registry


@pytest.fixture
def recipe(tmp_path, tiny_model) -> Path:
    """A recipe that trains on six records in steps of two; two others are held out."""
    write_records(tmp_path / "train.jsonl")
    write_records(tmp_path / "test.jsonl", 2, "Another thought.")
    rows = (tmp_path / "test.jsonl").read_text().replace("(0)", "(held out)").replace("(1)", "(held out)")
    (tmp_path / "test.jsonl").write_text(rows)
    write_registry(tmp_path, demo_train="train.jsonl", demo_test="test.jsonl")
    more = {"quantization_bit": 4, "bf16": True, "per_device_train_batch_size": 2}
    return write_recipe(tmp_path / "recipe.yaml", tiny_model, "demo_train", **more)
