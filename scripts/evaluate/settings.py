"""One configuration from the command's options: how models are asked, on what, how much; and how long that takes.

Options that are not given follow the measured speed, so that a laptop's evaluation ends within minutes; what was chosen
is kept in ``settings.json``, so that a rerun goes on with the same.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, file_hash, read_json, write_json
from scripts.evaluate.engines import R1_SAMPLING, in_parallel
from scripts.evaluate.generate import Limits
from scripts.evaluate.instructions import load_prompts
from scripts.prepare.items import read_items

STEPS = ("perplexity", "answers", "accuracy", "instructions", "format", "judge", "controls")
MINUTES_ON_CPU = 8.0
FIXED = ("budgets", "answer_tokens", "limit")  # what follows the speed where no option says it


@dataclass(frozen=True)
class Rung:
    """How much is asked: thinking budgets, tokens of an answer, items of each benchmark and prompt set."""

    budgets: tuple[int, ...]
    answer_tokens: int
    limit: int


# The first rung that ends within the time is taken; the last one in any case. At least 20 items: fewer decide nothing.
ON_GPU = (Rung((512, 1024), 256, 200),)
ON_CPU = (
    Rung((128, 256), 96, 40),
    Rung((128, 256), 96, 24),
    Rung((96,), 64, 24),
    Rung((64,), 48, 20),
    Rung((32,), 32, 20),
    Rung((16, 32), 32, 20),
)


@dataclass(frozen=True)
class Settings:
    """What determines an evaluation's numbers, beside the subject and the engine."""

    steps: tuple[str, ...]
    budgets: tuple[int, ...]
    answer_tokens: int
    limit: int | None
    seeds: tuple[int, ...]
    sampling: dict[str, float]
    base_form: str
    rotated: bool
    benchmarks: tuple[Path, ...]
    development: tuple[Path, ...]
    instructions: tuple[Path, ...]
    questions: Path

    def limits(self, seed: int | None = None, budgets: tuple[int, ...] = ()) -> Limits:
        """What `ask` wants to know; the same for both sides."""
        seed = self.seeds[0] if seed is None else seed
        return Limits(budgets or self.budgets, self.answer_tokens, self.sampling, seed)

    def as_json(self) -> dict[str, Any]:
        """For the result files: paths with their hashes."""
        files = {}
        for name in ("benchmarks", "development", "instructions"):
            files[name] = {path.name: file_hash(path) for path in getattr(self, name)}
        return asdict(self) | files | {"questions": self.questions.name, "sampling": self.sampling or "greedy"}

    def tokens(self, sides: int, records: int) -> int:
        """Most tokens that will be generated."""
        room = self.budgets[-1] + self.answer_tokens
        items = {
            "accuracy": sum(len(read_items(path)[: self.limit]) for path in self.benchmarks)
            * len(self.seeds)
            * (2 if self.rotated else 1),
            "instructions": sum(len(load_prompts(path)[: self.limit]) for path in self.instructions),
            "format": min(records, self.limit or records),
            "controls": len(read_items(self.benchmarks[0])[: self.limit]) / sides,
        }
        return int(sum(count for step, count in items.items() if step in self.steps) * room * sides)


def read_settings(options: argparse.Namespace) -> Settings:
    """Settings from options, with a placeholder for what follows the speed. UserError for what makes no sense."""
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
        budgets=tuple(sorted(budgets)),
        answer_tokens=options.answer_tokens or 0,
        limit=options.limit,
        seeds=tuple(options.seeds or [42]),
        sampling=R1_SAMPLING if options.sampling == "r1" else {},
        base_form=options.base_form,
        rotated=options.permute,
        benchmarks=benchmarks,
        development=development,
        instructions=instructions,
        questions=Path(options.questions or ROOT / "data/questions.jsonl"),
    )


def on_rung(settings: Settings, rung: Rung) -> Settings:
    """Settings whose open places a rung fills; a limit of 0 means all items."""
    limit = rung.limit if settings.limit is None else settings.limit
    return replace(
        settings,
        budgets=settings.budgets or rung.budgets,
        answer_tokens=settings.answer_tokens or rung.answer_tokens,
        limit=limit or None,
    )


def measure_speed(engine: Any, prompt: str) -> float:
    """Tokens per second of an engine with a full batch, from a few tokens."""
    rows, tokens = (256, 32) if engine.workers > 1 else (engine.probe_rows(), 12)
    seeds = list(range(rows))
    jobs = [[seed] for seed in seeds] if engine.workers > 1 else [seeds]
    began = time.perf_counter()
    for _ in in_parallel(
        lambda job: engine.generate([prompt] * len(job), tokens, R1_SAMPLING, job), jobs, engine.workers
    ):
        pass
    return rows * tokens / (time.perf_counter() - began)


def settle(
    settings: Settings, folder: Path, speed: float, on_gpu: bool, sides: int, records: int
) -> tuple[Settings, float]:
    """(settings with every place filled, most minutes they take); an earlier choice of this folder is kept."""
    path = folder / "settings.json"
    kept = read_json(path) if path.is_file() else {}
    open_places = [name for name in FIXED if not getattr(settings, name) and getattr(settings, name) != 0]
    if kept and open_places:
        rungs: tuple[Rung, ...] = (Rung(tuple(kept["budgets"]), kept["answer_tokens"], kept["limit"]),)
    else:
        rungs = ON_GPU if on_gpu else ON_CPU
    for rung in rungs:
        filled = on_rung(settings, rung)
        minutes = filled.tokens(sides, records) / speed / 60
        if minutes <= MINUTES_ON_CPU or on_gpu:
            break
    if open_places and not kept:
        write_json(path, {"budgets": rung.budgets, "answer_tokens": rung.answer_tokens, "limit": rung.limit})
    return filled, minutes
