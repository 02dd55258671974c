"""Answer accuracy on multiple-choice items: the prompt, and shares with what stands behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.evaluate.generate import Item
from scripts.evaluate.stats import compare

ASKS = {
    "zh": "请回答下面的选择题。先思考，最后一行只写“答案：”和选项字母。",
    "en": 'Answer this multiple-choice question. Think first, then end with one line: "Answer: " and the letter.',
}
CUES = {"zh": "答案：", "en": "Answer:"}
STATUSES = ("read", "asked", "several", "unparsed")


def letters_of(row: dict) -> str:
    """The item's option letters, in order."""
    return "".join(sorted(row["options"]))


def question_of(row: dict) -> str:
    """The prompt: what is wanted, the question, the options; the last line of an answer is to name the letter."""
    options = "\n".join(f"{letter}. {row['options'][letter]}" for letter in letters_of(row))
    return f"{ASKS[row['lang']]}\n\n{row['question']}\n{options}"


def items_of(rows: Sequence[dict]) -> list[Item]:
    """Benchmark rows as items to ask."""
    return [Item(str(row["id"]), question_of(row), letters_of(row), CUES[row["lang"]], row) for row in rows]


def is_right(row: dict, budget: str, with_asked: bool = True) -> bool:
    """Whether the letter at this budget is the key; several letters and none are wrong, ``asked`` ones if left out."""
    found = row["outputs"][budget]
    return found["letter"] == row["answer_idx"] and (with_asked or found["status"] != "asked")


def summarise(rows: list[dict]) -> dict[str, Any]:
    """Per benchmark and budget: base, tuned, their paired difference, with and without ``asked``, and the shares."""
    tasks: dict[str, Any] = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        chosen = [row for row in rows if row["task"] == task]
        chance = sum(1 / len(letters_of(row)) for row in chosen) / len(chosen)
        budgets = list(chosen[0]["outputs"])
        cells = {budget: at_budget(chosen, budget) for budget in budgets}
        tasks[task] = {"chance": chance, "languages": sorted({row["lang"] for row in chosen}), "budgets": cells}
    return tasks


def at_budget(rows: list[dict], budget: str) -> dict[str, Any]:
    """One cell: accuracies, their difference, and of each side the shares of how letters were read."""
    result = compare(rows, lambda row: is_right(row, budget))
    result["without_asked"] = compare(rows, lambda row: is_right(row, budget, with_asked=False))
    for side in dict.fromkeys(row["model"] for row in rows):
        outputs = [row["outputs"][budget] for row in rows if row["model"] == side]
        result[side] |= {name: sum(found["status"] == name for found in outputs) / len(outputs) for name in STATUSES}
        for name in ("cut", "forced", "thought_tokens"):
            result[side][name] = sum(found[name] for found in outputs) / len(outputs)
        thinking = [found["closed"] for found in outputs if found["opened"] or found["thought_tokens"]]
        result[side]["closed"] = sum(thinking) / len(thinking) if thinking else None
    return result
