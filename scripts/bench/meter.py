"""What scripts/bench/metered.py hangs into the trainer: seconds, tokens, loss and memory of each optimiser step."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from scripts.common import write_json

WARMUP = 3  # optimiser steps left out of the figures: kernels are compiled and the allocator fills


def real_tokens(labels: torch.Tensor) -> torch.Tensor:
    """Tokens of ``labels`` (B, T) up to each row's last trained token: records end with one, padding has none."""
    position = torch.arange(1, labels.shape[1] + 1, device=labels.device)
    return ((labels != -100) * position).amax(dim=1).sum()


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


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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

    def __init__(self, out: Path) -> None:
        self.out = out
        self.seconds: list[float] = []
        self.real: list[Any] = []
        self.padded: list[int] = []
        self.loss: list[float] = []
        self.unsloth_modules = 0

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        forwards = [getattr(module.forward, "__module__", "") or "" for module in model.modules()]
        self.unsloth_modules = sum("unsloth" in name for name in forwards)
        model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, model, positional, named):
        labels = named.get("labels")
        if labels is not None:
            self.real[-1] = self.real[-1] + real_tokens(labels)  # stays on the device: reading it would stall the GPU
            self.padded[-1] += labels.numel()

    def on_step_begin(self, args, state, control, **kwargs):
        self.real.append(0)
        self.padded.append(0)
        synchronize()
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        synchronize()
        self.seconds.append(time.perf_counter() - self.start)
        if len(self.seconds) > WARMUP:  # after each step: a run that is stopped keeps what it measured
            self.write()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.loss.append(logs["loss"])

    def on_train_end(self, args, state, control, **kwargs):
        peaks = peak_gib()  # before the matrix product, whose operands are no training
        self.write(peaks, matmul_tflops=matmul_tflops() if torch.cuda.is_available() else None)

    def write(self, peaks: tuple[float, float] | None = None, **more: Any) -> None:
        """Put together what all processes measured so far; the first process writes it."""
        tokens = over_processes([sum(int(n) for n in column[WARMUP:]) for column in (self.real, self.padded)], "SUM")
        memory = over_processes(peaks or peak_gib(), "MAX")
        if int(os.environ.get("RANK", 0)) > 0:
            return
        found = {"seconds": sum(self.seconds[WARMUP:]), "step_seconds": [round(s, 3) for s in self.seconds]}
        found |= {"real_tokens": tokens[0], "all_tokens": tokens[1]}
        found |= {"reserved_gib": memory[0], "allocated_gib": memory[1]}
        found |= {"loss_curve": self.loss, "unsloth_modules": self.unsloth_modules}
        write_json(self.out, found | more)
