"""The whole evaluation, step by step; called by ``python -m scripts.evaluate``.

Each step writes its own JSON and the samples beside it. Finished items are kept: the same command goes on after a kill.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from scripts.common import provenance, write_json, write_jsonl
from scripts.evaluate import accuracy, controls, judge, perplexity
from scripts.evaluate.answers import format_problems, split_reasoning
from scripts.evaluate.client import Client
from scripts.evaluate.engine import Item, LocalEngine, ServerEngine
from scripts.evaluate.instructions import score
from scripts.evaluate.models import MODELS, Store
from scripts.evaluate.plan import Plan
from scripts.evaluate.stats import is_gain, mcnemar_exact, paired_difference, proportion_ci

RETRY_BATCH = 7  # the repeated base run is batched otherwise, so that padding and rounding are tested too


@contextmanager
def step(plan: Plan, name: str) -> Iterator[dict[str, Any]]:
    """Announce a step; what is put into the yielded dict is written to ``{name}.json`` with settings and provenance."""
    print(f"[{name}]", flush=True)
    began = time.perf_counter()
    result: dict[str, Any] = {}
    yield result
    if result:
        about = {"settings": plan.settings(), "provenance": provenance()}
        about["provenance"]["seconds"] = round(time.perf_counter() - began, 1)
        write_json(plan.out / f"{name}.json", result | about)


def start_engines(plan: Plan) -> None:
    """Local engines for base and tuned (one loaded model), or clients of the server that serves both."""
    if plan.engine == "hf":
        plan.engines = {name: LocalEngine(plan.subject, name, plan.batch) for name in plan.subject.names}
        return
    names = {"base": plan.run["model"]} | ({"tuned": plan.run["adapter"]} if plan.run["adapter"] else {})
    for name, served in names.items():
        client = Client(plan.options.base_url, served)
        client.check()
        plan.engines[name] = ServerEngine(client, name, plan.batch)


def compare(rows: list[dict], measure: str, seed: int = 42) -> dict[str, Any]:
    """Share of rows whose ``measure`` is true per model, and the paired difference (exact McNemar)."""
    found = {name: {row["id"]: bool(row[measure]) for row in rows if row["model"] == name} for name in MODELS}
    result: dict[str, Any] = {}
    for name, mine in found.items():
        if mine:
            interval = proportion_ci(sum(mine.values()), len(mine))
            result[name] = {"share": sum(mine.values()) / len(mine), "n": len(mine), "ci95": interval}
    if found["base"] and found["tuned"]:
        base, tuned = list(found["base"].values()), [found["tuned"][key] for key in found["base"]]
        difference = paired_difference(base, tuned, seed=seed) | mcnemar_exact(base, tuned)
        result["difference"] = difference | {"gain": is_gain(difference["ci95"], difference["p"])}
    return result


def generate(plan: Plan, task: str, prompts: list[dict]) -> list[dict]:
    """Every model's answer to {"id", "lang", "prompt", …} at the largest budget, with what is wrong with its form."""
    rows = []
    for name, thinker in plan.thinkers(plan.budgets[-1:], plan.seeds[0]):
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
    return compare(rows, "well_formed") | {"problems": {name: dict(count) for name, count in counts.items()}}


def instructions(plan: Plan) -> None:
    """Verifiable instructions, checked by code."""
    with step(plan, "instructions") as result:
        rows = generate(plan, "instructions", plan.instructions)
        for row in rows:
            row |= score(row, row["text"], row["opened"])
        write_jsonl(plan.out / "instructions_samples.jsonl", rows)
        for lang in ("all", *sorted({row["lang"] for row in rows})):
            group = [row for row in rows if lang in ("all", row["lang"])]
            result[lang] = {"strict": compare(group, "strict"), "format": summarise_format(group)}


def held_out(plan: Plan) -> list[dict]:
    """Both models' answers to held-out questions, their form, and the pairs that judge and people compare."""
    chosen = plan.records[: plan.limit]
    prompts = [
        {"id": f"{r['id']}", "lang": r["lang"], "prompt": r["input"], "reference": judge.reference_of(r)}
        for r in chosen
    ]
    with step(plan, "format") as result:
        rows = generate(plan, "held-out", prompts)
        write_jsonl(plan.out / "format_samples.jsonl", rows)
        result |= summarise_format(rows)
    return rows


def judged(plan: Plan, rows: list[dict]) -> None:
    """Free-form accuracy and pairwise preference by the judge, and the control that a partial judge ends in ties."""
    for row in rows:
        thought, answer, _ = split_reasoning(row["text"], row["opened"])
        row |= {"question": row["prompt"], "thought": thought, "answer": answer}
    base, tuned = ([row for row in rows if row["model"] == name] for name in MODELS)
    shown = ("id", "lang", "question", "reference")
    pairs = [
        {key: b[key] for key in shown}
        | {"base": b["answer"], "tuned": t["answer"], "base_thought": b["thought"], "tuned_thought": t["thought"]}
        for b, t in zip(base, tuned, strict=False)
    ]
    if not pairs:
        return
    write_jsonl(plan.out / "pairs.jsonl", pairs)
    store = Store(plan.out / "verdicts.jsonl")
    with choose_judge(plan) as client:
        if client is None:
            return
        ask = judge.judge_from(client, 48 if plan.small else 1024)
        # A judge on this machine is a new server each time: it is known by the model that it serves.
        identity = (
            plan.subject.identity("tuned") if plan.judges_itself else {"url": client.base_url, "model": client.model}
        )
        about = {"judge": identity, "self": plan.judges_itself, "prompts": judge.prompt_hashes()}
        with step(plan, "freeform") as result:
            verdicts = judge.freeform(rows, ask, identity, store)
            write_jsonl(plan.out / "freeform_samples.jsonl", verdicts)
            result |= judge.summarise_freeform(verdicts) | about | {"faults": dict(client.faults)}
        with step(plan, "pairwise") as result:
            outcomes = judge.pairwise(pairs, ask, identity, store)
            write_jsonl(plan.out / "pairwise_samples.jsonl", outcomes)
            result |= judge.summarise_pairs(outcomes) | about | {"faults": dict(client.faults)}


def choose_judge(plan: Plan) -> Any:
    """A context with the judge's client: the given endpoint, the demo's model as its own judge, or None."""
    if plan.options.judge_url:
        client = Client(plan.options.judge_url, plan.options.judge_model, os.environ.get("JUDGE_API_KEY", ""))
        client.check()
        return nullcontext(client)
    if plan.judges_itself:
        return judge.local_judge(plan.subject, plan.out / "logs" / "judge.log")
    print("no --judge-url: free-form accuracy and pairwise preference are left out", flush=True)
    return nullcontext(None)


def run_controls(plan: Plan, rows: list[dict]) -> None:
    """The negative controls; the second run of the base model has a store of its own, so it is really asked again."""
    last, first_file = str(plan.budgets[-1]), plan.benchmarks[0]
    with step(plan, "controls") as result:
        engine = plan.engines["base"]
        size, engine.batch_size = engine.batch_size, min(RETRY_BATCH, engine.batch_size)
        again = dict(plan.thinkers(plan.budgets, plan.seeds[0], "control_generations.jsonl"))["base"]
        repeated = accuracy.run(again, [first_file], plan.limit)
        engine.batch_size = size
        once = [r for r in rows if (r["model"], r["task"], r["seed"]) == ("base", first_file.stem, plan.seeds[0])]
        scores = [
            [None if r["outputs"][last]["choice"] is None else float(accuracy.is_right(r, last)) for r in run]
            for run in (once, repeated)
        ]
        found = [controls.base_against_itself(*scores)]
        for name in plan.engines:
            mine = [row for row in rows if (row["model"], row["seed"]) == (name, plan.seeds[0])]
            outcome = controls.shuffled_answers(
                [row["outputs"][last]["choice"] for row in mine], [row["answer_idx"] for row in mine], _rescore
            )
            found.append(outcome | {"name": f"shuffled_answers ({name})"})
        with tempfile.TemporaryDirectory() as folder:
            pairs = [
                {"id": str(i), "question": "q", "reference": "r", "base": "b", "tuned": f"t{i}"} for i in range(20)
            ]
            outcomes = judge.pairwise(pairs, lambda _: "[[A]]", {}, Store(Path(folder) / "v.jsonl"))
        found.append(controls.judge_says_first([row["outcome"] for row in outcomes]))
        result["controls"] = found


def _rescore(choice: str | None, key: str) -> float:
    return float(accuracy.is_right({"outputs": {"": {"choice": choice}}, "answer_idx": key}, ""))


def run(plan: Plan) -> Path:
    """Evaluate; returns the report's path."""
    from scripts.evaluate.report import write_report

    plan.out.mkdir(parents=True, exist_ok=True)
    write_json(plan.out / "run.json", {key: value for key, value in plan.run.items() if key != "out"})
    start_engines(plan)
    if plan.engine == "hf" and plan.records:
        print("[perplexity]", flush=True)
        perplexity.evaluate(plan.subject, plan.run["test_file"], plan.cutoff_len, plan.out)
    else:
        print("no perplexity: it needs --engine hf and held-out records (--data)", flush=True)
    with step(plan, "accuracy") as result:
        rows = [
            row
            for seed in plan.seeds
            for _, thinker in plan.thinkers(plan.budgets, seed)
            for row in accuracy.run(thinker, plan.benchmarks, plan.limit)
        ]
        write_jsonl(plan.out / "accuracy_samples.jsonl", rows)
        result |= {"tasks": accuracy.summarise(rows)}
    instructions(plan)
    if plan.records:
        judged(plan, held_out(plan))
    run_controls(plan, rows)
    return write_report(plan.out)
