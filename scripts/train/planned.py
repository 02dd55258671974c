"""A run that is planned: a recipe with its overrides, and its records as the trainer will see them."""

from __future__ import annotations

import copy
import io
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts.common import UserError, counted, first_line, hub_answers, load_recipe, look_for_hub, read_json
from scripts.train import run as runs
from scripts.train.template import PromptFormat, reachable

IGNORED = -100  # the label of a token that is not trained
NO_CUT = 1 << 20  # cutoff_len for reading records at their full length
FEWEST_STEPS = 10  # of a run whose validation loss says something


@dataclass
class Records:
    """A split as the trainer will see it: token ids and labels of each record."""

    ids: list[list[int]]
    labels: list[list[int]]
    lost: int  # records that LLaMA-Factory drops without an error

    @property
    def lengths(self) -> list[int]:
        """Tokens of each record."""
        return [len(ids) for ids in self.ids]

    @property
    def longest(self) -> int:
        """The place of the longest record."""
        return self.lengths.index(max(self.lengths))

    def trained(self, place: int) -> list[int]:
        """The trained tokens of a record."""
        return [label for label in self.labels[place] if label != IGNORED]

    def prompts(self) -> set[tuple[int, ...]]:
        """The untrained tokens at each record's head."""
        heads = set()
        for ids, labels in zip(self.ids, self.labels, strict=True):
            trained_at = next((i for i, label in enumerate(labels) if label != IGNORED), len(ids))
            heads.add(tuple(ids[:trained_at]))
        return heads


class PlannedRun:
    """A recipe with its overrides, and what the checks find out about it; each part is made once, when first asked."""

    def __init__(self, path: str, overrides: list[str]) -> None:
        self.path, self.overrides = path, overrides
        self.recipe = load_recipe(path, overrides)
        self.model = str(self.recipe["model_name_or_path"])
        self.output = Path(self.recipe["output_dir"])
        hub_answers()  # asked for a local model too: its records may lie on a hub
        try:
            look_for_hub(self.model)
        except UserError as error:  # no check runs; what needs no tokenizer is said with it
            raise UserError("\n".join([*missing_datasets(self.recipe), str(error)])) from error
        self.config = read_config(self.model)

    @cached_property
    def parsed(self) -> dict[str, Any]:
        return runs.parse(self.recipe)

    @cached_property
    def identity(self) -> dict[str, Any]:
        return runs.identity(self.path, self.overrides, self.recipe, self.parsed)

    @cached_property
    def format(self) -> PromptFormat:
        data = self.parsed["data"]
        return PromptFormat.load(self.model, data.template, data.default_system, data.enable_thinking)

    @cached_property
    def records(self) -> Records:
        """All records that are trained on."""
        return self.read(self.datasets)

    @property
    def datasets(self) -> list[str]:
        return self.parsed["data"].dataset

    @property
    def validation(self) -> list[str]:
        return self.parsed["data"].eval_dataset or []

    @property
    def gpus(self) -> int:
        """GPUs, and so processes, that share the run; 0 on a CPU."""
        import torch

        if self.recipe.get("use_cpu") or not torch.cuda.is_available():
            return 0
        return int(os.environ.get("NPROC_PER_NODE", torch.cuda.device_count()))

    @property
    def batch(self) -> int:
        """Records, or packs of records, per optimiser step."""
        training = self.parsed["training"]
        return training.per_device_train_batch_size * training.gradient_accumulation_steps * max(1, self.gpus)

    def steps(self, rows: int) -> int:
        """Optimiser steps over so many records, or packs of records."""
        training = self.parsed["training"]
        if training.max_steps > 0:
            return training.max_steps
        return math.ceil(math.ceil(rows / max(1, self.batch)) * training.num_train_epochs)

    def read(self, names: list[str]) -> Records:
        """Registered datasets through LLaMA-Factory's loader and processor, at full length and one record a row.

        No prompt is labelled, whatever train_on_prompt says, so that questions can be compared.
        """
        from llamafactory.data import get_dataset

        data = copy.copy(self.parsed["data"])
        vars(data).update(dataset=names, eval_dataset=None, val_size=0.0, tokenized_path=None, streaming=False)
        vars(data).update(cutoff_len=NO_CUT, packing=False, neat_packing=False)
        vars(data).update(mix_strategy="concat", train_on_prompt=False)
        model, training = self.parsed["model"], self.parsed["training"]
        template, tokenizer = self.format.template, self.format.tokenizer
        registered = count_rows(names, data)
        with errors_in_words(names), redirect_stdout(io.StringIO()):  # it prints its first record
            rows = get_dataset(template, model, data, training, "sft", tokenizer)["train_dataset"]
        return Records(list(rows["input_ids"]), list(rows["labels"]), registered - len(rows))


def missing_datasets(recipe: dict[str, Any]) -> list[str]:
    """What is wrong with the files of a recipe's training datasets, without reading a record."""
    found = []
    for name in str(recipe["dataset"]).split(","):
        try:
            runs.registered_files(name.strip(), recipe.get("dataset_dir", "data"))
        except UserError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def read_config(model: str) -> dict[str, Any]:
    """A base model's config."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(reachable(model)).to_dict()
    except Exception as error:  # the hubs' clients raise many kinds
        raise UserError(f"{model}: its config cannot be read ({first_line(error)})") from error


@contextmanager
def errors_in_words(names: list[str]) -> Iterator[None]:
    """What goes wrong in reading datasets, as UserError with their names."""
    try:
        yield
    except Exception as error:  # datasets, LLaMA-Factory and pyarrow raise many kinds
        said = first_line(error.__cause__ or error)
        if isinstance(error, KeyError):
            said = f"its rows have no {error}; see its columns, tags and formatting in dataset_info.json"
        raise UserError(f"LLaMA-Factory cannot read {', '.join(names)}: {said}") from error


def count_rows(names: list[str], data: Any) -> int:
    """Rows that LLaMA-Factory takes of registered files; 0 where one of them is no local file of a known kind.

    Raises UserError for a dataset that is not registered, missing or empty, or cannot be read.
    """
    from datasets import load_dataset
    from llamafactory.extras.constants import FILEEXT2TYPE

    total = 0
    for name in dict.fromkeys(names):  # LLaMA-Factory takes a name once
        files = runs.registered_files(name, data.dataset_dir)
        kind = files and FILEEXT2TYPE.get(files[0].suffix.removeprefix("."))
        if not kind:
            return 0
        with errors_in_words([name]):
            rows = len(load_dataset(kind, data_files=[str(file) for file in files], split="train"))
        rows = read_json(Path(data.dataset_dir) / "dataset_info.json")[name].get("num_samples") or rows
        total += min(rows, data.max_samples or rows)
    return total


def plan(path: str, overrides: list[str]) -> PlannedRun:
    """A run with its validation mended by overrides of its own, which are part of its identity.

    Where only ``dataset`` was overridden, its own NAME_val takes the place of the recipe's. Validation is left out, and
    that is printed, where that split has no records or the run is too short. All else is left to the checks.
    """
    print("checking the recipe, its records and this machine …", file=sys.stderr, flush=True)
    run = PlannedRun(path, overrides)
    if not run.recipe.get("eval_dataset"):
        return run
    own = f"{str(run.recipe['dataset']).partition(',')[0].removesuffix('_train')}_val"
    keys = {override.partition("=")[0] for override in overrides}
    if "dataset" in keys and "eval_dataset" not in keys:
        run = PlannedRun(path, [*overrides, f"eval_dataset={own}"])
    try:
        why = why_no_validation(run, own)
    except UserError:
        return run
    if not why:
        return run
    print(f"validation on {', '.join(run.validation)} is left out: {why}")
    best = ["load_best_model_at_end=false"] if run.recipe.get("load_best_model_at_end") else []
    return PlannedRun(path, [*overrides, "eval_dataset=null", "eval_strategy='no'", *best])


def why_no_validation(run: PlannedRun, own: str) -> str | None:
    """Why validation would stop the run or say nothing; None where it is sound. ``own``: prepare's split of this name.

    That one may have no records: prepare leaves its file empty and does not register it.
    """
    if run.validation == [own]:
        try:
            runs.registered_files(own, run.parsed["data"].dataset_dir)
        except UserError:
            return f"found no records of {own}"
    steps = run.steps(count_rows(run.datasets, run.parsed["data"]))
    return f"{counted(steps, 'step')}: too short a run" if 0 < steps < FEWEST_STEPS else None
