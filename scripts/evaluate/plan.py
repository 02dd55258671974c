"""Settle what is evaluated and by which engine. What can be wrong is found here, before a model is loaded."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scripts.common import ROOT, read_json
from scripts.evaluate import forms, perplexity, server, vllm
from scripts.evaluate.engines import LoadedModel, LocalEngine
from scripts.evaluate.judge_server import Judge
from scripts.evaluate.settings import measure_speed, read_settings, settle
from scripts.evaluate.stats import smallest_visible_difference
from scripts.evaluate.steps import Evaluation, choose_base_form
from scripts.evaluate.subject import SIDES, Subject, find_subject, key_of
from scripts.evaluate.terminal import tell_start

BY_AMOUNT = {"accuracy", "instructions", "format", "controls"}  # steps whose amount follows the measured speed


def plan_evaluation(options: argparse.Namespace) -> Evaluation:
    """The evaluation as far as it can be settled without a model. UserError for what is missing or contradictory."""
    settings = read_settings(options)
    subject = subject_of(options)
    about = subject.about() if subject else server_about(options)
    tuned = options.adapter if options.engine == "server" else subject.adapter
    data = options.data or (subject.held_out() if subject else None)
    run = Evaluation(
        subject=subject,
        about=about,
        sides=SIDES if tuned else SIDES[:1],
        settings=settings,
        folder=options.out or ROOT / "results" / (subject.name if subject else about["id"][:8]),
        records=perplexity.read_records(data) if data else [],
        held_out=str(data) if data else None,
    )
    set_aside_others(run.folder, about)
    if options.judge_url:
        run.judge = Judge(options.judge_url, options.judge_model, os.environ.get("JUDGE_API_KEY", ""))
        run.judge.check()
    tell_start(about, len(run.sides), len(run.records), run.folder)
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


def set_aside_others(folder: Path, about: dict[str, Any]) -> None:
    """Move results of another subject into a folder old-N of their own, so that they are never shown beside these."""
    if all(owner_of(path) in (None, about["id"]) for path in folder.glob("*.json")):
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
    if options.engine == "hf":
        loaded = load(run)
        form = loaded.form
        run.engines = {side: LocalEngine(loaded, side) for side in run.sides}
    else:
        unload(run)
        form = run.subject.prompt_format() if run.subject else None
        run.engines = server_engines(run, options, stack, form)
    if form and all(engine.can_continue for engine in run.engines.values()):
        run.forms = {side: forms.thinking_form(form) for side in run.sides}
    else:
        run.forms = {side: forms.chat_form(form.frame() if form else None) for side in run.sides}
    if BY_AMOUNT & set(run.settings.steps):
        settle_amount(run)
    if run.forms["base"].name != "chat" and run.subject.adapter:
        choose_base_form(run, form)


def server_engines(run: Evaluation, options: argparse.Namespace, stack: ExitStack, form: Any) -> dict[str, Any]:
    """Clients of the server that runs, or of a vLLM that is started here."""
    if options.engine == "server":
        names = {"base": options.model, "tuned": options.adapter}
        url, precision = options.base_url, options.precision
    else:
        longest = (run.settings.budgets or (1024,))[-1] + 3072
        url = stack.enter_context(vllm.serve(run.subject, options.vllm, longest, run.folder / "logs/vllm.log"))
        vllm.check_tokenizer(url, form)
        names, precision = vllm.SIDES, "bfloat16"
    engines = {side: server.ServerEngine(url, names[side], side, precision, form=form) for side in run.sides}
    for side, engine in engines.items():
        if options.engine == "server":
            server.identify(engine, run.folder)
        else:  # started here on files whose hashes are known
            engine.identity = {**run.subject.identity(side), **engine.about}
    return engines


def settle_amount(run: Evaluation) -> None:
    """Fill what no option said by the measured speed, and say what will be done and how long it takes."""
    import torch

    speed = measure_speed(run.engines["base"], run.forms["base"].prompt("What causes fever?"))
    on_gpu = torch.cuda.is_available() or run.engines["base"].workers > 1
    run.settings, minutes = settle(run.settings, run.folder, speed, on_gpu, len(run.sides), len(run.records))
    settings = run.settings
    print(
        f"{', '.join(path.stem for path in settings.benchmarks)}: "
        f"{f'up to {settings.limit} items' if settings.limit else 'all items'} each, thinking budgets "
        f"{', '.join(map(str, settings.budgets))} tokens, answers {settings.answer_tokens}; "
        f"{'under a minute' if minutes < 1 else f'at most {minutes:.0f} minutes'} at {speed:.0f} tokens/s",
        flush=True,
    )
    if settings.limit and "accuracy" in settings.steps:
        points = 100 * smallest_visible_difference(settings.limit)
        print(f"With {settings.limit} items a difference under {points:.0f} points will not show.", flush=True)
