"""Measure training side by side on this machine: ``python -m scripts.bench.train``; no hub is needed.

    python -m scripts.bench.train --tokenizer DIR                      plain, original, ours, then single changes
    python -m scripts.bench.train --variants plain,ours --minutes 9    these, as far as they fit into 9 minutes
    python -m scripts.bench.train --variants examples/x.yaml@14b       a recipe, on another model's shape
    python -m scripts.bench.train --variants ours --gpus 2             DDP, the same 48 records per optimiser step
    python -m scripts.bench.train --variants plain,ours --cudnn-attention      as PyTorch itself picks on an H100
    python -m scripts.bench.train --gpus 2 --accelerate examples/accelerate/fsdp.yaml \\
        --variants examples/qlora_14b_fsdp.yaml@14b                    FSDP, started as accelerate does
    python -m scripts.bench.train --check-packing                      does a record see its neighbour in a pack?

Builds the model's exact shape with random weights (speed and memory do not depend on them) and records of
medical-o1's lengths, trains each variant by LLaMA-Factory in a process of its own, and appends to docs/bench_train.json
after each. Run again, it goes on with the variants that have no figure yet.

MFU = (4 P + 12 L d c) * tokens/s / matrix rate: P weights of the matrix products, 2 P forward and 2 P back (LoRA needs
no gradients of frozen weights), L layers, d attention width, c mean context of a token (causal: half its record), bf16
matrix rate measured in the same process. HFU also counts the forward pass that gradient checkpointing repeats,
(6 P + 16 L d c). Real tokens only: work on padding counts as none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.common import (
    ROOT,
    UserError,
    git_commit,
    machine,
    read_json,
    read_jsonl,
    run_main,
    versions,
    write_json,
    write_jsonl,
)


def shape(hidden: int, layers: int, mlp: int, heads: int, kv: int, vocab: int = 152064, **more: Any) -> dict[str, Any]:
    """A Qwen2 config (or another by ``more``) with the given sizes."""
    return {
        **{"model_type": "qwen2", "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": mlp},
        **{"num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab},
        **{"max_position_embeddings": 32768, "rope_theta": 10000.0, "tie_word_embeddings": False},
        **more,
    }


SHAPES = {
    "7b": shape(3584, 28, 18944, 28, 4),
    "1.5b": shape(1536, 28, 8960, 12, 2, 151936),
    "14b": shape(5120, 48, 13824, 40, 8),
    "qwen3-8b": shape(4096, 36, 12288, 32, 8, 151936, model_type="qwen3", head_dim=128),
    "100m": shape(640, 12, 2560, 10, 2, 32768),
    "tiny": shape(64, 2, 128, 4, 2, 2048),
}
# PyTorch on an H100, H200 or B200 takes cuDNN's attention first, which plans anew, forward and backward, for each shape
# of a batch. With this in the environment it takes flash attention, as on other cards; make train sets it.
CUDNN_LAST = "TORCH_CUDNN_SDPA_DEPRIORITIZED"
NO_UNSLOTH = {"use_unsloth": False, "group_by_length": False}


def batch(size: int, accumulation: int) -> dict[str, int]:
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}


# Changes to yamls/qlora.yaml, 48 records per optimiser step in each. Our own keys: "limit" is the memory that the run
# may take, GiB; "every" makes each record this many tokens long, the worst that a batch can meet.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {**NO_UNSLOTH, **batch(4, 12)},
    "original": {"group_by_length": False, **batch(24, 2)},
    "ours": {"limit": 22},
    "ours at 2048 tokens": {"limit": 22, "every": 2048},
    "batch 48 by length": {**batch(48, 1), "limit": 22},
    "batch 8 by length": batch(8, 6),
    "neat packing + Liger": {**NO_UNSLOTH, "neat_packing": True, "enable_liger_kernel": True, **batch(2, 7)},
    "by length + Liger": {"use_unsloth": False, "enable_liger_kernel": True},
    "neat packing": {**NO_UNSLOTH, "neat_packing": True, **batch(2, 7)},
    "neat packing + Unsloth": {"group_by_length": False, "neat_packing": True, **batch(2, 7)},
    "packing + Unsloth": {"group_by_length": False, "packing": True, **batch(2, 7)},
    "batch 16 by length": {**batch(16, 3), "limit": 22},
    "batch 4 by length": batch(4, 12),
    "8-bit Adam": {"optim": "adamw_8bit", **batch(8, 6)},
    "plain batch 1": {**NO_UNSLOTH, **batch(1, 48)},
    "plain by length": {"use_unsloth": False, **batch(4, 12)},
    "plain without checkpointing": {**NO_UNSLOTH, **batch(4, 12), "disable_gradient_checkpointing": True},
    "plain eager attention": {**NO_UNSLOTH, **batch(4, 12), "flash_attn": "disabled"},
}


def record_lengths(count: int, scale: float = 1.0) -> list[int]:
    """Token counts like medical-o1's: mean 567, p95 790, max 1,356: a log-normal's quantiles, in random order."""
    normal = statistics.NormalDist(6.3171, 0.2158)
    values = [min(1356.0, 2.718281828459045 ** normal.inv_cdf((k + 0.5) / count)) for k in range(count)]
    values[-1] = 1356.0
    random.Random(42).shuffle(values)
    return [round(value * scale) for value in values]


def build_data(folder: Path, tokenizer_dir: Path, lengths: list[int]) -> None:
    """Write a record for each of ``lengths`` (tokens) as dataset "bench" into ``folder``."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    pieces = [piece.removeprefix("Ġ") for piece in sorted(tokenizer.get_vocab()) if piece.startswith("Ġ")]
    words = [word for word in pieces if word.isascii() and word.isalpha() and len(word) > 2]
    words = [word for word in words if len(tokenizer.encode(f" {word} {word}", add_special_tokens=False)) == 2][:4000]
    rng, rows = random.Random(42), []
    weights = [1 / (rank + 3) for rank in range(len(words))]  # Zipf, as in real text: there is something to learn
    for length in lengths:
        text = rng.choices(words, weights, k=length)
        ask, close = length // 8, length * 3 // 4
        question = " " + " ".join(text[:ask])
        answer = f"<think>\n {' '.join(text[ask:close])}\n</think>\n\n {' '.join(text[close:])}"
        extra = len(tokenizer.encode(question + answer, add_special_tokens=False)) + 4 - length  # marks of the template
        rows.append({"input": question, "output": answer.rsplit(" ", extra)[0] if extra > 0 else answer})
    write_jsonl(folder / "bench.jsonl", rows)
    write_json(
        folder / "dataset_info.json",
        {"bench": {"file_name": "bench.jsonl", "columns": {"prompt": "input", "response": "output"}}},
    )


def build_model(config: dict[str, Any], folder: Path, tokenizer_dir: Path) -> None:
    """Save the config's model with random bf16 weights, made on the GPU where there is one, layer by layer."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if (folder / "model.safetensors.index.json").exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    tokenizer.save_pretrained(folder)
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = config | marks | {"vocab_size": max(config["vocab_size"], len(tokenizer))}
    full = AutoConfig.for_model(**config, dtype="bfloat16")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(full, dtype=torch.bfloat16)
    model.config.save_pretrained(folder)
    torch.manual_seed(42)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shards: dict[str, dict[str, Any]] = {}
    for name, tensor in model.state_dict().items():
        part = name.split(".")[2] if ".layers." in name else "rest"
        value = torch.empty(tensor.shape, dtype=torch.bfloat16, device=device)
        value.fill_(1.0) if "norm" in name and name.endswith("weight") else value.normal_(0, 0.02)
        shards.setdefault(f"model-{part}.safetensors", {})[name] = value.cpu()
    for file, tensors in shards.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {name: file for file, tensors in shards.items() for name in tensors}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})


def flops_per_token(config: dict[str, Any], context: float, repeated: bool) -> float:
    """FLOPs of one training step per real token; ``context``: mean tokens that a token attends to."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    attention = hidden * head * (2 * heads + 2 * config["num_key_value_heads"])
    weights = config["num_hidden_layers"] * (attention + 3 * hidden * config["intermediate_size"])
    weights += hidden * config["vocab_size"]
    scores = config["num_hidden_layers"] * heads * head * context
    return (6 * weights + 16 * scores) if repeated else (4 * weights + 12 * scores)


def identity(wanted: str, args: argparse.Namespace) -> dict[str, Any]:
    """What tells the row of ``wanted``, NAME or NAME@SHAPE, from others: a second one takes the first one's place."""
    name, _, shape_name = wanted.partition("@")
    return {
        "variant": Path(name).stem if name.endswith(".yaml") else name,
        "shape": shape_name or args.shape,
        "gpus": args.gpus,
        "attention": "cuDNN" if args.cudnn_attention else "flash",
        "machine": machine(),
    }


def recipe_of(name: str, args: argparse.Namespace, steps: int) -> tuple[dict[str, Any], float | None, int | None]:
    """The variant's whole recipe, its memory limit (GiB) and the length of every record (tokens), where it has them."""
    import yaml

    source = Path(name) if name.endswith(".yaml") else ROOT / "yamls/qlora.yaml"
    recipe = yaml.safe_load(source.read_text()) | dict(VARIANTS.get(name, {}))
    limit, every = recipe.pop("limit", None), recipe.pop("every", None)
    recipe |= {"dataset": "bench", "max_steps": steps, "logging_steps": 1, "save_strategy": "no"}
    recipe |= {"overwrite_output_dir": True, "plot_loss": False, "report_to": "none"}
    if not args.accelerate:  # the variant's records per step are those of one GPU; accelerate's recipes know their GPUs
        size, steps_each = recipe["per_device_train_batch_size"], recipe["gradient_accumulation_steps"]
        shared = (
            batch(size, steps_each // args.gpus)
            if steps_each % args.gpus == 0
            else batch(size // args.gpus, steps_each)
        )
        recipe |= shared
    if args.cpu:
        recipe |= {"use_cpu": True, "use_unsloth": False}
    return recipe, limit, every


def train(recipe: dict[str, Any], limit: float | None, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train in a child process; its measurements, or {"error": last lines}. The log stays in ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / "recipe.yaml", recipe)  # JSON is YAML
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={args.gpus}", "--standalone"] if args.gpus > 1 else []
    if args.accelerate:
        launch = [
            "-m",
            "accelerate.commands.launch",
            f"--config_file={args.accelerate}",
            f"--num_processes={args.gpus}",
        ]
    command = [sys.executable, *launch, "-m", "scripts.bench.meter", folder / "recipe.yaml", folder / "out.json"]
    command += [f"--limit-gib={limit}"] if limit else []
    command += ["--profile"] if args.profile and not args.cpu else []
    env = os.environ | {"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1", "TOKENIZERS_PARALLELISM": "false"}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(args.gpus)))).split(",")
    env["CUDA_VISIBLE_DEVICES"] = "" if args.cpu else ",".join(visible[: args.gpus])
    env.pop(CUDNN_LAST, None)
    if not args.cudnn_attention:
        env[CUDNN_LAST] = "1"
    with (folder / "log.txt").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=ROOT, start_new_session=True)
        try:
            status: int | str = child.wait(args.seconds)
        except subprocess.TimeoutExpired:
            status = f"no end after {args.seconds} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # workers too: they would keep the GPU's memory
                os.killpg(child.pid, signal.SIGKILL)
    if status != 0 and not (folder / "out.json").exists():
        lines = (folder / "log.txt").read_text(errors="replace").splitlines()
        return {"error": f"status {status}", "log_tail": lines[-25:]}
    return read_json(folder / "out.json") | ({"stopped": f"status {status}"} if status != 0 else {})


def figures(measured: dict[str, Any], recipe: dict[str, Any], config: dict[str, Any], file: Path, gpus: int) -> dict:
    """A measurement as a row of the table: rates, shares, MFU (see the module's docstring)."""
    lengths = [len(row["input"].split()) + len(row["output"].split()) + 8 for _, row in read_jsonl(file)]
    context = sum(n * n for n in lengths) / sum(lengths) / 2
    rate = measured["real_tokens"] / measured["seconds"]
    checkpointed = bool(recipe.get("use_unsloth")) or not recipe.get("disable_gradient_checkpointing")
    peak = measured.get("matmul_tflops", 0) * 1e12 * gpus
    per_record = rate / (sum(lengths) / len(lengths))
    row = {
        "tokens_per_s": round(rate, 1),
        "records_per_s": round(per_record, 3),
        "hours_25k": round(25000 / per_record / 3600, 3),
        "reserved_gib": round(max(measured["reserved_gib"], measured["load_reserved_gib"]), 2),
        "allocated_gib": round(max(measured["allocated_gib"], measured["load_allocated_gib"]), 2),
        "padding_share": round(1 - measured["real_tokens"] / measured["all_tokens"], 4),
        "mfu": round(flops_per_token(config, context, False) * rate / peak, 4) if peak else None,
        "hfu": round(flops_per_token(config, context, checkpointed) * rate / peak, 4) if peak else None,
        "unsloth_fallback": bool(recipe.get("use_unsloth")) and not measured["unsloth_modules"],
    }
    kept = (
        "loss_curve",
        "step_seconds",
        "matmul_tflops",
        "between_steps_s",
        "unsloth_modules",
        "trainable",
        "load_reserved_gib",
        "profile",
        "stopped",
    )
    return (
        row
        | {"train_reserved_gib": round(measured["reserved_gib"], 2)}
        | {k: measured[k] for k in kept if k in measured}
    )


def with_ratios(rows: list[dict]) -> list[dict]:
    """Add each row's ratio to plain and original on as many GPUs and to itself on one, where those are known.

    Of the same shape, attention, machine and commit, which stands for the same loan: hosts of one kind differ by up to
    45%.
    """
    for row in rows:
        others = {
            "plain": ("plain", row["gpus"]),
            "original": ("original", row["gpus"]),
            "one_gpu": (row["variant"], 1) if row["gpus"] > 1 else None,
        }
        for name, wanted in others.items():
            same = [
                other["tokens_per_s"]
                for other in rows
                if (other["variant"], other["gpus"]) == wanted
                and all(other[key] == row[key] for key in ("shape", "attention", "machine", "commit"))
                and "tokens_per_s" in other
            ]
            known = same and "tokens_per_s" in row
            row[f"ratio_to_{name}"] = round(row["tokens_per_s"] / same[0], 3) if known else None
    return rows


def check_packing(args: argparse.Namespace, work: Path) -> None:
    """Write packing.json beside --out: whether a record's loss and gradients depend on its neighbour in a pack."""
    results = []
    for unsloth in (False,) if args.cpu else (False, True):
        for neat in (False, True):
            command = [sys.executable, "-m", "scripts.bench.packing", "--work", str(work / "packing")]
            command += ["--unsloth"] * unsloth + ["--neat"] * neat + ["--cpu"] * args.cpu
            run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            if run.returncode:
                results.append({"unsloth": unsloth, "neat_packing": neat, "error": run.stderr.splitlines()[-8:]})
            else:
                results.append(json.loads(run.stdout.splitlines()[-1]))
            print(json.dumps(results[-1]), flush=True)
    origin = {"machine": machine(), "commit": git_commit(), "versions": versions("torch", "unsloth", "llamafactory")}
    write_json(args.out.with_name("bench_packing.json"), {"results": results, **origin})


def measure(wanted: str, args: argparse.Namespace, tokenizer: Path) -> dict[str, Any]:
    """Build what the variant needs, train it and return its row."""
    row, name = identity(wanted, args), wanted.partition("@")[0]
    config = SHAPES[row["shape"]]
    model, steps = args.work / row["shape"], 3 + args.steps + (args.profile and not args.cpu)
    recipe, limit, every = recipe_of(name, args, steps)
    lengths = [every] * (48 * steps) if every else record_lengths(args.records, max(1.0, recipe["cutoff_len"] / 2048))
    data = args.work / f"data{max(lengths)}"
    if not (data / "dataset_info.json").exists():
        build_data(data, tokenizer, lengths)
    build_model(config, model, tokenizer)
    run = args.work / "run" / f"{name}-{row['attention']}".replace("/", "_").replace(" ", "_")
    recipe |= {"model_name_or_path": str(model), "dataset_dir": str(data), "output_dir": str(run / "out")}
    start = time.monotonic()
    measured = train(recipe, limit, run, args)
    row |= {
        "sharded": bool(args.accelerate),
        "limit_gib": limit,
        "longest": max(lengths),
        "recipe": {k: v for k, v in recipe.items() if "dir" not in k and "path" not in k},
    }
    row |= measured if "error" in measured else figures(measured, recipe, config, data / "bench.jsonl", args.gpus)
    row |= {
        "commit": git_commit(),
        "measured": time.strftime("%Y-%m-%d"),
        "wall_s": round(time.monotonic() - start),
    }
    return row | {"versions": versions("torch", "transformers", "peft", "bitsandbytes", "unsloth", "llamafactory")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", help="names or recipes, comma-separated, each NAME or NAME@SHAPE (default: all)")
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--tokenizer", type=Path, help="folder of the real tokenizer (default: a small one is made)")
    parser.add_argument("--steps", type=int, default=6, help="measured optimiser steps, after 3 of warm-up")
    # Transformers sorts by length within up to 50 steps; 1,920 records make that 10, which a measurement walks through.
    parser.add_argument("--records", type=int, default=1920)
    parser.add_argument("--minutes", type=float, default=600, help="start no variant that may end after this")
    parser.add_argument("--seconds", type=float, default=1800, help="longest time for one variant")
    parser.add_argument("--gpus", type=int, default=1, help="processes, one GPU each; they share a step's records")
    parser.add_argument(
        "--accelerate", type=Path, help="start by accelerate with this config (FSDP); batch as in the recipe"
    )
    parser.add_argument("--cudnn-attention", action="store_true", help="PyTorch's own order on H100, H200 and B200")
    parser.add_argument("--profile", action="store_true", help="profile one more step: where the time goes")
    parser.add_argument("--cpu", action="store_true", help="without a GPU and without Unsloth, to try the script")
    parser.add_argument("--again", action="store_true", help="measure also what has a figure")
    parser.add_argument("--check-packing", action="store_true")
    parser.add_argument("--work", type=Path, default=ROOT / "saves/bench", help="model, data and logs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/bench_train.json")
    args = parser.parse_args()
    begin, longest, failed = time.monotonic(), 0.0, 0
    tokenizer = args.tokenizer or args.work / "tokenizer"
    if not args.tokenizer and not tokenizer.exists():
        from scripts.train.bases import build_tokenizer

        build_tokenizer([(ROOT / "README.md").read_text(), " fever pain dose cough nurse heart"] * 3, tokenizer)
    if args.check_packing:
        check_packing(args, args.work)
    for wanted in (args.variants or ("" if args.check_packing else ",".join(VARIANTS))).split(","):
        if not wanted:
            continue
        name, key = wanted.partition("@")[0], identity(wanted, args)
        if not (name in VARIANTS or Path(name).is_file()) or key["shape"] not in SHAPES:
            raise UserError(f"{wanted}: not a variant ({', '.join(VARIANTS)}), a recipe, or one @ {', '.join(SHAPES)}")
        rows = read_json(args.out) if args.out.exists() else []
        old = [row for row in rows if key.items() <= row.items()]
        if old and "error" not in old[0] and not args.again:
            print(f"{wanted}: measured already")
            continue
        if time.monotonic() - begin + longest > args.minutes * 60:
            print(f"{wanted}: no time left")
            continue
        row = measure(wanted, args, tokenizer)
        longest = max(longest, row["wall_s"])
        write_json(args.out, with_ratios([r for r in rows if r not in old] + [row]))
        shown = ("tokens_per_s", "mfu", "hfu", "reserved_gib", "padding_share", "ratio_to_plain", "unsloth_fallback")
        print(f"{wanted}: {row['wall_s']} s", {k: row.get(k) for k in (*shown, "error")}, flush=True)
        print("\n".join(row.get("log_tail", [])), end="", flush=True)
        failed += bool(row.get("unsloth_fallback"))
    if failed:
        raise UserError(
            f"{failed} variants fell back from Unsloth; their rows say unsloth_fallback. Read their log.txt"
        )
    return 0


if __name__ == "__main__":
    run_main(main)
