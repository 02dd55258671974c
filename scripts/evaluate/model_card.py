"""A Hugging Face model card from a results folder: ``python -m scripts.evaluate model-card results/demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.common import NOTICE, UserError, write_text
from scripts.evaluate.report import to_markdown
from scripts.evaluate.sections import build, load

SHOWN = ("Read this first", "Before and after", "Answer accuracy by thinking budget", "Perplexity on held-out records")
SHOWN += ("Instruction following and format", "Preference and free-form answers", "Negative controls")
SHOWN += ("Training data and contamination",)


def front_matter(folder: Path, run: dict[str, Any], licence: str) -> str:
    """The card's YAML header with the tuned model's accuracies as ``model-index``."""
    import yaml

    metrics = []
    for task, about in (load(folder, "accuracy.json") or {"tasks": {}})["tasks"].items():
        budget, cell = list(about["budgets"].items())[-1]
        if "tuned" in cell:
            metric = {"type": "accuracy", "value": round(cell["tuned"]["acc"], 4)}
            name = f"{task}, thinking budget {budget} tokens, n = {cell['tuned']['n']}"
            data = {"type": task, "name": task}
            metrics.append(
                {"task": {"type": "text-generation"}, "dataset": data, "metrics": [{**metric, "name": name}]}
            )
    header: dict[str, Any] = {"language": ["en", "zh"], "license": licence, "library_name": "peft"}
    header |= {"base_model": run["model"], "pipeline_tag": "text-generation", "tags": ["medical", "reasoning", "lora"]}
    if metrics:
        header["model-index"] = [{"name": run["name"], "results": metrics}]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def write_card(folder: Path, out: Path, licence: str) -> Path:
    """Write the card; raises UserError for a folder without an evaluation of a tuned model."""
    run = load(folder, "run.json")
    if not run or not run.get("adapter"):
        raise UserError(f"{folder}: no run.json that names an adapter; run `make eval` on a fine-tune first")
    use = f"""## Use and limits

{NOTICE} The model thinks inside `<think>…</think>` before it answers; give it room to finish
(template `deepseekr1`, temperature 0.6, top_p 0.95). Its medical statements can be wrong and were not checked by
clinicians.

Base model: `{run["model"]}`. Recipe: `{run.get("recipe")}`, trained with LLaMA-Factory (QLoRA). Every number below
carries its n and 95% interval.

"""
    sections = [section for section in build(folder) if section.en in SHOWN]
    for section in sections:
        section.blocks = [block for block in section.blocks if block[0] != "image"]
    body = to_markdown(run["name"], sections, folder)
    title, rest = body.split("\n", 1)
    write_text(out, f"{front_matter(folder, run, licence)}\n{title}\n{rest.replace('## ', use + '## ', 1)}")
    return out
