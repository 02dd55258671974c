"""Turn a results folder into its report; run as ``python -m scripts.evaluate report results/demo``.

``collect`` makes one dictionary of everything (report.json); scripts/evaluate/render.py tells it in two languages
(report.md, report.zh.md), and the page (report.html) is made of these two. Pictures lie in plots/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, provenance, read_json, read_jsonl, write_json, write_text
from scripts.evaluate import plots, render
from scripts.evaluate.engines import R1_SAMPLING
from scripts.evaluate.judge import SCORES, win_rate
from scripts.evaluate.review import pair_key, read_pairs
from scripts.evaluate.runs import figures, load_results
from scripts.evaluate.stats import cohen_kappa
from scripts.evaluate.subject import SIDES
from scripts.page import LANGUAGES, write_page

FAILURES = 3  # items to read of each kind


def collect(folder: Path) -> dict[str, Any]:
    """Everything the report tells. Raises UserError where nothing was measured, or results are of unlike subjects."""
    results = load_results(folder)
    if not results:
        raise UserError(f"{folder}: nothing to report; run `make eval` or `make demo` first")
    subject = next(iter(results.values()))["subject"]
    accuracy = results.get("accuracy", {})
    return {
        "name": Path(subject["adapter"] or subject["model"]).name,
        "subject": subject,
        "rows": figures(results),
        "controls": results.get("controls", {}).get("controls", []),
        "answers": answers(results.get("answers", {})),
        "training": training_history(subject["adapter"]),
        "perplexity": perplexity_parts(results.get("perplexity", {})),
        "accuracy": accuracy.get("tasks", {}),
        "behind": accuracy.get("behind", {}),
        "instructions": results.get("instructions", {}),
        "problems": results.get("format", {}).get("problems", {}),
        "judge": judged(results),
        "people": human_votes(folder),
        "to_read": items_to_read(folder),
        "steps": read_json(folder / "steps.json") if (folder / "steps.json").is_file() else [],
        "forms": forms_of(results),
        "files": {name: source(result) for name, result in results.items()},
        "provenance": provenance(),
    }


def answers(result: dict[str, Any]) -> dict[str, Any]:
    """The answers that are shown, and how they were sampled."""
    if not result:
        return {}
    return {"sampling": R1_SAMPLING | {"seed": result["settings"]["seeds"][0]}, "questions": result["answers"]}


def training_history(adapter: str | None) -> dict[str, list[list[float]]]:
    """[step, loss] of training and of validation, from LLaMA-Factory's log in the run's folder."""
    logs = [folder / adapter / "trainer_log.jsonl" for folder in (Path(), ROOT) if adapter]
    log = next((path for path in logs if path.is_file()), None)
    rows = [row for _, row in read_jsonl(log)] if log else []
    names = {"training": "loss", "validation": "eval_loss"}
    found = {kind: [[row["current_steps"], row[key]] for row in rows if key in row] for kind, key in names.items()}
    return {kind: points for kind, points in found.items() if points}


def perplexity_parts(result: dict[str, Any]) -> dict[str, Any]:
    """Part, language or length of the responses → base, tuned and difference in nats per token."""
    if not result:
        return {}
    groups = {"both": {name: result[name] for name in (*SIDES, "difference") if name in result}, **result["parts"]}
    for kind in ("languages", "lengths"):
        if len(result[kind]) > 1:
            groups |= result[kind]
    return groups


def judged(results: dict[str, Any]) -> dict[str, Any]:
    """What the judge said of pairs, and how it did on controls of its own."""
    pairs = results.get("pairwise", {})
    names = ("judge", "counts", "n", "orders_disagree", "first_preferred", "errors", "controls", "faults")
    return {name: pairs[name] for name in names if name in pairs}


def human_votes(folder: Path) -> dict[str, Any]:
    """Win rate from votes.jsonl (clustered by pair), and Cohen's κ with the judge on pairs that both decided."""
    if not (folder / "votes.jsonl").is_file():
        return {}
    current = {pair_key(pair) for pair in read_pairs(folder)}
    cast = [vote for vote in rows_of(folder / "votes.jsonl") if vote["pair"] in current]
    last = {(vote["reviewer"], vote["id"]): vote for vote in cast}
    votes = [vote for vote in last.values() if vote["vote"] != "skip"]
    rate = win_rate([SCORES[vote["vote"]] for vote in votes], [vote["id"] for vote in votes])
    counts = {name: sum(vote["vote"] == name for vote in votes) for name in SCORES}
    verdicts = {row["id"]: row["outcome"] for row in rows_of(folder / "pairwise_samples.jsonl")}
    both = [(v["vote"], verdicts[v["id"]]) for v in votes if verdicts.get(v["id"], "unscored") != "unscored"]
    kappa = cohen_kappa(*zip(*both, strict=True)) if both else None
    return {"n": len(votes), "counts": counts, "win_rate": rate, "kappa": kappa, "unscored": len(last) - len(votes)}


def items_to_read(folder: Path) -> list[dict[str, Any]]:
    """A few items of each kind: lost by tuning, gained by it, or with a letter that could not be read."""
    pairs: dict[tuple, dict[str, dict]] = {}
    for row in rows_of(folder / "accuracy_samples.jsonl"):
        pairs.setdefault((row["task"], row["id"], row["seed"]), {})[row["model"]] = row
    kinds: dict[str, list] = {"lost": [], "gained": [], "unparsed": []}
    for (task, item, _), pair in pairs.items():
        if len(pair) < len(SIDES):
            continue
        said = {side: list(pair[side]["outputs"].values())[-1] for side in SIDES}
        base, tuned = (said[side]["letter"] == pair[side]["answer_idx"] for side in SIDES)
        kind = "lost" if base and not tuned else "gained" if tuned and not base else ""
        if any(output["status"] in ("unparsed", "several") for output in said.values()):
            kind = "unparsed"
        if kind and len(kinds[kind]) < FAILURES:
            about = {name: pair["base"][name] for name in ("question", "options", "answer_idx")}
            shown = {side: {name: said[side][name] for name in ("text", "letter", "status")} for side in SIDES}
            kinds[kind].append({"kind": kind, "task": task, "id": item} | about | shown)
    return [item for found in kinds.values() for item in found]


def rows_of(path: Path) -> list[dict]:
    """The objects of a JSON Lines file; none where there is no such file."""
    return [row for _, row in read_jsonl(path)] if path.is_file() else []


def forms_of(results: dict[str, Any]) -> dict[str, Any]:
    """How each side was asked, and how the base model's form was chosen."""
    settings = next((results[name]["settings"] for name in results if results[name]["settings"]["forms"]), {})
    return {"names": settings.get("forms", {}), "chosen": settings.get("base_form_chosen", {})}


def source(result: dict[str, Any]) -> dict[str, Any]:
    """Where a file's numbers come from: engine, precision, settings, machine, versions."""
    return {name: result.get(name) for name in ("engine", "precision", "settings", "provenance")}


def write_report(folder: Path) -> Path:
    """Write report.json, report.md, report.zh.md and report.html into ``folder``; returns the page's path."""
    found = collect(folder)
    write_json(folder / "report.json", found)
    texts, titles, images = {}, {}, {}
    for language in LANGUAGES:
        drawn = plots.draw_all(found, language)
        for name, picture in drawn.items():
            images[name] = folder / name
            write_text(folder / name, picture)
        texts[language] = render.markdown(found, language, set(drawn))
        titles[language] = render.title(found, render.speaker(language))
        write_text(folder / ("report.md" if language == "en" else f"report.{language}.md"), texts[language])
    write_page(folder / "report.html", titles, texts, images)
    return folder / "report.html"
