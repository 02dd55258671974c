"""Write both tables of examples/README.md, between their marks, from docs/bench_train.json."""

from __future__ import annotations

import argparse
import re
from typing import Any

from scripts.bench.stand_in import SHAPES
from scripts.common import ROOT, UserError, read_json, run_main, write_text
from scripts.train.memory import tensors_gib

FITTED = ("plain", "original", "ours", "ours at 2048 tokens")  # the rows that scripts/train/memory.py was fitted to
TEXT = 4  # columns of words; the others are figures


def predicted(row: dict[str, Any]) -> float:
    """GiB that the formula gives for a measured row."""
    shards = row["gpus"] if row.get("sharded") else 1  # GPUs among which FSDP shares the model out
    return tensors_gib(row["recipe"], SHAPES[row["shape"]], row["longest"], shards)


def is_current(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether a row was measured with the newest Unsloth among ``rows``, or without Unsloth."""
    newest = max(other["versions"]["unsloth"] for other in rows)
    return not row["recipe"].get("use_unsloth") or row["versions"]["unsloth"] == newest


def cells(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, str]:
    """Column → cell of a row; one that ran out of memory has few."""
    recipe, card = row["recipe"], re.findall(r"NVIDIA (\w+)", row["machine"])[0]
    batch = f"{recipe['per_device_train_batch_size']} x {recipe['gradient_accumulation_steps']}"
    if row["gpus"] > 1:
        card, batch = f"{row['gpus']} x {card}", f"{batch} each"
    origin = "fitted" if row["variant"] in FITTED else "foretold"
    if not is_current(row, rows):
        origin = f"with Unsloth {row['versions']['unsloth']}"
    formula = f"{predicted(row):.1f} ({origin})"
    found = {"variant": row["variant"], "card": card, "model": row["shape"], "batch": batch}
    if "error" in row:
        return found | {"real tokens/s": f"out of memory at {row['limit_gib']} GiB", "the formula says": formula}
    found |= {
        "real tokens/s": f"{row['tokens_per_s']:,.0f}",
        "25,000 records": f"{row['hours_25k']:.2f} h",
        "reserved": f"{row['reserved_gib']:.1f} GiB",
        "needed": f"{row['allocated_gib']:.1f} GiB",
        "the formula says": formula,
        "padding": f"{row['padding_share']:.1%}",
        "MFU": f"{row['mfu']:.0%}",
    }
    ratios = {f"x {name}": row[f"ratio_to_{name}"] for name in ("plain", "original")}
    return found | {name: f"{ratio:.2f}" for name, ratio in ratios.items() if ratio}


def table(shown: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """A Markdown table of the rows ``shown``."""
    found = [cells(row, rows) for row in shown]
    columns = list(dict.fromkeys(name for line in found for name in line))
    lines = [columns, ["---"] * TEXT + ["---:"] * (len(columns) - TEXT)]
    lines += [[line.get(name, "") for name in columns] for line in found]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def filled(text: str, rows: list[dict[str, Any]]) -> str:
    """``text`` with both tables between their marks: what the speed is compared with, and the recipes."""
    for name in ("speed", "recipes"):
        shown = [row for row in rows if (row["variant"] in FITTED) == (name == "speed")]
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not end:
            raise UserError(f"expected the marks <!-- {name} --> and <!-- /{name} -->; put them back")
        text = f"{before}{mark}{table(shown, rows)}\n{end}{after}"
    return text


def main() -> None:
    example = "example: python -m scripts.bench.table"
    argparse.ArgumentParser(prog="python -m scripts.bench.table", description=__doc__, epilog=example).parse_args()
    path = ROOT / "examples/README.md"
    write_text(path, filled(path.read_text(encoding="utf-8"), read_json(ROOT / "docs/bench_train.json")))


if __name__ == "__main__":
    run_main(main)
