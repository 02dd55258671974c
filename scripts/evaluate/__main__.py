"""Evaluate base and tuned model on the same items: ``make eval``, or ``python -m scripts.evaluate --help``."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from scripts.common import NOTICE, ROOT, STARTING, UserError, quiet_libraries, run_main

EXAMPLES = """examples:
  python -m scripts.evaluate                                  the run that ended last
  python -m scripts.evaluate --adapter DIR --budget '256 1024' --limit 200 --permute
  python -m scripts.evaluate --engine vllm --limit 0          all items, by vLLM in bfloat16
  python -m scripts.evaluate --engine server --base-url http://HOST:8000/v1 --model base --adapter tuned --run saves/x
  python -m scripts.evaluate report results/demo              write report.md and report.html again
  JUDGE_API_KEY=… python -m scripts.evaluate --judge-url https://HOST/v1 --judge-model NAME
"""
STEPS = ("perplexity", "answers", "accuracy", "instructions", "format", "judge", "controls")


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """The options of the whole evaluation."""
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
    add("--run", help="--engine server: the folder of the run that it serves")
    add("--precision", default="as served", help="--engine server: in which precision it serves, for the table")
    add("--only", dest="steps", nargs="+", choices=STEPS, default=STEPS, help="these steps alone")
    add(
        "--budget",
        dest="budgets",
        nargs="+",
        help="thinking budgets in tokens, e.g. 256 1024 (default: by the measured speed)",
    )
    add("--answer-tokens", type=int, help="most tokens of an answer after the thought")
    add("--limit", type=int, help="first N items of each benchmark and prompt set; 0: all")
    add("--sampling", choices=("greedy", "r1"), default="greedy", help="r1: temperature 0.6, top_p 0.95")
    add("--seeds", type=int, nargs="+", default=[42], help="one pass each; more than one needs --sampling r1")
    add("--permute", dest="rotated", action="store_true", help="ask each item once more with its options rotated")
    add("--base-form", choices=("auto", "own", "thinking"), default="auto", help="how the base model is asked")
    add("--benchmarks", nargs="+", help="benchmark files (default: data/benchmarks/*.jsonl)")
    add("--development", nargs="+", help="benchmark files that choose the base model's form, never a test set")
    add("--judge-url", help="an OpenAI-compatible judge, ending in /v1; key: JUDGE_API_KEY or OPENAI_API_KEY")
    add("--judge-model", help="the judge's name")


def evaluate(options: argparse.Namespace) -> None:
    """Settle what is evaluated, start its engine, run the steps, tell the result."""
    if bool(options.judge_url) != bool(options.judge_model):
        raise UserError("--judge-url and --judge-model belong together; found only one of them")
    if options.engine == "server" and not all((options.base_url, options.model, options.adapter, options.run)):
        raise UserError(
            "--engine server needs --base-url http://HOST:PORT/v1, --model NAME and --adapter NAME (the two served "
            "names), and --run FOLDER: the run that is served"
        )
    print(STARTING, flush=True)
    quiet_libraries()
    from scripts.evaluate.plan import plan_evaluation, start_engines
    from scripts.evaluate.report import write_report
    from scripts.evaluate.steps import measure_perplexity, run_steps
    from scripts.evaluate.terminal import tell_result
    from scripts.evaluate.vllm import find_python

    run = plan_evaluation(options)
    asks = set(options.steps) - {"perplexity"}
    if asks and options.engine == "vllm":  # before a model is loaded
        find_python(options.vllm)
    with ExitStack() as stack:  # a server that is started ends with it
        if asks and options.engine == "hf":  # the weights are loaded once, and how long it takes is said first
            start_engines(run, options, stack)
        if "perplexity" in options.steps and run.records:
            measure_perplexity(run, options.cutoff_len)
        elif "perplexity" in options.steps:
            print("no perplexity: there are no held-out records (name some with --data)", flush=True)
        if asks and not run.engines:
            start_engines(run, options, stack)
        if asks:
            run_steps(run)
    tell_result(run.folder, write_report(run.folder))


def report(options: argparse.Namespace) -> None:
    from scripts.evaluate.report import write_report

    print(f"wrote {write_report(options.results)}")


def review(options: argparse.Namespace) -> None:
    from scripts.evaluate.review import launch

    found = sorted(ROOT.glob("results/*/pairs.jsonl"), key=lambda path: path.stat().st_mtime)
    if not options.results and not found:
        raise UserError("no results folder holds pairs.jsonl; run `make eval` first")
    launch(options.results or found[-1].parent, options.reviewer, options.port, options.host)


def model_card(options: argparse.Namespace) -> None:
    from scripts.evaluate.model_card import write_card

    out = options.out or options.results / "model_card.md"
    print(f"wrote {write_card(options.results, out, options.license)}")


def list_runs(options: argparse.Namespace) -> None:
    from scripts.evaluate.runs import table_of_runs

    print(table_of_runs(options.results))


def compare(options: argparse.Namespace) -> None:
    from scripts.evaluate.runs import table_of_two

    print(table_of_two(options.first, options.second))


def main() -> None:
    """Dispatch to a command; without one, evaluate everything."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evaluate",
        description="Evaluate base and tuned model on everything, by default the run that ended last.",
        epilog=f"{EXAMPLES}\n{NOTICE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(call=evaluate)
    commands = parser.add_subparsers(title="other commands", metavar="COMMAND")
    add_evaluation(parser)

    def command(name: str, call: object, what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what, description=what)
        added.set_defaults(call=call)
        return added

    added = command("perplexity", evaluate, "perplexity of held-out records alone")
    add_evaluation(added)
    added.set_defaults(steps=["perplexity"])
    added = command("report", report, "write report.md and report.html again from the files of a results folder")
    added.add_argument("results", type=Path, help="a results folder, e.g. results/demo")
    added = command("review", review, "vote blind on pairs of answers in a browser")
    added.add_argument("results", nargs="?", type=Path, help="a results folder (default: the newest with pairs)")
    added.add_argument("--reviewer", default="anonymous", help="whose votes these are (%(default)s)")
    added.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s: this machine alone)")
    added.add_argument("--port", type=int, default=7862, help="port (%(default)s)")
    added = command("model-card", model_card, "write a Hugging Face model card from a results folder")
    added.add_argument("results", type=Path, help="a results folder, e.g. results/demo")
    added.add_argument("--license", default="mit", help="the adapter's licence (%(default)s)")
    added.add_argument("--out", type=Path, help="file (default: RESULTS/model_card.md)")
    added = command("runs", list_runs, "list what has been measured: run, model, data, date, headline figures")
    added.add_argument("--results", type=Path, default=ROOT / "results", help="folder of results folders")
    added = command("compare", compare, "show two evaluations side by side")
    added.add_argument("first", type=Path, help="a results folder")
    added.add_argument("second", type=Path, help="another one")
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    run_main(main)
