"""Write both tables of examples/README.md, between their marks, from docs/bench_train.json."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from scripts.bench.stand_in import SHAPES
from scripts.common import ROOT, UserError, read_json, run_main, write_text
from scripts.train.memory import predict_peak_gib

FITTED = ("plain", "original", "ours", "ours at 2048 tokens")  # the rows that scripts/train/memory.py was fitted to
HEAD = {"speed": ("x plain", "x original"), "recipes": ()}
COLUMNS = ("real tokens/s", "25,000 records", "reserved", "needed", "the formula says", "padding", "MFU")


def shards_of(row: dict[str, Any]) -> int:
    """GPUs among which a measured row's model was shared out: all under FSDP, one otherwise."""
    return row["gpus"] if row.get("sharded") else 1


def predicted(row: dict[str, Any]) -> float:
    """GiB that the formula gives for a measured row, without CUDA's own context, which no row counts."""
    parts = predict_peak_gib(row["recipe"], SHAPES[row["shape"]], row["longest"], shards_of(row))
    return parts["total"] - parts["CUDA context"]


def is_current(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether a row was measured with the newest Unsloth among ``rows``, or without Unsloth."""
    newest = max(other["versions"]["unsloth"] for other in rows)
    return not row["recipe"].get("use_unsloth") or row["versions"]["unsloth"] == newest


def origin(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """What the formula owes to this row."""
    if not is_current(row, rows):
        return f"with Unsloth {row['versions']['unsloth']}"
    return "fitted" if row["variant"] in FITTED else "foretold"


def cells(row: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """A measured row's figures in the order of COLUMNS, or why there are none."""
    formula = f"{predicted(row):.1f} ({origin(row, rows)})"
    if "error" in row:
        return [f"out of memory at {row['limit_gib']} GiB", "", "", "", formula, "", ""]
    return [
        f"{row['tokens_per_s']:,.0f}",
        f"{row['hours_25k']:.2f} h",
        f"{row['reserved_gib']:.1f} GiB",
        f"{row['allocated_gib']:.1f} GiB",
        formula,
        f"{row['padding_share']:.1%}",
        f"{row['mfu']:.0%}",
    ]


def table(shown: list[dict[str, Any]], rows: list[dict[str, Any]], ratios: tuple[str, ...]) -> str:
    """A Markdown table of the rows ``shown``."""
    lines = [["variant", "card", "model", "batch", *COLUMNS, *ratios]]
    lines.append(["---"] * 4 + ["---:"] * (len(COLUMNS) + len(ratios)))
    for row in shown:
        recipe, card = row["recipe"], re.findall(r"NVIDIA (\w+)", row["machine"])[0]
        batch = f"{recipe['per_device_train_batch_size']} x {recipe['gradient_accumulation_steps']}"
        if row["gpus"] > 1:
            card, batch = f"{row['gpus']} x {card}", f"{batch} each"
        compared = [row.get("ratio_to_" + name.removeprefix("x ")) for name in ratios]
        last = [f"{value:.2f}" if value else "" for value in compared]
        lines.append([row["variant"], card, row["shape"], batch, *cells(row, rows), *last])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill(text: str, name: str, content: str, path: Path) -> str:
    """``text`` with ``content`` between the marks of ``name``."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    if not pattern.search(text):
        raise UserError(f"{path}: expected the marks <!-- {name} --> and <!-- /{name} -->, found none; put them back")
    return pattern.sub(lambda found: found[1] + content + "\n" + found[2], text)


def filled(text: str, rows: list[dict[str, Any]], path: Path) -> str:
    """``text`` with both tables: what the speed is compared with, and the recipes."""
    for name, ratios in HEAD.items():
        shown = [row for row in rows if (row["variant"] in FITTED) == (name == "speed")]
        text = fill(text, name, table(shown, rows, ratios), path)
    return text


def main() -> None:
    example = "example: python -m scripts.bench.table"
    argparse.ArgumentParser(prog="python -m scripts.bench.table", description=__doc__, epilog=example).parse_args()
    path = ROOT / "examples/README.md"
    text = filled(path.read_text(encoding="utf-8"), read_json(ROOT / "docs/bench_train.json"), path)
    write_text(path, text)


if __name__ == "__main__":
    run_main(main)
