"""Answer accuracy on data/benchmarks: lm-eval builds the prompts and scores, our Thinker generates, answers.py reads.

lm-eval is given a model object whose text starts with the opened ``<think>``, so that the same task file also scores
any other lm-eval model. Accuracy at each budget comes from the same items' texts at that budget.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.common import ROOT, THINK_OPEN, UserError, file_hash, read_jsonl
from scripts.evaluate.answers import extract_choice
from scripts.evaluate.engine import Item, Thinker
from scripts.evaluate.stats import holm, is_gain, mcnemar_exact, paired_difference, proportion_ci

TASKS = ROOT / "yamls" / "eval"
CUES = {"zh": "答案：", "en": "Answer: **"}


def read_benchmark(path: str | Path) -> list[dict]:
    """Items of a benchmark file; raises UserError for a missing answer key, option or question, or an empty file."""
    items, seen = [], set()
    for line, row in read_jsonl(path):
        options = row.get("options")
        if not row.get("question") or not isinstance(options, dict) or len(options) < 2:
            raise UserError(f"{path}:{line}: expected `question` and at least two `options` (letter to text)")
        if row.get("answer_idx") not in options:
            found = row.get("answer_idx")
            raise UserError(f"{path}:{line}: answer_idx is {found!r}, expected one of {', '.join(options)}")
        if row.get("id") in seen or row.get("id") is None:
            raise UserError(f"{path}:{line}: id {row.get('id')!r} is missing or not unique in this file")
        seen.add(row["id"])
        items.append(row)
    if not items:
        raise UserError(f"{path}: no items; write it again with python -m scripts.prepare.benchmarks")
    return items


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


def harness_model(thinker: Thinker) -> Any:
    """An lm-eval model whose answers come from ``thinker``."""
    from lm_eval.api.model import LM

    class HarnessModel(LM):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            texts: dict[int, str] = {}
            for task in dict.fromkeys(request.task_name for request in requests):
                chosen = [(i, request) for i, request in enumerate(requests) if request.task_name == task]
                items = [
                    Item(str(r.doc["id"]), r.args[0], CUES.get(r.doc["lang"], CUES["en"]), tuple(letters_of(r.doc)))
                    for _, r in chosen
                ]
                for (i, _), row in zip(chosen, thinker.answer(items, task), strict=True):
                    rows[task, row["id"]] = row
                    output = row["outputs"][str(thinker.budgets[-1])]
                    texts[i] = with_opening(output)
            return [texts[i] for i in range(len(requests))]

        def loglikelihood(self, requests: list[Any]) -> Any:
            raise NotImplementedError("MedCoT's tasks are generative")

        loglikelihood_rolling = loglikelihood

    rows: dict[tuple[str, str], dict] = {}
    model = HarnessModel()
    model.rows = rows
    return model


def with_opening(output: dict[str, Any]) -> str:
    """A generated text as a whole: with the opening tag where the prompt had it."""
    return (THINK_OPEN if output["opened"] else "") + output["text"]


def run(thinker: Thinker, files: list[Path], limit: int | None) -> list[dict]:
    """Ask every item of every file; one row per item with what was read at each budget."""
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    tasks = []
    for path in files:
        own = TASKS / f"{path.stem}.yaml"
        config = load_yaml(own if own.is_file() else TASKS / "choice.yaml")
        tasks.append(
            ConfigurableTask(config=config | {"task": path.stem, "dataset_kwargs": {"data_files": {"test": str(path)}}})
        )
    model = harness_model(thinker)
    found = lm_eval.simple_evaluate(
        model, tasks=tasks, limit=limit, bootstrap_iters=0, task_manager=TaskManager(include_defaults=False)
    )
    rows = []
    for path in files:
        for sample in found["samples"][path.stem]:
            doc, row = sample["doc"], model.rows[path.stem, str(sample["doc"]["id"])]
            outputs = {
                budget: {**output, "choice": read_choice(with_opening(output), doc)}
                for budget, output in row["outputs"].items()
            }
            last = outputs[str(thinker.budgets[-1])]
            if float(last["choice"] == doc["answer_idx"]) != sample["acc"]:
                raise RuntimeError(f"{path.stem} {doc['id']}: lm-eval and the samples disagree; report this as a bug")
            about = {key: doc[key] for key in ("id", "lang", "question", "options", "answer_idx")}
            kept = {key: row[key] for key in ("key", "task", "model", "seed")}
            rows.append({**kept, **about, "outputs": outputs})
    return rows


def summarise(rows: list[dict], seed: int = 42) -> dict[str, Any]:
    """Per task and budget: base, tuned and their paired difference; Holm over the tasks at the largest budget."""
    tasks: dict[str, Any] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        chosen = [row for row in rows if row["task"] == task]
        budgets = list(chosen[0]["outputs"])
        chance = sum(1 / len(letters_of(row)) for row in chosen) / len(chosen)
        cells = {budget: _at_budget(chosen, budget, seed) for budget in budgets}
        tasks[task] = {"chance": chance, "languages": sorted({row["lang"] for row in chosen}), "budgets": cells}
    compared = [task["budgets"][list(task["budgets"])[-1]] for task in tasks.values()]
    compared = [cell["difference"] for cell in compared if "difference" in cell]
    for difference, p in zip(compared, holm([difference["p"] for difference in compared]), strict=True):
        difference |= {"p_holm": p, "gain": is_gain(difference["ci95"], p)}
    return tasks


def _at_budget(rows: list[dict], budget: str, seed: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    scores: dict[str, dict[tuple, float]] = {}
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        scores[name] = {(row["id"], row["seed"]): float(is_right(row, budget)) for row in mine}
        outputs = [row["outputs"][budget] for row in mine]
        right, ids = list(scores[name].values()), [row["id"] for row in mine]
        once = len(set(ids)) == len(ids)
        interval = proportion_ci(int(sum(right)), len(right)) if once else None
        result[name] = {
            "acc": sum(right) / len(right),
            "n": len(set(ids)),
            "ci95": interval if once else paired_difference([0] * len(right), right, ids, seed)["ci95"],
            "unparsed": sum(output["choice"] is None for output in outputs) / len(outputs),
            "cut": sum(output["cut"] for output in outputs) / len(outputs),
            "forced": sum(output["forced"] for output in outputs) / len(outputs),
            "thought_tokens": sum(output["thought_tokens"] for output in outputs) / len(outputs),
        }
    if "base" in scores and "tuned" in scores:
        keys = list(scores["base"])
        if keys != list(scores["tuned"]):
            raise UserError(f"{rows[0]['task']}: its file changed while it was evaluated; run the same command again")
        base, tuned = ([scores[name][key] for key in keys] for name in ("base", "tuned"))
        difference = paired_difference(base, tuned, [key[0] for key in keys], seed)
        if len({key[0] for key in keys}) == len(keys):  # one greedy answer each: the exact test
            difference |= mcnemar_exact([bool(x) for x in base], [bool(x) for x in tuned])
        result["difference"] = difference
    return result


def is_right(row: dict, budget: str) -> bool:
    """Whether the choice read at this budget is the key; unparsed is wrong."""
    return row["outputs"][budget]["choice"] == row["answer_idx"]


def benchmark_hashes(files: list[Path]) -> dict[str, str]:
    """File name to SHA-256."""
    return {path.name: file_hash(path) for path in files}
