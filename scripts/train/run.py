"""A training run's directory: whose run it is, how far it came, and which of its checkpoints are whole.

LLaMA-Factory resumes silently: a rerun into a finished directory with other data trains 0 steps and exits 0, and a
checkpoint without its trainer_state.json raises. So a run's identity is kept beside it, in ``medcot.json``.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any, Literal

from scripts.common import UserError, file_hash, read_json, write_text

IDENTITY = "medcot.json"
State = Literal["new", "unfinished", "finished", "foreign"]
# Keys of a recipe that change where a run writes or what it prints, not what it learns.
COSMETIC = {
    "output_dir",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "plot_loss",
    "report_to",
    "run_name",
    "preprocessing_num_workers",
    "dataloader_num_workers",
}


def dataset_files(recipe: dict[str, Any]) -> list[Path]:
    """Local files of the recipe's datasets, from its registry; raises UserError for an unregistered or missing one."""
    folder = Path(recipe.get("dataset_dir", "data"))
    registry_path = folder / "dataset_info.json"
    registry = read_json(registry_path)
    files = []
    for name in (part.strip() for part in str(recipe.get("dataset") or "").split(",")):
        if name not in registry:
            raise UserError(
                f"{registry_path}: no dataset named {name!r}; found {', '.join(sorted(registry)) or 'none'}. "
                "Prepare it first: python -m scripts.prepare SOURCE --out data --name NAME"
            )
        if "file_name" not in registry[name]:
            continue  # a hub dataset: LLaMA-Factory fetches it
        file = folder / registry[name]["file_name"]
        if not file.exists():
            raise UserError(
                f"{registry_path}: dataset {name!r} names {file}, which does not exist. "
                "Prepare it first: python -m scripts.prepare SOURCE --out data --name NAME"
            )
        if file.stat().st_size == 0:
            raise UserError(f"{file}: the dataset is empty; nothing to train on. See the report.md beside it")
        files.append(file)
    return files


def held_out(run: dict[str, Any]) -> Path:
    """The test split of the data that a run (its ``medcot.json``) was trained on; UserError if there is none."""
    name = str(run["dataset"]).split(",")[0].strip().removesuffix("_train") + "_test"
    return dataset_files({"dataset": name, "dataset_dir": run["dataset_dir"]})[0]


def model_fingerprint(model: str) -> str:
    """Identity of a local model folder: config, and each weight file's name, size and ends; a hub id is its own."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]):
        if not file.exists():
            continue
        with file.open("rb") as stream:
            digest.update(f"{file.name} {file.stat().st_size}".encode() + stream.read(1 << 20))
            stream.seek(max(0, file.stat().st_size - (1 << 20)))
            digest.update(stream.read())
    return digest.hexdigest()


def identity(recipe_path: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """What makes this run this run: the recipe's learning keys, the data's bytes and the base model."""
    learning = {key: value for key, value in sorted(recipe.items()) if key not in COSMETIC}
    model = str(recipe["model_name_or_path"])
    return {
        "recipe": recipe_path,
        "recipe_hash": hashlib.sha256(json.dumps(learning).encode()).hexdigest(),
        "dataset": recipe.get("dataset"),
        "dataset_dir": recipe.get("dataset_dir"),
        "dataset_hash": file_hash(*dataset_files(recipe)),
        "model": model,
        "model_hash": model_fingerprint(model),
        "adapter_dir": recipe["output_dir"] if recipe.get("finetuning_type") == "lora" else None,
        "template": recipe.get("template"),
        "cutoff_len": recipe.get("cutoff_len"),
        "seed": recipe.get("seed"),
    }


def checkpoints(output_dir: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def weight_files(folder: Path) -> list[Path]:
    """An adapter's or a whole model's weights in ``folder``."""
    return [*folder.glob("adapter_model*.safetensors"), *folder.glob("model*.safetensors")]


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be resumed from: weights, optimiser, schedule and state are all there and complete."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
        weights = weight_files(checkpoint)
        for file in weights:
            with file.open("rb") as stream:
                header_bytes = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(header_bytes))
            ends = [value["data_offsets"][1] for key, value in header.items() if key != "__metadata__"]
            if file.stat().st_size != 8 + header_bytes + max(ends):
                return False
        return bool(weights) and all(zipfile.is_zipfile(checkpoint / name) for name in ("optimizer.pt", "scheduler.pt"))
    except (OSError, ValueError, KeyError):
        return False


def state(output_dir: Path, wanted: dict[str, Any]) -> State:
    """How far the run in ``output_dir`` came, and whether it is the ``wanted`` one."""
    started = bool(checkpoints(output_dir)) or (output_dir / "train_results.json").exists()
    if not started:
        return "new"
    keys = ("recipe_hash", "dataset_hash", "model_hash")
    kept = read_json(output_dir / IDENTITY) if (output_dir / IDENTITY).exists() else {}
    if any(kept.get(key) != wanted[key] for key in keys):
        return "foreign"
    return "finished" if weight_files(output_dir) and (output_dir / "train_results.json").exists() else "unfinished"


def set_aside_broken(output_dir: Path) -> list[str]:
    """Rename every incomplete last checkpoint to ``broken-…`` so that LLaMA-Factory resumes from a whole one."""
    moved = []
    for checkpoint in reversed(checkpoints(output_dir)):
        if is_whole(checkpoint):
            break
        target = checkpoint.with_name(f"broken-{checkpoint.name}")
        number = 1
        while target.exists():
            number += 1
            target = checkpoint.with_name(f"broken{number}-{checkpoint.name}")
        checkpoint.rename(target)
        moved.append(f"{checkpoint.name} was incomplete, set aside as {target.name}")
    return moved


def trim_log(output_dir: Path) -> None:
    """Drop trainer_log.jsonl's steps after the last checkpoint: the resumed run writes them again."""
    log = output_dir / "trainer_log.jsonl"
    if not log.exists():
        return
    last = checkpoints(output_dir)[-1:]
    step = int(last[0].name.rpartition("-")[2]) if last else 0
    kept = []
    for line in log.read_text().splitlines():
        try:
            if json.loads(line)["current_steps"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # the line that a kill cut short
    write_text(log, "".join(kept))
