"""Every recipe that is shipped parses with LLaMA-Factory's own argument classes and stands on what the repo has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from scripts.common import ROOT
from scripts.train.preflight import mistyped
from scripts.train.run import parse

RECIPES = sorted(path for folder in ("yamls", "examples") for path in (ROOT / folder).glob("*.yaml"))
TRAINING = [path for path in RECIPES if "do_train" in yaml.safe_load(path.read_text())]
# Registered by `make demo` in data/demo and data/demo-tiny; everything else must be in a committed dataset_info.json.
PREPARED = {"demo_train", "demo_val", "demo_pretrain"}


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_recipe_parses_and_says_how_to_run_it(path):
    from llamafactory.hparams import get_infer_args

    recipe = load(path)
    if path in TRAINING:
        assert mistyped(recipe) == []
        parse(recipe)
    else:
        get_infer_args({key: value for key, value in recipe.items() if not key.startswith("export_")})
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"{path.parent.name}/{path.name}" in header, "the first lines give the launch line"


def test_datasets_are_registered():
    for path in TRAINING:
        recipe = load(path)
        registry = ROOT / recipe["dataset_dir"] / "dataset_info.json"
        known = PREPARED | set(json.loads(registry.read_text()) if registry.exists() else {})
        unknown = {name.strip() for name in recipe["dataset"].split(",")} - known
        assert not unknown, f"{path}: {unknown}"


def test_a_recipe_has_a_folder_of_its_own_and_loses_nothing():
    for path in TRAINING:
        recipe = load(path)
        assert recipe["output_dir"] == f"saves/{path.stem}", path
        assert not recipe.get("overwrite_output_dir"), f"{path}: would lose the run before"
        assert "max_samples" not in recipe, f"{path}: would train on a part in silence"
        assert not recipe.get("load_best_model_at_end") or recipe["num_train_epochs"] >= 2, f"{path}: one epoch"


def test_the_main_recipe_is_the_one_the_project_promises():
    recipe = load(ROOT / "yamls/qlora.yaml")
    assert recipe["model_name_or_path"] == "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    assert recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"] == 48
    wanted = {
        "quantization_bit": 4, "quantization_type": "nf4", "double_quantization": True, "lora_rank": 8,
        "lora_alpha": 16, "lora_dropout": 0, "lora_target": "all", "cutoff_len": 2048, "num_train_epochs": 1,
        "learning_rate": 1e-4, "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "bf16": True, "save_steps": 500,
        "plot_loss": True, "template": "deepseekr1", "dataset_dir": ".",
    }  # fmt: skip
    assert {key: recipe.get(key) for key in wanted} == wanted


def test_documents_name_only_files_that_exist():
    texts = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *(ROOT / "docs").glob("*.md"), *RECIPES]
    named = re.compile(r"(?<![\w/.-])((?:yamls|examples|scripts|docs|tests)/[\w./-]+\.(?:yaml|py|md|json|sh|png))\b")
    found = {(path.name, name) for path in texts for name in named.findall(path.read_text()) if "NAME" not in name}
    assert {(path, name) for path, name in found if not (ROOT / name).exists()} == set()
