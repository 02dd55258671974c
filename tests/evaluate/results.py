"""A results folder as an evaluation leaves it: 24 items with 12 gained, 24 records that are foretold better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.common import write_json, write_jsonl
from scripts.evaluate import accuracy, controls, perplexity

ATTACK = "<script>alert(1)</script> | a pipe ![x](http://evil.example/x.png)\rnext line"


def scored(side: str, i: int, right: bool) -> dict[str, Any]:
    """One answered item."""
    output = {"text": ATTACK, "letter": "A" if right else "B", "status": "read", "cut": False, "forced": False}
    row = {"task": "bench", "id": f"q{i}", "lang": "en", "seed": 42, "model": side, "form": "own"}
    row |= {"question": f"{i}? {ATTACK}", "options": {"A": "fever", "B": "cough"}, "answer_idx": "A"}
    return row | {"outputs": {"64": output | {"closed": True, "opened": True, "thought_tokens": 9}}}


def record(side: str, i: int, nats: float) -> dict[str, Any]:
    """One held-out record's row."""
    tokens = {"reasoning": 60 + i, "answer": 20}
    nll = {part: (nats + i / 100) * n for part, n in tokens.items()}
    return {"model": side, "lang": ("en", "zh")[i % 2], "tokens": tokens, "nll": nll, "truncated": False}


def every_outcome(rows: list[dict]) -> list[dict]:
    """The negative controls with each sentence that they can say: one failed, none to be read, one letter, passed."""
    base, tuned = ([row for row in rows if row["model"] == side] for side in ("base", "tuned"))
    found = [controls.base_against_itself(base, tuned, "64"), controls.shuffled_answers(tuned, "64")]
    turned = [row | {"answer_idx": "AB"[i % 2]} for i, row in enumerate(base)]
    found += [controls.shuffled_answers(turned, "64"), controls.shuffled_answers(base[:3], "64")]
    return [one | {"name": "shuffled_answers (tuned)"} if i else one for i, one in enumerate(found)]


def write_results(folder: Path, rows: list[dict] | None = None, only: tuple[str, ...] = (), **subject: Any) -> Path:
    """Write the files named by ``only`` (default: all) and their samples; ``rows``: of accuracy, 12 gained."""
    run = folder / "own run"
    log = [{"current_steps": i, "total_steps": 10, "loss": 4 - i / 10} for i in range(1, 11)]
    log.insert(5, {"current_steps": 5, "total_steps": 10, "eval_loss": 3.9})
    run.mkdir(exist_ok=True)
    write_jsonl(run / "trainer_log.jsonl", log)
    write_json(run / "eval_results.json", {"epoch": 1.0, "eval_loss": 3.5})  # LLaMA-Factory's validation after training
    sides = ("base", "tuned")
    rows = rows or [scored(side, i, i < 6 or (side == "tuned" and i < 18)) for side in sides for i in range(24)]
    records = [record(side, i, nats) for side, nats in zip(sides, (2.5, 2.0), strict=True) for i in range(24)]
    said = {"thought": ATTACK, "answer": ATTACK, "closed": False, "cut": True}
    files = {
        "accuracy": {"tasks": accuracy.summarise(rows), "behind": {}},
        "perplexity": perplexity.summarise(records),
        "answers": {"answers": [{"question": ATTACK, "base": said, "tuned": said | {"thought": ""}}]},
        "controls": {"controls": every_outcome(rows)},
    }
    about = {
        "subject": {"id": "s", "model": "org/base", "adapter": str(run), "template": "qwen", "hashes": {}} | subject,
        "settings": {
            "seeds": [42],
            "forms": {"base": "own", "tuned": "thinking"},
            "base_form_chosen": {"by": "default"},
        },
        "engine": "transformers",
        "precision": "nf4, bfloat16 arithmetic",
        "provenance": {"date": "2026-11-01", "commit": "abc", "seconds": 1.5, "machine": "a laptop"},
    }
    for name, result in files.items():
        if not only or name in only:
            write_json(folder / f"{name}.json", result | about)
    write_jsonl(folder / "accuracy_samples.jsonl", rows)
    return folder
