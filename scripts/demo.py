"""The whole road on a laptop, by the real tools: ``make demo`` (python -m scripts.demo).

    make demo                                    the bundled sample
    make demo SOURCE=my_records.json             own records, in directories of their own
    python -m scripts.demo --gpu --text a.jsonl  on an NVIDIA GPU, by yamls/qlora.yaml: a base of 110 million weights

Sample -> prepare -> a tiny base model, taught a little -> its perplexity -> QLoRA by llamafactory-cli -> perplexity of
the tuned model -> report. Stopped at any point, the same command goes on from what is whole. The tiny model is a
demonstration of the steps and knows no medicine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.common import (
    NOTICE,
    ROOT,
    UserError,
    file_hash,
    load_recipe,
    read_json,
    run_main,
    write_json,
    write_jsonl,
    write_text,
)
from scripts.prepare.load import read_rows
from scripts.train import run as run_dir
from scripts.train.bases import strings

SAMPLE = "data/sample.jsonl"
BENCHMARKS = ["data/benchmarks/medcot_en.jsonl", "data/benchmarks/medcot_zh.jsonl"]
PYTHON = [sys.executable, "-m"]
TRAIN = [*PYTHON, "llamafactory.cli", "train"]
LEAST = 8192  # tokens of training data: below it the pre-training stage finds no batch
TINY_NOTICE = f"The tiny model is a demonstration of the steps and knows no medicine. {NOTICE}"


@dataclass(frozen=True)
class Size:
    """What differs on a CPU and on a GPU: the base model's shape, the recipe, and overrides of recipes' keys."""

    place: str
    shape: tuple[str, ...]
    recipe: str
    pretrain: dict[str, str]
    tune: dict[str, str]


CPU = Size("cpu", (), "examples/qlora_cpu.yaml", {}, {})
GPU = Size(
    "gpu",
    ("--hidden", "768", "--layers", "12", "--vocab-size", "16376"),
    "yamls/qlora.yaml",
    {"use_cpu": "false", "cutoff_len": "1024", "per_device_train_batch_size": "16", "num_train_epochs": "8"}
    | {"learning_rate": "6e-4", "logging_steps": "20", "save_steps": "500"},
    {"dataset": "demo_train", "per_device_train_batch_size": "16", "num_train_epochs": "8", "learning_rate": "1e-3"}
    | {"logging_steps": "4", "save_steps": "50"},
)


class Demo:
    """One walk along the road: where its files lie, and the seconds and peak memory of each step."""

    def __init__(self, sources: list[str], texts: list[str], size: Size, columns: list[str]) -> None:
        self.sources, self.texts, self.size, self.columns = sources, texts, size, columns
        slugs = [re.sub(r"\W+", "_", Path(path).stem).strip("_").lower() for path in sources if sources != [SAMPLE]]
        own = "".join(f"-{slug}" for slug in slugs)
        self.suffix = own + ("-gpu" if size is GPU else "")
        self.data, self.results = Path(f"data/demo{self.suffix}"), Path(f"results/demo{self.suffix}")
        names = ("tiny_init" if size is CPU else "init_gpu", f"pretrain_{size.place}", f"qlora_{size.place}")
        self.tiny, self.base, self.tuned = (Path(f"saves/{name}{own}") for name in names)
        steps_file = self.results / "steps.json"
        self.steps: list[dict] = read_json(steps_file) if steps_file.exists() else []
        self.number = 0

    def announce(self, name: str, output: Path) -> None:
        self.number += 1
        print(f"[{self.number}/7] {name} -> {output}", flush=True)

    def step(self, name: str, command: list[str], output: Path, watch: Path | None = None) -> None:
        """Run one step as a child process; keep its log, seconds and peak memory (MiB, with its own children).

        ``watch``: a training run's directory, whose trainer_log.jsonl feeds the progress bar.
        """
        log = self.results / "logs" / f"{self.number}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        env = {key: value for key, value in os.environ.items() if key not in ("FORCE_TORCHRUN", "NPROC_PER_NODE")}
        env |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "UNSLOTH_DISABLE_STATISTICS": "1"}
        env["CUDA_VISIBLE_DEVICES"] = "" if self.size is CPU else os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        env |= {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin while they wait make a busy machine 6 times slower
        start = time.perf_counter()
        with log.open("w") as stream:
            child = subprocess.Popen(command, stdout=stream, stderr=stream if watch else None, env=env)
            try:
                if watch:
                    show_progress(child, watch)
                _, status, usage = os.wait4(child.pid, 0)
            except BaseException:
                child.kill()
                raise
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            said = f":\n{tail}\nwhole log: {log}" if tail else "; what it said stands above"
            raise UserError(f"step {self.number} ({name}) stopped with status {child.returncode}{said}")
        seconds, peak = time.perf_counter() - start, usage.ru_maxrss / 1024
        print(f"      {seconds:.0f} s, peak memory {peak:.0f} MiB", flush=True)
        row = {"step": name, "seconds": round(seconds, 1), "peak_mib": round(peak), "output": str(output)}
        self.steps = [old for old in self.steps if old["step"] != name] + [row]
        write_json(self.results / "steps.json", self.steps)

    def train(self, name: str, recipe_path: str, overrides: dict[str, str]) -> None:
        """Train with LLaMA-Factory; go on where an earlier walk was stopped, start anew if data or recipe changed."""
        output = Path(overrides["output_dir"])
        self.announce(name, output)
        changes = [f"{key}={value}" for key, value in overrides.items()]
        recipe = load_recipe(recipe_path, changes)
        wanted = run_dir.identity(recipe_path, recipe)
        state = run_dir.state(output, wanted)
        if state == "finished":
            print("      finished earlier with this recipe and data: kept")
            return
        if state == "foreign":
            old = free_name(output)
            output.rename(old)
            print(f"      {output} holds a run with other data or another recipe: moved to {old}")
        for message in run_dir.set_aside_broken(output):
            print(f"      {message}")
        last = run_dir.checkpoints(output)[-1:]
        print(f"      resuming from {last[0].name}" if last else "      training from the start")
        run_dir.trim_log(output)
        write_json(output / run_dir.IDENTITY, wanted)
        command = [*TRAIN, recipe_path, *changes]
        self.step(name, command, output, watch=output)

    def perplexity(self, name: str, *adapter: str) -> None:
        self.announce(name, self.results / "perplexity.json")
        self.step(
            name,
            [
                *[*PYTHON, "scripts.evaluate", "perplexity", "--model", str(self.base), *adapter],
                *["--data", str(self.data / "demo_test.jsonl"), "--template", "deepseekr1", "--cutoff-len", "2048"],
                *["--recipe", self.size.recipe, "--out", str(self.results)],
            ],
            self.results / "perplexity.json",
        )

    def build_tiny(self) -> None:
        self.announce("Build a tiny model and its tokenizer", self.tiny)
        marker = self.tiny / "source.sha256"
        wanted = file_hash(*self.sources, *self.texts, ROOT / "scripts/train/bases.py")
        if marker.exists() and marker.read_text() == wanted:
            print("      built earlier from these records: kept")
            return
        self.step(
            "Build a tiny model and its tokenizer",
            [*PYTHON, "scripts.train.bases", *self.sources, *self.texts, "--out", str(self.tiny), *self.size.shape],
            self.tiny,
        )
        write_text(marker, wanted)

    def prepare(self) -> None:
        self.announce("Prepare the records", self.data)
        self.step(
            "Prepare the records",
            [
                *[*PYTHON, "scripts.prepare", *self.sources, "--out", str(self.data), "--name", "demo"],
                *["--benchmarks", *BENCHMARKS, "--tokenizer", str(self.tiny), "--cutoff-len", "2048"],
                *["--val", "0.05", "--test", "0.25"],
                *(["--columns", *self.columns] if self.columns else []),
            ],
            self.data,
        )
        splits = read_json(self.data / "report.json")["splits"]
        tokens, held_out = splits["train"]["tokens"], splits["test"]["records"]
        if tokens < LEAST or not held_out:
            raise UserError(
                f"{self.data / 'report.md'}: {tokens:,} tokens to train on and {held_out} held-out records; "
                f"the demo needs {LEAST:,} and one: name more records (some 40)"
            )
        registry = read_json(self.data / "dataset_info.json")
        # LLaMA-Factory's stage pt reads one column as plain text: the given texts, else the training split's outputs.
        registry["demo_pretrain"] = {"file_name": "demo_train.jsonl", "columns": {"prompt": "output"}}
        if self.texts:
            rows = ({"text": "\n".join(strings(row))} for path in self.texts for _, row in read_rows(path))
            write_jsonl(self.data / "pretrain.jsonl", rows)
            registry["demo_pretrain"] = {"file_name": "pretrain.jsonl", "columns": {"prompt": "text"}}
        write_json(self.data / "dataset_info.json", registry)

    def run(self) -> None:
        self.build_tiny()
        self.prepare()
        data, base = f"{self.data}", f"{self.base}"
        self.train(
            "Teach the base model (stage: pt)",
            "examples/pretrain_cpu.yaml",
            {"model_name_or_path": str(self.tiny), "dataset_dir": data, "output_dir": base} | self.size.pretrain,
        )
        self.perplexity("Perplexity of the base model")
        self.train(
            "QLoRA fine-tune (4-bit NF4)",
            self.size.recipe,
            {"model_name_or_path": base, "dataset_dir": data, "output_dir": str(self.tuned)} | self.size.tune,
        )
        self.perplexity("Perplexity of the tuned model", "--adapter", str(self.tuned))
        run = {
            "name": f"demo{self.suffix}",
            "recipe": self.size.recipe,
            "model": base,
            "adapter": str(self.tuned),
            "train_dir": str(self.tuned),
            "data_report": str(self.data / "report.json"),
            "test_file": str(self.data / "demo_test.jsonl"),
            "notice": TINY_NOTICE,
        }
        write_json(self.results / "run.json", run)
        from scripts.evaluate.report import write_report

        self.announce("Report", self.results / "report.html")
        self.step("Report", [*PYTHON, "scripts.evaluate", "report", str(self.results)], self.results / "report.html")
        write_report(self.results)  # once more, now that the step's own seconds are known
        self.summary()

    def summary(self) -> None:
        result = read_json(self.results / "perplexity.json")
        print(f"\nHeld-out perplexity, {result['base']['n']} records that training never saw:")
        for side in ("base", "tuned"):
            low, high = result[side]["ci95"]
            print(f"  {side:6s} {result[side]['ppl']:8.1f}   95% interval {low:.1f} to {high:.1f}")
        print(f"Report: {self.results / 'report.html'} and report.md\n{TINY_NOTICE}")


def free_name(path: Path) -> Path:
    """The first of path.old-1, path.old-2, … that is not taken."""
    return next(name for k in range(1, 10**6) if not (name := path.with_name(f"{path.name}.old-{k}")).exists())


def show_progress(child: subprocess.Popen, run: Path) -> None:
    """Feed a progress bar from LLaMA-Factory's trainer_log.jsonl until the child ends (it is left to be reaped)."""
    from tqdm import tqdm

    interval = 1 if sys.stderr.isatty() else 15  # a log file needs no bar a second
    with tqdm(desc="      training", unit="step", leave=False, mininterval=interval) as bar:
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.5)
            lines = (run / "trainer_log.jsonl").read_text().splitlines() if (run / "trainer_log.jsonl").exists() else []
            try:
                entry = json.loads(lines[-1])
            except (IndexError, ValueError):
                continue  # no line yet, or one half written
            bar.total = entry["total_steps"]
            if "loss" in entry:
                bar.set_postfix(loss=f"{entry['loss']:.2f}", refresh=False)
            bar.update(entry["current_steps"] - bar.n)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.demo",
        description="Walk the whole road: prepare, teach a small base model, QLoRA, perplexity, report.",
        epilog="examples:\n  make demo\n  make demo SOURCE=my_records.json\n"
        "  make demo SOURCE=own.csv COLUMNS='Question=q Complex_CoT=thinking Response=a'\n"
        "  python -m scripts.demo --gpu --text abstracts.jsonl\n\n" + TINY_NOTICE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", nargs="+", default=[SAMPLE], help=f"raw records (default: {SAMPLE})")
    parser.add_argument("--text", nargs="+", default=[], help="what the base is taught (default: the training records)")
    parser.add_argument("--columns", nargs="+", default=[], metavar="OURS=THEIRS", help="as for scripts.prepare")
    parser.add_argument("--gpu", action="store_true", help="110 million weights, Unsloth; minutes on an NVIDIA GPU")
    args = parser.parse_args()
    for path in (*args.source, *args.text):
        if not Path(path).exists():
            raise UserError(f"{path}: no such file; name raw records as .json, .jsonl, .parquet or .csv")
    Demo(args.source, args.text, GPU if args.gpu else CPU, args.columns).run()


if __name__ == "__main__":
    run_main(main)
