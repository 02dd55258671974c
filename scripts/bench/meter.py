"""Train one recipe by LLaMA-Factory's own entry and measure it; scripts/bench/train.py starts this as a child process.

    python -m scripts.bench.meter RECIPE.yaml OUT.json [--limit-gib 22] [--profile]

It calls what ``llamafactory-cli train`` calls (``run_exp``), with one more callback that reads clocks and counters.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from scripts.common import UserError, run_main, write_json

WARMUP = 3  # optimiser steps left out of the figures: kernels are compiled and the allocator fills
KINDS = (  # a CUDA kernel's kind by the first of these words in its name
    ("communication", ("nccl",)),
    ("attention", ("flash", "fmha", "attn", "attention")),
    ("dequantise 4-bit", ("dequant",)),
    ("matrix product", ("gemm", "nvjet", "cutlass", "xmma", "cublas", "splitk")),
    ("memory copy", ("memcpy", "memset")),
    ("fused by Triton", ("triton", "_kernel", "_rms", "_rope", "_fg", "_dwf", "cross_entropy")),
)


def real_tokens(labels: torch.Tensor) -> torch.Tensor:
    """Tokens of ``labels`` (B, T) up to each row's last trained token: records end with one, padding has none."""
    position = torch.arange(1, labels.shape[1] + 1, device=labels.device)
    return ((labels != -100) * position).amax(dim=1).sum()


def kernel_kind(name: str) -> str:
    """Which kind of work a CUDA kernel does, by its name."""
    return next((kind for kind, words in KINDS if any(word in name.lower() for word in words)), "other elementwise")


def busy_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds in which at least one of the (start, end) spans (microseconds) ran: kernels and copies overlap."""
    busy = until = 0.0
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 1e6


def matmul_tflops(size: int = 8192, repeats: int = 30) -> float:
    """bf16 matrix products of random (size, size) operands, TFLOP/s: the rate that MFU is measured against."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for number in range(repeats + 5):
        if number == 5:
            start.record()
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (start.elapsed_time(end) / 1e3) / 1e12


def peak_gib() -> tuple[float, float]:
    """Peak (reserved, allocated) GPU memory of this process, GiB; zeros without a GPU."""
    if not torch.cuda.is_available():
        return 0.0, 0.0
    return torch.cuda.max_memory_reserved() / 2**30, torch.cuda.max_memory_allocated() / 2**30


def over_processes(values: Iterable[float], how: str) -> list[float]:
    """Each value's sum ("SUM") or largest ("MAX") over the processes of a run on several GPUs."""
    if not torch.distributed.is_initialized():
        return list(values)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shared = torch.tensor(list(values), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(shared, getattr(torch.distributed.ReduceOp, how))
    return shared.tolist()


class Meter(TrainerCallback):
    """Seconds and loss of each optimiser step, all processes' tokens, the fullest GPU's memory."""

    def __init__(self, profile: bool, out: Path) -> None:
        self.profile, self.profiler, self.out = profile, None, out
        self.seconds: list[float] = []
        self.real: list[Any] = []
        self.padded: list[int] = []
        self.loss: list[float] = []
        self.between: list[float] = []
        self.result: dict[str, Any] = {}
        self.counts: list[Any] = [0, 0]

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.result["load_reserved_gib"], self.result["load_allocated_gib"] = peak_gib()
        forwards = [getattr(module.forward, "__module__", "") or "" for module in model.modules()]
        self.result["unsloth_modules"] = sum("unsloth" in name for name in forwards)
        self.result["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        model.register_forward_pre_hook(self.count, with_kwargs=True)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def count(self, model, positional, named):
        labels = named.get("labels")  # stays on the device: reading a number here would stall the GPU
        if labels is not None:
            self.counts = [self.counts[0] + real_tokens(labels), self.counts[1] + labels.numel()]

    def on_step_begin(self, args, state, control, **kwargs):
        self.counts = [0, 0]
        if self.profile and state.global_step == args.max_steps - 1:
            self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self.profiler.start()
        self.synchronize()
        self.start = time.perf_counter()
        if self.seconds:
            self.between.append(self.start - self.end)

    def on_step_end(self, args, state, control, **kwargs):
        self.synchronize()
        self.seconds.append(time.perf_counter() - self.start)
        self.real.append(self.counts[0])
        self.padded.append(self.counts[1])
        if self.profiler:
            self.profiler.stop()
            self.result["profile"] = self.shares(self.seconds[-1])
        if len(self.seconds) > WARMUP:  # after each step: a run that is stopped keeps what it measured
            self.gather()
            self.write()
        self.end = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.loss.append(logs["loss"])

    def on_train_end(self, args, state, control, **kwargs):
        self.gather()
        if torch.cuda.is_available():
            self.result["matmul_tflops"] = matmul_tflops()  # after the peaks were read: its operands are no training
        self.write()

    def gather(self) -> None:
        """Put together what all processes measured so far; the profiled step, the last one, does not count."""
        last = -1 if self.profiler else None
        real, padded = (sum(int(count) for count in column[WARMUP:last]) for column in (self.real, self.padded))
        tokens, memory = over_processes([real, padded], "SUM"), over_processes(peak_gib(), "MAX")
        self.result |= {"seconds": sum(self.seconds[WARMUP:last])}
        self.result |= dict(zip(("real_tokens", "all_tokens"), tokens, strict=True))
        self.result |= dict(zip(("reserved_gib", "allocated_gib"), memory, strict=True))
        self.result |= {"step_seconds": [round(value, 3) for value in self.seconds], "loss_curve": self.loss}
        self.result |= {"between_steps_s": [round(value, 3) for value in self.between]}

    def write(self) -> None:
        if int(os.environ.get("RANK", 0)) == 0:
            write_json(self.out, self.result)

    @staticmethod
    def synchronize() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def shares(self, seconds: float) -> dict[str, Any]:
        """Share of the profiled step's wall time by kind of kernel (they overlap), and its longest kernels in ms."""
        kinds: dict[str, float] = defaultdict(float)
        spans = [event.time_range for event in self.profiler.events() if event.device_type.name == "CUDA"]
        rows = [(row.key, row.self_device_time_total / 1e6) for row in self.profiler.key_averages()]
        for name, spent in rows:
            kinds[kernel_kind(name)] += spent / seconds
        top = sorted(rows, key=lambda row: -row[1])[:15]
        kinds["GPU idle"] = 1 - busy_seconds((span.start, span.end) for span in spans) / seconds
        return {
            "wall_share": {kind: round(share, 4) for kind, share in sorted(kinds.items(), key=lambda item: -item[1])},
            "kernels_ms": {name[:90]: round(spent * 1e3, 1) for name, spent in top},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="Train one recipe through LLaMA-Factory's run_exp and measure it.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit-gib", type=float, help="let this process take no more GPU memory than this")
    parser.add_argument("--profile", action="store_true", help="profile the last step")
    args = parser.parse_args()
    if not args.recipe.exists():
        raise UserError(f"{args.recipe}: no such recipe")
    import yaml
    from llamafactory.train.tuner import run_exp

    if args.limit_gib and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.limit_gib / total))
    run_exp(yaml.safe_load(args.recipe.read_text()), callbacks=[Meter(args.profile, args.out)])


if __name__ == "__main__":
    run_main(main)
