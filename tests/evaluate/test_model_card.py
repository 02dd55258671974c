"""The model card: metadata that the hub accepts, n and intervals in its text, nothing of a base model alone."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from scripts.common import NOTICE, NOTICE_ZH, UserError
from scripts.evaluate.model_card import write_card
from tests.evaluate.results import write_results


def test_the_hub_reads_its_metadata_and_its_text_says_n_and_intervals(tmp_path):
    text = write_card(write_results(tmp_path), tmp_path / "card.md", "apache-2.0").read_text()
    read = ModelCard(text).data
    assert (read.base_model, read.license, read.library_name) == ("org/base", "apache-2.0", "peft")
    assert read.model_name == "own run"
    (found,) = read.eval_results
    assert (found.dataset_name, found.metric_type, found.metric_value) == ("bench", "accuracy", 0.75)
    assert "n = 24" in found.metric_name
    assert NOTICE in text
    assert NOTICE_ZH in text
    assert "gain in accuracy" in text
    assert "| accuracy (bench, 64 tokens) | 24 | 24 | 25.0% [" in text


def test_a_folder_on_this_machine_is_no_base_model_of_the_hub(tmp_path):
    text = write_card(write_results(tmp_path, model=str(tmp_path)), tmp_path / "card.md", "mit").read_text()
    assert ModelCard(text).data.base_model is None


def test_a_base_model_alone_has_no_card(tmp_path):
    with pytest.raises(UserError, match="make eval"):
        write_card(write_results(tmp_path, adapter=None), tmp_path / "card.md", "mit")
