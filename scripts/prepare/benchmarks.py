"""Benchmarks in one form, for decontamination and evaluation alike: ``id, lang, question, options, answer_idx``.

    python -m scripts.prepare.benchmarks                        # all of them, from the hub, into data/benchmarks
    python -m scripts.prepare.benchmarks medqa cmexam --from medqa.jsonl cmexam.json
    python -m scripts.prepare.benchmarks medqa --from dev.jsonl --out data/benchmarks/development

Rows that are no item with exactly one right option are left out, counted and named on the screen.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scripts.common import ROOT, UserError, read_jsonl, run_main, write_jsonl
from scripts.prepare.load import BadRow, file_format, hub_rows, load_rows

LETTERS = "ABCDEFGHIJ"
EXPECTED = "id, lang (en or zh), question, options (letters from A on, to text) and answer_idx (one of the letters)"
SHOWN = 20  # wrong lines named at once
BENCHMARKS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
LETTERED = re.compile(r"^\s*([A-J])\s*[.．、:： ]\s*(.*\S)", re.M)
FOLDED = re.compile(r"问题[：:](?P<question>.*?)\n选项[：:]\s*\n(?P<options>.*)", re.S)

Parts = tuple[Any, dict[str, Any], Any]  # a question, its options (label to text) and the right one's label


def read_row(row: dict, form: dict) -> Parts:
    """MedQA's form, which this project and medagents-benchmark use; an Alpaca ``input``; or the benchmark's own."""
    if "answer_idx" in row:
        return row["question"], labelled(row["options"]), row["answer_idx"]
    if "output" in row:
        return unfold(row)
    question, columns, answer = row[form["question"]], form["options"], row[form["answer"]]
    if "abstract" in form:
        question = "\n".join([*row[form["abstract"]]["contexts"], question])
    if isinstance(columns, dict):
        return question, columns, answer
    options = labelled([row[column] for column in columns] if isinstance(columns, list) else row[columns])
    options = {label: text for label, text in options.items() if text != form.get("filler")}
    return question, options, letter_at(answer) if form.get("counted") else answer


def labelled(options: Any) -> dict[str, Any]:
    """Options by their labels, from such a mapping, from lettered lines, or from a list of texts or of keys and values.

    TypeError for a text without letters, such as a CSV file's "['a', 'b']".
    """
    if isinstance(options, str):
        options = dict(LETTERED.findall(options)) or None
    if isinstance(options, dict):
        return options
    if isinstance(options[0], dict):
        return {option["key"]: option["value"] for option in options}
    return {chr(ord("A") + place): text for place, text in enumerate(options)}


def unfold(row: dict) -> Parts:
    """An item folded into an Alpaca ``input``, as MedQA-zh and CMExam are shared; ``output`` is the option's text."""
    folded = FOLDED.match(row["input"])
    texts = [text.strip() for text in folded["options"].split("\n") if text.strip()]
    right = [letter for letter, text in zip(LETTERS, texts, strict=False) if text == row["output"].strip()]
    return folded["question"], labelled(texts), right[0] if len(right) == 1 else None


def letter_at(place: Any) -> str | None:
    """The letter of a place counted from 0, which a table may hold as text; None for no place."""
    return LETTERS[int(place)] if re.fullmatch(r"\d", str(place)) else None


def from_zero(rows: list[dict], source: str) -> list[dict]:
    """MedMCQA's rows with ``cop`` from 0: the hub counts from 0, the authors' JSON files count from 1."""
    places = {str(row["cop"]) for row in rows if "cop" in row}
    zero, four = "0" in places, "4" in places
    authors = file_format(source) in (".json", ".jsonl", ".ndjson")
    if (zero and four) or (places and authors and not zero and not four):
        raise UserError(
            f"{source}: cop is {', '.join(sorted(places))}; the hub's counts 0 to 3, the authors' files 1 to 4, and "
            "this can be told from neither. Give the whole file, or take it from the hub"
        )
    if not four:
        return rows
    shifted = {"1": 0, "2": 1, "3": 2, "4": 3}
    return [row | {"cop": shifted.get(str(row.get("cop")))} for row in rows]


def convert(name: str, rows: list[dict], source: str = "") -> tuple[list[dict], Counter[str]]:
    """The items of a benchmark's rows, with unique ids, and how many rows were left out, by reason."""
    left_out: Counter[str] = Counter()
    items: dict[str, dict] = {}
    for number, row in enumerate(from_zero(rows, source) if name == "medmcqa" else rows, 1):
        item = item_of(BENCHMARKS[name], row)
        if isinstance(item, str):
            left_out[item] += 1
            continue
        given = [row[key] for key in ("realidx", "id", "question_id", "pubid") if row.get(key) not in (None, "")]
        own = str(given[0] if given else number)
        while own in items:
            own += f"-{number}"
        items[own] = {"id": own, **item}
    return list(items.values()), left_out


def item_of(form: dict, row: dict) -> dict | str:
    """One item without its id, or why the row is left out. Options are lettered anew where some hold no text."""
    for column, values in form.get("only", {}).items():
        if row.get(column) not in values:
            return f"other {column}"
    try:
        question, options, right = read_row(row, form)
        texts = {key: str(text).strip() for key, text in options.items() if text is not None and str(text).strip()}
        letters = {key: chr(ord("A") + place) for place, key in enumerate(texts)}
    except (KeyError, TypeError, AttributeError, ValueError):  # a column is missing, or holds something else
        return "not in this benchmark's form"
    options = {letters[key]: text for key, text in texts.items()}
    answer = letters.get(str(right).strip())
    item = {"lang": form["lang"], "question": question, "options": options, "answer_idx": answer}
    return fault_of(item) or item | {"question": question.strip()}


def fault_of(item: dict) -> str:
    """What is wrong with an item, "" where nothing is."""
    question, options = item.get("question"), item.get("options")
    if item.get("lang") not in ("en", "zh"):
        return "lang is neither en nor zh"
    if not isinstance(question, str) or not question.strip():
        return "no question"
    if not isinstance(options, dict) or not 2 <= len(options) <= len(LETTERS):
        return f"not 2 to {len(LETTERS)} options"
    if sorted(options) != list(LETTERS[: len(options)]):
        return f"options are lettered {', '.join(options)}"
    if not all(isinstance(text, str) and text.strip() for text in options.values()):
        return "an option is no text"
    if not isinstance(item.get("answer_idx"), str) or item["answer_idx"] not in options:
        return "no single right option"
    return ""


def read_items(path: str | Path) -> list[dict]:
    """The items of a file in its order; UserError that names every line that is no item.

    Ids become text, and each item gets ``benchmark``, the file's name without its suffix.
    """
    items: dict[str, dict] = {}
    wrong = []
    for line, row in read_jsonl(path):
        own = str(row.get("id"))
        fault = fault_of(row)
        if not isinstance(row.get("id"), str | int):
            fault = "no id"
        elif own in items:
            fault = f"id {own!r} is used before"
        if fault:
            wrong.append(f"{path}:{line}: {fault}")
        items[own] = row | {"id": own, "benchmark": Path(path).stem}
    if not items:
        wrong.append(f"{path}:1: holds no item")
    if len(wrong) > SHOWN:
        wrong[SHOWN:] = [f"and {len(wrong) - SHOWN:,} more lines"]
    if wrong:
        remedy = f"expected items with {EXPECTED}; python -m scripts.prepare.benchmarks writes them"
        raise UserError("\n".join([*wrong, remedy]))
    return list(items.values())


def local_rows(path: str) -> Iterator[dict]:
    """Rows of a local file of any format that prepare reads; UserError with the line of one that is no object."""
    for number, row in load_rows(path):
        if isinstance(row, BadRow):
            raise UserError(f"{path}:{number}: {row.reason} ({row.matched}); expected one object for each item")
        yield row


def main() -> None:
    """Write the benchmarks named on the command line."""
    command, layout = "python -m scripts.prepare.benchmarks", argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(command, description=__doc__, formatter_class=layout)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--from", nargs="+", dest="files", default=[], help="a local file for each name, in order")
    parser.add_argument("--out", type=Path, default=ROOT / "data/benchmarks", help="folder (default: data/benchmarks)")
    args = parser.parse_args()
    names = args.names or list(BENCHMARKS)
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        raise UserError(f"{', '.join(unknown)}: no such benchmark; expected some of {', '.join(BENCHMARKS)}")
    if args.files and len(args.files) != len(names):
        raise UserError(f"--from: found {len(args.files)} files for {len(names)} names; expected one file for each")
    for name, file in zip(names, args.files or [""] * len(names), strict=True):
        write_benchmark(name, file, args.out)


def write_benchmark(name: str, file: str, out: Path) -> None:
    """Write ``out/<name>.jsonl`` from a local file, or from the hub where none is given, and say what was left out."""
    form = BENCHMARKS[name]
    split = form.get("split", "test")
    rows = list(local_rows(file)) if file else [row for hub in form["hub"] for row in hub_rows(hub, split)]
    items, left_out = convert(name, rows, file)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common()) or "none"
    if not items:
        raise UserError(f"{file or name}: holds no item of {name}; left out: {reasons}")
    path = out / f"{name}.jsonl"
    write_jsonl(path, items)
    print(f"{path}: rows {len(rows):,}, items {len(read_items(path)):,}; left out: {reasons}")


if __name__ == "__main__":
    run_main(main)
