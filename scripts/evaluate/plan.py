"""Settle what is evaluated: models, files, settings. What can be wrong is found here, before a model is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, file_hash, read_json
from scripts.evaluate import accuracy, perplexity
from scripts.evaluate.engines import R1_SAMPLING, Thinker
from scripts.evaluate.instructions import load_prompts
from scripts.evaluate.subject import Store, find_subject
from scripts.train import run as run_dir

BENCHMARKS = ROOT / "data/benchmarks"
INSTRUCTIONS = (ROOT / "data/instructions_en.jsonl", ROOT / "data/instructions_zh.jsonl")
SMALL = 200 * 2**20  # bytes of weights; below it this is the demo's model and a few minutes must do
DEFAULTS = {  # for the demo's tiny model on a CPU, and for a real one
    True: {"budgets": (16, 32, 64), "answer_tokens": 32, "limit": 24, "batch": 32},
    False: {"budgets": (512, 2048), "answer_tokens": 512, "limit": 100, "batch": 16},
}


def is_small(model: str) -> bool:
    """Whether a model is the demo's, by the size of its weights."""
    return 0 < sum(file.stat().st_size for file in Path(model).glob("*.safetensors")) < SMALL


def newest_run() -> dict[str, str]:
    """The last finished LoRA run under saves/: its ``medcot.json``."""
    paths = sorted((ROOT / "saves").glob("*/medcot.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in paths:
        if (path.parent / "adapter_config.json").exists() and (path.parent / "train_results.json").exists():
            return {**read_json(path), "adapter_dir": str(path.parent.relative_to(ROOT))}
    raise UserError(
        "found no finished fine-tune under saves/: run `make demo` or `make train` first, "
        "or name the models by --model DIR --adapter DIR"
    )


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """run.json: from the results folder where the demo wrote one, else from the options and the run's medcot.json."""
    found: dict[str, Any] = {}
    if options.engine == "hf" and not options.model:
        found = newest_run()
    elif options.engine == "hf" and options.adapter and (Path(options.adapter) / "medcot.json").exists():
        found = {**read_json(Path(options.adapter) / "medcot.json"), "adapter_dir": options.adapter}
    adapter, model = options.adapter or found.get("adapter_dir"), options.model or found.get("model")
    test_file = run_dir.held_out(found) if found and not options.data else None
    run = {
        "name": Path(adapter or model).name,
        "recipe": found.get("recipe"),
        "model": model,
        "adapter": adapter,
        "train_dir": adapter if found else None,
        "data_report": str(test_file.with_name("report.json")) if test_file else None,
        "test_file": str(test_file) if test_file else None,
        "out": f"results/{Path(adapter or model).name}",
        "trained_on": {key: found.get(key) for key in ("dataset", "dataset_hash", "recipe_hash", "seed")},
    }
    for path in sorted((ROOT / "results").glob("*/run.json")):
        kept = read_json(path)
        if adapter and (kept.get("adapter"), kept.get("model")) == (adapter, model):
            run |= {**kept, "out": str(path.parent)}
    asked = {"recipe": options.recipe, "test_file": options.data, "out": options.out}
    run |= {key: value for key, value in asked.items() if value}
    return run | {"cutoff_len": options.cutoff_len or found.get("cutoff_len") or 2048}


class Plan:
    """What will be evaluated: models, files and settings, from the command's options. UserError before any work."""

    def __init__(self, options: argparse.Namespace) -> None:
        local = options.engine == "hf"
        if not local and not (options.base_url and options.model):
            wanted = "--base-url http://HOST:PORT/v1 and --model NAME (tuned: --adapter NAME)"
            raise UserError(f"--engine server needs {wanted}")
        self.options, self.run, self.engines = options, describe(options), {}
        run = self.run
        self.subject = find_subject(run["model"], run["adapter"], run["recipe"]) if local else None
        self.small = local and is_small(run["model"])
        # Without a judge the demo's model judges itself, which tests the path and informs about nothing else.
        self.judges_itself = self.small and not options.judge_url
        self._settle(options, DEFAULTS[self.small])
        self.benchmarks = [Path(path) for path in options.benchmarks or sorted(BENCHMARKS.glob("*.jsonl"))]
        if not self.benchmarks:
            raise UserError("data/benchmarks holds no file; write one with python -m scripts.prepare.benchmarks")
        for path in self.benchmarks:
            accuracy.read_benchmark(path)
        self.instructions = [row for path in INSTRUCTIONS for row in load_prompts(path)[: self.limit]]
        self.records = perplexity.read_records(run["test_file"]) if run.get("test_file") else []
        self.out = ROOT / run["out"]
        self.store = Store(self.out / "generations.jsonl")

    def _settle(self, options: argparse.Namespace, default: dict[str, Any]) -> None:
        budgets = {int(budget) for budget in " ".join(options.budget or []).replace(",", " ").split()}
        self.budgets: tuple[int, ...] = tuple(sorted(budgets)) or default["budgets"]
        if self.budgets[0] < 1:
            raise UserError(f"--budget: found {budgets}, expected positive numbers of tokens, e.g. --budget '256 1024'")
        limit = options.limit if options.limit is not None else default["limit"]
        if limit < 0:
            raise UserError(f"--limit: found {limit}, expected a number of items, or 0 for all of them")
        self.limit: int | None = limit or None
        self.answer_tokens: int = options.answer_tokens or default["answer_tokens"]
        self.batch: int = options.batch_size or default["batch"]
        self.seeds: tuple[int, ...] = tuple(options.seeds or [42])
        self.sampling = R1_SAMPLING if options.sampling == "r1" else {}

    def thinker(self, engine: Any, seed: int, budgets: tuple[int, ...] = (), store: Store | None = None) -> Thinker:
        """What asks one model; the same settings for all of them."""
        about = (budgets or self.budgets, self.answer_tokens, self.sampling, seed)
        return Thinker(engine, store or self.store, *about)

    def settings(self) -> dict[str, Any]:
        """What determines the numbers, for the JSON files and the report."""
        prompt = "the template's turn, then <think> opened for both models"
        if not all(engine.prefill for engine in self.engines.values()):
            prompt = "the server's own chat template (no prefill, so no thinking budget)"
        about = {name: getattr(self, name) for name in ("budgets", "answer_tokens", "seeds", "limit", "batch")}
        return about | {
            "engine": self.options.engine,
            "models": {name: engine.identity for name, engine in self.engines.items()},
            "prompt": prompt,
            "prompt_frame": self.engines["base"].prompt("{question}"),
            "task_hash": file_hash(accuracy.TASKS / "choice.yaml"),
            "sampling": self.sampling or "greedy",
            "benchmarks": {path.name: file_hash(path) for path in self.benchmarks},
        }
