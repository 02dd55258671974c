"""A Hugging Face model card from a results folder: ``python -m scripts.evaluate model-card results/demo``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scripts.common import NOTICE_ZH, UserError, write_text
from scripts.evaluate import render
from scripts.evaluate.report import collect


def result_for_hub(row: dict[str, Any]) -> Any:
    """The tuned model's accuracy on a benchmark as the hub's evaluation result, with n and interval."""
    from huggingface_hub import EvalResult

    tuned = row["tuned"]
    low, high = tuned["ci95"]
    told = f"thinking budget {row['budget']} tokens, n = {tuned['n']}, 95% [{low:.3f}, {high:.3f}]"
    return EvalResult(
        task_type="question-answering",
        dataset_type=row["of"],
        dataset_name=row["of"],
        metric_type="accuracy",
        metric_name=f"accuracy, {told}",
        metric_value=round(tuned["value"], 4),
    )


def write_card(folder: Path, out: Path, licence: str) -> Path:
    """Write the card; raises UserError for a folder without an evaluation of a tuned model."""
    from huggingface_hub import ModelCardData

    found = collect(folder)
    subject, base = found["subject"], found["subject"]["model"]
    if not subject["adapter"]:
        raise UserError(f"{folder}: only a base model was evaluated; run `make eval` on a fine-tune first")
    measured = [row for row in found["rows"] if row["measure"] == "accuracy" and row["tuned"]]
    header = ModelCardData(
        model_name=found["name"],
        base_model=base if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists() else None,
        language=["zh", "en"],
        license=licence,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["medical", "reasoning", "lora"],
        eval_results=[result_for_hub(row) for row in measured] or None,
    )
    text = render.fill("model_card.md.j2", found, "en", header=header.to_yaml(), notice_zh=NOTICE_ZH)
    write_text(out, text)
    return out
