"""One configuration from the command's options: how models are asked, on what, how much; and how long that takes.

Options that are not given follow the measured speed, so that a laptop's evaluation ends within minutes; what was chosen
is kept in ``settings.json``, so that a rerun goes on with the same.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, file_hash, read_json, write_json
from scripts.evaluate.engines import R1_SAMPLING
from scripts.evaluate.generate import Limits
from scripts.evaluate.instructions import PROMPTS, load_prompts
from scripts.prepare.items import read_items

BENCHMARKS = ROOT / "data/benchmarks"
MINUTES_ON_CPU = 8.0
# The first that ends within the time is taken, the last one in any case. At least 20 items: fewer decide nothing.
ON_GPU = ({"budgets": (512, 1024), "answer_tokens": 256, "limit": 200},)
ON_CPU = (
    {"budgets": (128, 256), "answer_tokens": 96, "limit": 40},
    {"budgets": (96,), "answer_tokens": 64, "limit": 24},
    {"budgets": (64,), "answer_tokens": 48, "limit": 20},
    {"budgets": (16, 32), "answer_tokens": 32, "limit": 20},
)


@dataclass(frozen=True)
class Settings:
    """What determines an evaluation's numbers, beside the subject and the engine.

    ``budgets``, ``answer_tokens`` and ``limit`` are None until `settle` fills them; then a limit of None is all items.
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


def settle(
    settings: Settings, folder: Path, speed: float, on_gpu: bool, sides: int, records: int
) -> tuple[Settings, float]:
    """(settings with every place filled, most minutes they take); an earlier choice of this folder is kept."""
    path = folder / "settings.json"
    amounts = [read_json(path)] if path.is_file() else ON_GPU if on_gpu else ON_CPU
    for amount in amounts:
        limit = amount["limit"] if settings.limit is None else settings.limit
        filled = replace(
            settings,
            budgets=settings.budgets or tuple(amount["budgets"]),
            answer_tokens=settings.answer_tokens or amount["answer_tokens"],
            limit=limit or None,
        )
        minutes = filled.tokens(sides, records) / speed / 60
        if minutes <= MINUTES_ON_CPU:
            break
    if None in (settings.budgets, settings.answer_tokens, settings.limit):
        write_json(path, amount)
    return filled, minutes
