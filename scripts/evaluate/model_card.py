"""A Hugging Face model card from a results folder: ``python -m scripts.evaluate model-card results/demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.common import UserError, write_text
from scripts.evaluate.report import collect, load, render


def front_matter(folder: Path, run: dict[str, Any], licence: str) -> str:
    """The card's YAML header with the tuned model's accuracies as ``model-index``."""
    import yaml

    results = []
    for task, about in load(folder / "accuracy.json").get("tasks", {}).items():
        budget, cell = list(about["budgets"].items())[-1]
        if "tuned" in cell:
            name = f"{task}, thinking budget {budget} tokens, n = {cell['tuned']['n']}"
            metric = {"type": "accuracy", "value": round(cell["tuned"]["acc"], 4), "name": name}
            about = {"task": {"type": "text-generation"}, "dataset": {"type": task, "name": task}}
            results.append(about | {"metrics": [metric]})
    header: dict[str, Any] = {"language": ["en", "zh"], "license": licence, "library_name": "peft"}
    header |= {"base_model": run["model"], "pipeline_tag": "text-generation", "tags": ["medical", "reasoning", "lora"]}
    if results:
        header["model-index"] = [{"name": run["name"], "results": results}]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def write_card(folder: Path, out: Path, licence: str) -> Path:
    """Write the card; raises UserError for a folder without an evaluation of a tuned model."""
    run = load(folder / "run.json")
    if not run.get("adapter"):
        raise UserError(f"{folder}: no run.json that names an adapter; run `make eval` on a fine-tune first")
    found = collect(folder) | {"title": run["name"], "pictures": {}}
    write_text(out, f"{front_matter(folder, run, licence)}\n{render('markdown', found, card=True)}")
    return out
