"""Which split a run is validated on while it trains: the recipe's, its own data's, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.common import read_json
from scripts.train import run as runs
from scripts.train.duration import steps_of

FEWEST_STEPS = 10  # of a run whose validation loss says something


def count_rows(names: list[str], data: Any) -> int:
    """Rows of registered JSON Lines files; 0 where one of them is of another kind."""
    total = 0
    for name in names:
        for file in runs.registered_files(name, data.dataset_dir) or []:
            if file.suffix != ".jsonl":
                return 0
            total += sum(1 for line in file.open(encoding="utf-8") if line.strip())
    return min(total, data.max_samples or total)


def is_empty(name: str, registry: Path) -> bool:
    """Whether a split has no records; prepare leaves the file of such a split empty and does not register it."""
    registered = read_json(registry).get(name, {"file_name": f"{name}.jsonl"}) if registry.is_file() else {}
    file = registry.parent / registered.get("file_name", "")
    return file.is_file() and not file.read_bytes().strip()


def validation_overrides(recipe: dict[str, Any], parsed: dict[str, Any], given: list[str]) -> list[str]:
    """Overrides that mend a recipe's validation; what they change is printed.

    Where only ``dataset`` was overridden, its own NAME_val takes the place of the recipe's. Validation is left out
    where that split is missing or empty, or the run too short for it to say anything.
    """
    data = parsed["data"]
    wanted, trained = runs.names_of(data.eval_dataset), runs.names_of(data.dataset)
    if not wanted:
        return []
    registry, why, instead = Path(data.dataset_dir) / "dataset_info.json", "", []
    keys = {override.partition("=")[0] for override in given}
    if "dataset" in keys and "eval_dataset" not in keys and trained:
        own = trained[0].removesuffix("_train") + "_val"
        if own in read_json(registry):
            wanted, instead = [own], [f"eval_dataset={own}"] if [own] != wanted else []
        else:
            why = f"{trained[0]} has no split {own}"
    if not why and any(is_empty(name, registry) for name in wanted):
        why = "its split is empty"
    if not why:
        steps = steps_of([1] * count_rows(trained, data), parsed, 1)[0]
        why = f"{steps} steps are too short a run" if 0 < steps < FEWEST_STEPS else ""
    if not why:
        return instead
    print(f"validation on {', '.join(wanted)} is left out: {why}")
    best = ["load_best_model_at_end=false"] if recipe.get("load_best_model_at_end") else []
    return ["eval_dataset=null", "eval_strategy='no'", *best]
