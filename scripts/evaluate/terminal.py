"""What the evaluation says on the screen at its end: the before/after table, one plain sentence, the report."""

from __future__ import annotations

from pathlib import Path

from scripts.common import NOTICE
from scripts.evaluate.runs import figures, lines_of, load_results, shown
from scripts.evaluate.stats import judge_table


def tell_result(folder: Path) -> None:
    """Print the table and the report's path."""
    results = load_results(folder)
    rows = [["", "n", "base", "tuned", "verdict"]]
    found = figures(results)
    judge_table([cell["difference"] for _, cell, _ in found if "difference" in cell])
    for label, cell, name in found:
        said = cell.get("difference", {}).get("verdict", "–")
        rows.append([label, str(cell["base"]["n"]), shown(cell, "base", name), shown(cell, "tuned", name), said])
    print(f"\n{lines_of(rows)}\n{folder}\n{NOTICE}")
