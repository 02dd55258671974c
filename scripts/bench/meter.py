"""Train one recipe through LLaMA-Factory's run_exp and measure it; scripts/bench/train.py starts this as a child."""

from __future__ import annotations

import argparse
import time
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


def now() -> float:
    """Seconds on a clock, once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Meter(TrainerCallback):
    """Seconds and loss of each optimiser step, all processes' tokens, the fullest GPU's memory."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.seconds: list[float] = []
        self.loss: list[float] = []
        self.real: Any = 0
        self.padded = 0
        self.unsloth_modules = 0

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        forwards = [getattr(module.forward, "__module__", "") or "" for module in model.modules()]
        self.unsloth_modules = sum("unsloth" in name for name in forwards)
        model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, model, positional, named):
        labels = named.get("labels")
        if labels is not None and len(self.seconds) >= WARMUP:
            self.real = self.real + real_tokens(labels)  # stays on the device: reading it would stall the GPU
            self.padded += labels.numel()

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = now()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(now() - self.began)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.loss.append(logs["loss"])

    def on_train_end(self, args, state, control, **kwargs):
        """Put together what all processes measured; the first one writes it."""
        from accelerate.utils import gather

        memory = [torch.cuda.max_memory_reserved() / 2**30, torch.cuda.max_memory_allocated() / 2**30]
        own = torch.tensor([[int(self.real), self.padded, *memory]], dtype=torch.float64, device=args.device)
        everybody = gather(own)  # (processes, 4)
        real, padded = everybody[:, :2].sum(dim=0).tolist()
        reserved, allocated = everybody[:, 2:].amax(dim=0).tolist()
        if not state.is_world_process_zero:
            return
        found = {"seconds": sum(self.seconds[WARMUP:]), "step_seconds": [round(s, 3) for s in self.seconds]}
        found |= {"real_tokens": real, "all_tokens": padded, "reserved_gib": reserved, "allocated_gib": allocated}
        found |= {"loss_curve": self.loss, "unsloth_modules": self.unsloth_modules}
        found["matmul_tflops"] = matmul_tflops() if torch.cuda.is_available() else None
        write_json(self.out, found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.meter", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit-gib", type=float, help="let this process take no more GPU memory than this")
    args = parser.parse_args()
    import yaml
    from llamafactory.train.tuner import run_exp

    if args.limit_gib and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.limit_gib / total))
    run_exp(yaml.safe_load(args.recipe.read_text()), callbacks=[Meter(args.out)])


if __name__ == "__main__":
    main()
