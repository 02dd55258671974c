"""Benchmarks in one form, for decontamination and evaluation alike: ``id, lang, question, options, answer_idx``.

    python -m scripts.prepare.benchmarks                        # all of them, from the hub, into data/benchmarks
    python -m scripts.prepare.benchmarks medqa cmexam --from ../shared/data/eval/medqa.jsonl cmexam.json

Items whose answer is not exactly one of the options are left out, counted and named on the screen.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.common import ROOT, UserError, run_main, write_jsonl

MMLU = "anatomy clinical_knowledge college_biology college_medicine medical_genetics professional_medicine"
CMMLU = "anatomy clinical_knowledge college_medicine genetics nutrition traditional_chinese_medicine virology"


class Benchmark(NamedTuple):
    """``hub``: ids with configuration, ``split``: on the hub, ``only``: a category to keep of a wider benchmark."""

    lang: str
    hub: tuple[str, ...]
    split: str = "test"
    only: str | None = None


BENCHMARKS = {
    "medqa": Benchmark("en", ("GBaker/MedQA-USMLE-4-options",)),
    "medmcqa": Benchmark("en", ("openlifescienceai/medmcqa",), "validation"),
    "pubmedqa": Benchmark("en", ("qiaojin/PubMedQA:pqa_labeled",), "train"),
    "mmlu_medical": Benchmark("en", tuple(f"cais/mmlu:{subject}" for subject in MMLU.split())),
    "mmlu_pro_health": Benchmark("en", ("TIGER-Lab/MMLU-Pro",), only="health"),
    "medqa_zh": Benchmark("zh", ("fzkuji/MedQA:med_qa_zh_4options_source",)),
    "cmexam": Benchmark("zh", ("fzkuji/CMExam",)),
    "cmb": Benchmark("zh", ("FreedomIntelligence/CMB:CMB-Exam",), "val"),
    "cmmlu_medical": Benchmark("zh", tuple(f"haonan-li/cmmlu:{subject}" for subject in CMMLU.split())),
}
FOLDED = re.compile(r"^问题[：:](?P<stem>.*?)\n选项[：:]\s*\n(?P<options>.*)$", re.S)  # the whole item in ``input``
LETTERED = re.compile(r"^\s*([A-J])\s*[.．、:： ]\s*(.*\S)", re.M)


def first(row: dict, *names: str) -> object:
    """The first of the named fields that the row has a value for, else None."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def options_of(row: dict) -> dict[str, str]:
    """Letter to text, from any of the shapes that these benchmarks come in; {} for none known."""
    value = first(row, "options", "option", "choices", "Options")
    if isinstance(value, str):
        pairs = LETTERED.findall(value)
    elif isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [(o["key"], o["value"]) if isinstance(o, dict) else (chr(65 + i), o) for i, o in enumerate(value)]
    elif "opa" in row:
        pairs = [(letter, row.get(f"op{letter.lower()}")) for letter in "ABCD"]
    elif "final_decision" in row:
        pairs = [("A", "yes"), ("B", "no"), ("C", "maybe")]
    else:
        pairs = [(letter, row.get(letter)) for letter in "ABCDEFGHIJ"]
    return {str(letter): str(text).strip() for letter, text in pairs if text is not None and str(text).strip()}


def answer_of(row: dict, options: dict[str, str]) -> str | None:
    """The letter of the right option: from a letter, an index from 0, or the option's text; None where unclear."""
    answer = first(row, "answer_idx", "cop", "final_decision", "answer", "Answer", "output")
    if isinstance(answer, int) and not isinstance(answer, bool):
        return list(options)[answer] if 0 <= answer < len(options) else None
    answer = str(answer or "").strip()
    if answer in options:
        return answer
    matching = [letter for letter, text in options.items() if text == answer]
    return matching[0] if len(matching) == 1 else None


def normalise(row: dict, lang: str, number: int) -> dict | None:
    """One benchmark item of DESIGN's form; None where its answer is not exactly one of two options or more."""
    question = first(row, "question", "Question", "input")
    if isinstance(question, str) and (folded := FOLDED.match(question)):
        lines = [line.strip() for line in folded["options"].split("\n") if line.strip()]
        row, question = {**row, "options": lines}, folded["stem"]
    context = row.get("context")
    if isinstance(context, dict) and isinstance(question, str):  # PubMedQA: the abstract, then the question
        question = "\n".join([*context.get("contexts", []), question])
    options = options_of(row)
    answer = answer_of(row, options)
    if not isinstance(question, str) or not question.strip() or len(options) < 2 or answer is None:
        return None
    own = first(row, "realidx", "id", "question_id", "pubid")
    item = {"id": str(number if own is None else own), "lang": lang, "question": question.strip(), "options": options}
    return {**item, "answer_idx": answer}


def local_rows(path: str) -> Iterator[dict]:
    """Rows of a local file of any format that prepare reads."""
    import orjson

    from scripts.prepare.load import read_rows

    for number, raw in read_rows(path):
        try:
            row = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not valid JSON ({error}); expected one object") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: found {type(row).__name__}, expected one object for each item")
        yield row


def hub_items(benchmark: Benchmark) -> Iterator[dict]:
    """Rows of every hub id of a benchmark, of the wanted category."""
    from scripts.prepare.load import hub_rows

    for hub in benchmark.hub:
        yield from (r for r in hub_rows(hub, benchmark.split) if benchmark.only in (None, r.get("category")))


def write_benchmark(name: str, rows: Iterable[dict], out: Path) -> tuple[int, int]:
    """Write ``out/<name>.jsonl``; (items written, rows left out). Raises UserError where no row is an item."""
    items: dict[str, dict] = {}
    left_out = 0
    for number, row in enumerate(rows, 1):
        item = normalise(row, BENCHMARKS[name].lang, number)
        if item is None:
            left_out += 1
            continue
        if item["id"] in items:
            item["id"] += f"-{number}"
        items[item["id"]] = item
    if not items:
        raise UserError(
            f"{name}: none of {left_out} rows is a question with options and one right answer; expected a file in the "
            "shape of this benchmark on its hub"
        )
    write_jsonl(out / f"{name}.jsonl", items.values())
    return len(items), left_out


def main() -> None:
    """Write the benchmarks named on the command line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m scripts.prepare.benchmarks", description=__doc__, formatter_class=layout
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument(
        "--from", nargs="+", dest="files", default=[], help="a local file for each name, in their order"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "data/benchmarks", help="folder (default: data/benchmarks)")
    args = parser.parse_args()
    names = args.names or list(BENCHMARKS)
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        raise UserError(f"{', '.join(unknown)}: no such benchmark; expected some of {', '.join(BENCHMARKS)}")
    if args.files and len(args.files) != len(names):
        raise UserError(f"--from: found {len(args.files)} files for {len(names)} names; expected one file for each")
    for index, name in enumerate(names):
        rows = local_rows(args.files[index]) if args.files else hub_items(BENCHMARKS[name])
        written, left_out = write_benchmark(name, rows, args.out)
        print(f"{args.out / name}.jsonl: {written:,} items, {left_out:,} left out (no single right option)")


if __name__ == "__main__":
    run_main(main)
