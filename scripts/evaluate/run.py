"""The whole evaluation, step by step; called by ``python -m scripts.evaluate``.

Each step writes its own JSON and the samples beside it. Finished items are kept: the same command goes on after a kill.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.common import file_hash, provenance, write_json, write_jsonl
from scripts.evaluate import accuracy, controls, judge, perplexity
from scripts.evaluate.client import Client
from scripts.evaluate.engines import Item, LocalEngine, ServerEngine
from scripts.evaluate.instructions import score
from scripts.evaluate.plan import Plan
from scripts.evaluate.read import format_problems, split_reasoning
from scripts.evaluate.report import write_report
from scripts.evaluate.stats import compare
from scripts.evaluate.subject import MODELS, Store

RETRY_BATCH = 7  # the repeated base run is batched otherwise, so that padding and rounding are tested too


@contextmanager
def step(plan: Plan, name: str) -> Iterator[dict[str, Any]]:
    """Announce a step; what is put into the yielded dict is written to ``{name}.json`` with settings and provenance."""
    print(f"[{name}]", flush=True)
    began = time.perf_counter()
    result: dict[str, Any] = {}
    yield result
    about = provenance() | {"seconds": round(time.perf_counter() - began, 1)}
    write_json(plan.out / f"{name}.json", result | {"settings": plan.settings(), "provenance": about})


def start_engines(plan: Plan) -> None:
    """Local engines for base and tuned (one loaded model), or clients of the server that serves both."""
    if plan.subject:
        plan.engines = {name: LocalEngine(plan.subject, name, plan.batch) for name in plan.subject.names}
        return
    for name, served in zip(MODELS, (plan.run["model"], plan.run["adapter"]), strict=True):
        if served:
            client = Client(plan.options.base_url, served)
            client.check()
            plan.engines[name] = ServerEngine(client, name, plan.batch)


def share(rows: list[dict], measure: str) -> dict[str, Any]:
    """Share of rows whose ``measure`` is true per model, and the paired difference."""
    found = {name: {row["id"]: bool(row[measure]) for row in rows if row["model"] == name} for name in MODELS}
    return compare({name: mine for name, mine in found.items() if mine}, "share")


def generate(plan: Plan, task: str, prompts: list[dict]) -> list[dict]:
    """Every model's answer to {"id", "lang", "prompt", …} at the largest budget, with what is wrong with its form."""
    rows = []
    for name, engine in plan.engines.items():
        thinker = plan.thinker(engine, plan.seeds[0], plan.budgets[-1:])
        answered = thinker.answer([Item(prompt["id"], prompt["prompt"]) for prompt in prompts], task)
        for prompt, row in zip(prompts, answered, strict=True):
            output = row["outputs"][str(plan.budgets[-1])]
            problems = format_problems(output["text"], prompt.get("answer_lang", prompt["lang"]), output["opened"])
            if output["forced"]:
                problems = sorted({*problems, "unclosed_reasoning"})  # it was closed for the model
            rows.append({**prompt, "model": name, **output, "problems": problems, "well_formed": not problems})
    return rows


def summarise_format(rows: list[dict]) -> dict[str, Any]:
    """Share of well-formed outputs, and how often each problem was found per model."""
    counts = {name: Counter(p for row in rows if row["model"] == name for p in row["problems"]) for name in MODELS}
    return share(rows, "well_formed") | {"problems": counts}


def instructions(plan: Plan) -> None:
    """Verifiable instructions, checked by code."""
    with step(plan, "instructions") as result:
        rows = generate(plan, "instructions", plan.instructions)
        for row in rows:
            row |= score(row, row["text"], row["opened"])
        write_jsonl(plan.out / "instructions_samples.jsonl", rows)
        for lang in ("all", *sorted({row["lang"] for row in rows})):
            group = [row for row in rows if lang in ("all", row["lang"])]
            result[lang] = {"strict": share(group, "strict"), "format": summarise_format(group)}


def held_out(plan: Plan) -> list[dict]:
    """Both models' answers to held-out questions, and their form."""
    prompts = [
        {
            "id": str(row["id"]),
            "lang": row["lang"],
            "prompt": row["input"],
            "reference": split_reasoning(row["output"]).answer,
        }
        for row in plan.records[: plan.limit]
    ]
    with step(plan, "format") as result:
        rows = generate(plan, "held-out", prompts)
        write_jsonl(plan.out / "format_samples.jsonl", rows)
        result |= summarise_format(rows)
    for row in rows:
        thought, answer, _ = split_reasoning(row["text"], row["opened"])
        row |= {"question": row["prompt"], "thought": thought, "answer": answer}
    return rows


def judged(plan: Plan, rows: list[dict]) -> None:
    """The pairs that judge and people compare; free-form accuracy and pairwise preference by the judge."""
    base, tuned = ([row for row in rows if row["model"] == name] for name in MODELS)
    pairs = [
        {key: b[key] for key in ("id", "lang", "question", "reference")}
        | {"base": b["answer"], "tuned": t["answer"], "base_thought": b["thought"], "tuned_thought": t["thought"]}
        for b, t in zip(base, tuned, strict=False)
    ]
    if not pairs:
        return
    write_jsonl(plan.out / "pairs.jsonl", pairs)
    if plan.options.judge_url:
        client = Client(plan.options.judge_url, plan.options.judge_model, os.environ.get("JUDGE_API_KEY", ""))
        client.check()
        ask, faults, workers = judge.judge_from(client), client.faults, 4
        identity = {"url": client.base_url, "model": client.model}
    elif plan.judges_itself:
        ask, faults, workers = judge.self_judge(plan.engines["tuned"]), {}, 1
        identity = plan.engines["tuned"].identity
    else:
        print("no --judge-url: free-form accuracy and pairwise preference are left out", flush=True)
        return
    prompts = {path.name: file_hash(path) for path in sorted(judge.PROMPTS.glob("*.txt"))}
    about = {"judge": identity, "self": plan.judges_itself, "prompts": prompts}
    store = Store(plan.out / "verdicts.jsonl")
    for name, compared, verdicts_on, summarise in (
        ("freeform", rows, judge.freeform, judge.summarise_freeform),
        ("pairwise", pairs, judge.pairwise, judge.summarise_pairs),
    ):
        with step(plan, name) as result:
            verdicts = verdicts_on(compared, ask, identity, store, workers)
            write_jsonl(plan.out / f"{name}_samples.jsonl", verdicts)
            result |= summarise(verdicts) | about | {"faults": dict(faults)}


def run_controls(plan: Plan, rows: list[dict]) -> None:
    """The negative controls; the second run of the base model has a store of its own, so it is really asked again."""
    last, first_file = str(plan.budgets[-1]), plan.benchmarks[0]

    def rescore(choice: str | None, key: str) -> float:  # by the evaluation's own scorer
        return float(accuracy.is_right({"outputs": {last: {"choice": choice}}, "answer_idx": key}, last))

    with step(plan, "controls") as result:
        engine = copy.copy(plan.engines["base"])
        engine.batch_size = min(RETRY_BATCH, engine.batch_size)
        again = plan.thinker(engine, plan.seeds[0], store=Store(plan.out / "control_generations.jsonl"))
        once = [r for r in rows if (r["model"], r["task"], r["seed"]) == ("base", first_file.stem, plan.seeds[0])]
        scores = [
            [None if r["outputs"][last]["choice"] is None else float(accuracy.is_right(r, last)) for r in run]
            for run in (once, accuracy.run(again, [first_file], plan.limit))
        ]
        found = [controls.base_against_itself(*scores)]
        for name in plan.engines:
            mine = [row for row in rows if (row["model"], row["seed"]) == (name, plan.seeds[0])]
            choices, keys = [row["outputs"][last]["choice"] for row in mine], [row["answer_idx"] for row in mine]
            outcome = controls.shuffled_answers(choices, keys, rescore)
            found.append(outcome | {"name": f"shuffled_answers ({name})"})
        pairs = [{"id": str(i), "question": "q", "reference": "r", "base": "b", "tuned": f"t{i}"} for i in range(20)]
        with tempfile.TemporaryDirectory() as folder:
            outcomes = judge.pairwise(pairs, lambda _: "[[A]]", {}, Store(Path(folder) / "verdicts.jsonl"))
        found.append(controls.judge_says_first([row["outcome"] for row in outcomes]))
        result["controls"] = found


def run(plan: Plan) -> Path:
    """Evaluate; returns the report's path."""
    plan.out.mkdir(parents=True, exist_ok=True)
    write_json(plan.out / "run.json", {key: value for key, value in plan.run.items() if key != "out"})
    start_engines(plan)
    if plan.subject and plan.records:
        print("[perplexity]", flush=True)
        perplexity.evaluate(plan.subject, plan.run["test_file"], plan.run["cutoff_len"], plan.out)
    else:
        print("no perplexity: it needs --engine hf and held-out records (--data)", flush=True)
    with step(plan, "accuracy") as result:
        thinkers = [plan.thinker(engine, seed) for seed in plan.seeds for engine in plan.engines.values()]
        rows = [row for thinker in thinkers for row in accuracy.run(thinker, plan.benchmarks, plan.limit)]
        write_jsonl(plan.out / "accuracy_samples.jsonl", rows)
        result |= {"tasks": accuracy.summarise(rows)}
    instructions(plan)
    if plan.records:
        judged(plan, held_out(plan))
    run_controls(plan, rows)
    return write_report(plan.out)
