"""Train one recipe through LLaMA-Factory's run_exp and measure it; scripts/bench/train.py starts this as a child."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.metered", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit-gib", type=float, help="let this process take no more GPU memory than this")
    args = parser.parse_args()
    import torch
    import yaml
    from llamafactory.train.tuner import run_exp

    from scripts.bench.meter import Meter

    if args.limit_gib and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.limit_gib / total))
    run_exp(yaml.safe_load(args.recipe.read_text()), callbacks=[Meter(args.out)])


if __name__ == "__main__":
    main()
