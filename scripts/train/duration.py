"""How long a training run will take: from measured rows scaled to this card, or from the run's own first steps.

Scaled: tokens/s = measured tokens/s * (measured matrix weights / these) * (this card's rate / the measured card's).
Rows: docs/bench_train.json. Rates: the makers' data sheets, dense bfloat16 (float16 on cards without it), TFLOP/s.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.common import ROOT, UserError, counted, read_json
from scripts.train.memory import linear_weights
from scripts.train.planned import PlannedRun

RATES = {  # a part of the card's name → TFLOP/s; the first that fits counts
    "H200": 989, "H100": 989, "H20": 148, "A100": 312, "A800": 312, "L40S": 362, "L40": 181, "L20": 119, "L4": 121,
    "A6000": 155, "A5000": 111, "A40": 150, "A10": 125, "T4": 65, "V100": 125, "B200": 2250, "5090": 210, "5080": 113,
    "5070": 62, "4090": 165, "4080": 98, "4070": 58, "4060": 30, "3090": 71, "3080": 60, "3060": 26, "2080": 54,
}  # fmt: skip
CPU_SECONDS = (1.7e-11, 4e-11)  # per token and weight: the 0.5B base on 2 cores, quiet and busy
MEASURED_WEIGHTS = 6.53e9  # of the matrix products of DeepSeek-R1-Distill-Qwen-7B, whose shape the rows have
TIMED_STEPS = 6


def in_words(low: float, high: float) -> str:
    """A range of seconds for people."""
    unit, size = ("hours", 3600) if high > 5400 else ("minutes", 60)
    low, high = low / size, high / size
    return f"about {low:.1f} to {high:.1f} {unit}" if high >= 1 else f"under a {unit[:-1]}"


def estimate(run: PlannedRun) -> str:
    """One sentence: steps, records per step and hours as a range, or why no time can be told."""
    data, lengths = run.parsed["data"], run.records.lengths
    rows = math.ceil(sum(lengths) / data.cutoff_len) if data.packing else len(lengths)
    steps = run.steps(rows)
    said = f"{counted(steps, 'step')} of {counted(run.batch, 'row' if data.packing else 'record')}"
    weights = linear_weights(run.config)
    tokens = sum(lengths) * steps * run.batch / max(1, rows)
    if not run.gpus:
        return f"{said}: {in_words(*(tokens * weights * rate for rate in CPU_SECONDS))} on 2 cores"
    return f"{said}{on_gpu(bool(run.recipe.get('use_unsloth')), tokens / run.gpus, weights)}"


def on_gpu(unsloth: bool, tokens: float, weights: float) -> str:
    """How long so many tokens take one GPU of this kind, from the newest row that was measured with the 7B model."""
    import torch

    measured = read_json(ROOT / "docs/bench_train.json")
    wanted = {"variant": "ours" if unsloth else "plain", "gpus": 1, "shape": "7b"}
    row = [row for row in measured if row.get("tokens_per_s") and wanted.items() <= row.items()][-1]
    there = next(part for part in RATES if part in row["machine"])
    name = torch.cuda.get_device_name()
    here = next((part for part in RATES if part in name), None)
    if here is None:
        return f"; {name} is not in the table of scripts/train/duration.py: try --time"
    seconds = tokens / row["tokens_per_s"] * (weights / MEASURED_WEIGHTS) * (RATES[there] / RATES[here])
    low, high = (0.85, 1.2) if here == there else (0.8, 2.0)  # another card is limited by other things too
    source = f"from {row['tokens_per_s']:,.0f} tokens/s measured on one {there} with a {row['shape']} model"
    return f": {in_words(seconds * low, seconds * high)} ({source})"


def time_first_steps(run: PlannedRun) -> str:
    """Train the first steps in a folder that is thrown away; returns one sentence with hours for the whole run."""
    print(f"timing {TIMED_STEPS} steps …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        log, said = Path(folder) / "trainer_log.jsonl", Path(folder) / "said"
        changes = [f"output_dir={folder}", "logging_steps=1", "save_steps=1000000", "plot_loss=false", "report_to=none"]
        command = [sys.executable, "-m", "llamafactory.cli", "train", run.path, *run.overrides, *changes]
        moments: list[float] = []
        with said.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=stream) as child:
            while child.poll() is None and len(moments) < TIMED_STEPS:
                time.sleep(0.1)
                done = log.read_text().count('"loss"') if log.exists() else 0  # other lines are of evaluation
                moments += [time.monotonic()] * (done - len(moments))
            child.terminate()
        if len(moments) < 3:
            raise UserError("the first steps did not run:\n" + "\n".join(said.read_text().splitlines()[-12:]))
        steps = json.loads(log.read_text().splitlines()[0])["total_steps"]
    step = (moments[-1] - moments[1]) / (len(moments) - 2)  # the first two are warm-up
    total = in_words(0.9 * step * steps, 1.2 * step * steps)
    return f"measured {step:.1f} s a step over {len(moments) - 2} steps: {total} in all"
