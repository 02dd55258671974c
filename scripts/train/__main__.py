"""Check a run, keep its identity, train by LLaMA-Factory: ``make train`` (python -m scripts.train RECIPE).

Stopped at any point, the same command resumes from the last whole checkpoint; a finished run is kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time

from scripts.common import NOTICE, UserError, alone_in, quiet_libraries, read_json, run_main
from scripts.train import preflight, resume
from scripts.train import run as runs
from scripts.train.planned import PlannedRun, plan

ENVIRONMENT = os.environ.copy()  # training's own log stays, whatever is quiet here
LITTLE = 2**28  # bytes: with less, whatever training wrote last did not fit


def train(run: PlannedRun) -> None:
    """Train the run in a process of LLaMA-Factory's own; its identity is written before and completed after."""
    runs.begin(run.output, run.identity)
    command = [sys.executable, "-m", "llamafactory.cli", "train", run.path, *run.overrides]
    began = time.monotonic()
    env = ENVIRONMENT | {"HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "")}  # where no hub answered
    status = subprocess.run(command, env=env).returncode
    if status:
        full = "the disk is full; " if shutil.disk_usage(run.output).free < LITTLE else ""
        said = f"training stopped with status {status}; {full}see above. The same command resumes from {run.output}"
        raise UserError(said)
    runs.finish(run.output)
    minutes = (time.monotonic() - began) / 60
    loss = read_json(run.output / "train_results.json")["train_loss"]
    print(f"Trained in {minutes:.1f} minutes, mean training loss {loss:.3f}: {run.output}")
    print(f"Next: make eval, make chat\n{NOTICE}")


def train_or_keep(run: PlannedRun, set_aside: bool) -> int:
    """Train the run unless it is finished; returns the exit status. ``set_aside``: move another run's folder away."""
    state = resume.state(run.output, run.identity) if run.output.exists() else "new"
    if state == "finished":
        runs.finish(run.output)
        print(f"{run.output}: trained already with this recipe, data and base model; output_dir=saves/NAME trains anew")
        return 0
    if set_aside and state == "foreign":
        moved = resume.set_aside(run.output, f"{run.output.name}.old")
        print(f"{run.output} holds another run: moved to {moved}")
    if not preflight.ready(run):
        return 1
    train(run)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.train",
        description="Check a run, keep its identity (medcot.json), then llamafactory-cli train.",
        epilog="examples:\n  python -m scripts.train yamls/qlora.yaml\n"
        "  python -m scripts.train yamls/qlora.yaml learning_rate=5e-5 output_dir=saves/qlora_lr5e-5\n\n" + NOTICE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="?", default="yamls/qlora.yaml", help="default: yamls/qlora.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as behind llamafactory-cli train")
    parser.add_argument("--set-aside", action="store_true", help="move another run's folder away instead of refusing")
    args = parser.parse_intermixed_args()
    quiet_libraries()
    run = plan(args.recipe, args.overrides)
    with alone_in(run.output):
        return train_or_keep(run, args.set_aside)


if __name__ == "__main__":
    run_main(main)
