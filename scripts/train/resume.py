"""How far the run in a folder came, and from which checkpoint it can go on.

LLaMA-Factory resumes silently: a rerun into a finished folder with other data trains 0 steps and exits 0, and a
checkpoint without its trainer_state.json raises. That is why a run's state is asked for before training starts.
"""

from __future__ import annotations

import json
import re
import zipfile
from itertools import count
from pathlib import Path
from typing import Any

from scripts.common import read_json, write_text
from scripts.train.run import IDENTITY


def checkpoints(output_dir: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimiser step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def weight_files(folder: Path) -> list[Path]:
    """An adapter's or a whole model's weights in ``folder``."""
    return [*folder.glob("adapter_model*.safetensors"), *folder.glob("model*.safetensors")]


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be resumed from: weights, optimiser, schedule and state are all there and complete."""
    from safetensors import SafetensorError, safe_open

    weights = weight_files(checkpoint)
    try:
        read_state = json.loads((checkpoint / "trainer_state.json").read_text())
        for file in weights:
            safe_open(file, framework="np").keys()  # compares the file's size with what its header says
    except (OSError, ValueError, SafetensorError):
        return False
    archives = [zipfile.is_zipfile(checkpoint / name) for name in ("optimizer.pt", "scheduler.pt")]
    return bool(read_state and weights) and all(archives)


def state(output_dir: Path, wanted: dict[str, Any]) -> str:
    """new, unfinished, finished, or foreign: not the run with the identity ``wanted``."""
    ended = (output_dir / "train_results.json").exists()
    if not ended and not checkpoints(output_dir):
        return "new"
    kept = read_json(output_dir / IDENTITY) if (output_dir / IDENTITY).exists() else {}
    if any(kept.get(key) != wanted[key] for key in ("settings", "model", "datasets", "validation")):
        return "foreign"
    return "finished" if ended and weight_files(output_dir) else "unfinished"


def set_aside(folder: Path, name: str) -> Path:
    """Rename a folder to the first of NAME-1, NAME-2, … that is free."""
    free = next(number for number in count(1) if not folder.with_name(f"{name}-{number}").exists())
    return folder.rename(folder.with_name(f"{name}-{free}"))


def set_aside_broken(output_dir: Path) -> list[str]:
    """Rename every incomplete last checkpoint to ``broken-…`` so that LLaMA-Factory resumes from a whole one."""
    moved = []
    for checkpoint in reversed(checkpoints(output_dir)):
        if is_whole(checkpoint):
            break
        target = set_aside(checkpoint, f"broken-{checkpoint.name}")
        moved.append(f"{checkpoint.name} was incomplete, set aside as {target.name}")
    return moved


def trim_log(output_dir: Path) -> None:
    """Drop trainer_log.jsonl's steps after the last checkpoint: the resumed run writes them again."""
    log = output_dir / "trainer_log.jsonl"
    if not log.exists():
        return
    last = max(map(step_of, checkpoints(output_dir)), default=0)
    lines = log.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]  # a kill cuts the last one short
    write_text(log, "".join(line for line in whole if json.loads(line)["current_steps"] <= last))
