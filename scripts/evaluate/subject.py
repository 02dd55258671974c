"""What an evaluation is of: a base model, an adapter, and how both are asked. Every result belongs to one subject.

A subject is told by the hashes of model and adapter, the template, the system text and the thinking switch; they come
from the run's identity (``medcot.json``), never from a recipe file. Precision and engine are no part of it: they stand
with each result, and base and tuned share them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, file_hash, look_for_hub
from scripts.train.run import folder_hash, newest_adapter, read_run
from scripts.train.template import PromptFormat

SIDES = ("base", "tuned")
PLAIN = {"bits": None, "dtype": "bfloat16"}  # the precision of a model that no run describes


def key_of(*parts: Any) -> str:
    """A short stable hash of JSON-able values: what a finished item, or a subject, is found by."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Subject:
    """A base model and what was trained on it. ``precision``: as in training. ``run``: its identity, if it has one."""

    model: str
    adapter: str | None
    template: str
    system: str | None
    thinking: bool | None
    precision: dict[str, Any]
    run: dict[str, Any] | None

    @property
    def sides(self) -> tuple[str, ...]:
        """base, and tuned where there is an adapter."""
        return SIDES if self.adapter else SIDES[:1]

    @property
    def name(self) -> str:
        """What its results folder is called."""
        return Path(self.adapter or self.model).name

    @cached_property
    def hashes(self) -> dict[str, str | None]:
        """Side → hash of the files that make it, read once."""
        return {"base": folder_hash(self.model), "tuned": folder_hash(self.adapter) if self.adapter else None}

    def identity(self, side: str) -> dict[str, Any]:
        """What determines one side's outputs, but for precision and engine."""
        adapter = self.hashes["tuned"] if side == "tuned" else None
        return {"model": self.hashes["base"], "adapter": adapter, **self._asked()}

    def about(self) -> dict[str, Any]:
        """The subject as each result file keeps it; ``id`` is what two files are compared by."""
        said = {"model": self.model, "adapter": self.adapter, **self._asked(), "hashes": self.hashes}
        said |= {"id": key_of(self.hashes, self._asked())}
        if self.run:
            said |= {"assumed": self.run["assumed"], "recipe": self.run["recipe"], "seed": self.run["seed"]}
            said |= {"overrides": self.run["overrides"], "datasets": self.run["datasets"]}
        return said

    def prompt_format(self) -> PromptFormat:
        """Tokenizer and template, loaded."""
        return PromptFormat.load(self.model, self.template, self.system, self.thinking)

    def held_out(self) -> Path | None:
        """The test split of the data it was trained on; UserError where that file has changed since."""
        kept = self.run and self.run["held_out"]
        if not kept:
            return None
        path = Path(kept["path"])
        if not path.is_file() or file_hash(path) != kept["hash"]:
            raise UserError(
                f"{path} is not the held-out file of this run any more: it was prepared again, so it may hold records "
                "that were trained on. Train again, or name held-out records yourself with --data FILE"
            )
        return path

    def _asked(self) -> dict[str, Any]:
        return {"template": self.template, "system": self.system, "thinking": self.thinking}


def find_subject(options: argparse.Namespace) -> Subject:
    """The subject that the options name: ``adapter`` (default: the newest run's), else ``model`` and ``template``.

    Raises UserError for a missing or contradictory adapter, and where a model's template is not known.
    """
    if options.model and not options.adapter:
        if not options.template:
            raise UserError("--model without --adapter: say how it is asked, e.g. --template deepseekr1")
        look_for_hub(options.model)
        return Subject(options.model, None, options.template, options.system, True, PLAIN, None)
    adapter = options.adapter or str(newest_adapter("name one: --adapter DIR"))
    run = read_run(adapter)
    model = options.model or located(run["model"]["name"])
    look_for_hub(model)
    if folder_hash(model) != run["model"]["hash"]:
        raise UserError(
            f"{model} is not the base model that {adapter} was trained on (their files differ): name that one by "
            "--model DIR, or train again"
        )
    for key, given in (("template", options.template), ("system", options.system)):
        if given is not None and given != run[key]:
            raise UserError(f"--{key} {given}: this adapter was trained with {run[key]!r}; leave the option out")
    return Subject(model, adapter, run["template"], run["system"], run["thinking"], run["precision"], run)


def located(name: str) -> str:
    """A model's folder as the run names it, also from another working directory; a hub id as it stands."""
    return str(ROOT / name) if not Path(name).is_dir() and (ROOT / name).is_dir() else name


def check_same(found: dict[str, dict[str, Any]]) -> None:
    """Raise UserError unless all results (file name → its ``subject``) are of one subject; both are named."""
    told: dict[str, str] = {}
    for file, subject in found.items():
        told.setdefault(subject["id"], f"{file} is of {describe(subject)}")
    if len(told) > 1:
        said = "; ".join(list(told.values())[:2])
        raise UserError(f"results of different models lie in one folder: {said}. Evaluate again, or move one")


def describe(subject: dict[str, Any]) -> str:
    """A subject in words for a message."""
    name, hashes = subject["adapter"] or subject["model"], subject["hashes"]
    kept = (hashes.get("tuned") or hashes.get("base") or "")[:8]
    return f"{name} ({kept}, template {subject['template']})"
