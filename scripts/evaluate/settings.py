"""One configuration from the command's options: how models are asked, on what, and how much."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, file_hash
from scripts.evaluate.engines import R1_SAMPLING
from scripts.evaluate.generate import Limits
from scripts.evaluate.instructions import PROMPTS, load_prompts
from scripts.prepare.benchmarks import read_items

BENCHMARKS = ROOT / "data/benchmarks"

ROOM = 256  # tokens of a thought; with fewer most are cut in their middle


@dataclass(frozen=True)
class Settings:
    """What determines an evaluation's numbers, beside the subject and the engine.

    ``budgets``, ``answer_tokens`` and ``limit`` are None until `plan.settle` fills them; then a limit of None is all.
    """

    steps: list[str]
    budgets: tuple[int, ...] | None
    answer_tokens: int | None
    limit: int | None
    seeds: list[int]
    sampling: dict[str, float]
    base_form: str
    rotated: bool
    benchmarks: list[Path]
    development: list[Path]

    def limits(self, seed: int | None = None) -> Limits:
        """What `ask` wants to know; the same for both sides. ``seed``: the first one without."""
        return Limits(self.budgets, self.answer_tokens, self.sampling, self.seeds[0] if seed is None else seed)

    def as_json(self) -> dict[str, Any]:
        """For the result files: paths with their hashes."""
        paths = {"benchmarks": self.benchmarks, "development": self.development, "instructions": PROMPTS}
        files = {name: {path.name: file_hash(path) for path in found} for name, found in paths.items()}
        return asdict(self) | files | {"sampling": self.sampling or "greedy"}

    def tokens(self, sides: int, records: int) -> int:
        """Most tokens that will be generated."""
        benchmarks = sum(len(read_items(path)[: self.limit]) for path in self.benchmarks)
        items = {
            "accuracy": benchmarks * len(self.seeds) * (2 if self.rotated else 1),
            "instructions": sum(len(load_prompts(path)[: self.limit]) for path in PROMPTS),
            "format": min(records, self.limit or records),
            "controls": len(read_items(self.benchmarks[0])[: self.limit]) / sides,
        }
        asked = sum(count for step, count in items.items() if step in self.steps)
        return int(asked * (self.budgets[-1] + self.answer_tokens) * sides)


def read_settings(options: argparse.Namespace) -> Settings:
    """Settings from options, with None for what follows the speed. UserError for what makes no sense."""
    found = {field.name: getattr(options, field.name) for field in fields(Settings)}
    if options.budgets:
        budgets = " ".join(options.budgets).replace(",", " ").split()
        if not all(budget.isdecimal() and int(budget) for budget in budgets):
            raise UserError(f"--budget: found {options.budgets}, expected positive numbers of tokens, e.g. '256 1024'")
        found["budgets"] = tuple(sorted(set(map(int, budgets))))
    if options.answer_tokens is not None and options.answer_tokens < 1:
        raise UserError(f"--answer-tokens: found {options.answer_tokens}, expected a positive number of tokens")
    if options.limit is not None and options.limit < 0:
        raise UserError(f"--limit: found {options.limit}, expected a number of items, or 0 for all of them")
    if len(options.seeds) > 1 and options.sampling == "greedy":
        raise UserError("--seeds: greedy runs do not differ by seed; add --sampling r1")
    found["sampling"] = R1_SAMPLING if options.sampling == "r1" else {}
    for name, folder in (("benchmarks", BENCHMARKS), ("development", BENCHMARKS / "development")):
        found[name] = [Path(path) for path in found[name] or sorted(folder.glob("*.jsonl"))]
        for path in found[name]:
            read_items(path)
    if not found["benchmarks"]:
        raise UserError(f"{BENCHMARKS} holds no file; write one with python -m scripts.prepare.benchmarks")
    return Settings(**found)
