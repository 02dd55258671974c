"""What has been measured: a line for each results folder, and two of them side by side. Read from their JSON files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from scripts.common import UserError, read_json
from scripts.evaluate.render import label, number, speaker
from scripts.evaluate.stats import judge_table
from scripts.evaluate.subject import SIDES, check_same

FILES = ("perplexity", "accuracy", "instructions", "format", "pairwise", "controls", "answers")
SETTINGS = ("budgets", "answer_tokens", "limit", "sampling", "seeds", "forms", "benchmarks", "held_out")


def load_results(folder: Path) -> dict[str, dict[str, Any]]:
    """File's name → its JSON, of one results folder; raises UserError where they are of different subjects."""
    found = {name: read_json(folder / f"{name}.json") for name in FILES if (folder / f"{name}.json").is_file()}
    for name, result in found.items():
        if "subject" not in result:
            raise UserError(
                f"{folder}/{name}.json is of an older MedCoT, which did not say whose it was: evaluate again"
            )
    check_same({f"{folder}/{name}.json": result["subject"] for name, result in found.items()})
    return found


def figures(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the before/after table: everything that is compared, judged together.

    A row: ``measure``, ``of`` (benchmark or language), ``budget`` (tokens of thought), ``unit`` (share, or nats per
    token), ``base`` and ``tuned`` ({"value", "n", "ci95"}, or None), ``difference`` (with p_holm and verdict, or None),
    engine, precision.
    """
    rows = []
    if "perplexity" in results:
        rows.append(row_of(results, "perplexity", results["perplexity"], "nats"))
    for task, about in results.get("accuracy", {}).get("tasks", {}).items():
        budget, cell = list(about["budgets"].items())[-1]
        rows.append(row_of(results, "accuracy", cell, "acc", task, budget))
    for lang in ("en", "zh"):
        if lang in results.get("instructions", {}):
            rows.append(row_of(results, "instructions", results["instructions"][lang]["strict"], "share", lang))
    if "problems" in results.get("format", {}):  # texts that were cut to save time have no form
        rows.append(row_of(results, "format", results["format"], "share"))
    if "pairwise" in results:
        rate = results["pairwise"]["win_rate"]
        change = {**rate, "value": rate["value"] and rate["value"] - 0.5}
        change["ci95"] = rate["ci95"] and [end - 0.5 for end in rate["ci95"]]
        rows.append(row_of(results, "pairwise", {"tuned": rate, "difference": change}, "value"))
    judge_table([row["difference"] for row in rows if row["difference"]])
    return rows


def row_of(
    results: dict[str, Any], measure: str, cell: dict[str, Any], name: str, of: str = "", budget: str = ""
) -> dict[str, Any]:
    """One row from a result's cell, whose value is called ``name``."""
    unit = "nats" if name == "nats" else "share"
    row: dict[str, Any] = {"measure": measure, "of": of, "budget": budget, "unit": unit}
    for side in SIDES:
        found = cell.get(side)
        row[side] = found and {"value": found[name], "n": found["n"], "ci95": found["ci95"]}
        if found and unit == "nats" and found["ci95"]:  # perplexity's, and nats are its logarithm
            row[side]["ci95"] = [math.log(end) for end in found["ci95"]]
    difference = cell.get("difference")
    row["difference"] = difference and {**difference, "better": -1 if unit == "nats" else 1}
    return row | {key: results[measure][key] for key in ("engine", "precision")}


def shown(row: dict[str, Any] | None, side: str) -> str:
    """One side's value for people; a dash where there is none."""
    return number(row[side]["value"], row["unit"]) if row and row[side] else "–"


def lines_of(rows: list[list[str]]) -> str:
    """A table as aligned text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def table_of_runs(root: Path) -> str:
    """One line for each results folder under ``root``; a folder that cannot be read says why."""
    rows = [["results", "run", "model", "data", "date", "figures"]]
    for folder in sorted({path.parent for name in FILES for path in root.glob(f"*/{name}.json")}):
        try:
            rows.append([folder.name, *about_run(load_results(folder))])
        except UserError as error:
            rows.append([folder.name, "–", "–", "–", "–", str(error)])
    return lines_of(rows) if len(rows) > 1 else f"{root}: nothing measured yet; run `make eval`"


def about_run(results: dict[str, dict[str, Any]]) -> list[str]:
    """Run, model, data, date and headline figures of one evaluation."""
    say = speaker("en")
    subject = next(iter(results.values()))["subject"]
    data = ", ".join(dataset["name"] for dataset in subject.get("datasets", [])) or "–"
    date = max(result["provenance"].get("date", "–") for result in results.values())
    told = [f"{label(row, say)} {shown(row, 'base')} → {shown(row, 'tuned')}" for row in figures(results)[:4]]
    return [subject["adapter"] or "–", subject["model"], data, date, "; ".join(told)]


def table_of_two(first: Path, second: Path) -> str:
    """Two evaluations side by side, with what differs in how they were measured."""
    folders, say = (first, second), speaker("en")
    found = [load_results(folder) for folder in folders]
    for folder, results in zip(folders, found, strict=True):
        if not results:
            raise UserError(f"{folder}: no results there; run `make eval`")
    one, other = ({label(row, say): row for row in figures(results)} for results in found)
    rows = [["", *(f"{folder.name}: {side}" for folder in folders for side in SIDES)]]
    for words in one | other:
        rows.append([words, *(shown(table.get(words), side) for table in (one, other) for side in SIDES)])
    differ = differences(*found)
    return lines_of(rows) + ("\n\nmeasured differently:\n" + "\n".join(differ) if differ else "")


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Engine, precision and settings that change numbers, where the two differ: a line each."""
    lines = []
    for name in one.keys() & other.keys():
        left, right = (results[name] | results[name]["settings"] for results in (one, other))
        for key in ("engine", "precision", *SETTINGS):
            if left.get(key) != right.get(key):
                lines.append(f"{name}: {key}: {left.get(key)} | {right.get(key)}")
    return sorted(lines)
