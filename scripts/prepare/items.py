"""Benchmark items as they lie in data/benchmarks: read and checked, for decontamination and evaluation alike."""

from __future__ import annotations

from pathlib import Path

from scripts.common import UserError, read_jsonl

LETTERS = "ABCDEFGHIJ"
EXPECTED = "id, lang (en or zh), question, options (letters from A on, to text) and answer_idx (one of the letters)"
SHOWN = 20  # wrong lines named at once


def read_items(path: str | Path) -> list[dict]:
    """The items of a file in its order; UserError that names every line that is no item.

    Ids become text, and each item gets ``benchmark``, the file's name without its suffix.
    """
    items: dict[str, dict] = {}
    wrong = []
    for line, row in read_jsonl(path):
        own = str(row.get("id"))
        if fault := fault_of(row) or (f"id {own!r} is used before" if own in items else ""):
            wrong.append(f"{path}:{line}: {fault}")
        else:
            items[own] = row | {"id": own, "benchmark": Path(path).stem}
    if not items and not wrong:
        wrong.append(f"{path}:1: holds no item")
    if len(wrong) > SHOWN:
        wrong[SHOWN:] = [f"and {len(wrong) - SHOWN:,} more lines"]
    if wrong:
        remedy = f"expected items with {EXPECTED}; python -m scripts.prepare.benchmarks writes them"
        raise UserError("\n".join([*wrong, remedy]))
    return list(items.values())


def fault_of(row: dict) -> str:
    """What is wrong with a row, "" for an item."""
    options, right = row.get("options"), row.get("answer_idx")
    if not isinstance(row.get("id"), str | int):
        return f"id is {row.get('id')!r}"
    if row.get("lang") not in ("en", "zh"):
        return f"lang is {row.get('lang')!r}"
    if not isinstance(row.get("question"), str) or not row["question"].strip():
        return f"question is {row.get('question')!r}"
    if not isinstance(options, dict) or not all(isinstance(text, str) and text.strip() for text in options.values()):
        return f"options are {options!r:.80}"
    if len(options) < 2 or sorted(options) != list(LETTERS[: len(options)]):
        return f"options are lettered {', '.join(options) or 'nothing'}"
    if not isinstance(right, str) or right not in options:
        return f"answer_idx is {right!r}"
    return ""
