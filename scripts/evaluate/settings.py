"""One configuration from the command's options: how models are asked, on what, how much; and how long that takes.

Options that are not given follow the measured speed, so that a laptop's evaluation ends within minutes; what was chosen
is kept in ``settings.json``, so that a rerun goes on with the same.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from scripts.common import ROOT, UserError, file_hash, read_json, write_json
from scripts.evaluate.engines import R1_SAMPLING, in_parallel
from scripts.evaluate.generate import Limits
from scripts.evaluate.instructions import load_prompts
from scripts.prepare.items import read_items

STEPS = ("perplexity", "answers", "accuracy", "instructions", "format", "judge", "controls")
MINUTES_ON_CPU = 8.0


class Amount(NamedTuple):
    """How much is asked: thinking budgets, tokens of an answer, items of each benchmark and prompt set."""

    budgets: tuple[int, ...]
    answer_tokens: int
    limit: int


# The first that ends within the time is taken; the last one in any case. At least 20 items: fewer decide nothing.
ON_GPU = (Amount((512, 1024), 256, 200),)
ON_CPU = (
    Amount((128, 256), 96, 40),
    Amount((128, 256), 96, 24),
    Amount((96,), 64, 24),
    Amount((64,), 48, 20),
    Amount((32,), 32, 20),
    Amount((16, 32), 32, 20),
)


@dataclass(frozen=True)
class Settings:
    """What determines an evaluation's numbers, beside the subject and the engine.

    ``budgets``, ``answer_tokens`` and ``limit`` are None until `settle` fills them; then a limit of None is all items.
    """

    steps: tuple[str, ...]
    budgets: tuple[int, ...] | None
    answer_tokens: int | None
    limit: int | None
    seeds: tuple[int, ...]
    sampling: dict[str, float]
    base_form: str
    rotated: bool
    benchmarks: tuple[Path, ...]
    development: tuple[Path, ...]
    instructions: tuple[Path, ...]

    def limits(self, seed: int | None = None) -> Limits:
        """What `ask` wants to know; the same for both sides. ``seed``: the first one without."""
        return Limits(self.budgets, self.answer_tokens, self.sampling, self.seeds[0] if seed is None else seed)

    def as_json(self) -> dict[str, Any]:
        """For the result files: paths with their hashes."""
        files = {}
        for name in ("benchmarks", "development", "instructions"):
            files[name] = {path.name: file_hash(path) for path in getattr(self, name)}
        return asdict(self) | files | {"sampling": self.sampling or "greedy"}

    def tokens(self, sides: int, records: int) -> int:
        """Most tokens that will be generated."""
        benchmarks = sum(len(read_items(path)[: self.limit]) for path in self.benchmarks)
        items = {
            "accuracy": benchmarks * len(self.seeds) * (2 if self.rotated else 1),
            "instructions": sum(len(load_prompts(path)[: self.limit]) for path in self.instructions),
            "format": min(records, self.limit or records),
            "controls": len(read_items(self.benchmarks[0])[: self.limit]) / sides,
        }
        asked = sum(count for step, count in items.items() if step in self.steps)
        return int(asked * (self.budgets[-1] + self.answer_tokens) * sides)


def read_settings(options: argparse.Namespace) -> Settings:
    """Settings from options, with None for what follows the speed. UserError for what makes no sense."""
    budgets = {int(budget) for budget in " ".join(options.budget or []).replace(",", " ").split()}
    if budgets and min(budgets) < 1:
        raise UserError(f"--budget: found {sorted(budgets)}, expected positive numbers of tokens, e.g. '256 1024'")
    if options.limit is not None and options.limit < 0:
        raise UserError(f"--limit: found {options.limit}, expected a number of items, or 0 for all of them")
    if len(options.seeds or []) > 1 and options.sampling == "greedy":
        raise UserError("--seeds: greedy runs do not differ by seed; add --sampling r1")
    folder = ROOT / "data/benchmarks"
    benchmarks = tuple(Path(path) for path in options.benchmarks or sorted(folder.glob("*.jsonl")))
    if not benchmarks:
        raise UserError(f"{folder} holds no file; write one with python -m scripts.prepare.benchmarks")
    development = tuple(Path(path) for path in options.development or sorted((folder / "development").glob("*.jsonl")))
    for path in (*benchmarks, *development):
        read_items(path)
    instructions = (ROOT / "data/instructions_en.jsonl", ROOT / "data/instructions_zh.jsonl")
    return Settings(
        steps=tuple(options.only or STEPS),
        budgets=tuple(sorted(budgets)) or None,
        answer_tokens=options.answer_tokens,
        limit=options.limit,
        seeds=tuple(options.seeds or [42]),
        sampling=R1_SAMPLING if options.sampling == "r1" else {},
        base_form=options.base_form,
        rotated=options.permute,
        benchmarks=benchmarks,
        development=development,
        instructions=instructions,
    )


def measure_speed(engine: Any, prompt: str) -> float:
    """Tokens per second of an engine with a full batch, from a few tokens."""
    rows, tokens = engine.probe()
    jobs = engine.batches([prompt] * rows, 1024)
    began = time.perf_counter()
    work = lambda job: engine.generate([prompt] * len(job), tokens, R1_SAMPLING, job)  # noqa: E731
    list(in_parallel(work, jobs, engine.workers))
    return rows * tokens / (time.perf_counter() - began)


def settle(
    settings: Settings, folder: Path, speed: float, on_gpu: bool, sides: int, records: int
) -> tuple[Settings, float]:
    """(settings with every place filled, most minutes they take); an earlier choice of this folder is kept."""
    path = folder / "settings.json"
    amounts = ON_GPU if on_gpu else ON_CPU
    if path.is_file():
        amounts = (Amount(**read_json(path)),)
    for amount in amounts:
        limit = amount.limit if settings.limit is None else settings.limit
        filled = replace(
            settings,
            budgets=settings.budgets or tuple(amount.budgets),
            answer_tokens=settings.answer_tokens or amount.answer_tokens,
            limit=limit or None,
        )
        minutes = filled.tokens(sides, records) / speed / 60
        if minutes <= MINUTES_ON_CPU:
            break
    if None in (settings.budgets, settings.answer_tokens, settings.limit):
        write_json(path, amount._asdict())
    return filled, minutes
