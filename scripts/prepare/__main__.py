"""Raw medical chain-of-thought records in, a data set one can trust out: cleaned, de-duplicated, decontaminated.

    R=FreedomIntelligence/medical-o1-reasoning-SFT
    python -m scripts.prepare $R:zh $R:en --out data --name med_o1 --tokenizer deepseek-ai/DeepSeek-R1-Distill-Qwen-7B
    python -m scripts.prepare own.csv --columns Question=q Complex_CoT=thinking Response=a --out data/own --name own

    python -m scripts.prepare chats.jsonl --thought-tags '<reasoning>' '</reasoning>' --out data/chats --name chats
    python -m scripts.prepare own.jsonl --template qwen3 --tokenizer Qwen/Qwen3-8B --cutoff-len 4096

Writes NAME_train.jsonl, NAME_val.jsonl, NAME_test.jsonl, NAME_rejected.jsonl, NAME_report.json, .md, .html and
NAME_DATA_CARD.md into --out, and registers the splits with LLaMA-Factory. Every row read is kept or rejected with a
reason.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

from scripts.common import UserError, run_main
from scripts.prepare.clean import FILTERS, NEEDED
from scripts.prepare.records import TAGS

TOKENIZER = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; raises SystemExit on --help or a wrong flag, UserError on a value out of range."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m scripts.prepare", description=__doc__, formatter_class=layout)
    add, cores = parser.add_argument, len(os.sched_getaffinity(0))
    optional = [name for name in FILTERS if name not in NEEDED]
    formats = "hub id (owner/name:configuration), or a file: .jsonl .json .parquet .csv .tsv, also .gz"
    against = "benchmark files to decontaminate against (default: all in data/benchmarks; no file: none)"
    add("sources", nargs="+", metavar="SOURCE", help=formats)
    add("--out", type=Path, default=Path("data"), help="folder for the prepared files (default: data)")
    add("--name", default="med_o1", help="prefix of the splits' files and registered names (default: med_o1)")
    add("--benchmarks", nargs="*", type=Path, help=against)
    add("--lang", nargs="+", choices=("zh", "en"), default=["zh", "en"], help="languages to keep (default: zh en)")
    add("--columns", nargs="+", default=[], metavar="OURS=THEIRS", help="own names for Question, Complex_CoT, Response")
    add("--thought-tags", nargs=2, default=TAGS, metavar=("OPEN", "CLOSE"), help="marks around a thought in the answer")
    add("--template", default="deepseekr1", help="LLaMA-Factory's template of the model to train (default: deepseekr1)")
    add("--tokenizer", default=TOKENIZER, help=f"folder with tokenizer.json, or a hub id (default: {TOKENIZER})")
    add("--cutoff-len", type=int, default=2048, help="longest record in tokens, template included (default: 2048)")
    add("--no-lengths", action="store_true", help="count no tokens: go on without a tokenizer")
    add("--reject-personal", action="store_true", help="leave out what looks as if it held personal data")
    add("--threshold", type=float, default=0.5, help="likeness of near-duplicates, 0.1 more in English (default: 0.5)")
    add("--val", type=float, default=0.05, help="share of the validation split (default: 0.05)")
    add("--test", type=float, default=0.10, help="share of the test split (default: 0.10)")
    add("--skip", nargs="+", default=[], metavar="FILTER", choices=optional, help=f"of {', '.join(optional)}")
    add("--seed", type=int, default=42, help="seed of the split and the sketches (default: 42)")
    add("--num-proc", type=int, default=cores, help="worker processes (default: all cores)")
    args = parser.parse_args(argv)
    given = shlex.join(["python", "-m", "scripts.prepare", *(sys.argv[1:] if argv is None else argv)])
    args.command = re.sub(r" --num-proc[ =]\d+", "", given)  # which does not change what is written
    args.columns = read_columns(args.columns)
    check_values(args)
    if args.benchmarks is None:
        args.benchmarks = sorted(Path("data/benchmarks").glob("*.jsonl"))
        if not args.benchmarks:
            raise UserError(
                "data/benchmarks: no benchmark file; run this from the project's root, write them with python -m "
                "scripts.prepare.benchmarks, or give --benchmarks without a file to go without decontamination"
            )
    return args


def check_values(args: argparse.Namespace) -> None:
    """Raise UserError where a value is out of range."""
    shares = (args.val, args.test)
    checks = {
        "--name": (re.fullmatch(r"[\w-]+", args.name), args.name, "letters, digits, _ and -"),
        "--cutoff-len": (args.cutoff_len > 0, args.cutoff_len, "a positive number of tokens"),
        "--threshold": (0.3 <= args.threshold <= 1, args.threshold, "0.3 to 1"),
        "--val and --test": (min(shares) >= 0 and sum(shares) < 1, shares, "shares that add up to less than 1"),
        "--num-proc": (args.num_proc > 0, args.num_proc, "at least 1"),
    }
    for flag, (right, found, expected) in checks.items():
        if not right:
            raise UserError(f"{flag}: found {found}, expected {expected}")


def read_columns(pairs: list[str]) -> dict[str, str]:
    """Our field names to the source's, from OURS=THEIRS pairs."""
    columns, known = {}, ("Question", "Complex_CoT", "Response")
    for pair in pairs:
        ours, mark, theirs = pair.partition("=")
        if ours not in known or not mark or not theirs:
            raise UserError(f"--columns {pair}: expected OURS=THEIRS with OURS one of {', '.join(known)}")
        columns[ours] = theirs
    return columns


def main() -> None:
    """Parse the command line and run every step."""
    args = parse_args()
    from scripts.prepare.run import prepare

    try:
        prepare(args)
    except OSError as error:
        raise UserError(f"{error.filename or args.out}: {error.strerror or error}; nothing was replaced") from error


if __name__ == "__main__":
    run_main(main)
