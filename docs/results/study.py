"""Print a study's table as JSON: what each run was, its losses, its accuracy on development questions.

python docs/results/study.py RUN…     reads saves/RUN, results/RUN and, where it is there, results/RUN_dev
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def read(*path: str) -> dict[str, Any]:
    """A JSON file's object; an empty one where there is no such file."""
    file = Path(*path)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def row(run: str) -> dict[str, Any]:
    """One run. Losses in nats per token; accuracy as shares with their 95% intervals."""
    identity, perplexity = read("saves", run, "medcot.json"), read("results", run, "perplexity.json")
    log = Path("saves", run, "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
    found = {
        "run": run,
        "overrides": identity["overrides"],
        "steps": json.loads(log[-1])["total_steps"],
        "adapter_hash": identity["adapter_hash"],
        "validation_loss": read("saves", run, "eval_results.json").get("eval_loss"),
        "held_out": {side: perplexity[side] for side in ("base", "tuned", "difference")},
        "provenance": perplexity["provenance"],
    }
    accuracy = read("results", f"{run}_dev", "accuracy.json")
    if accuracy:
        found["base_form"] = accuracy["settings"]["base_form_chosen"]
        found["development"] = {task: result["budgets"] for task, result in accuracy["tasks"].items()}
    written = read("results", run, "format.json")
    if written:
        found["well_formed"] = {side: written[side] for side in ("base", "tuned")}
        found["problems"] = written["problems"]
    return found


print(json.dumps([row(run) for run in sys.argv[1:]], ensure_ascii=False, indent=1))
