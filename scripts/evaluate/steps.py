"""The evaluation's steps. Each asks both sides, writes its own JSON and the samples beside it, and can be run alone.

Finished items are kept, so the same command goes on after a kill. A result file holds its subject, the settings, the
engine with its precision, and where it comes from.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts.common import ROOT, provenance, read_jsonl, write_json, write_jsonl
from scripts.evaluate import accuracy, controls, forms, judge, perplexity, texts
from scripts.evaluate.engines import R1_SAMPLING, LoadedModel
from scripts.evaluate.generate import Form, Item, Limits, ask
from scripts.evaluate.instructions import PROMPTS, load_prompts, score
from scripts.evaluate.judge import Judge
from scripts.evaluate.read import split_reasoning
from scripts.evaluate.settings import ROOM, Settings
from scripts.evaluate.stats import compare
from scripts.evaluate.store import Store
from scripts.evaluate.subject import Subject
from scripts.prepare.benchmarks import read_items
from scripts.train.template import PromptFormat

# Tokens of each showcase answer's thought, and of the answer after it: on a CPU a minute's worth.
SHOWN_ON_CPU, SHOWN = (448, 128), (1024, 512)


@dataclass
class Evaluation:
    """What the steps share. Engines and forms (side → how it is asked) are there once a step needs them."""

    subject: Subject
    settings: Settings
    folder: Path
    records: list[dict]
    held_out: str | None
    judge: Judge | None = None
    engines: dict[str, Any] = field(default_factory=dict)
    forms: dict[str, Form] = field(default_factory=dict)
    base_chosen: dict[str, Any] = field(default_factory=dict)  # how the base model's form was settled

    @cached_property
    def loaded(self) -> LoadedModel:
        """The subject's weights in this process."""
        print(f"loading {self.subject.model} …", file=sys.stderr, flush=True)
        return LoadedModel(self.subject)

    @property
    def sides(self) -> tuple[str, ...]:
        return self.subject.sides

    @property
    def is_fast(self) -> bool:
        """Whether a GPU or a server answers."""
        import torch

        return torch.cuda.is_available() or self.engines["base"].workers > 1

    @cached_property
    def store(self) -> Store:
        return Store(self.folder / "generations.jsonl")

    @contextmanager
    def step(self, name: str, **own: Any) -> Iterator[dict[str, Any]]:
        """Announce a step; what is put into the yielded dictionary is written to ``{name}.json``.

        ``own``: the step's settings, where they are not the evaluation's.
        """
        print(f"[{name}]", flush=True)
        began, result = time.perf_counter(), {}
        yield result
        settings = self.settings.as_json() | {
            "forms": {side: form.name for side, form in self.forms.items()},
            "base_form_chosen": self.base_chosen,
            "held_out": self.held_out,
        }
        seconds = {"seconds": round(time.perf_counter() - began, 1)}
        about = {"subject": self.subject.about(), "settings": settings | own, "provenance": provenance() | seconds}
        if self.engines:
            faults = sum((engine.faults for engine in self.engines.values()), Counter())
            about |= self.engines["base"].about | {"faults": dict(faults)}
        write_json(self.folder / f"{name}.json", about | result)

    def ask(self, items: Sequence[Item], task: str, side: str, limits: Limits) -> list[dict]:
        """One side's answers, by its form."""
        return ask(self.engines[side], self.forms[side], limits, items, task, self.store)


def measure_perplexity(run: Evaluation, cutoff_len: int | None) -> None:
    """Perplexity of held-out records in training's precision, whatever the other steps' engine."""
    cutoff_len = cutoff_len or (run.subject.run or {}).get("cutoff_len", 2048)
    loaded = run.loaded
    with run.step("perplexity") as result:
        store = Store(run.folder / "perplexity_items.jsonl")
        rows = perplexity.measure(loaded, run.records, cutoff_len, store, run.sides)
        write_jsonl(run.folder / "perplexity_samples.jsonl", rows)
        result |= perplexity.summarise(rows) | {"cutoff_len": cutoff_len}
        result |= {"engine": "transformers", "precision": loaded.precision}


def show_answers(run: Evaluation) -> None:
    """A few questions with both sides' answers, by R1's sampling with a fixed seed: for people to read."""
    prompts = [row for _, row in read_jsonl(ROOT / "data/questions.jsonl")]
    room, answer_room = SHOWN if run.is_fast else SHOWN_ON_CPU
    limits = Limits((room,), answer_room, R1_SAMPLING, run.settings.seeds[0])
    with run.step("answers", **asdict(limits)) as result:
        rows = generate(run, "answers", [row | {"prompt": row["question"]} for row in prompts], limits)
        result["answers"] = [dict(row) for row in prompts]
        for shown in result["answers"]:
            for row in [row for row in rows if row["id"] == shown["id"]]:
                shown[row["model"]] = {name: row[name] for name in ("thought", "answer", "closed", "forced", "cut")}


def generate(run: Evaluation, task: str, prompts: list[dict], limits: Limits) -> list[dict]:
    """Every side's output at the largest budget for {"id", "prompt", …}, with ``thought`` and ``answer`` apart."""
    items = [Item(prompt["id"], prompt["prompt"], about=prompt) for prompt in prompts]
    rows = []
    for side in run.sides:
        form = run.forms[side]
        for row in run.ask(items, task, side, limits):
            output = list(row.pop("outputs").values())[-1]
            parts = split_reasoning(output["text"], form.thinks, form.marks)
            rows.append({**row, **output, "thought": parts.thought, "answer": parts.answer})
    return rows


def measure_accuracy(run: Evaluation) -> list[dict]:
    """Accuracy on every benchmark at every budget, once more with rotated options where wanted; returns the rows."""
    rows: list[dict] = []
    with run.step("accuracy") as result:
        for path in run.settings.benchmarks:
            items = read_items(path)[: run.settings.limit]
            rows += asked_by_all(run, path.stem, items)
            if run.settings.rotated:
                turned = [texts.rotate_options(item, 1) for item in items]
                rows += asked_by_all(run, path.stem + texts.ROTATED, turned)
        write_jsonl(run.folder / "accuracy_samples.jsonl", rows)
        result["tasks"] = accuracy.summarise(rows)
        result["behind"] = behind_accuracy(run, rows)
    return rows


def asked_by_all(run: Evaluation, task: str, items: list[dict]) -> list[dict]:
    """Scored rows of every side and seed."""
    rows = []
    for seed in run.settings.seeds:
        for side in run.sides:
            rows += run.ask(accuracy.items_of(items), task, side, run.settings.limits(seed))
    return rows


def behind_accuracy(run: Evaluation, rows: list[dict]) -> dict[str, Any]:
    """What accuracy does not show, per side, from the texts at the largest budget."""
    found = {}
    for side in run.sides:
        mine = [row for row in rows if row["model"] == side]
        marks = run.forms[side].marks
        seen = [texts.describe(list(row["outputs"].values())[-1], row["options"], marks) for row in mine]
        # two benchmarks may number their items alike
        items = [f"{row['task'].removesuffix(texts.ROTATED)} {row['id']}" for row in mine]
        found[side] = texts.shares(seen, items) | {"n": len(mine)}
        if run.settings.rotated:
            found[side]["stays"] = texts.stays(mine)
    return found


def largest(run: Evaluation) -> Limits:
    """The evaluation's limits with its largest budget alone."""
    return replace(run.settings.limits(), budgets=run.settings.budgets[-1:])


def share(rows: list[dict], measure: str) -> dict[str, Any]:
    """Share of rows whose ``measure`` is true per side, and the paired difference."""
    return compare(rows, lambda row: row[measure], "share")


def follow_instructions(run: Evaluation) -> None:
    """Verifiable instructions, checked by code."""
    prompts = [row for path in PROMPTS for row in load_prompts(path)[: run.settings.limit]]
    with run.step("instructions") as result:
        rows = [row | score(row, row["answer"]) for row in generate(run, "instructions", prompts, largest(run))]
        write_jsonl(run.folder / "instructions_samples.jsonl", rows)
        result["all"] = {"strict": share(rows, "strict")}
        for lang in sorted({row["lang"] for row in rows}):
            result[lang] = {"strict": share([row for row in rows if row["lang"] == lang], "strict")}


def check_format(run: Evaluation) -> list[dict]:
    """Both sides' answers to held-out questions, and their form; returns the rows with thought and answer apart."""
    prompts = []
    for record in run.records[: run.settings.limit]:
        about = {"id": record["id"], "lang": record["lang"], "question": record["input"], "prompt": record["input"]}
        prompts.append(about | {"reference": split_reasoning(record["output"]).answer})
    with run.step("format") as result:
        rows = generate(run, "held-out", prompts, largest(run))
        for row in rows:
            row["problems"] = texts.format_problems(row, row["lang"], run.forms[row["model"]].marks)
            row["well_formed"] = not row["problems"]
        write_jsonl(run.folder / "format_samples.jsonl", rows)
        if run.settings.budgets[-1] < ROOM:
            print("well-formed output is not counted: texts were cut to save time", flush=True)
            return rows
        counts = {side: Counter(p for r in rows if r["model"] == side for p in r["problems"]) for side in run.sides}
        result |= share(rows, "well_formed") | {"problems": counts}
    return rows


def run_controls(run: Evaluation, rows: list[dict]) -> None:
    """The negative controls; the base model's second run has a store of its own, so it is really asked again."""
    settings, path = run.settings, run.settings.benchmarks[0]
    items, last = read_items(path)[: settings.limit], str(settings.budgets[-1])
    with run.step("controls") as result:
        again = Store(run.folder / "control_generations.jsonl")
        limits = settings.limits()
        second = ask(run.engines["base"], run.forms["base"], limits, accuracy.items_of(items), path.stem, again)
        first = [r for r in rows if (r["model"], r["task"], r["seed"]) == ("base", path.stem, settings.seeds[0])]
        found = [controls.base_against_itself(first, second, last)]
        for side in run.sides:
            mine = [row for row in rows if (row["model"], row["seed"]) == (side, settings.seeds[0])]
            found.append(controls.shuffled_answers(mine, last) | {"name": f"shuffled_answers ({side})"})
        result["controls"] = found


def pairs_of(run: Evaluation, rows: list[dict]) -> list[dict]:
    """What a judge and people compare: both sides' answers to one question, written to ``pairs.jsonl``."""
    tuned_rows = {row["id"]: row for row in rows if row["model"] == "tuned"}
    pairs = []
    for base in [row for row in rows if row["model"] == "base" and row["id"] in tuned_rows]:
        pair = {key: base[key] for key in ("id", "lang", "question", "reference")}
        for side, row in (("base", base), ("tuned", tuned_rows[base["id"]])):
            pair |= {side: row["answer"], f"{side}_thought": row["thought"]}
        pairs.append(pair)
    if pairs:
        write_jsonl(run.folder / "pairs.jsonl", pairs)
    return pairs


def run_steps(run: Evaluation) -> None:
    """All wanted steps that ask the models, in order, a judge last; what a step lacks is said and left out."""
    steps, rows, pairs = run.settings.steps, [], []
    if "answers" in steps:
        show_answers(run)
    if "accuracy" in steps:
        rows = measure_accuracy(run)
    if "instructions" in steps:
        follow_instructions(run)
    if "format" in steps and run.records:
        pairs = pairs_of(run, check_format(run))
    if "controls" in steps and rows:
        run_controls(run, rows)
    if "judge" in steps and pairs and run.judge:
        judge.judge_all(run, pairs)
    elif "judge" in steps and pairs:
        print("preference is not measured: no judge was named (--judge-url, --judge-model)", flush=True)


def choose_base_form(run: Evaluation, form: PromptFormat) -> None:
    """Settle how the base model is asked: as the option says, or the better of both forms on a development set."""
    settings = run.settings
    chosen = {"by": "--base-form", "form": settings.base_form}
    if settings.base_form == "auto":
        chosen = {"by": "default", "form": "own"}
    if settings.base_form == "auto" and settings.development and "accuracy" in settings.steps:
        scores = {name: on_development(run, make(form)) for name, make in forms.BASE_FORMS.items()}
        best = max(scores, key=lambda name: scores[name]["acc"])
        chosen = {"by": "development set", "form": best, "scores": scores}
        print(f"base model, chosen on the development set: {best}; {json.dumps(scores)}", flush=True)
    run.forms["base"], run.base_chosen = forms.BASE_FORMS[chosen["form"]](form), chosen


def on_development(run: Evaluation, form: Form) -> dict[str, Any]:
    """The base model's accuracy in one form on the development items."""
    run.forms["base"], limits, rows = form, run.settings.limits(), []
    for path in run.settings.development:
        items = accuracy.items_of(read_items(path)[: run.settings.limit])
        rows += run.ask(items, f"development {path.stem}", "base", limits)
    right = sum(accuracy.is_right(row, str(limits.budgets[-1])) for row in rows)
    return {"acc": right / len(rows), "n": len(rows)}
