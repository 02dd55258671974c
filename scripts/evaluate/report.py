"""Turn a results folder into report.md and report.html; run as ``python -m scripts.evaluate report results/demo``.

The words are in templates/report.j2, rendered twice: as Markdown and as one self-contained page. Everything from a
model is escaped.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from scripts.common import NOTICE, UserError, read_json, read_jsonl, write_text
from scripts.evaluate import plots
from scripts.evaluate.judge import SCORES, win_rate
from scripts.evaluate.review import pair_key, read_pairs
from scripts.evaluate.stats import cohen_kappa, is_gain
from scripts.evaluate.subject import MODELS

NOTICE_ZH = "仅供研究使用，不构成医疗建议，不得用于临床。"
TEMPLATES = Path(__file__).with_name("templates")
METRICS = ("perplexity", "accuracy", "instructions", "format", "freeform", "pairwise", "controls")
FAILURES, SHOWN = 3, 1500  # of each kind, side by side; characters of each text


def load(path: Path) -> Any:
    """A JSON file's value; {} where there is no such file."""
    return read_json(path) if path.is_file() else {}


def rows_of(path: Path) -> list[dict]:
    """The objects of a JSON Lines file; none where there is no such file."""
    return [row for _, row in read_jsonl(path)] if path.is_file() else []


def number(value: Any, digits: int = 3, scale: float = 1) -> str:
    """A number for people; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value * scale:.{digits}f}" if isinstance(value, float) or scale != 1 else str(value)


def interval(cell: dict[str, Any], name: str = "value", digits: int = 2, scale: float = 1) -> str:
    """value [low, high]."""
    if cell.get(name) is None:
        return "–"
    text, ends = number(cell[name], digits, scale), cell.get("ci95")
    return f"{text} [{number(ends[0], digits, scale)}, {number(ends[1], digits, scale)}]" if ends else text


def verdict(difference: dict[str, Any] | None, better: int = 1) -> str:
    """gain, loss or no difference shown; ``better``: the sign of an improvement."""
    if not difference or not difference.get("ci95"):
        return "–"
    p = difference.get("p_holm", difference.get("p"))
    if is_gain(difference["ci95"], p, better):
        return "gain"
    return "loss" if is_gain(difference["ci95"], p, -better) else "no difference shown"


def win_verdict(rate: dict[str, Any]) -> str:
    """The verdict on a win rate: a half is no difference."""
    centred = {"ci95": rate["ci95"] and [end - 0.5 for end in rate["ci95"]], "p": rate["p"]}
    return verdict(centred) if rate["n"] else "nothing scored"


def comparison(
    label: str, cell: dict[str, Any], name: str, digits: int = 1, scale: float = 100, better: int = 1
) -> list[str]:
    """A row of a before/after table: label, n, base, tuned, difference, p, verdict."""
    difference = cell.get("difference") or {}
    shown = {"value": difference.get("value", difference.get(name)), "ci95": difference.get("ci95")}
    row = [
        label,
        difference.get("n", cell["base"]["n"]),
        *(interval(cell.get(side, {}), name, digits, scale) for side in MODELS),
    ]
    p = difference.get("p_holm", difference.get("p")) if difference.get("ci95") else None
    return [*row, interval(shown, digits=digits, scale=scale), number(p), verdict(difference, better)]


def sides(cell: dict[str, Any], name: str, scale: float = 100) -> str:
    """A value of base and tuned, as "base / tuned"."""
    return " / ".join(number(cell[side][name], 1, scale) for side in MODELS if side in cell)


def shares(results: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """(label, base/tuned/difference, name of the value) of everything that is a share of items."""
    found = []
    for task, cell in results["accuracy"].get("tasks", {}).items():
        found.append((f"accuracy: {task}", list(cell["budgets"].values())[-1], "acc"))
    for lang in ("en", "zh"):
        if lang in results["instructions"]:
            found.append((f"instructions followed: {lang}", results["instructions"][lang]["strict"], "share"))
    if results["format"]:
        found.append(("well-formed output", results["format"], "share"))
    if results["freeform"]:
        found.append(("answer equivalent to reference (judge)", results["freeform"], "acc"))
    return found


def perplexity_groups(result: dict[str, Any]) -> dict[str, dict]:
    """Label → base/tuned/difference: the whole responses, their parts, and both by language where there are several."""
    groups = {"reasoning + answer": result, **result["parts"]}
    for lang, parts in result["languages"].items() if len(result["languages"]) > 1 else ():
        groups |= {f"{lang}: {'reasoning + answer' if part == 'both' else part}": cell for part, cell in parts.items()}
    return groups


def human_votes(folder: Path, seed: int = 42) -> dict[str, Any]:
    """Win rate from votes.jsonl (clustered by pair), and Cohen's κ with the judge on pairs that both decided."""
    if not (folder / "votes.jsonl").is_file():
        return {}
    current = {pair_key(pair) for pair in read_pairs(folder)}
    cast = [vote for vote in rows_of(folder / "votes.jsonl") if vote["pair"] in current]
    last = {(vote["reviewer"], vote["id"]): vote for vote in cast}
    votes = [vote for vote in last.values() if vote["vote"] != "skip"]
    rate = win_rate([SCORES[vote["vote"]] for vote in votes], [vote["id"] for vote in votes], seed)
    counts = {name: sum(vote["vote"] == name for vote in votes) for name in ("tuned", "base", "tie")}
    judged = {row["id"]: row["outcome"] for row in rows_of(folder / "pairwise_samples.jsonl")}
    both = [(v["vote"], judged[v["id"]]) for v in votes if judged.get(v["id"], "unscored") != "unscored"]
    kappa = cohen_kappa(*zip(*both, strict=True)) if both else None
    counts["unscored"] = len(last) - len(votes)
    return {"n": len(votes), "counts": counts, "win_rate": rate, "kappa": kappa}


def failures(folder: Path) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Items worth reading, as (title, question, both models' texts): lost by tuning, wrong in both, not parsed."""
    pairs: dict[tuple, dict[str, dict]] = {}
    for row in rows_of(folder / "accuracy_samples.jsonl"):
        pairs.setdefault((row["task"], row["id"], row["seed"]), {})[row["model"]] = row
    kinds: dict[str, list] = {"base right, tuned wrong": [], "both wrong": [], "not parsed": []}
    for (task, item, _), pair in pairs.items():
        row, said = pair["base"], {name: list(pair[name]["outputs"].values())[-1] for name in MODELS if name in pair}
        chosen = [output["choice"] for output in said.values()]
        if len(said) < 2 or (chosen[0] and chosen[1] == row["answer_idx"]):
            continue
        kind = "base right, tuned wrong" if chosen[0] == row["answer_idx"] else "both wrong"
        kind = "not parsed" if None in chosen else kind
        options = "\n".join(f"{letter}. {text}" for letter, text in row["options"].items() if text)
        texts = [(f"{name}: {x['choice'] or 'not parsed'}", x["text"][:SHOWN]) for name, x in said.items()]
        question = f"{row['question']}\n{options}\nkey: {row['answer_idx']}"
        kinds[kind].append((f"{kind}: {task}, {item}", question, texts))
    return [failure for found in kinds.values() for failure in found[:FAILURES]]


def training_history(folder: Path) -> list[dict[str, float]]:
    """The logged steps of a training run: step, loss, learning_rate, and grad_norm where it was kept."""
    if state := load(folder / "trainer_state.json"):
        return [row for row in state["log_history"] if "loss" in row]
    logged = [row for row in rows_of(folder / "trainer_log.jsonl") if "loss" in row]
    return [{"step": row["current_steps"], "loss": row["loss"], "learning_rate": row["lr"]} for row in logged]


def generation_costs(folder: Path) -> dict[tuple[str, str], list]:
    """(task, model) → answers kept, tokens at the largest budget, seconds."""
    costs: dict[tuple[str, str], list] = {}
    for row in rows_of(folder / "generations.jsonl"):
        output = list(row["outputs"].values())[-1]
        spent = (1, output["thought_tokens"] + output["answer_tokens"], row["seconds"])
        total = costs.setdefault((row["task"], row["model"]), [0, 0, 0.0])
        total[:] = [a + b for a, b in zip(total, spent, strict=True)]
    return costs


def sources(folder: Path) -> dict[str, str]:
    """File → settings, judge, prompts and provenance of its numbers, as indented JSON."""
    found = {"run.json": load(folder / "run.json")}
    for path in sorted(folder.glob("*.json")):
        value = read_json(path)
        if isinstance(value, dict) and "provenance" in value:
            found[path.name] = {k: value[k] for k in ("settings", "judge", "prompts", "provenance") if k in value}
    return {name: json.dumps(value, ensure_ascii=False, indent=2) for name, value in found.items()}


def pictures(results: dict[str, Any], history: list[dict]) -> dict[str, bytes]:
    """Name → PNG of every plot for which there are numbers."""
    found = {}
    changes = [(label, cell.get("difference") or {}) for label, cell, _ in shares(results)]
    if changes := [(label, change) for label, change in changes if change.get("ci95")]:
        words = "tuned − base, percentage points (95% interval; right is better)"
        found["differences"] = plots.differences(changes, "value", 100, words)
    if tasks := results["accuracy"].get("tasks"):
        panels = {task: about["budgets"] for task, about in tasks.items()}
        chance = {task: about["chance"] for task, about in tasks.items()}
        found["accuracy_by_budget"] = plots.curves(panels, "acc", 100, "budget (tokens)", "accuracy (%)", chance)
    if result := results["perplexity"]:
        changes = [(label, cell.get("difference") or {}) for label, cell in perplexity_groups(result).items()]
        if changes := [(label, change) for label, change in changes if change.get("ppl") is not None]:
            words = "perplexity, tuned − base (95% interval; left of 0 is better)"
            found["perplexity_difference"] = plots.differences(changes, "ppl", 1, words)
        words = "response length (tokens)", "perplexity"
        found["perplexity_by_length"] = plots.curves({"": result["lengths"]}, "ppl", 1, *words, {})
    if history:
        found["training_curves"] = plots.training_curves(history)
    return found


def collect(folder: Path) -> dict[str, Any]:
    """What the template needs; raises UserError where the folder holds no results."""
    results = {name: load(folder / f"{name}.json") for name in METRICS}
    if not any(results.values()):
        raise UserError(f"{folder}: nothing to report; run `python -m scripts.evaluate` or `make demo` first")
    run = load(folder / "run.json")
    history = training_history(Path(run["train_dir"])) if run.get("train_dir") else []
    counts = results["format"].get("problems", {})
    limits = [results[name]["settings"]["limit"] for name in ("accuracy", "format") if results[name]]
    return {
        **results,
        "format_": results["format"],  # `format` is a filter of Jinja's
        "problems": sorted({name for side in counts.values() for name in side}),
        "shares": shares(results),
        "limit": limits[0] if limits else None,
        "run": run,
        "title": f"MedCoT evaluation: {run.get('name', folder.name)}",
        "people": human_votes(folder),
        "failures": failures(folder),
        "history": history,
        "steps": load(folder / "steps.json"),
        "data": load(Path(run.get("data_report") or "")),
        "costs": generation_costs(folder),
        "sources": sources(folder),
        "pictures": pictures(results, history),
    }


def render(form: str, found: dict[str, Any], card: bool = False) -> str:
    """The report as ``html`` or ``markdown``; ``card``: only what belongs into a model card."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=form == "html", undefined=jinja2.StrictUndefined
    )
    helpers = (number, interval, comparison, sides, win_verdict, perplexity_groups)
    environment.globals |= {helper.__name__: helper for helper in helpers}
    words = {"notice": NOTICE, "notice_zh": NOTICE_ZH, "chinese": read_json(TEMPLATES / "report_zh.json")}
    return environment.get_template("report.j2").render(found, **words, form=f"{form}.j2", card=card)


def write_report(folder: Path) -> Path:
    """Write report.md, with its pictures in plots/, and report.html into ``folder``; returns the page's path."""
    found = collect(folder)
    (folder / "plots").mkdir(exist_ok=True)
    for name, picture in found["pictures"].items():
        (folder / "plots" / f"{name}.png").write_bytes(picture)
    write_text(folder / "report.md", render("markdown", found))
    found["pictures"] = {name: base64.b64encode(data).decode() for name, data in found["pictures"].items()}
    write_text(folder / "report.html", render("html", found))
    return folder / "report.html"
