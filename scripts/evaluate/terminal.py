"""What the evaluation says on the screen: first what is compared, at its end the result in one sentence."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from scripts.common import NOTICE
from scripts.evaluate.render import change_of, speaker, summary
from scripts.evaluate.runs import figures, label_of, lines_of, load_results, shown

COLOURS = {"gain": "32", "loss": "31", "no difference shown": "2", "too few": "33"}  # green, red, dim, yellow


def coloured(text: str, name: str) -> str:
    """Text in the colour of a verdict, where standard output is a terminal that has colours."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain or name not in COLOURS else f"\033[{COLOURS[name]}m{text}\033[0m"


def tell_start(about: dict[str, Any], sides: int, records: int, folder: Path) -> None:
    """What is compared with what, and where its results go; how much and how long follows once the speed is known."""
    if sides == 1:
        print(f"Evaluating the model {about['model']} alone")
    else:
        print(f"Comparing the fine-tune {about['adapter']} with its base model {about['model']}")
    if about.get("assumed"):
        print("Its recipe is assumed (no medcot.json): overrides, if there were any, are not known")
    print(f"{records} held-out records; results in {folder}", flush=True)


def result_table(rows: list[dict[str, Any]]) -> str:
    """The before/after table as aligned text."""
    cells = [["", "n", "base", "tuned", "tuned − base [95%]", "verdict"]]
    for row in rows:
        difference = row["difference"] or {}
        verdict = difference.get("verdict", "–")
        counts = [str(row[side]["n"]) for side in ("base", "tuned") if row[side]]
        n = "/".join(dict.fromkeys(counts))
        change = change_of(row, speaker("en"))
        cells.append([label_of(row), n, shown(row, "base"), shown(row, "tuned"), change, coloured(verdict, verdict)])
    return lines_of(cells)


def tell_result(folder: Path, page: Path) -> None:
    """The table, one sentence, the report's path, and what to do next."""
    rows = figures(load_results(folder))
    if rows:
        print(f"\n{result_table(rows)}")
    width = min(100, shutil.get_terminal_size().columns)
    print(
        f"\n{textwrap.fill(summary(rows, speaker('en')), width)}\n\nReport: {page} (中文 too), report.md, report.zh.md"
    )
    first = "" if (folder / "accuracy.json").is_file() else "make eval (more than the demo measures), "
    if (folder / "pairs.jsonl").is_file():
        first = "make review (vote on the answers yourself), "
    print(f"Next: {first}make chat, make export\n{NOTICE}")
