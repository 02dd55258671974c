"""Measure training side by side on this machine: speed and memory, on stand-ins for model and records."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.bench.stand_in import SHAPES, build_data, build_model, flops_per_token, record_lengths
from scripts.common import ROOT, UserError, git_commit, machine, read_json, run_main, versions, write_json

EXAMPLES = """examples:
  python -m scripts.bench.train --tokenizer DIR                        every variant that has no row yet
  … --variants plain,original,ours --again
  … --variants examples/qlora_qwen3_8b.yaml@qwen3-8b
  … --variants ours --gpus 2                                           DDP, the same records per step
  … --variants examples/qlora_14b_fsdp.yaml@14b --gpus 2 --accelerate examples/accelerate/fsdp.yaml

Each variant is trained by LLaMA-Factory in a process of its own; its row is written as soon as it is measured."""


WORK = ROOT / "saves/bench"  # models, data and logs
ROWS = ROOT / "docs/bench_train.json"
LONGEST = 1800  # seconds for one variant
# Transformers sorts by length within up to 50 steps; 1,920 records make that 10, which a measurement walks through.
RECORDS = 1920


def batch(size: int, accumulation: int) -> dict[str, int]:
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}


# Changes to yamls/qlora.yaml, 48 records per optimiser step in each. Keys of our own: "shape" of the model; "limit" of
# the run's GPU memory, GiB; "every" record is this many tokens long, the worst that a batch can meet.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"use_unsloth": False, "group_by_length": False, **batch(4, 12)},
    "original": {"group_by_length": False},
    "ours": {"limit": 22},
    "ours at 2048 tokens": {"limit": 22, "every": 2048},
    "8 GB": {"shape": "1.5b"},
    "16 GB": batch(16, 3),
    "long records": {"cutoff_len": 8192, **batch(8, 6)},
    "14B": {"shape": "14b"},
    "bf16": {"quantization_bit": None, **batch(48, 1)},
}


def plan(wanted: str, args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], int | None]:
    """(what tells this row from others, the whole recipe, the length of every record where they are all as long)."""
    import yaml

    name, _, shape_name = wanted.partition("@")
    if not (name in VARIANTS or Path(name).is_file()) or (shape_name or "7b") not in SHAPES:
        raise UserError(f"{wanted}: not a variant ({', '.join(VARIANTS)}), a recipe, or one @ {', '.join(SHAPES)}")
    changes = dict(VARIANTS.get(name, {}))
    source = Path(name) if name.endswith(".yaml") else ROOT / "yamls/qlora.yaml"
    row = {"variant": source.stem if name.endswith(".yaml") else name}
    row |= {"shape": shape_name or changes.pop("shape", "7b"), "gpus": args.gpus, "attention": "flash"}
    row |= {"machine": machine(), "limit_gib": changes.pop("limit", None)}
    every = changes.pop("every", None)
    recipe = yaml.safe_load(source.read_text()) | changes
    for key in [key for key in recipe if key.startswith(("eval_", "per_device_eval"))]:
        del recipe[key]
    recipe |= {"dataset": "bench", "max_steps": 3 + args.steps, "logging_steps": 1, "save_strategy": "no"}
    recipe |= {"overwrite_output_dir": True, "plot_loss": False, "report_to": "none"}
    if not args.accelerate:  # a recipe for accelerate knows its GPUs; others share out the records of a step
        recipe["per_device_train_batch_size"] //= args.gpus
    return row, recipe, every


def train(recipe: dict[str, Any], limit: float | None, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train in a child process; its measurements, or {"error": …, "log_tail": …}. The log stays in ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / "recipe.yaml", recipe)  # JSON is YAML
    launch: list[str] = []
    if args.accelerate:
        launch = ["-m", "accelerate.commands.launch", "--config_file", args.accelerate, "--num_processes", args.gpus]
    elif args.gpus > 1:
        launch = ["-m", "torch.distributed.run", f"--nproc-per-node={args.gpus}", "--standalone"]
    command = [sys.executable, *launch, "-m", "scripts.bench.meter", folder / "recipe.yaml", folder / "out.json"]
    command += ["--limit-gib", limit] if limit else []
    env = os.environ | {"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1", "TOKENIZERS_PARALLELISM": "false"}
    env["TORCH_CUDNN_SDPA_DEPRIORITIZED"] = "1"  # flash attention, as on every card but the largest; make train sets it
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(args.gpus)))).split(",")
    env["CUDA_VISIBLE_DEVICES"] = ",".join(visible[: args.gpus])
    with (folder / "log.txt").open("w") as log:
        words = list(map(str, command))
        child = subprocess.Popen(words, stdout=log, stderr=log, env=env, cwd=ROOT, start_new_session=True)
        try:
            status: int | str = child.wait(LONGEST)
        except subprocess.TimeoutExpired:
            status = f"no end after {LONGEST} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # workers too: they would keep the GPU's memory
                os.killpg(child.pid, signal.SIGKILL)
    if status != 0:
        lines = (folder / "log.txt").read_text(errors="replace").splitlines()
        return {"error": f"status {status}", "log_tail": lines[-25:]}
    return read_json(folder / "out.json")


def figures(measured: dict[str, Any], config: dict[str, Any], lengths: list[int], gpus: int) -> dict[str, Any]:
    """A measurement as figures of a row: rates of real tokens, GiB, shares."""
    context = sum(n * n for n in lengths) / sum(lengths) / 2  # causal: half of its record
    rate = measured["real_tokens"] / measured["seconds"]
    peak = (measured["matmul_tflops"] or 0) * 1e12 * gpus
    kept = ("loss_curve", "step_seconds", "matmul_tflops", "unsloth_modules")
    return {
        "tokens_per_s": round(rate, 1),
        "hours_25k": round(25000 * sum(lengths) / len(lengths) / rate / 3600, 3),
        "reserved_gib": round(measured["reserved_gib"], 2),
        "allocated_gib": round(measured["allocated_gib"], 2),
        "padding_share": round(1 - measured["real_tokens"] / measured["all_tokens"], 4),
        "mfu": round(flops_per_token(config, context) * rate / peak, 4) if peak else None,
        **{key: measured[key] for key in kept},
    }


def with_ratios(rows: list[dict]) -> list[dict]:
    """Add each row's ratio to plain and original, where those were measured on the same, in one go."""
    same = ("shape", "gpus", "longest", "machine", "commit")
    for row in rows:
        for name in ("plain", "original"):
            others = [other for other in rows if other["variant"] == name and "tokens_per_s" in other]
            others = [other for other in others if all(other[key] == row[key] for key in same)]
            known = others and "tokens_per_s" in row
            row[f"ratio_to_{name}"] = round(row["tokens_per_s"] / others[0]["tokens_per_s"], 3) if known else None
    return rows


def measure(row: dict[str, Any], recipe: dict[str, Any], every: int | None, args: argparse.Namespace) -> dict[str, Any]:
    """Build what the variant needs, train it and complete its row."""
    begin = time.monotonic()
    records = 48 * recipe["max_steps"] if every else RECORDS
    lengths = [every] * records if every else record_lengths(records, max(1.0, recipe["cutoff_len"] / 2048))
    data, model = WORK / f"data{max(lengths)}", WORK / row["shape"]
    if not (data / "dataset_info.json").exists():
        build_data(data, args.tokenizer, lengths)
    build_model(SHAPES[row["shape"]], model, args.tokenizer)
    folder = WORK / "run" / row["variant"].replace(" ", "_")
    recipe |= {"model_name_or_path": str(model), "dataset_dir": str(data), "output_dir": str(folder / "out")}
    measured = train(recipe, row["limit_gib"], folder, args)
    fallback = bool(recipe.get("use_unsloth")) and measured.get("unsloth_modules") == 0
    row |= {"sharded": bool(args.accelerate), "longest": max(lengths), "unsloth_fallback": fallback}
    row["recipe"] = {key: value for key, value in recipe.items() if "dir" not in key and "path" not in key}
    row |= measured if "error" in measured else figures(measured, SHAPES[row["shape"]], lengths, args.gpus)
    row |= {"commit": git_commit(), "measured": time.strftime("%Y-%m-%d"), "wall_s": round(time.monotonic() - begin)}
    return row | {"versions": versions("torch", "transformers", "peft", "bitsandbytes", "unsloth", "llamafactory")}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench.train",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--variants", default=",".join(VARIANTS), help="NAME or RECIPE, each with @SHAPE if not 7b")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the 7B model's tokenizer")
    parser.add_argument("--steps", type=int, default=7, help="measured optimiser steps, after 3 of warm-up")
    parser.add_argument("--gpus", type=int, default=1, help="processes, one GPU each; they share a step's records")
    parser.add_argument("--accelerate", type=Path, metavar="CONFIG", help="start by accelerate with this config (FSDP)")
    parser.add_argument("--again", action="store_true", help="measure also what has a row")
    args = parser.parse_args()
    planned = [plan(wanted, args) for wanted in args.variants.split(",")]
    for row, recipe, every in planned:
        rows = read_json(ROWS) if ROWS.exists() else []
        old = [other for other in rows if row.items() <= other.items()]
        if old and "error" not in old[0] and not args.again:
            print(f"{row['variant']}: measured already")
            continue
        row = measure(row, recipe, every, args)
        write_json(ROWS, with_ratios([other for other in rows if other not in old] + [row]))
        shown = ("tokens_per_s", "mfu", "reserved_gib", "allocated_gib", "padding_share", "ratio_to_plain", "error")
        print(f"{row['variant']}: {row['wall_s']} s", {key: row.get(key) for key in shown}, flush=True)
        print("\n".join(row.get("log_tail", [])), end="", flush=True)
        if row["unsloth_fallback"]:
            raise UserError(f"{row['variant']} fell back from Unsloth; its log.txt under {WORK} says why")


if __name__ == "__main__":
    run_main(main)
