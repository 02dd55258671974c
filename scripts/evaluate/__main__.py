"""Evaluate base and tuned model on the same items: ``make eval``, or ``python -m scripts.evaluate --help``."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from scripts.common import NOTICE, ROOT, UserError, quiet_libraries, run_main

EXAMPLES = """examples:
  python -m scripts.evaluate                                  the run that ended last
  python -m scripts.evaluate --adapter DIR --budget '256 1024' --limit 200 --permute
  python -m scripts.evaluate --engine vllm --limit 0          all items, by vLLM in bfloat16
  python -m scripts.evaluate --engine server --base-url http://HOST:8000/v1 --model base --adapter tuned --run saves/x
  python -m scripts.evaluate report results/demo              write report.md and report.html again
  JUDGE_API_KEY=… python -m scripts.evaluate --judge-url https://HOST/v1 --judge-model NAME
"""


def perplexity(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Perplexity of held-out records under base and tuned model, or the base model alone without an adapter."""
    everything(parser, [*argv, "--only", "perplexity"])


def report(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Write report.md and report.html from the JSON files of a results folder."""
    parser.add_argument("results", type=Path, help="a results folder, e.g. results/demo")
    folder = parser.parse_args(argv).results
    from scripts.evaluate.report import write_report

    print(f"wrote {write_report(folder)}")


def review(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Vote blind on pairs of answers in a browser."""
    parser.add_argument("results", nargs="?", type=Path, help="a results folder (default: the newest with pairs)")
    parser.add_argument("--reviewer", default="anonymous", help="whose votes these are (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s: this machine alone)")
    parser.add_argument("--port", type=int, default=7862, help="port (%(default)s)")
    options = parser.parse_args(argv)
    from scripts.evaluate.review import launch

    found = sorted(ROOT.glob("results/*/pairs.jsonl"), key=lambda path: path.stat().st_mtime)
    if not options.results and not found:
        raise UserError("no results folder holds pairs.jsonl; run `make eval` first")
    launch(options.results or found[-1].parent, options.reviewer, options.port, options.host)


def model_card(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Write a Hugging Face model card from a results folder."""
    parser.add_argument("results", type=Path, help="a results folder, e.g. results/demo")
    parser.add_argument("--license", default="mit", help="the adapter's licence (%(default)s)")
    parser.add_argument("--out", type=Path, help="file (default: RESULTS/model_card.md)")
    options = parser.parse_args(argv)
    from scripts.evaluate.model_card import write_card

    print(f"wrote {write_card(options.results, options.out or options.results / 'model_card.md', options.license)}")


def list_runs(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """List what has been measured: run, model, data, date, headline figures."""
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of results folders")
    options = parser.parse_args(argv)
    from scripts.evaluate.runs import table_of_runs

    print(table_of_runs(options.results))


def compare(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Show two evaluations side by side."""
    parser.add_argument("first", type=Path, help="a results folder")
    parser.add_argument("second", type=Path, help="another one")
    options = parser.parse_args(argv)
    from scripts.evaluate.runs import table_of_two

    print(table_of_two(options.first, options.second))


def everything_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of the whole evaluation."""
    from scripts.evaluate.settings import STEPS

    add = parser.add_argument
    add("--model", help="base model: folder or hub id (default: the run's); of a server: its served name")
    add("--adapter", help="LoRA adapter's folder (default: the run that ended last); of a server: its served name")
    add("--template", help="LLaMA-Factory's template, for a model that no run describes")
    add("--system", help="system text, likewise")
    add("--data", help="held-out prepared records (default: the run's own)")
    add("--cutoff-len", type=int, help="perplexity's cut in tokens (default: as in training)")
    add("--out", type=Path, help="results folder (default: results/<run>)")
    add("--engine", choices=("hf", "vllm", "server"), default="hf", help="this process, vLLM, or a server that runs")
    add("--vllm", metavar="PATH", help="an environment with vLLM (default: .venv-vllm of `make setup-vllm`)")
    add("--base-url", help="--engine server: its address, ending in /v1")
    add("--run", help="--engine server: the folder of the run that it serves, for template and held-out records")
    add("--precision", default="as served", help="--engine server: in which precision it serves, for the table")
    add("--only", nargs="+", choices=STEPS, help="these steps alone")
    add("--budget", nargs="+", help="thinking budgets in tokens, e.g. 256 1024 (default: by the measured speed)")
    add("--answer-tokens", type=int, help="most tokens of an answer after the thought")
    add("--limit", type=int, help="first N items of each benchmark and prompt set; 0: all")
    add("--sampling", choices=("greedy", "r1"), default="greedy", help="r1: temperature 0.6, top_p 0.95")
    add("--seeds", type=int, nargs="+", help="one pass each (42); more than one needs --sampling r1")
    add("--permute", action="store_true", help="ask each item once more with its options rotated")
    add("--base-form", choices=("auto", "own", "thinking"), default="auto", help="how the base model is asked")
    add("--benchmarks", nargs="+", help="benchmark files (default: data/benchmarks/*.jsonl)")
    add("--development", nargs="+", help="benchmark files that choose the base model's form, never a test set")
    add("--judge-url", help="an OpenAI-compatible judge, ending in /v1; key: JUDGE_API_KEY or OPENAI_API_KEY")
    add("--judge-model", help="the judge's name")
    return parser


def everything(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Evaluate base and tuned model on everything, by default the run that ended last, and write results/<run>/."""
    parser.epilog, parser.formatter_class = f"{EXAMPLES}\n{NOTICE}", argparse.RawDescriptionHelpFormatter
    parser.description += " Other commands: " + ", ".join(COMMANDS) + "."
    options = everything_parser(parser).parse_args(argv)
    if bool(options.judge_url) != bool(options.judge_model):
        raise UserError("--judge-url and --judge-model belong together; found only one of them")
    if options.engine == "server" and not (options.base_url and options.model):
        raise UserError("--engine server needs --base-url http://HOST:PORT/v1 and --model NAME (tuned: --adapter NAME)")
    evaluate(options)


def evaluate(options: argparse.Namespace) -> None:
    """Settle what is evaluated, start its engine, run the steps, tell the result."""
    quiet_libraries()
    from scripts.evaluate.plan import load, plan_evaluation, start_engines
    from scripts.evaluate.report import write_report
    from scripts.evaluate.steps import measure_perplexity, run_steps
    from scripts.evaluate.terminal import tell_result

    run = plan_evaluation(options)
    asks = set(run.settings.steps) - {"perplexity"}
    with ExitStack() as stack:  # a server that is started ends with it
        if asks and options.engine == "hf":  # the weights are loaded once, and how long it takes is said first
            start_engines(run, options, stack)
        if "perplexity" in run.settings.steps and run.subject and run.records:
            load(run)
            measure_perplexity(run, options.cutoff_len or (run.subject.run or {}).get("cutoff_len", 2048))
        elif "perplexity" in run.settings.steps:
            print("no perplexity: there are no held-out records (name some with --data)", flush=True)
        if asks and not run.engines:
            start_engines(run, options, stack)
        if asks:
            run_steps(run)
    tell_result(run.folder, write_report(run.folder))


COMMANDS = {
    "perplexity": perplexity,
    "report": report,
    "review": review,
    "model-card": model_card,
    "runs": list_runs,
    "compare": compare,
}


def main() -> None:
    """Dispatch to a command; without one, run everything."""
    name = sys.argv[1] if sys.argv[1:] and sys.argv[1] in COMMANDS else ""
    command = COMMANDS.get(name, everything)
    parser = argparse.ArgumentParser(prog=f"python -m scripts.evaluate {name}".strip(), description=command.__doc__)
    command(parser, sys.argv[1 + bool(name) :])


if __name__ == "__main__":
    run_main(main)
