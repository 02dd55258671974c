"""How long a training run will take: from measured rows scaled to this card, or from the run's own first steps.

Scaled: tokens/s = measured tokens/s * (measured matrix weights / these) * (this card's rate / the measured card's).
Rows: docs/bench_train.json. Rates: the makers' data sheets, dense bfloat16 (float16 on cards without it), TFLOP/s.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, read_json, read_jsonl
from scripts.train.memory import linear_sizes

RATES = {  # a part of the card's name → TFLOP/s; the first that fits counts
    **{"H200": 989, "H100": 989, "H20": 148, "A100": 312, "A800": 312, "L40S": 362, "L40": 181, "L20": 119, "L4": 121},
    **{"A6000": 155, "A5000": 111, "A40": 150, "A10": 125, "T4": 65, "V100": 125, "B200": 2250},
    **{"5090": 210, "5080": 113, "5070": 62, "4090": 165, "4080": 98, "4070": 58, "4060": 30},
    **{"3090": 71, "3080": 60, "3060": 26, "2080": 54},
}
CPU_SECONDS = (1.7e-11, 4e-11)  # per token and weight on 2 cores: docs/demo, quiet and busy
MEASURED_WEIGHTS = 6.53e9  # of the matrix products of DeepSeek-R1-Distill-Qwen-7B, whose shape the rows have
TIMED_STEPS = 6  # the first two are warm-up


def steps_of(lengths: list[int], parsed: dict[str, Any], processes: int) -> tuple[int, int]:
    """(optimiser steps, records per step) of a run over records of these lengths."""
    training, data = parsed["training"], parsed["data"]
    rows = math.ceil(sum(lengths) / data.cutoff_len) if data.packing else len(lengths)
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps * processes
    if training.max_steps > 0:
        return training.max_steps, batch
    return math.ceil(math.ceil(rows / batch) * training.num_train_epochs), batch


def measured_rows() -> list[dict[str, Any]]:
    """Rows of docs/bench_train.json on one GPU with the 7B model's shape and a speed."""
    rows = read_json(ROOT / "docs/bench_train.json")
    return [row for row in rows if row.get("tokens_per_s") and row["gpus"] == 1 and row["shape"] == "7b"]


def in_words(low: float, high: float) -> str:
    """A range of seconds for people."""
    unit, size = ("hours", 3600) if high > 5400 else ("minutes", 60)
    low, high = low / size, high / size
    return f"about {low:.1f} to {high:.1f} {unit}" if high >= 1 else f"under a {unit[:-1]}"


def estimate(recipe: dict[str, Any], config: dict[str, Any], lengths: list[int], parsed: dict[str, Any]) -> str:
    """One sentence: steps, records per step and hours as a range, or why no time can be told."""
    import torch

    gpu = torch.cuda.is_available() and not recipe.get("use_cpu")
    processes = torch.cuda.device_count() if gpu else 1
    steps, batch = steps_of(lengths, parsed, processes)
    said = f"{steps:,} steps of {batch} {'rows' if parsed['data'].packing else 'records'}"
    if not {"hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"} <= config.keys():
        return f"{said}; no time can be told for this kind of model: try --time"
    weights = config["num_hidden_layers"] * sum(i * o for i, o in linear_sizes(config))
    epochs = parsed["training"].num_train_epochs
    share = steps * batch / max(1, len(lengths)) if parsed["training"].max_steps > 0 else epochs
    tokens = sum(lengths) * share
    if not gpu:
        return f"{said}: {in_words(*(tokens * weights * rate for rate in CPU_SECONDS))} on 2 cores"
    name = torch.cuda.get_device_name()
    rate = next((rate for part, rate in RATES.items() if part in name), None)
    wanted = "ours" if recipe.get("use_unsloth") else "plain"
    row = next((row for row in reversed(measured_rows()) if row["variant"] == wanted), None)
    if rate is None or row is None:
        return f"{said}; {name} is not in the table of scripts/train/duration.py: try --time"
    there = next(part for part in RATES if part in row["machine"])
    speed = row["tokens_per_s"] * (MEASURED_WEIGHTS / weights) * (rate / RATES[there]) * processes
    seconds = tokens / speed
    slack = (0.85, 1.2) if there in name else (0.8, 2.0)  # another card is limited by other things too
    about = f"from {row['tokens_per_s']:,.0f} tokens/s measured on one {there} with a {row['shape']} model"
    return f"{said}: {in_words(seconds * slack[0], seconds * slack[1])} ({about})"


def time_first_steps(recipe_path: str, overrides: list[str]) -> str:
    """Run the first steps in a folder that is thrown away; returns one sentence with hours for the whole run."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "trainer_log.jsonl"
        changes = [f"output_dir={folder}", "logging_steps=1", "save_steps=1000000", "plot_loss=false", "report_to=none"]
        command = [sys.executable, "-m", "llamafactory.cli", "train", recipe_path, *overrides, *changes]
        print(f"timing {TIMED_STEPS} steps …", file=sys.stderr, flush=True)
        with tempfile.TemporaryFile("w+") as said:
            child = subprocess.Popen(command, stdout=said, stderr=said)
            try:
                rows = wait_for_steps(child, log)
            finally:
                child.terminate()
                child.wait()
            if rows is None:
                said.seek(0)
                raise UserError("the first steps did not run:\n" + "\n".join(said.read().splitlines()[-12:]))
    first, last = rows[1], rows[-1]
    step = (last["seconds"] - first["seconds"]) / max(1, last["step"] - first["step"])
    total = step * last["total"]
    return f"measured {step:.1f} s a step over {len(rows) - 2} steps: {in_words(0.9 * total, 1.2 * total)} in all"


def wait_for_steps(child: subprocess.Popen, log: Path) -> list[dict[str, float]] | None:
    """(step, total, seconds since the first was seen) of the first steps; None where the child ends before them."""
    began, seen = time.monotonic(), []
    while child.poll() is None and len(seen) < TIMED_STEPS:
        time.sleep(0.1)
        try:
            rows = [row for _, row in read_jsonl(log)] if log.exists() else []
        except UserError:  # a line half written
            continue
        for row in rows[len(seen) :]:
            seen.append(
                {"step": row["current_steps"], "total": row["total_steps"], "seconds": time.monotonic() - began}
            )
            if row["current_steps"] >= row["total_steps"]:
                return seen if len(seen) > 2 else None
    return seen if len(seen) > 2 else None
