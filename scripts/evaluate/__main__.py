"""Evaluate base and tuned model on the same items with the same prompt and settings.

python -m scripts.evaluate                                    everything, for the last finished run
python -m scripts.evaluate perplexity --model DIR --adapter DIR --data FILE --out results/demo
python -m scripts.evaluate report results/demo                write report.md and report.html again
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.common import NOTICE, ROOT, UserError, run_main

EXAMPLES = """examples:
  python -m scripts.evaluate                                  the last finished run
  python -m scripts.evaluate --model DIR --adapter DIR --budget '256 1024' --limit 200
  python -m scripts.evaluate --engine server --base-url http://HOST:8000/v1 --model base --adapter tuned
  JUDGE_API_KEY=… python -m scripts.evaluate --judge-url https://HOST/v1 --judge-model NAME
"""


def add_models(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The options that `perplexity` shares with the whole evaluation."""
    add = parser.add_argument
    add("--model", required=required, help="base model: folder or hub id; of a server: its served name")
    add("--adapter", help="LoRA adapter's folder; of a server: the tuned model's served name")
    add("--recipe", help="training recipe: precision and template (default: the adapter's own)")
    add("--data", required=required, help="held-out prepared records, e.g. data/demo/demo_test.jsonl")
    add("--cutoff-len", type=int, help="perplexity's cut in tokens (default: 2048, or as in training)")
    add("--out", required=required, help="results folder")


def perplexity(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Perplexity of held-out records under base and tuned model, or the base model alone without --adapter."""
    add_models(parser, required=True)
    parser.add_argument("--template", help="LLaMA-Factory's template (default: the recipe's)")
    parser.add_argument("--limit", type=int, help="only the first N records")
    options = parser.parse_args(argv)
    from scripts.evaluate.perplexity import evaluate, read_records
    from scripts.evaluate.subject import find_subject

    read_records(options.data)  # a bad file stops here, before any model is loaded
    subject = find_subject(options.model, options.adapter, options.recipe, options.template)
    result = evaluate(subject, options.data, options.cutoff_len or 2048, options.out, options.limit)
    for name in subject.names:
        print(f"{name}: perplexity {result[name]['ppl']:.3f}, n = {result[name]['n']}, 95% {result[name]['ci95']}")


def report(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Write report.md and report.html from the JSON files of a results folder."""
    parser.add_argument("results", type=Path, help="a results folder, e.g. results/demo")
    folder = parser.parse_args(argv).results
    from scripts.evaluate.report import write_report

    print(f"wrote {write_report(folder)}")


def review(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Vote blind on pairs of answers in a browser, on 127.0.0.1 only."""
    parser.add_argument("results", nargs="?", type=Path, help="a results folder (default: the newest with pairs)")
    parser.add_argument("--reviewer", default="anonymous", help="whose votes these are (%(default)s)")
    parser.add_argument("--port", type=int, default=7862, help="port (%(default)s)")
    options = parser.parse_args(argv)
    from scripts.evaluate.review import launch

    found = sorted(ROOT.glob("results/*/pairs.jsonl"), key=lambda path: path.stat().st_mtime)
    if not options.results and not found:
        raise UserError("no results folder holds pairs.jsonl; run `make eval` first")
    launch(options.results or found[-1].parent, options.reviewer, options.port)


def model_card(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Write a Hugging Face model card from a results folder."""
    parser.add_argument("results", type=Path, help="a results folder, e.g. results/demo")
    parser.add_argument("--license", default="mit", help="the adapter's licence (%(default)s)")
    parser.add_argument("--out", type=Path, help="file (default: RESULTS/model_card.md)")
    options = parser.parse_args(argv)
    from scripts.evaluate.model_card import write_card

    print(f"wrote {write_card(options.results, options.out or options.results / 'model_card.md', options.license)}")


def everything(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Evaluate base and tuned model on everything, by default the last finished run's, and write results/<run>/."""
    parser.epilog, parser.formatter_class = f"{EXAMPLES}\n{NOTICE}", argparse.RawDescriptionHelpFormatter
    parser.description += " Other commands: " + ", ".join(COMMANDS) + "."
    add_models(parser)
    add = parser.add_argument
    add("--engine", choices=("hf", "server"), default="hf", help="this process (hf) or an OpenAI-compatible server")
    add("--base-url", help="the server's address, ending in /v1")
    add("--budget", nargs="+", help="thinking budgets in tokens, e.g. 256 1024")
    add("--answer-tokens", type=int, help="most tokens of an answer after the thought")
    add("--limit", type=int, help="first N items of each benchmark and prompt set; 0: all (100; the demo: 24)")
    add("--sampling", choices=("greedy", "r1"), default="greedy", help="r1: temperature 0.6, top_p 0.95")
    add("--seeds", type=int, nargs="+", help="one pass each (42); more than one needs --sampling r1")
    add("--benchmarks", nargs="+", help="benchmark files (default: data/benchmarks/*.jsonl)")
    add("--batch-size", type=int, help="prompts at once; with --engine server requests at once")
    add("--judge-url", help="an OpenAI-compatible judge, ending in /v1; key: JUDGE_API_KEY or OPENAI_API_KEY")
    add("--judge-model", help="the judge's name")
    options = parser.parse_args(argv)
    if len(options.seeds or []) > 1 and options.sampling == "greedy":
        raise UserError("--seeds: greedy runs do not differ by seed; add --sampling r1")
    if bool(options.judge_url) != bool(options.judge_model):
        raise UserError("--judge-url and --judge-model belong together; found only one of them")
    from scripts.evaluate.plan import Plan
    from scripts.evaluate.run import run

    print(f"wrote {run(Plan(options))}\n{NOTICE}")


COMMANDS = {"perplexity": perplexity, "report": report, "review": review, "model-card": model_card}


def main() -> None:
    """Dispatch to a command; without one, run everything."""
    name = sys.argv[1] if sys.argv[1:] and sys.argv[1] in COMMANDS else ""
    command = COMMANDS.get(name, everything)
    parser = argparse.ArgumentParser(prog=f"python -m scripts.evaluate {name}".strip(), description=command.__doc__)
    command(parser, sys.argv[1 + bool(name) :])


if __name__ == "__main__":
    run_main(main)
