"""A Hugging Face model card from a results folder: ``python -m scripts.evaluate model-card results/demo``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scripts.common import NOTICE, NOTICE_ZH, UserError, write_text
from scripts.evaluate import render
from scripts.evaluate.report import collect
from scripts.page import plain

USE = """## Use

A LoRA adapter of `{base}`, trained and asked with LLaMA-Factory's template `{template}`. It thinks first and then
answers; both may be wrong.
"""


def results_for_hub(rows: list[dict[str, Any]]) -> list[Any]:
    """The tuned model's accuracies as the hub's evaluation results; n and interval stand with each."""
    from huggingface_hub import EvalResult

    found = []
    for row in rows:
        tuned = row["tuned"]
        if row["measure"] != "accuracy" or not tuned or tuned["value"] is None:
            continue
        benchmark, _, budget = row["of"].partition(", ")
        low, high = tuned["ci95"]
        result = EvalResult(
            task_type="question-answering",
            dataset_type=benchmark,
            dataset_name=benchmark,
            metric_type="accuracy",
            metric_name=f"accuracy, thinking budget {budget}, n = {tuned['n']}, 95% [{low:.3f}, {high:.3f}]",
            metric_value=round(tuned["value"], 4),
        )
        found.append(result)
    return found


def write_card(folder: Path, out: Path, licence: str) -> Path:
    """Write the card; raises UserError for a folder without an evaluation of a tuned model."""
    from huggingface_hub import ModelCardData

    found, say = collect(folder), render.speaker("en")
    subject = found["subject"]
    if not subject["adapter"]:
        raise UserError(f"{folder}: only a base model was evaluated; run `make eval` on a fine-tune first")
    base = subject["model"]
    header = ModelCardData(
        model_name=found["name"],
        base_model=base if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists() else None,
        language=["zh", "en"],
        license=licence,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["medical", "reasoning", "lora"],
        eval_results=results_for_hub(found["rows"]) or None,
    )
    parts = [f"---\n{header.to_yaml()}\n---", f"# {plain(found['name'])}", f"> {NOTICE}\n> {NOTICE_ZH}"]
    parts.append(plain(render.summary(found["rows"], say)))
    parts.append(f"## Before and after\n\n{render.comparison(found, say)}")
    parts.append(USE.format(base=base, template=subject["template"]))
    write_text(out, "\n\n".join(parts) + "\n")
    return out
