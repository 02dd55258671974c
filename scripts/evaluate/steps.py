"""The evaluation's steps. Each asks both sides, writes its own JSON and the samples beside it, and can be run alone.

Finished items are kept, so the same command goes on after a kill. A result file holds its subject, the settings, the
engine with its precision, and where it comes from.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts.common import ROOT, provenance, read_jsonl, write_json, write_jsonl
from scripts.evaluate import accuracy, controls, forms, judge, perplexity, texts
from scripts.evaluate.engines import R1_SAMPLING, LoadedModel
from scripts.evaluate.generate import Form, Item, Limits, ask
from scripts.evaluate.instructions import load_prompts, score
from scripts.evaluate.judge_server import Judge
from scripts.evaluate.read import split_reasoning
from scripts.evaluate.settings import Settings
from scripts.evaluate.stats import compare
from scripts.evaluate.store import Store
from scripts.evaluate.subject import Subject
from scripts.prepare.items import read_items
from scripts.train.template import PromptFormat

SHOWN_TOKENS = 448  # of each showcase answer's thought, and as many of the answer after it


@dataclass
class Evaluation:
    """What the steps share. Engines and forms (side → how it is asked) are there once a step needs them."""

    subject: Subject | None
    about: dict[str, Any]  # the subject as result files keep it
    sides: tuple[str, ...]
    settings: Settings
    folder: Path
    records: list[dict]
    held_out: str | None
    judge: Judge | None = None
    loaded: LoadedModel | None = None
    engines: dict[str, Any] = field(default_factory=dict)
    forms: dict[str, Form] = field(default_factory=dict)
    base_chosen: dict[str, Any] = field(default_factory=dict)  # how the base model's form was settled

    @cached_property
    def store(self) -> Store:
        return Store(self.folder / "generations.jsonl")

    @contextmanager
    def step(self, name: str, limits: Limits | None = None, **more: Any) -> Iterator[dict[str, Any]]:
        """Announce a step; what is put into the yielded dictionary is written to ``{name}.json``.

        ``limits``: the step's own, where they are not the evaluation's.
        """
        print(f"[{name}]", flush=True)
        began, result = time.perf_counter(), {}
        yield result
        settings = self.settings.as_json() | {
            "forms": {side: form.name for side, form in self.forms.items()},
            "base_form_chosen": self.base_chosen,
            "held_out": self.held_out,
        }
        if limits:
            own = {"budgets": limits.budgets, "answer_tokens": limits.answer_tokens, "sampling": limits.sampling}
            settings |= own
        seconds = {"seconds": round(time.perf_counter() - began, 1)}
        engine = self.engines["base"].about | {"faults": self.faults()} if self.engines else {}
        about = {"subject": self.about, "settings": settings, **engine, "provenance": provenance() | seconds}
        write_json(self.folder / f"{name}.json", result | about | more)

    def faults(self) -> dict[str, int]:
        """What a server did wrong so far, retried and counted."""
        return dict(sum((engine.faults for engine in self.engines.values()), Counter()))

    def ask(self, items: Sequence[Item], task: str, side: str, limits: Limits) -> list[dict]:
        """One side's answers, by its form."""
        return ask(self.engines[side], self.forms[side], limits, items, task, self.store)


def measure_perplexity(run: Evaluation, cutoff_len: int) -> None:
    """Perplexity of held-out records in training's precision, whatever the other steps' engine."""
    with run.step("perplexity", engine="transformers", precision=run.loaded.precision) as result:
        store = Store(run.folder / "perplexity_items.jsonl")
        rows = perplexity.measure(run.loaded, run.records, cutoff_len, store, run.subject.sides)
        write_jsonl(run.folder / "perplexity_samples.jsonl", rows)
        result |= perplexity.summarise(rows) | {"cutoff_len": cutoff_len}


def show_answers(run: Evaluation) -> None:
    """A few questions with both sides' answers, by R1's sampling with a fixed seed: for people to read."""
    prompts = [row for _, row in read_jsonl(ROOT / "data/questions.jsonl")]
    items = [Item(row["id"], row["question"]) for row in prompts]
    limits = Limits((SHOWN_TOKENS,), SHOWN_TOKENS, R1_SAMPLING, run.settings.seeds[0])
    with run.step("answers", limits) as result:
        result["answers"] = [dict(row) for row in prompts]
        for side in run.sides:
            for row, answered in zip(result["answers"], run.ask(items, "answers", side, limits), strict=True):
                row[side] = largest(answered, run.forms[side])


def largest(answered: dict, form: Form) -> dict[str, Any]:
    """The output at the largest budget, with ``thought`` and ``answer`` apart."""
    output = list(answered["outputs"].values())[-1]
    parts = split_reasoning(output["text"], form.thinks, form.marks)
    return {**output, "thought": parts.thought, "answer": parts.answer}


def measure_accuracy(run: Evaluation) -> list[dict]:
    """Accuracy on every benchmark at every budget, once more with rotated options where wanted; returns the rows."""
    rows: list[dict] = []
    with run.step("accuracy") as result:
        for path in run.settings.benchmarks:
            items = read_items(path)[: run.settings.limit]
            rows += asked_by_all(run, path.stem, items)
            if run.settings.rotated:
                turned = [texts.rotate_options(item, 1) for item in items]
                rows += asked_by_all(run, f"{path.stem} (rotated)", turned)
        write_jsonl(run.folder / "accuracy_samples.jsonl", rows)
        result["tasks"] = accuracy.summarise(rows)
        result["behind"] = behind_accuracy(run, rows)
    return rows


def asked_by_all(run: Evaluation, task: str, items: list[dict]) -> list[dict]:
    """Scored rows of every side and seed."""
    rows = []
    for seed in run.settings.seeds:
        for side in run.sides:
            answered = run.ask(accuracy.items_of(items), task, side, run.settings.limits(seed))
            rows += accuracy.score(task, items, answered)
    return rows


def behind_accuracy(run: Evaluation, rows: list[dict]) -> dict[str, Any]:
    """What accuracy does not show, per side, from the texts at the largest budget."""
    found = {}
    for side in run.sides:
        mine = [row for row in rows if row["model"] == side]
        marks = run.forms[side].marks
        seen = [texts.describe(list(row["outputs"].values())[-1], row["options"], marks) for row in mine]
        found[side] = texts.shares(seen, [row["id"] for row in mine]) | {"n": len(mine)}
        if run.settings.rotated:
            found[side]["stays"] = texts.stays(mine)
    return found


def generate(run: Evaluation, task: str, prompts: list[dict]) -> list[dict]:
    """Every side's answer to {"id", "lang", "prompt", …} at the largest budget."""
    limits = replace(run.settings.limits(), budgets=run.settings.budgets[-1:])
    items = [Item(prompt["id"], prompt["prompt"]) for prompt in prompts]
    rows = []
    for side in run.sides:
        for prompt, answered in zip(prompts, run.ask(items, task, side, limits), strict=True):
            rows.append({**prompt, "model": side, **largest(answered, run.forms[side])})
    return rows


def share(rows: list[dict], measure: str) -> dict[str, Any]:
    """Share of rows whose ``measure`` is true per side, and the paired difference."""
    found: dict[str, dict] = {}
    for row in rows:
        found.setdefault(row["model"], {})[row["id"]] = float(row[measure])
    return compare(found, "share")


def follow_instructions(run: Evaluation) -> None:
    """Verifiable instructions, checked by code."""
    prompts = [row for path in run.settings.instructions for row in load_prompts(path)[: run.settings.limit]]
    with run.step("instructions") as result:
        rows = [row | score(row, row["answer"]) for row in generate(run, "instructions", prompts)]
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
        rows = generate(run, "held-out", prompts)
        for row in rows:
            row["problems"] = texts.format_problems(row, row["lang"], run.forms[row["model"]].marks)
            row["well_formed"] = not row["problems"]
        write_jsonl(run.folder / "format_samples.jsonl", rows)
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
        answered = ask(run.engines["base"], run.forms["base"], limits, accuracy.items_of(items), path.stem, again)
        second = accuracy.score(path.stem, items, answered)
        first = [r for r in rows if (r["model"], r["task"], r["seed"]) == ("base", path.stem, settings.seeds[0])]
        found = [controls.base_against_itself(*(scores_of(part, last) for part in (first, second)))]
        for side in run.sides:
            mine = [row for row in rows if (row["model"], row["seed"]) == (side, settings.seeds[0])]
            letters, keys = [row["outputs"][last]["letter"] for row in mine], [row["answer_idx"] for row in mine]
            found.append(controls.shuffled_answers(letters, keys, rescore) | {"name": f"shuffled_answers ({side})"})
        found.append(controls.judge_says_first(judge.outcomes_of_one_who_says_first()))
        result["controls"] = found


def rescore(letter: str | None, key: str) -> float:
    """A letter against a key, by the evaluation's own scorer."""
    row = {"answer_idx": key, "outputs": {"": {"letter": letter, "status": "read" if letter else "unparsed"}}}
    return float(accuracy.is_right(row, ""))


def scores_of(rows: list[dict], budget: str) -> list[float | None]:
    """1 or 0 per item; None where no letter was read."""
    return [None if row["outputs"][budget]["letter"] is None else float(accuracy.is_right(row, budget)) for row in rows]


def pairs_of(run: Evaluation, rows: list[dict]) -> list[dict]:
    """What a judge and people compare: both sides' answers to one question, written to ``pairs.jsonl``."""
    tuned_rows = {row["id"]: row for row in rows if row["model"] == "tuned"}
    pairs = []
    for base in rows:
        if base["model"] != "base" or base["id"] not in tuned_rows:
            continue
        tuned = tuned_rows[base["id"]]
        about = {key: base[key] for key in ("id", "lang", "question", "reference")}
        said = {"base": base["answer"], "base_thought": base["thought"]}
        pairs.append(about | said | {"tuned": tuned["answer"], "tuned_thought": tuned["thought"]})
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
        pairs = pairs_of(run, answered := check_format(run))
    if "controls" in steps and rows:
        run_controls(run, rows)
    if "judge" in steps and pairs and run.judge:
        judge.judge_all(run, pairs, answered)
    elif "judge" in steps and pairs:
        print("no --judge-url: free-form accuracy and pairwise preference are left out", flush=True)


def choose_base_form(run: Evaluation, form: PromptFormat) -> None:
    """Settle how the base model is asked: as the option says, or the better of both forms on a development set."""
    settings, name = run.settings, run.settings.base_form
    by = "default" if name == "auto" else "--base-form"
    scores = {}
    if name == "auto" and settings.development and "accuracy" in settings.steps:
        by = "development set"
        for candidate, make in forms.BASE_FORMS.items():
            run.forms["base"] = make(form)
            rows = []
            for path in settings.development:
                items = read_items(path)[: settings.limit]
                answered = run.ask(accuracy.items_of(items), f"development {path.stem}", "base", settings.limits())
                rows += accuracy.score(path.stem, items, answered)
            right = sum(accuracy.is_right(row, str(settings.budgets[-1])) for row in rows)
            scores[candidate] = {"acc": right / len(rows), "n": len(rows)}
        name = max(scores, key=lambda candidate: scores[candidate]["acc"])
    elif name == "auto":
        name = "own"
    run.forms["base"] = forms.BASE_FORMS[name](form)
    run.base_chosen = {"by": by, "form": name} | ({"scores": scores} if scores else {})
    if scores:
        print(f"base model: {forms.WORDS[run.forms['base'].name]}; {json.dumps(scores)}", flush=True)
