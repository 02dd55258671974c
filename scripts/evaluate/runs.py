"""What has been measured: a line for each results folder, and two of them side by side. Read from their JSON files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from scripts.common import UserError, read_json
from scripts.evaluate.stats import judge_table
from scripts.evaluate.subject import SIDES, check_same

MEASURES = {
    "perplexity": "held-out records (nats/token)",
    "accuracy": "accuracy",
    "instructions": "instructions followed",
    "format": "well-formed output",
    "freeform": "equivalent to the reference (judge)",
    "pairwise": "preferred by the judge",
}
FILES = ("perplexity", "accuracy", "instructions", "format", "freeform", "pairwise", "controls", "answers")


def load_results(folder: Path) -> dict[str, dict[str, Any]]:
    """File's name → its JSON, of one results folder; raises UserError where they are of different subjects."""
    found = {name: read_json(folder / f"{name}.json") for name in FILES if (folder / f"{name}.json").is_file()}
    old = [name for name, result in found.items() if "subject" not in result]
    if old:
        raise UserError(f"{folder}/{old[0]}.json is of an older MedCoT, which did not say whose it was: evaluate again")
    check_same({f"{folder}/{name}.json": result["subject"] for name, result in found.items()})
    return found


def figures(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the before/after table: everything that is compared, judged together.

    A row: ``measure``, ``of`` (benchmark and budget, or language), ``unit`` (share, or nats per token), ``base`` and
    ``tuned`` ({"value", "n", "ci95"}, or None), ``difference`` (with p_holm and verdict, or None), engine, precision.
    """
    rows = []
    if "perplexity" in results:
        rows.append(row_of(results, "perplexity", "", results["perplexity"], "nats"))
    for task, about in results.get("accuracy", {}).get("tasks", {}).items():
        budget, cell = list(about["budgets"].items())[-1]
        rows.append(row_of(results, "accuracy", f"{task}, {budget} tokens", cell, "acc"))
    for lang in ("en", "zh"):
        if lang in results.get("instructions", {}):
            rows.append(row_of(results, "instructions", lang, results["instructions"][lang]["strict"], "share"))
    if "format" in results:
        rows.append(row_of(results, "format", "", results["format"], "share"))
    if "freeform" in results:
        rows.append(row_of(results, "freeform", "", results["freeform"], "acc"))
    if "pairwise" in results:
        rate = results["pairwise"]["win_rate"]
        cell = {"tuned": rate, "difference": {**rate, "value": rate["value"] and rate["value"] - 0.5}}
        cell["difference"]["ci95"] = rate["ci95"] and [end - 0.5 for end in rate["ci95"]]
        rows.append(row_of(results, "pairwise", "", cell, "value"))
    judge_table([row["difference"] for row in rows if row["difference"]])
    return rows


def row_of(results: dict[str, Any], measure: str, of: str, cell: dict[str, Any], name: str) -> dict[str, Any]:
    """One row from a result's cell, whose value is called ``name``."""
    row: dict[str, Any] = {"measure": measure, "of": of, "unit": "nats" if name == "nats" else "share"}
    for side in SIDES:
        found = cell.get(side)
        row[side] = found and {"value": found[name], "n": found["n"], "ci95": found["ci95"]}
        if found and name == "nats" and found["ci95"]:  # perplexity's, and nats are its logarithm
            row[side]["ci95"] = [math.log(end) for end in found["ci95"]]
    difference = cell.get("difference")
    row["difference"] = difference and {**difference, "better": -1 if name == "nats" else 1}
    return row | {"engine": results[measure]["engine"], "precision": results[measure]["precision"]}


def label_of(row: dict[str, Any]) -> str:
    """What a row of the table measures, in English."""
    return f"{MEASURES[row['measure']]}: {row['of']}" if row["of"] else MEASURES[row["measure"]]


def shown(row: dict[str, Any], side: str) -> str:
    """One side's value for people: nats as they are, shares in percent."""
    value = row[side] and row[side]["value"]
    if value is None:
        return "–"
    return f"{value:.3f}" if row["unit"] == "nats" else f"{100 * value:.1f}%"


def headline(results: dict[str, dict[str, Any]]) -> str:
    """The figures of one evaluation in a line."""
    rows = figures(results)[:4]
    return "; ".join(f"{label_of(row)} {shown(row, 'base')} → {shown(row, 'tuned')}" for row in rows)


def about_run(results: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Run, model, data and date of one evaluation."""
    result = next(iter(results.values()))
    subject = result["subject"]
    data = ", ".join(dataset["name"] for dataset in subject.get("datasets", [])) or "–"
    date = max(r["provenance"].get("date", "–") for r in results.values())
    return {"run": str(subject["adapter"] or "–"), "model": str(subject["model"]), "data": data, "date": date}


def lines_of(rows: list[list[str]]) -> str:
    """A table as aligned text."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def table_of_runs(root: Path) -> str:
    """One line for each results folder under ``root``; a folder that cannot be read says why."""
    rows = [["results", "run", "model", "data", "date", "figures"]]
    for folder in sorted({path.parent for name in FILES for path in root.glob(f"*/{name}.json")}):
        try:
            results = load_results(folder)
            about = about_run(results)
            rows.append([folder.name, about["run"], about["model"], about["data"], about["date"], headline(results)])
        except UserError as error:
            rows.append([folder.name, "–", "–", "–", "–", str(error)])
    return lines_of(rows) if len(rows) > 1 else f"{root}: nothing measured yet; run `make eval`"


def table_of_two(first: Path, second: Path) -> str:
    """Two evaluations side by side, with what differs in how they were measured."""
    one, other = load_results(first), load_results(second)
    if not one or not other:
        raise UserError(f"{first if not one else second}: no results there; run `make eval`")
    rows = [["", *(f"{folder.name}: {side}" for folder in (first, second) for side in SIDES)]]
    here, there = ({label_of(row): row for row in figures(results)} for results in (one, other))
    missing = {"unit": "share", "base": None, "tuned": None}
    for label in here | there:
        pair = (here.get(label, missing), there.get(label, missing))
        rows.append([label, *(shown(row, side) for row in pair for side in SIDES)])
    said = [f"{key}: {a} | {b}" for key, a, b in differences(one, other) if a != b]
    return lines_of(rows) + ("\n\nmeasured differently:\n" + "\n".join(said) if said else "")


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What each was measured with: engine, precision, settings that change numbers, held-out file."""
    found = []
    for name in one.keys() & other.keys():
        for key in ("engine", "precision"):
            found.append((f"{name}: {key}", one[name].get(key), other[name].get(key)))
        for key in ("budgets", "answer_tokens", "limit", "sampling", "seeds", "forms", "benchmarks", "held_out"):
            found.append((f"{name}: {key}", one[name]["settings"].get(key), other[name]["settings"].get(key)))
    return sorted(set((key, str(a), str(b)) for key, a, b in found))
