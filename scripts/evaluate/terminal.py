"""What the evaluation says on the screen: first what is compared, at its end the result in one sentence."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from scripts.common import NOTICE, counted
from scripts.evaluate.render import change_of, label, speaker, summary
from scripts.evaluate.runs import figures, lines_of, load_results, shown
from scripts.evaluate.settings import Settings
from scripts.evaluate.stats import smallest_visible_difference
from scripts.evaluate.subject import SIDES

COLOURS = {"gain": "32", "loss": "31", "no difference shown": "2", "too few": "33"}  # green, red, dim, yellow


def coloured(verdict: str) -> str:
    """A verdict in its colour, where standard output is a terminal that has colours."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return verdict if plain or verdict not in COLOURS else f"\033[{COLOURS[verdict]}m{verdict}\033[0m"


def tell_start(about: dict[str, Any], records: int, folder: Path) -> None:
    """What is compared with what, and where its results go; how much and how long follows once the speed is known."""
    if about["adapter"]:
        print(f"Comparing the fine-tune {about['adapter']} with its base model {about['model']}")
    else:
        print(f"Evaluating the model {about['model']} alone")
    if about.get("assumed"):
        print("Its recipe is assumed (no medcot.json): overrides, if there were any, are not known")
    print(f"{counted(records, 'held-out record')}; results in {folder}", flush=True)


def tell_amount(settings: Settings, minutes: float, speed: float) -> None:
    """How much is asked, about how long it takes at ``speed`` (tokens/s), and which differences could show."""
    items = f"up to {counted(settings.limit, 'item')}" if settings.limit else "all items"
    budgets = ", ".join(map(str, settings.budgets))
    takes = "under a minute" if minutes < 1 else f"about {counted(round(minutes), 'minute')}"
    print(
        f"{', '.join(path.stem for path in settings.benchmarks)}: {items} each, thinking budgets {budgets} tokens, "
        f"answers {settings.answer_tokens}; {takes} at {speed:.0f} tokens/s",
        flush=True,
    )
    if settings.limit and "accuracy" in settings.steps:
        points = 100 * smallest_visible_difference(settings.limit)
        asked = counted(settings.limit, "item")
        print(f"With {asked} a difference under {points:.0f} points will not show.", flush=True)


def result_table(rows: list[dict[str, Any]]) -> str:
    """The before/after table as aligned text."""
    say = speaker("en")
    cells = [["", "n", *SIDES, "tuned − base [95%]", "verdict"]]
    for row in rows:
        n = "/".join(dict.fromkeys(str(row[side]["n"]) for side in SIDES if row[side]))
        values = [shown(row, side) for side in SIDES]
        verdict = (row["difference"] or {}).get("verdict", "–")
        cells.append([label(row, say), n, *values, change_of(row, say), coloured(verdict)])
    return lines_of(cells)


def tell_result(folder: Path, page: Path) -> None:
    """The table, one sentence, the report's path, and what to do next."""
    rows = figures(load_results(folder))
    if rows:
        print(f"\n{result_table(rows)}")
    print("\n" + textwrap.fill(summary(rows, speaker("en")), min(100, shutil.get_terminal_size().columns)))
    near = page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page
    print(f"\nReport: {near} (中文 too), report.md, report.zh.md")
    first = "" if (folder / "accuracy.json").is_file() else "make eval (more than the demo measures), "
    if (folder / "pairs.jsonl").is_file():
        first = "make review (vote on the answers yourself), "
    print(f"Next: {first}make chat, make export\n{NOTICE}")
