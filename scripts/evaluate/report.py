"""Turn a results folder into its report; run as ``python -m scripts.evaluate report results/demo``.

``collect`` makes one dictionary of everything (report.json); scripts/evaluate/render.py tells it in two languages
(report.md, report.zh.md), and the page (report.html) is made of these two. Pictures lie in plots/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, read_json, read_jsonl, write_json, write_text
from scripts.evaluate import plots, render
from scripts.evaluate.judge import SCORES, win_rate
from scripts.evaluate.review import pair_key, read_pairs
from scripts.evaluate.runs import figures, load_results
from scripts.evaluate.stats import cohen_kappa
from scripts.evaluate.subject import SIDES
from scripts.page import LANGUAGES, write_page

FAILURES = 5  # items to read


def collect(folder: Path) -> dict[str, Any]:
    """Everything the report tells. Raises UserError where nothing was measured, or results are of unlike subjects."""
    results = load_results(folder)
    if not results:
        raise UserError(f"{folder}: nothing to report; run `make eval` or `make demo` first")
    subject = next(iter(results.values()))["subject"]
    return {
        "name": Path(subject["adapter"] or subject["model"]).name,
        "subject": subject,
        "rows": figures(results),
        "results": results,
        "settings": shared_settings(results),
        "asked": next((result["settings"] for result in results.values() if result["settings"]["forms"]), {}),
        "perplexity": perplexity_parts(results.get("perplexity", {})),
        "training": training_history(subject["adapter"]),
        "people": human_votes(folder),
        "failures": failures(rows_of(folder / "accuracy_samples.jsonl")),
        "demo": read_json(folder / "demo.json") if (folder / "demo.json").is_file() else {},
    }


def shared_settings(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings that all results share, as ``all``, and of each result those that it does not share."""
    everything = {name: result["settings"] for name, result in results.items()}
    first, *others = everything.values()
    shared = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    own = {name: {key: s[key] for key in s if key not in shared} for name, s in everything.items()}
    return {"all": shared} | {name: settings for name, settings in own.items() if settings}


def rows_of(path: Path) -> list[dict]:
    """The objects of a JSON Lines file; none where there is no such file."""
    return [row for _, row in read_jsonl(path)] if path.is_file() else []


def perplexity_parts(result: dict[str, Any]) -> dict[str, Any]:
    """Part, language or length of the responses → base, tuned and difference in nats per token."""
    if not result:
        return {}
    groups = {"both": {name: result[name] for name in (*SIDES, "difference") if name in result}, **result["parts"]}
    for kind in ("languages", "lengths"):
        if len(result[kind]) > 1:
            groups |= result[kind]
    return groups


def training_history(adapter: str | None) -> dict[str, list[list[float]]]:
    """[step, loss] of training and of validation, from LLaMA-Factory's log in the run's folder."""
    if adapter is None:
        return {}
    folder = Path(adapter) if Path(adapter, "trainer_log.jsonl").is_file() else ROOT / adapter
    rows = rows_of(folder / "trainer_log.jsonl")
    if (folder / "eval_results.json").is_file():  # validation after the last step is not in the log
        last = read_json(folder / "eval_results.json")
        rows.append({"current_steps": rows[-1]["total_steps"], "eval_loss": last["eval_loss"]})
    found = {}
    for kind, key in (("training", "loss"), ("validation", "eval_loss")):
        if points := [[row["current_steps"], row[key]] for row in rows if key in row]:
            found[kind] = points
    return found


def human_votes(folder: Path) -> dict[str, Any]:
    """Win rate from votes.jsonl (clustered by pair), and Cohen's κ with the judge on pairs that both decided."""
    if not (folder / "votes.jsonl").is_file():
        return {}
    current = {pair_key(pair) for pair in read_pairs(folder)}
    cast = [vote for vote in rows_of(folder / "votes.jsonl") if vote["pair"] in current]
    last = {(vote["reviewer"], vote["id"]): vote for vote in cast}
    votes = [vote for vote in last.values() if vote["vote"] != "skip"]
    verdicts = {row["id"]: row["outcome"] for row in rows_of(folder / "pairwise_samples.jsonl")}
    both = [(vote["vote"], verdicts.get(vote["id"], "unscored")) for vote in votes]
    decided = [pair for pair in both if pair[1] != "unscored"]
    return {
        "n": len(votes),
        "counts": {name: sum(vote["vote"] == name for vote in votes) for name in SCORES},
        "win_rate": win_rate([SCORES[vote["vote"]] for vote in votes], [vote["id"] for vote in votes]),
        "kappa": cohen_kappa(*zip(*decided, strict=True)) if decided else None,
    }


def failures(rows: list[dict]) -> list[dict[str, Any]]:
    """The first items that only the base model got right: side → its row and its output at the largest budget."""
    pairs: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        last = list(row["outputs"].values())[-1]
        pairs.setdefault((row["task"], row["id"], row["seed"]), {})[row["model"]] = row | last
    lost = [
        pair
        for pair in pairs.values()
        if len(pair) == len(SIDES) and pair["base"]["letter"] == pair["base"]["answer_idx"] != pair["tuned"]["letter"]
    ]
    return lost[:FAILURES]


def write_report(folder: Path) -> Path:
    """Write report.json, report.md, report.zh.md and report.html into ``folder``; returns the page's path."""
    found = collect(folder)
    write_json(folder / "report.json", found)
    texts, titles, pictures = {}, {}, {}
    for language in LANGUAGES:
        drawn = {f"plots/{name}.{language}.svg": svg for name, svg in plots.draw_all(found, language).items()}
        pictures |= drawn
        texts[language] = render.fill("report.md.j2", found, language, pictures=drawn)
        titles[language] = render.title(found, render.speaker(language))
    for name, svg in pictures.items():
        write_text(folder / name, svg)
    write_page(folder / "report.html", titles, texts, pictures)
    return folder / "report.html"
