"""The model card: metadata that the hub accepts, n and intervals in its text, nothing of a base model alone."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard

from scripts.common import NOTICE, NOTICE_ZH, UserError, write_json
from scripts.evaluate import accuracy
from scripts.evaluate.model_card import write_card
from tests.evaluate.test_report import scored


def results(folder, model="org/base", adapter="saves/own run"):
    """A results folder with 24 items of which 6 were right before and 18 after."""
    rows = [scored(side, i, i < 6 or (side == "tuned" and i < 18)) for side in ("base", "tuned") for i in range(24)]
    subject = {"id": "s", "model": model, "adapter": adapter, "template": "qwen", "hashes": {"tuned": "0a" * 32}}
    settings = {"seeds": [42], "forms": {"base": "own", "tuned": "thinking"}, "base_form_chosen": {"by": "default"}}
    about = {"subject": subject, "settings": settings, "engine": "transformers", "precision": "nf4", "provenance": {}}
    write_json(folder / "accuracy.json", {"tasks": accuracy.summarise(rows), "behind": {}} | about)
    return folder


def test_metadata_is_what_the_hub_reads(tmp_path):
    text = write_card(results(tmp_path), tmp_path / "card.md", "apache-2.0").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert (header["base_model"], header["license"], header["library_name"]) == ("org/base", "apache-2.0", "peft")
    read = ModelCard(text).data
    assert read.model_name == "own run"
    (found,) = read.eval_results
    assert (found.dataset_name, found.metric_type, found.metric_value) == ("bench", "accuracy", 0.75)
    assert "n = 24" in found.metric_name


def test_its_text_says_n_and_intervals(tmp_path):
    text = write_card(results(tmp_path), tmp_path / "card.md", "mit").read_text()
    assert NOTICE in text
    assert NOTICE_ZH in text
    row = next(line for line in text.splitlines() if line.startswith("| accuracy: bench"))
    assert "| 24 | 24 | 25.0% [" in row
    assert "gain in accuracy" in text


def test_a_folder_on_this_machine_is_no_base_model_of_the_hub(tmp_path):
    text = write_card(results(tmp_path, model=str(tmp_path)), tmp_path / "card.md", "mit").read_text()
    assert "base_model" not in yaml.safe_load(text.split("---")[1])


def test_a_base_model_alone_has_no_card(tmp_path):
    with pytest.raises(UserError, match="make eval"):
        write_card(results(tmp_path, adapter=None), tmp_path / "card.md", "mit")
