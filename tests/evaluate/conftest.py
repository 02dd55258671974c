"""Runs that ended, with tiny models: what an evaluation needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from scripts.common import load_recipe
from scripts.train import run as runs
from tests.conftest import build_adapter, write_recipe, write_records, write_registry


def write_benchmark(path: Path, n: int = 6, lang: str = "en") -> Path:
    """``n`` multiple-choice items."""
    options = {"A": "fever", "B": "cough", "C": "rash", "D": "pain"}
    rows = [
        {"id": f"{lang}{i}", "lang": lang, "question": f"Which one is number {i}?", "options": options}
        | {"answer_idx": "ABCD"[i % 4]}
        for i in range(n)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_run(folder: Path, base: Path, template: str, **more: object) -> Path:
    """The folder of a run that ended: data, recipe, identity, a random adapter; returns the adapter's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "own_train.jsonl")
    write_records(folder / "own_test.jsonl", 3, "Another thought about fever.")
    write_registry(folder, own_train="own_train.jsonl", own_test="own_test.jsonl")
    output = folder / "run"
    path = write_recipe(folder / "recipe.yaml", base, "own_train", template=template, **more)
    recipe = load_recipe(str(path), [])
    runs.begin(output, runs.identity(str(path), [], recipe, runs.parse(recipe)))
    made = build_adapter(base, folder / "adapter")
    for file in made.iterdir():
        shutil.copy(file, output)
    shutil.rmtree(made)
    (output / "train_results.json").write_text("{}")
    runs.finish(output)
    return output


@pytest.fixture(scope="session")
def ended_runs(tiny_models, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run that ended per template."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: make_run(folder / name, base, name) for name, base in tiny_models.items()}


@pytest.fixture(scope="session")
def ended_run(ended_runs) -> Path:
    return ended_runs["deepseekr1"]
