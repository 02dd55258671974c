"""Settle what is evaluated and by which engine. What can be wrong is found here, before a model is loaded."""

from __future__ import annotations

import argparse
import gc
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.common import ROOT, read_json, write_json
from scripts.evaluate import forms, perplexity, server, vllm
from scripts.evaluate.engines import R1_SAMPLING, LocalEngine, in_parallel
from scripts.evaluate.judge import Judge
from scripts.evaluate.settings import read_settings
from scripts.evaluate.steps import Evaluation, choose_base_form
from scripts.evaluate.subject import Subject, find_subject
from scripts.evaluate.terminal import tell_amount, tell_start
from scripts.prepare.benchmarks import read_items

PROBE_TOKENS = 12  # for measuring the speed
MINUTES_ON_CPU = 8.0
# The first that ends within the time is taken, the last one in any case. At least 20 items: fewer decide nothing.
ON_GPU = ({"budgets": (512, 1024), "answer_tokens": 256, "limit": 200},)
ON_CPU = (
    {"budgets": (128, 256), "answer_tokens": 96, "limit": 40},
    {"budgets": (96,), "answer_tokens": 64, "limit": 24},
    {"budgets": (48,), "answer_tokens": 48, "limit": 20},
    {"budgets": (24,), "answer_tokens": 32, "limit": 20},
)
BY_AMOUNT = {"accuracy", "instructions", "format", "controls"}  # steps whose amount follows the measured speed


def plan_evaluation(options: argparse.Namespace) -> Evaluation:
    """The evaluation as far as it can be settled without a model. UserError for what is missing or contradictory."""
    settings, subject = read_settings(options), subject_of(options)
    data = options.data or subject.held_out()
    run = Evaluation(
        subject=subject,
        settings=settings,
        folder=options.out or ROOT / "results" / subject.name,
        records=perplexity.read_records(data) if data else [],
        held_out=str(data) if data else None,
    )
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "generations.jsonl").touch()  # a folder that cannot be written to is told before a model is loaded
    set_aside_others(run.folder, subject.about()["id"])
    if options.judge_url:
        # read now: a vLLM that is started has an OPENAI_API_KEY of its own
        key = os.environ.get("JUDGE_API_KEY") or os.environ.get("OPENAI_API_KEY") or "none"
        run.judge = Judge(options.judge_url, options.judge_model, key)
        run.judge.check()
    tell_start(subject.about(), len(run.records), run.folder)
    return run


def subject_of(options: argparse.Namespace) -> Subject:
    """The subject that the options name; with a server, that of the run which it serves."""
    if options.engine == "server":
        options = argparse.Namespace(**{**vars(options), "model": None, "adapter": options.run})
    return find_subject(options)


def set_aside_others(folder: Path, subject: str) -> None:
    """Move results of another subject into a folder old-N of their own, so that they are never shown beside these."""
    if all(owner_of(path) in (None, subject) for path in folder.glob("*.json")):
        return
    number = 1
    while (target := folder / f"old-{number}").exists():
        number += 1
    target.mkdir()
    for pattern in ("*.json", "*_samples.jsonl", "*.md", "*.html"):
        for path in folder.glob(pattern):
            if path.name != "servers.json":
                path.rename(target / path.name)
    print(f"{folder} held results of another model: moved to {target}")


def owner_of(path: Path) -> str | None:
    """The id of a result file's subject; None for a file that is no result."""
    found = read_json(path)
    if isinstance(found, dict) and "subject" in found:
        return found["subject"]["id"]
    # an older MedCoT's results did not say whose they were
    return "older" if path.name in ("run.json", "perplexity.json", "accuracy.json") else None


def unload(run: Evaluation) -> None:
    """Give the weights' memory back."""
    import torch

    vars(run).pop("loaded", None)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def start_engines(run: Evaluation, options: argparse.Namespace, stack: ExitStack) -> None:
    """Engines and forms of both sides; a server that is started ends with ``stack``."""
    if options.engine == "hf":
        form = run.loaded.form
        run.engines = {side: LocalEngine(run.loaded, side) for side in run.sides}
    else:
        unload(run)
        form = run.subject.prompt_format()
        run.engines = server_engines(run, options, stack, form)
    run.forms = {side: forms.thinking_form(form) for side in run.sides}
    if BY_AMOUNT & set(run.settings.steps):
        settle(run)
    if run.subject.adapter or run.settings.base_form != "auto":
        choose_base_form(run, form)


def server_engines(run: Evaluation, options: argparse.Namespace, stack: ExitStack, form: Any) -> dict[str, Any]:
    """Clients of the server that runs, or of a vLLM that is started here."""
    started = options.engine == "vllm"
    names, url, precision = {"base": options.model, "tuned": options.adapter}, options.base_url, options.precision
    if started:
        longest = (run.settings.budgets or (1024,))[-1] + 3072
        url = stack.enter_context(vllm.serve(run.subject, options.vllm, longest, run.folder / "logs/vllm.log"))
        vllm.check_tokenizer(url, form)
        names, precision = {side: side for side in run.sides}, "bfloat16"
    engines = {side: server.ServerEngine(url, names[side], side, precision, form) for side in run.sides}
    for side, engine in engines.items():
        if started:  # on files whose hashes are known
            engine.identity = {**run.subject.identity(side), **engine.about}
        else:
            server.identify(engine, run.folder)
    return engines


def settle(run: Evaluation) -> None:
    """Fill what no option said, and say what will be done and how long it takes.

    It follows the measured speed, so that a laptop's evaluation ends within minutes. What was chosen is kept in
    ``settings.json``, so that a rerun goes on with the same.
    """
    engine, wanted, path = run.engines["base"], run.settings, run.folder / "settings.json"
    fewest = min(len(read_items(path)[: wanted.limit or None]) for path in wanted.benchmarks)  # are asked at once
    speed = measure_speed(engine, [run.forms["base"].prompt("What causes fever?")] * min(fewest, server.AT_ONCE))
    for amount in [read_json(path)] if path.is_file() else ON_GPU if run.is_fast else ON_CPU:
        limit = amount["limit"] if wanted.limit is None else wanted.limit
        run.settings = replace(
            wanted,
            budgets=wanted.budgets or tuple(amount["budgets"]),
            answer_tokens=wanted.answer_tokens or amount["answer_tokens"],
            limit=limit or None,
        )
        minutes = run.settings.tokens(len(run.sides), len(run.records)) / speed / 60
        if minutes <= MINUTES_ON_CPU:
            break
    if None in (wanted.budgets, wanted.answer_tokens, wanted.limit):
        write_json(path, amount)
    tell_amount(run.settings, minutes, speed)


def measure_speed(engine: Any, prompts: list[str]) -> float:
    """Tokens per second of an engine with as many of the prompts as it takes at once, from a few tokens of each."""
    jobs = engine.batches(prompts, 1024)[: engine.workers]
    work = lambda job: engine.generate(prompts[: len(job)], PROBE_TOKENS, R1_SAMPLING, job)  # noqa: E731
    began = time.perf_counter()
    list(in_parallel(work, jobs, engine.workers))
    return PROBE_TOKENS * sum(map(len, jobs)) / (time.perf_counter() - began)
