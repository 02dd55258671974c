"""Settle what is evaluated and by which engine. What can be wrong is found here, before a model is loaded."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.common import ROOT, read_json
from scripts.evaluate import forms, perplexity, vllm
from scripts.evaluate import server as servers
from scripts.evaluate.engines import LoadedModel, LocalEngine
from scripts.evaluate.judge_server import Judge
from scripts.evaluate.settings import measure_speed, read_settings, settle
from scripts.evaluate.stats import smallest_visible_difference
from scripts.evaluate.steps import Evaluation, choose_base_form
from scripts.evaluate.subject import SIDES, Subject, find_subject, key_of
from scripts.evaluate.terminal import tell_start

WITHOUT_ENGINE = {"perplexity"}  # steps that need the weights here, whatever the engine


def plan_evaluation(options: argparse.Namespace) -> Evaluation:
    """The evaluation as far as it can be settled without a model. UserError for what is missing or contradictory."""
    settings = read_settings(options)
    subject = subject_of(options)
    data = options.data or (subject.held_out() if subject else None)
    records = perplexity.read_records(data) if data else []
    name = subject.name if subject else key_of(options.base_url, options.model)[:8]
    folder = options.out or ROOT / "results" / name
    about = subject.about() if subject else server_about(options)
    set_aside_others(folder, about)
    run = Evaluation(subject, settings, folder, {}, {}, about, None, records, str(data) if data else None)
    if options.judge_url:
        run.judge = Judge(options.judge_url, options.judge_model, os.environ.get("JUDGE_API_KEY", ""))
        run.judge.check()
    tell_start(about, len(run_sides(run, options)), len(records), folder)
    return run


def subject_of(options: argparse.Namespace) -> Subject | None:
    """The subject: of the run that a server serves where that is named, None for a server that nothing is known of."""
    if options.engine != "server":
        return find_subject(options)
    if not options.run:
        return None
    return find_subject(argparse.Namespace(**{**vars(options), "model": None, "adapter": options.run}))


def server_about(options: argparse.Namespace) -> dict[str, Any]:
    """What is known of a foreign server's models, in the place of a subject."""
    told = {"model": options.model, "adapter": options.adapter, "template": "the server's own", "hashes": {}}
    return told | {"id": key_of(options.base_url, options.model, options.adapter), "server": options.base_url}


def run_sides(run: Evaluation, options: argparse.Namespace) -> tuple[str, ...]:
    """base, and tuned where there is an adapter or a second served name."""
    if options.engine == "server":
        return SIDES if options.adapter else SIDES[:1]
    return run.subject.sides


def set_aside_others(folder: Path, about: dict[str, Any]) -> None:
    """Move results of another subject into a folder old-N of their own, so that they are never shown beside these."""
    others = []
    for path in folder.glob("*.json"):
        found = read_json(path)
        kept = found.get("subject") if isinstance(found, dict) else None
        if kept is None and path.name in ("run.json", "perplexity.json", "accuracy.json"):
            kept = {"id": "older"}  # an older MedCoT's, which did not say whose it was
        if kept and kept["id"] != about["id"]:
            others.append(path)
    if not others:
        return
    number = 1
    while (target := folder / f"old-{number}").exists():
        number += 1
    target.mkdir()
    for path in [*folder.glob("*.json"), *folder.glob("*_samples.jsonl"), *folder.glob("*.md"), *folder.glob("*.html")]:
        if path.name != "servers.json":
            path.rename(target / path.name)
    print(f"{folder} held results of another model: moved to {target}")


def load(run: Evaluation) -> LoadedModel:
    """The subject's weights in this process, once."""
    if run.loaded is None:
        print(f"loading {run.subject.model} …", file=sys.stderr, flush=True)
        run.loaded = LoadedModel(run.subject)
    return run.loaded


def unload(run: Evaluation) -> None:
    """Give the weights' memory back."""
    import gc

    import torch

    run.loaded = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def start_engines(run: Evaluation, options: argparse.Namespace, stack: ExitStack) -> None:
    """Engines and forms of both sides; a server that is started ends with ``stack``."""
    sides = run_sides(run, options)
    if options.engine == "hf":
        loaded = load(run)
        form = loaded.form
        run.engines = {side: LocalEngine(loaded, side) for side in sides}
    else:
        unload(run)
        form = run.subject.prompt_format() if run.subject else None
        run.engines = server_engines(run, options, stack, sides, form)
    if form and all(engine.can_continue for engine in run.engines.values()):
        run.forms = {side: forms.thinking_form(form) for side in sides}
    else:
        run.forms = {side: forms.chat_form(form.frame() if form else None) for side in sides}
    settle_amount(run, len(sides))
    if run.forms["base"].name != "chat" and run.subject.adapter:
        choose_base_form(run, form)


def server_engines(
    run: Evaluation, options: argparse.Namespace, stack: ExitStack, sides: tuple[str, ...], form: Any
) -> dict[str, Any]:
    """Clients of the server that runs, or of a vLLM that is started here."""
    if options.engine == "vllm":
        room = 4096 if run.settings.budgets == () else run.settings.budgets[-1] + 3072
        url = stack.enter_context(vllm.serve(run.subject, options.vllm, room, run.folder / "logs/vllm.log"))
        vllm.check_tokenizer(url, form)
        names, precision = vllm.SIDES, "bfloat16"
    else:
        url, precision = options.base_url, options.precision
        names = {"base": options.model, "tuned": options.adapter}
    engines = {side: servers.ServerEngine(url, names[side], side, precision, form=form) for side in sides}
    for side, engine in engines.items():
        if options.engine == "vllm":  # started here on files whose hashes are known
            engine.identity = {**run.subject.identity(side), **engine.about}
        else:
            servers.identify(engine, run.folder)
    return engines


def settle_amount(run: Evaluation, sides: int) -> None:
    """Fill what no option said by the measured speed, and say what will be done and how long it takes."""
    import torch

    settings = run.settings
    speed = measure_speed(run.engines["base"], run.forms["base"].prompt("What causes fever?"))
    on_gpu = torch.cuda.is_available() or run.engines["base"].workers > 1
    filled, minutes = settle(settings, run.folder, speed, on_gpu, sides, len(run.records))
    run.settings = replace(filled, steps=settings.steps)
    items = f"up to {filled.limit} items" if filled.limit else "all items"
    print(
        f"{', '.join(path.stem for path in filled.benchmarks)}: {items} each, thinking budgets "
        f"{', '.join(map(str, filled.budgets))} tokens, answers {filled.answer_tokens}; "
        f"{'under a minute' if minutes < 1 else f'at most {minutes:.0f} minutes'} at {speed:.0f} tokens/s",
        flush=True,
    )
    if filled.limit and "accuracy" in filled.steps:
        points = 100 * smallest_visible_difference(filled.limit)
        print(f"With {filled.limit} items a difference under {points:.0f} points will not show.", flush=True)
