"""Write the tables of examples/README.md from docs/bench_train.json: ``python -m scripts.bench.table``.

Everything outside of the two markers ``<!-- NAME -->`` … ``<!-- /NAME -->`` of a table is left as it is.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from scripts.bench.train import SHAPES
from scripts.common import ROOT, UserError, read_json, run_main, write_text
from scripts.train.memory import predict_peak_gib

HEAD = ("real tokens/s", "25,000 records", "reserved", "needed", "predicted", "padding", "MFU")
RATIOS = {"x plain": "ratio_to_plain", "x original": "ratio_to_original", "x one GPU": "ratio_to_one_gpu"}


def shards_of(row: dict[str, Any]) -> int:
    """GPUs among which a measured row's model was shared out: all under FSDP, one otherwise."""
    return row["gpus"] if row.get("sharded") else 1


def cells(row: dict[str, Any]) -> list[str]:
    """A measured row's figures in the order of HEAD and RATIOS, or why there are none."""
    if "error" in row:
        out_of_memory = "OutOfMemoryError" in " ".join(row.get("log_tail", []))
        said = f"out of memory at {row['limit_gib']} GiB" if out_of_memory else "failed"
        return [said, *[""] * (len(HEAD) + len(RATIOS) - 1)]
    predicted = predict_peak_gib(row["recipe"], SHAPES[row["shape"]], row["longest"], shards_of(row))
    ratios = [f"{row[key]:.2f}" if row.get(key) else "" for key in RATIOS.values()]
    return [
        f"{row['tokens_per_s']:,.0f}",
        f"{row['hours_25k']:.2f} h",
        f"{row['reserved_gib']:.1f} GiB",
        f"{row['allocated_gib']:.1f} GiB",
        f"{predicted['total'] - predicted['CUDA context']:.1f} GiB",
        f"{row['padding_share']:.1%}",
        f"{row['mfu']:.0%}" if row["mfu"] else "",
        *ratios,
    ]


def table(rows: list[dict[str, Any]], name: str) -> str:
    """A Markdown table of ``rows``; ``name`` heads the first column."""
    head = [name, "card", "attention", "shape", "batch", *HEAD, *RATIOS]
    lines = [head, ["---"] * 5 + ["---:"] * (len(HEAD) + len(RATIOS))]
    for row in rows:
        recipe, several = row["recipe"], row["gpus"] > 1
        batch = f"{recipe['per_device_train_batch_size']} x {recipe['gradient_accumulation_steps']}"
        card = re.findall(r"NVIDIA (\w+)", row["machine"])[0]
        card, batch = (f"{row['gpus']} x {card}", f"{batch} each") if several else (card, batch)
        lines.append([row["variant"], card, row["attention"], row["shape"], batch, *cells(row)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill(text: str, name: str, content: str, path: Path) -> str:
    """``text`` with ``content`` between the markers of ``name``."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    if not pattern.search(text):
        raise UserError(f"{path}: expected the markers <!-- {name} --> and <!-- /{name} -->, found none; put them back")
    return pattern.sub(lambda found: found[1] + content + "\n" + found[2], text)


def filled(text: str, rows: list[dict[str, Any]], path: Path) -> str:
    """``text`` with the tables of the recipes in examples/ and of the variants made from ``rows``."""
    recipes = [row for row in rows if (ROOT / "examples" / f"{row['variant']}.yaml").exists()]
    variants = sorted((row for row in rows if row not in recipes), key=lambda row: -row.get("tokens_per_s", 0))
    linked = [row | {"variant": f"[{row['variant']}.yaml]({row['variant']}.yaml)"} for row in recipes]
    return fill(fill(text, "recipes", table(linked, "recipe"), path), "variants", table(variants, "variant"), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, default=ROOT / "docs/bench_train.json")
    parser.add_argument("--out", type=Path, default=ROOT / "examples/README.md")
    args = parser.parse_args()
    write_text(args.out, filled(args.out.read_text(encoding="utf-8"), read_json(args.figures), args.out))


if __name__ == "__main__":
    run_main(main)
