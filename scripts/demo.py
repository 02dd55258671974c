"""The whole pipeline on a laptop, with the real tools: ``make demo`` (python -m scripts.demo).

    make demo                                        the bundled sample, a real base model of 0.5 billion weights
    make demo SOURCE=own.json                        own records, in folders of their own
    make demo SOURCE=own.csv COLUMNS="Question=q Complex_CoT=thinking Response=a"
    make demo BASE=tiny                              a tiny base with random weights: offline, 3 minutes
    make demo BASE=Qwen/Qwen3-0.6B TEMPLATE=qwen3    any other base, on a GPU where there is one; STEPS=100

Records → dataset → QLoRA by llamafactory-cli → perplexity of held-out records and four answers, before and after →
report. Stopped at any point, the same command resumes after the last finished step.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scripts.common import NOTICE, UserError, alone_in, counted, quiet_libraries, read_json, run_main, write_json
from scripts.evaluate.stats import ENOUGH
from scripts.prepare.__main__ import read_columns
from scripts.prepare.records import check_sources

SAMPLE = "data/sample.jsonl"
BENCHMARKS = ["data/benchmarks/medcot_en.jsonl", "data/benchmarks/medcot_zh.jsonl"]
PYTHON = [sys.executable, "-m"]
OWN_CUTOFF = 1280  # tokens of own records on the real base: a longer one takes half a minute on 2 cores
TEST_SHARE = 0.2
REAL_NOTICE = "The demo's model is small (0.5 billion weights) and knows little medicine."
TINY_NOTICE = "The tiny model has random weights: it knows nothing and only shows the steps."


@dataclass
class Base:
    """A base model for the demo: its folder or hub id, how it is asked, what trains it."""

    name: str
    model: str
    template: str
    recipe: str
    cutoff_len: int
    takes: str = ""
    notice: str = ""
    extra: list[str] = field(default_factory=list)  # overrides of the recipe


TINY_TAKES = "3 minutes on 2 quiet cores"
TINY = Base("tiny", "saves/tiny_base", "deepseekr1", "examples/qlora_tiny.yaml", 2048, TINY_TAKES, TINY_NOTICE)
REAL_TAKES = "10 minutes on 2 quiet cores, up to 30 on busy ones (BASE=tiny: 3)"
REAL = Base("real", "saves/qwen_coder_0.5b", "qwen", "examples/qlora_cpu.yaml", 640, REAL_TAKES, REAL_NOTICE)


def slug_of(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"\W+", "_", name).strip("_").lower()


class Demo:
    """One run of the pipeline: where its files lie, and the seconds and peak memory of each step."""

    def __init__(self, sources: list[str], columns: list[str], base: Base) -> None:
        self.sources, self.columns, self.base = sources, columns, base
        self.cutoff_len = base.cutoff_len if sources == [SAMPLE] else OWN_CUTOFF
        own = "".join(f"-{slug_of(Path(path).stem)}" for path in sources if sources != [SAMPLE])
        suffix = own if base.name == "real" else f"-{base.name}{own}"
        self.data, self.results = Path(f"data/demo{suffix}"), Path(f"results/demo{suffix}")
        self.tuned = Path(f"saves/demo{suffix}")
        self.kept = self.results / "demo.json"
        self.steps: list[dict] = read_json(self.kept)["steps"] if self.kept.exists() else []

    def step(self, name: str, command: list[str], trained: Path | None = None) -> bool:
        """Run one step as a child process; keep its log, seconds and peak memory. False where it failed.

        What it prints goes to the log, its errors and progress bars to the screen. ``trained``: a training run's
        folder, whose progress is shown instead.
        """
        print(f"[{name}]", flush=True)
        log = self.results / "logs" / f"{slug_of(name)}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        env = os.environ | {"UNSLOTH_DISABLE_STATISTICS": "1"}
        env |= {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin while they wait make a busy machine 6 times slower
        if self.base.recipe.startswith("examples/qlora_"):  # a recipe for the CPU
            env["CUDA_VISIBLE_DEVICES"] = ""
        start = time.perf_counter()
        with log.open("w") as stream:
            child = subprocess.Popen(command, stdout=stream, stderr=stream if trained else None, env=env)
            try:
                if trained:
                    show_progress(child, trained / "trainer_log.jsonl")
                _, status, usage = os.wait4(child.pid, 0)
            except BaseException:
                child.kill()
                raise
        if status:
            print("\n".join(log.read_text(errors="replace").splitlines()[-12:]), file=sys.stderr)
            return False
        seconds, peak = time.perf_counter() - start, usage.ru_maxrss / 1024
        print(f"  {seconds:.0f} s, peak memory {peak:.0f} MiB", flush=True)
        row = {"step": name, "seconds": round(seconds, 1), "peak_mib": round(peak)}
        self.steps = [old for old in self.steps if old["step"] != name] + [row]
        write_json(self.kept, {"notice": self.base.notice, "steps": self.steps})
        return True

    def need(self, name: str, command: list[str], trained: Path | None = None) -> None:
        """A step without which there is nothing to go on with."""
        if not self.step(name, command, trained):
            raise UserError(f"step {name!r} stopped, its last words stand above; logs: {self.results / 'logs'}")

    def prepare(self) -> None:
        command = [*PYTHON, "scripts.prepare", *self.sources, "--out", str(self.data), "--name", "demo"]
        command += ["--benchmarks", *BENCHMARKS, "--tokenizer", self.base.model, "--template", self.base.template]
        command += ["--cutoff-len", str(self.cutoff_len), "--val", "0", "--test", str(TEST_SHARE)]
        command += ["--columns", *self.columns] if self.columns else []
        self.need("Prepare the records", command)
        splits = read_json(self.data / "demo_report.json")["splits"]
        trained, held_out = splits["train"]["records"], splits["test"]["records"]
        if held_out >= ENOUGH:
            return
        said = f"{counted(trained, 'record')} to train on and {held_out} held out, expected {ENOUGH} held out."
        wanted = math.ceil(1.6 * ENOUGH / TEST_SHARE)  # records are drawn: so many have enough 99 times of 100
        if trained + held_out >= wanted:
            raise UserError(
                f"{said} Records whose questions or reasoning are nearly the same stay together on one side, and most "
                "of these are: give more varied ones"
            )
        raise UserError(
            f"{said} Give some {wanted} varied records of up to {self.cutoff_len} tokens in all; what was rejected, "
            f"and why, stands in {self.data / 'demo_report.html'}"
        )

    def train(self) -> None:
        """Train by scripts.train, which keeps a finished run, resumes a stopped one and sets another one aside."""
        changes = [f"model_name_or_path={self.base.model}", f"dataset_dir={self.data}", f"output_dir={self.tuned}"]
        changes += [f"cutoff_len={self.cutoff_len}", *self.base.extra]
        command = [*PYTHON, "scripts.train", self.base.recipe, *changes, "--set-aside"]
        self.need("QLoRA fine-tune", command, self.tuned)

    def make_base(self) -> bool:
        """Make the base model's folder where it is ours to make; False where the real one's parts cannot be had."""
        if self.base.name not in ("real", "tiny"):
            return True
        if self.step("Base model", [*PYTHON, "scripts.train.bases", self.base.name, "--out", self.base.model]):
            return True
        if self.base.name == "tiny":
            raise UserError("the tiny base could not be made; see above")
        return False

    def run(self) -> None:
        check_sources(self.sources, read_columns(self.columns))
        takes = f"; {self.base.takes}" if self.base.takes else ""
        print(f"Records → dataset → QLoRA → before and after → report{takes}", flush=True)
        if not self.make_base():
            print("So the tiny base with random weights is taken (BASE=tiny)")
            Demo(self.sources, self.columns, TINY).run()
            return
        with alone_in(self.results):
            self.measure()

    def measure(self) -> None:
        """All steps behind the base model."""
        self.prepare()
        self.train()
        command = [*PYTHON, "scripts.evaluate", "--adapter", str(self.tuned), "--out", str(self.results)]
        self.need("Perplexity and answers, before and after", [*command, "--only", "perplexity", "answers"])
        self.tell()

    def tell(self) -> None:
        """The result on the screen: the answers, perplexity, where the report is, what to do next."""
        from scripts.evaluate.forms import WORDS
        from scripts.evaluate.report import write_report
        from scripts.evaluate.terminal import tell_result

        write_report(self.results)  # once more, with the seconds of the step that wrote it first
        result = read_json(self.results / "answers.json")
        for row in result["answers"]:
            print(answers_in_words(row))
        print(f"\nHow they were asked. Base: {WORDS[result['settings']['forms']['base']]}. Tuned: as it was trained.")
        print("Both by sampling with a fixed seed (temperature 0.6, top-p 0.95).", self.base.notice)
        tell_result(self.results, self.results / "report.html")


def answers_in_words(row: dict[str, Any]) -> str:
    """One question with both answers, each short enough for a screen."""
    lines = [f"\n? {row['question']}"]
    for side in ("base", "tuned"):
        said = row[side]
        if said["thought"]:
            lines.append(f"  {side} thinks: {shorten(said['thought'])}{'' if said['closed'] else ' (never closed)'}")
        lines.append(f"  {side} answers: {shorten(said['answer']) or '(nothing)'}")
    return "\n".join(lines)


def shorten(text: str, size: int = 300) -> str:
    """A text in one line, its beginning and its end."""
    flat = " ".join(text.split())
    return flat if len(flat) <= size else f"{flat[: size // 2]} … {flat[-size // 2 :]}"


def show_progress(child: subprocess.Popen, log: Path) -> None:
    """Print LLaMA-Factory's log line by line until the child ends (it is left to be reaped)."""
    seen = log.read_bytes() if log.exists() else b""  # of an earlier run
    while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(1)
        written = log.read_bytes() if log.exists() else b""
        if written == seen or not written.endswith(b"\n"):
            continue
        seen, entry = written, json.loads(written.splitlines()[-1])
        if "loss" in entry:
            place = f"step {entry['current_steps']} of {entry['total_steps']}"
            print(f"  {place}, loss {entry['loss']:.2f}, {entry['remaining_time']} left", flush=True)


def choose_base(name: str, template: str | None, steps: int | None) -> Base:
    """The base that was named: real, tiny, or any folder or hub id with its template."""
    if steps is not None and steps < 1:
        raise UserError(f"STEPS={steps}: expected 1 or more; leave it out for the recipe's own")
    changes = [f"max_steps={steps}"] if steps else []
    if name in ("real", "tiny"):
        if template:
            raise UserError(f"TEMPLATE={template}: BASE={name} brings its own; leave it out")
        return replace(REAL if name == "real" else TINY, extra=changes)
    if not template:
        raise UserError(
            f"BASE={name}: say how it is asked, e.g. TEMPLATE=qwen3 (LLaMA-Factory's template of this model)"
        )
    import torch

    recipe = "yamls/qlora.yaml" if torch.cuda.is_available() else "examples/qlora_cpu.yaml"
    changes += [f"template={template}", "dataset=demo_train"]
    return Base(slug_of(Path(name).name), name, template, recipe, 2048, extra=changes)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.demo",
        description=__doc__,
        epilog=f"{REAL_NOTICE} {NOTICE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", nargs="+", default=[SAMPLE], help=f"raw records (default: {SAMPLE})")
    parser.add_argument("--columns", nargs="+", default=[], metavar="OURS=THEIRS", help="as for scripts.prepare")
    parser.add_argument("--base", default="real", help="real (default), tiny, or a hub id or folder with --template")
    parser.add_argument("--template", help="LLaMA-Factory's template of a base of your own")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the recipe's)")
    args = parser.parse_args()
    quiet_libraries()
    Demo(args.source, args.columns, choose_base(args.base, args.template, args.steps)).run()


if __name__ == "__main__":
    run_main(main)
