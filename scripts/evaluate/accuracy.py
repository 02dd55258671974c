"""Answer accuracy on data/benchmarks: lm-eval builds the prompts and scores, our Thinker generates, answers.py reads.

lm-eval is given a model object whose text starts with the opened ``<think>``, so that the same task file also scores
any other lm-eval model. Accuracy at each budget comes from the same items' texts at that budget.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.common import ROOT, THINK_OPEN, UserError, read_jsonl
from scripts.evaluate.engines import Item, Thinker
from scripts.evaluate.read import extract_choice
from scripts.evaluate.stats import compare, holm, is_gain

TASKS = ROOT / "yamls" / "eval"
CUES = {"zh": "答案：", "en": "Answer: **"}


def read_benchmark(path: str | Path) -> list[dict]:
    """Items of a benchmark file; raises UserError for a missing answer key, option or question, or an empty file."""
    items: dict[Any, dict] = {}
    for line, row in read_jsonl(path):
        item, options, answer = row.get("id"), row.get("options"), row.get("answer_idx")
        if not row.get("question") or not isinstance(options, dict) or len(options) < 2:
            raise UserError(f"{path}:{line}: expected `question` and at least two `options` (letter to text)")
        if answer not in options:
            raise UserError(f"{path}:{line}: answer_idx is {answer!r}, expected one of {', '.join(options)}")
        if item in items or item is None:
            raise UserError(f"{path}:{line}: id {item!r} is missing or not unique in this file")
        items[item] = row
    if not items:
        raise UserError(f"{path}: no items; write it again with python -m scripts.prepare.benchmarks")
    return list(items.values())


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """lm-eval's hook: correct and unparsed (which stays in the denominator and is wrong) for one item."""
    choice = read_choice(results[0], doc)
    return {"acc": float(choice == doc["answer_idx"]), "unparsed": float(choice is None)}


def read_choice(text: str, doc: dict) -> str | None:
    """The letter a whole text chooses among the item's options, or None."""
    options = {letter: option for letter, option in doc["options"].items() if option}
    return extract_choice(text, letters_of(doc), options=options)


def letters_of(doc: dict) -> str:
    """The item's option letters, in order."""
    return "".join(sorted(letter for letter, text in doc["options"].items() if text))


def with_opening(output: dict[str, Any]) -> str:
    """A generated text as a whole: with the opening tag where the prompt had it."""
    return (THINK_OPEN if output["opened"] else "") + output["text"]


def ask(thinker: Thinker, path: Path, limit: int | None) -> list[tuple[dict, dict]]:
    """(lm-eval's sample, the Thinker's row) of every item of a file, asked and scored through lm-eval."""
    from lm_eval.api.model import LM
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks._yaml_loader import load_yaml

    rows: dict[str, dict] = {}

    class Model(LM):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            items = [
                Item(str(r.doc["id"]), r.args[0], CUES.get(r.doc["lang"], CUES["en"]), tuple(letters_of(r.doc)))
                for r in requests
            ]
            rows.update({row["id"]: row for row in thinker.answer(items, path.stem)})
            return [with_opening(rows[item.id]["outputs"][str(thinker.budgets[-1])]) for item in items]

        def loglikelihood(self, requests: list[Any]) -> Any:
            raise NotImplementedError("MedCoT's tasks are generative")

        loglikelihood_rolling = loglikelihood

    own = TASKS / f"{path.stem}.yaml"
    config = load_yaml(own if own.is_file() else TASKS / "choice.yaml")
    config |= {"task": path.stem, "dataset_kwargs": {"data_files": {"test": str(path)}}}
    task = ConfigurableTask(config=config)
    task.set_config("num_fewshot", 0)
    found = evaluate(Model(), {path.stem: task}, limit=limit, bootstrap_iters=0)
    return [(sample, rows[str(sample["doc"]["id"])]) for sample in found["samples"][path.stem]]


def run(thinker: Thinker, files: list[Path], limit: int | None) -> list[dict]:
    """Ask every item of every file; one row per item with what was read at each budget."""
    rows = []
    for sample, row in (pair for path in files for pair in ask(thinker, path, limit)):
        doc = sample["doc"]
        kept = {key: row[key] for key in ("key", "task", "model", "seed")}
        kept |= {key: doc[key] for key in ("id", "lang", "question", "options", "answer_idx")}
        kept["outputs"] = {
            budget: {**output, "choice": read_choice(with_opening(output), doc)}
            for budget, output in row["outputs"].items()
        }
        if is_right(kept, str(thinker.budgets[-1])) != sample["acc"]:
            raise RuntimeError(f"{row['task']} {doc['id']}: lm-eval and the samples disagree; report this as a bug")
        rows.append(kept)
    return rows


def summarise(rows: list[dict], seed: int = 42) -> dict[str, Any]:
    """Per task and budget: base, tuned and their paired difference; Holm over the tasks at the largest budget."""
    tasks: dict[str, Any] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        chosen = [row for row in rows if row["task"] == task]
        chance = sum(1 / len(letters_of(row)) for row in chosen) / len(chosen)
        cells = {budget: _at_budget(chosen, budget, seed) for budget in chosen[0]["outputs"]}
        tasks[task] = {"chance": chance, "languages": sorted({row["lang"] for row in chosen}), "budgets": cells}
    compared = [list(task["budgets"].values())[-1] for task in tasks.values()]
    compared = [cell["difference"] for cell in compared if "difference" in cell]
    for difference, p in zip(compared, holm([difference["p"] for difference in compared]), strict=True):
        difference |= {"p_holm": p, "gain": is_gain(difference["ci95"], p)}
    return tasks


def _at_budget(rows: list[dict], budget: str, seed: int) -> dict[str, Any]:
    by_model: dict[str, list[dict]] = {}
    for row in rows:
        by_model.setdefault(row["model"], []).append(row)
    scores = {
        name: {(row["id"], row["seed"]): float(is_right(row, budget)) for row in mine}
        for name, mine in by_model.items()
    }
    if len({tuple(answers) for answers in scores.values()}) > 1:
        raise UserError(f"{rows[0]['task']}: its file changed while it was evaluated; run the same command again")
    result = compare(scores, item=lambda key: key[0], seed=seed)
    result.get("difference", {}).pop("gain", None)  # said after Holm's correction only
    for name, mine in by_model.items():
        outputs = [row["outputs"][budget] for row in mine]
        result[name]["unparsed"] = sum(output["choice"] is None for output in outputs) / len(outputs)
        for key in ("cut", "forced", "thought_tokens"):
            result[name][key] = sum(output[key] for output in outputs) / len(outputs)
    return result


def is_right(row: dict, budget: str) -> bool:
    """Whether the choice read at this budget is the key; unparsed is wrong."""
    return row["outputs"][budget]["choice"] == row["answer_idx"]
