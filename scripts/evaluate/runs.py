"""What has been measured: a line for each results folder, and two of them side by side. Read from their JSON files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.common import UserError, read_json
from scripts.evaluate.subject import SIDES, check_same

FILES = ("perplexity", "accuracy", "instructions", "format", "freeform", "pairwise", "controls", "answers")


def load_results(folder: Path) -> dict[str, dict[str, Any]]:
    """File's name → its JSON, of one results folder; raises UserError where they are of different subjects."""
    found = {name: read_json(folder / f"{name}.json") for name in FILES if (folder / f"{name}.json").is_file()}
    old = [name for name, result in found.items() if "subject" not in result]
    if old:
        raise UserError(f"{folder}/{old[0]}.json is of an older MedCoT, which did not say whose it was: evaluate again")
    check_same({f"{folder}/{name}.json": result["subject"] for name, result in found.items()})
    return found


def figures(results: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any], str]]:
    """(label, cell with base, tuned and difference, name of the value) of everything that is compared."""
    found = []
    if "perplexity" in results:
        found.append(("perplexity (nats/token)", results["perplexity"], "nats"))
    for task, about in results.get("accuracy", {}).get("tasks", {}).items():
        budget, cell = list(about["budgets"].items())[-1]
        found.append((f"accuracy: {task}, budget {budget}", cell, "acc"))
    for lang in ("en", "zh"):
        if lang in results.get("instructions", {}):
            found.append((f"instructions followed: {lang}", results["instructions"][lang]["strict"], "share"))
    if "format" in results:
        found.append(("well-formed output", results["format"], "share"))
    if "freeform" in results:
        found.append(("equivalent to the reference (judge)", results["freeform"], "acc"))
    return found


def shown(cell: dict[str, Any], side: str, name: str) -> str:
    """One side's value for people: nats as they are, shares in percent."""
    if side not in cell:
        return "–"
    value = cell[side].get(name)
    if value is None:
        return "–"
    return f"{value:.3f}" if name == "nats" else f"{100 * value:.1f}%"


def headline(results: dict[str, dict[str, Any]]) -> str:
    """The figures of one evaluation in a line."""
    parts = [
        f"{label.split(',')[0]} {shown(c, 'base', n)} → {shown(c, 'tuned', n)}" for label, c, n in figures(results)
    ]
    return "; ".join(parts[:4])


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
    labels = {label: (cell, name) for label, cell, name in figures(other)}
    for label, cell, name in figures(one):
        there = labels.get(label, ({}, name))[0]
        rows.append([label, *(shown(c, side, name) for c in (cell, there) for side in SIDES)])
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
