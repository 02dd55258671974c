"""Evaluate base and tuned model on the same items with the same prompt and settings.

python -m scripts.evaluate                                    everything, for the last finished run
python -m scripts.evaluate perplexity --model DIR --adapter DIR --data FILE --out results/demo
python -m scripts.evaluate report results/demo                write report.md and report.html again
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.common import UserError, run_main


def perplexity(argv: list[str]) -> None:
    """Perplexity of held-out records under base and tuned model."""
    parser = argparse.ArgumentParser(prog="python -m scripts.evaluate perplexity", description=perplexity.__doc__)
    parser.add_argument("--model", required=True, help="base model: a folder or hub id")
    parser.add_argument("--adapter", help="LoRA adapter's folder; without it only the base model is measured")
    parser.add_argument("--recipe", help="the training recipe (precision); default: the one the adapter names")
    parser.add_argument("--data", required=True, help="prepared records, e.g. data/demo/demo_test.jsonl")
    parser.add_argument("--template", help="LLaMA-Factory's template; default: the recipe's")
    parser.add_argument("--cutoff-len", type=int, default=2048, help="as in training, in tokens (2048)")
    parser.add_argument("--limit", type=int, help="only the first N records")
    parser.add_argument("--out", required=True, help="folder for perplexity.json and perplexity_samples.jsonl")
    options = parser.parse_args(argv)
    from scripts.evaluate.models import find_subject
    from scripts.evaluate.perplexity import evaluate, read_records

    read_records(options.data)  # a bad file stops here, before any model is loaded
    subject = find_subject(options.model, options.adapter, options.recipe, options.template)
    result = evaluate(subject, options.data, options.cutoff_len, options.out, options.limit)
    for name in subject.names:
        print(f"{name}: perplexity {result[name]['ppl']:.3f}, n = {result[name]['n']}, 95% {result[name]['ci95']}")


def report(argv: list[str]) -> None:
    """Write report.md and report.html from the JSON files of a results folder."""
    parser = argparse.ArgumentParser(prog="python -m scripts.evaluate report", description=report.__doc__)
    parser.add_argument("results", help="a results folder, e.g. results/demo")
    folder = Path(parser.parse_args(argv).results)
    from scripts.evaluate.report import write_report

    print(f"wrote {write_report(folder)}")


COMMANDS = {"perplexity": perplexity, "report": report}


def main() -> None:
    """Dispatch to a command; without one, run everything."""
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        return COMMANDS[sys.argv[1]](sys.argv[2:])
    raise UserError(f"expected one of {', '.join(COMMANDS)}")


if __name__ == "__main__":
    run_main(main)
