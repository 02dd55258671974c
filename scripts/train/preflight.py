"""Check a training run before hours are spent on it: ``python -m scripts.train.preflight RECIPE [KEY=VALUE …]``.

Records are read, aligned and tokenised once by LLaMA-Factory's own code, so that the checks see what the trainer will.
Prints one table, each failure with what to do, how long the run will take, and exits with status 1 if anything that
would waste the run is wrong. `make train` runs it first.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import io
import os
import shutil
import sys
import typing
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from scripts.common import UserError, first_line, load_recipe, quiet_libraries, run_main
from scripts.train import run as runs
from scripts.train.duration import estimate, time_first_steps
from scripts.train.memory import predict_peak_gib, trained_weights
from scripts.train.template import PromptFormat, official_prompt, reachable
from scripts.train.validation import count_rows, validation_overrides

IGNORED = -100  # the label of a token that is not trained
NO_CUT = 1 << 20  # cutoff_len for reading records at their full length
MODEL_REMEDY = (
    "Check the name and the network, set HF_ENDPOINT to a mirror, or USE_MODELSCOPE_HUB=1, or name a local folder by "
    "model_name_or_path=DIR"
)
SHOWN = 1500  # characters of a record that --show prints


class Row(NamedTuple):
    """One row of the table. ``status``: ok, warn (read it), skip (could not be checked here) or FAIL."""

    name: str
    status: str
    found: str


class Warn(str):
    """What a check found that should be read but does not stop the run."""


class Skip(Exception):
    """A check that cannot be made here, because of something that failed above or is not at hand."""


@dataclass
class Records:
    """A split as the trainer will see it: token ids, labels, and the place of the longest record."""

    ids: list[list[int]]
    labels: list[list[int]]
    lost: int = 0  # records that LLaMA-Factory drops without an error

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.ids]

    @property
    def longest(self) -> int:
        return max(range(len(self.ids)), key=lambda i: len(self.ids[i]))

    def prompts(self) -> set[tuple[int, ...]]:
        """The untrained tokens at each record's head."""
        heads = []
        for ids, labels in zip(self.ids, self.labels, strict=True):
            trained_at = next((i for i, label in enumerate(labels) if label != IGNORED), len(ids))
            heads.append(tuple(ids[:trained_at]))
        return set(heads)


class Run:
    """A recipe with its overrides, and what the checks find out about it; each part is made once, when first asked."""

    def __init__(self, path: str, overrides: list[str]) -> None:
        self.path, self.overrides = path, overrides
        self.recipe = load_recipe(path, overrides)
        self.model = str(self.recipe["model_name_or_path"])
        self.output = Path(self.recipe["output_dir"])

    @classmethod
    def planned(cls, path: str, overrides: list[str]) -> Run:
        """A recipe with its overrides, and those that mend its validation; what is wrong is left to the checks."""
        run = cls(path, overrides)
        try:
            more = validation_overrides(run.recipe, run.parsed, overrides)
        except UserError:
            return run
        return cls(path, [*overrides, *more]) if more else run

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
    def config(self) -> dict[str, Any]:
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(reachable(self.model)).to_dict()
        except Exception as error:  # the hubs' clients raise many kinds
            raise UserError(f"{self.model}: its config cannot be read ({first_line(error)}). {MODEL_REMEDY}") from error

    @cached_property
    def records(self) -> Records:
        return self.read(runs.names_of(self.parsed["data"].dataset))

    @property
    def batch(self) -> int:
        """Records per optimiser step and GPU."""
        training = self.parsed["training"]
        return training.per_device_train_batch_size * training.gradient_accumulation_steps

    def read(self, names: list[str]) -> Records:
        """Registered datasets through LLaMA-Factory's loader and processor, at full length and one record a row."""
        from llamafactory.data import get_dataset

        for name in names:
            runs.registered_files(name, self.parsed["data"].dataset_dir)
        data = copy.copy(self.parsed["data"])
        data.dataset, data.eval_dataset, data.val_size, data.tokenized_path = names, None, 0.0, None
        data.cutoff_len, data.packing, data.neat_packing = NO_CUT, False, False
        model, training = self.parsed["model"], self.parsed["training"]
        try:
            with redirect_stdout(io.StringIO()):  # it prints its first record
                found = get_dataset(self.format.template, model, data, training, "sft", self.format.tokenizer)
        except Exception as error:  # datasets, LLaMA-Factory and pyarrow raise many kinds
            raise UserError(f"LLaMA-Factory cannot read {', '.join(names)}: {first_line(error)}") from error
        rows = found["train_dataset"]
        return Records(list(rows["input_ids"]), list(rows["labels"]), count_rows(names, data) - len(rows))


CHECKS: list[tuple[str, Callable[[Run], str]]] = []


def check(name: str) -> Callable:
    """Register a check. It returns what it found (``Warn`` where it should be read), or raises UserError or Skip."""

    def register(function: Callable[[Run], str]) -> Callable[[Run], str]:
        CHECKS.append((name, function))
        return function

    return register


@check("recipe")
def check_recipe(run: Run) -> str:
    """Values have the type that LLaMA-Factory will use them as, and its own parser takes the recipe."""
    wrong = mistyped(run.recipe)
    if wrong:
        raise UserError(f"{run.path}: {'; '.join(wrong)}")
    _ = run.parsed
    return f"{run.path}: LLaMA-Factory parses it; {run.batch} records per step and GPU"


def mistyped(recipe: dict[str, Any]) -> list[str]:
    """Values that are not of the type that LLaMA-Factory declares for their key, with what to do.

    Its parser takes ``learning_rate: "1e-4"`` or a ``default_system`` that YAML read as a mapping as they stand, and
    training fails on them, or trains on them.
    """
    from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments, TrainingArguments
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    found = {}
    for group in (ModelArguments, DataArguments, TrainingArguments, FinetuningArguments):
        hints = typing.get_type_hints(group)
        for key in {field.name for field in fields(group)} & recipe.keys():
            value, kinds = recipe[key], typing.get_args(hints[key]) or (hints[key],)
            named = any(isinstance(kind, type) and issubclass(kind, Enum) for kind in kinds)
            if value is None or named or (isinstance(value, list) and str in kinds):
                continue  # LLaMA-Factory turns names into its kinds, and takes lists where it splits text at commas
            try:
                any_type = ConfigDict(arbitrary_types_allowed=True)
                TypeAdapter(hints[key], config=any_type).validate_python(value, strict=True)
            except ValidationError as error:
                said = error.errors()[0]["msg"].removeprefix("Input should be ")
                found[key] = f"{key} is {value!r}, expected {said}: {remedy_for(key, value)}"
    return [found[key] for key in sorted(found)]


def remedy_for(key: str, value: Any) -> str:
    """How to write a value that YAML read as another kind than was meant."""
    if isinstance(value, dict):
        text = ", ".join(f"{name}: {part}" for name, part in value.items())
        return f"quote it, in the recipe {key}: '{text}', behind the recipe \"{key}='{text}'\""
    if isinstance(value, str):
        return "write it without quotes"
    return "quote it if it is meant as text" if not isinstance(value, list) else "one value, no list"


@check("packing")
def check_packing(run: Run) -> str:
    """Packed records do not see each other."""
    data, model = run.parsed["data"], run.parsed["model"]
    if run.parsed["finetuning"].stage != "sft" or not (data.packing or data.neat_packing):
        return "off" if run.parsed["finetuning"].stage == "sft" else "no records to keep apart in this stage"
    if model.use_unsloth:
        raise UserError("packing with Unsloth lets packed records see each other: packing=false group_by_length=true")
    if not data.neat_packing:
        raise UserError("packing without neat_packing lets packed records see each other: neat_packing=true")
    return "neat_packing: packed records do not see each other"


@check("dataset")
def check_datasets(run: Run) -> str:
    """Every dataset, that of validation too, is registered, present and has records."""
    names = runs.names_of(run.parsed["data"].dataset)
    validation = runs.names_of(run.parsed["data"].eval_dataset)
    stage = run.parsed["finetuning"].stage
    if stage != "sft":
        for name in names:
            runs.registered_files(name, run.parsed["data"].dataset_dir)
        return f"{', '.join(names)}; stage {stage}: the records themselves are not looked at"
    lost = run.records.lost
    if lost > 0:
        raise UserError(f"{', '.join(names)}: LLaMA-Factory drops {lost} records (an empty or odd turn); prepare again")
    said = f"{', '.join(names)}: {len(run.records.ids):,} records"
    if validation:
        said += f"; validation on {', '.join(validation)}: {len(run.read(validation).ids):,}"
    return said


@check("base model")
def check_base_model(run: Run) -> str:
    """The base model's config and tokenizer can be had: a local folder, the hub's cache, the hub or a mirror."""
    where = "local folder"
    if not Path(run.model).is_dir():
        where = "hub" if hub_answers() else "the hub's cache"
    _ = run.config, run.format
    return f"{run.model} ({where})"


def hub_answers() -> bool:
    """Whether the hub can be reached within seconds; where not, only its cache is looked at, without retries."""
    import requests
    from huggingface_hub import constants
    from llamafactory.extras.misc import use_modelscope

    if use_modelscope() or constants.HF_HUB_OFFLINE:
        return use_modelscope()
    try:
        requests.head(constants.ENDPOINT, timeout=5)
    except requests.RequestException:
        constants.HF_HUB_OFFLINE = True
        return False
    return True


@check("tokenizer")
def check_tokenizer(run: Run) -> str:
    """The tokenizer gives back exactly what it was given, in both languages."""
    run.format.check_round_trip()
    return f"round trip exact in English and Chinese ({len(run.format.tokenizer):,} tokens)"


@check("template")
def check_template(run: Run) -> str:
    """Training's template and the tokenizer's own chat template give the same tokens up to the response."""
    tokenizer, data = run.format.tokenizer, run.parsed["data"]
    if not tokenizer.chat_template:
        raise Skip("the tokenizer brings no chat template to compare with")
    question = "What causes fever? 发热的原因？"
    mark = run.format.frame().marks[0]  # where the thought begins; with thinking off, an empty one ends the prompt
    official = official_prompt(tokenizer, question, data.default_system).partition(mark)[0]
    trained = run.format.decode(run.format.encode_prompt(question)).partition(mark)[0]
    if trained != official:
        raise UserError(
            f"{data.template} gives {trained!r}, the tokenizer's own {official!r}; set `template` to that of this model"
        )
    return f"{data.template}: same text as the tokenizer's own chat template"


@check("thoughts")
def check_thoughts(run: Run) -> str:
    """The trained text of every record holds a thought; which system text stands before the questions is said."""
    if run.parsed["finetuning"].stage != "sft":
        raise Skip("not a stage with thoughts")
    opened, closed = run.format.frame().marks
    trained = [[t for t in labels if t != IGNORED] for labels in run.records.labels]
    texts = run.format.tokenizer.batch_decode(trained, skip_special_tokens=False)
    thoughts = [text.partition(opened)[2].partition(closed) for text in texts]
    without = [i for i, (thought, mark, _) in enumerate(thoughts) if not thought.strip() or not mark]
    if without:
        why = "enable_thinking is off" if not run.format.template.enable_thinking else "prepare them with thoughts"
        raise UserError(
            f"{len(without):,} of {len(texts):,} records train no thought between {opened} and {closed} ({why}); "
            f"the first is record {without[0] + 1}: {texts[without[0]][:80]!r}"
        )
    said = f"every record trains a thought between {opened} and {closed}"
    system = run.format.system
    return Warn(f"{said}; every question has this system text before it: {system[:80]!r}") if system else said


@check("lengths")
def check_lengths(run: Run) -> str:
    """No record is longer than cutoff_len: training would cut off its answer and its end token."""
    if run.parsed["finetuning"].stage != "sft":
        raise Skip("not a stage with records")
    limit, lengths = run.parsed["data"].cutoff_len, run.records.lengths
    over = [i for i, length in enumerate(lengths) if length > limit]
    if over:
        raise UserError(
            f"{len(over):,} of {len(lengths):,} records are longer than cutoff_len {limit:,}, the longest has "
            f"{max(lengths):,} tokens (record {run.records.longest + 1}); prepare again with --cutoff-len {limit}, "
            "or raise cutoff_len"
        )
    return f"longest record {max(lengths):,} tokens, cutoff_len {limit:,}; {sum(lengths):,} tokens in all"


@check("held out")
def check_held_out(run: Run) -> str:
    """No held-out or validation question is trained on."""
    data = run.parsed["data"]
    names = runs.names_of(data.dataset)
    if run.parsed["finetuning"].stage != "sft":
        raise Skip("not a stage with records")
    tests = [name for name in names if name.endswith("_test")]
    if tests:
        raise UserError(f"dataset names {', '.join(tests)}: a test split must not be trained on; leave it out")
    others = runs.names_of(data.eval_dataset)
    if run.identity["held_out"]:
        others.append(names[0].removesuffix("_train") + "_test")
    if not others:
        return Warn("no test split beside this dataset: perplexity of held-out records cannot be measured later")
    trained = run.records.prompts()
    for name in others:
        shared = trained & run.read([name]).prompts()
        if shared:
            example = run.format.decode(list(next(iter(shared))))[-80:]
            raise UserError(f"{len(shared)} questions of {name} are trained on too, such as {example!r}; prepare again")
    return f"no question of {', '.join(others)} is trained on"


@check("accelerator")
def check_accelerator(run: Run) -> str:
    """A GPU is there when the recipe wants one, with memory for it."""
    if run.recipe.get("use_cpu"):
        return "the recipe says use_cpu"
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "no NVIDIA GPU with a working driver was found, and this recipe needs one. "
            "Check `nvidia-smi`; on a CPU try `make demo` (examples/qlora_cpu.yaml)"
        )
    free, total = (value / 2**30 for value in torch.cuda.mem_get_info())
    words = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {free:.1f} of {total:.1f} GiB free"
    longest = max(run.records.lengths) if run.parsed["finetuning"].stage == "sft" else None
    need = predict_peak_gib(run.recipe, run.config, longest)["total"]
    if need > free:
        raise UserError(
            f"{words}, but about {need:.1f} GiB are needed: close other programs, or halve "
            "per_device_train_batch_size and double gradient_accumulation_steps"
        )
    return f"{words}; about {need:.1f} GiB needed"


@check("GPUs used")
def check_gpus(run: Run) -> str:
    """How many GPUs will share the run, and what batch that makes."""
    import torch

    if run.recipe.get("use_cpu") or not torch.cuda.is_available():
        raise Skip("no GPU is used")
    processes = int(os.environ.get("NPROC_PER_NODE", torch.cuda.device_count()))
    words = f"{processes}: {run.batch * processes} records per step"
    if processes == 1:
        return words
    advice = f"set CUDA_VISIBLE_DEVICES=0 for one GPU, or divide per_device_train_batch_size by {processes}"
    return Warn(f"{words}; {advice}")


@check("libraries")
def check_imports(run: Run) -> str:
    """The libraries that the recipe leans on load here, not after the model was downloaded."""
    wanted = {"bitsandbytes": "quantization_bit", "unsloth": "use_unsloth", "liger_kernel": "enable_liger_kernel"}
    modules = {module: key for module, key in wanted.items() if run.recipe.get(key)}
    modules |= {str(name): "report_to" for name in names_to_report(run.recipe)}
    for module, key in modules.items():
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # Unsloth's notices over the table
                importlib.import_module(module)
        except Exception as error:
            remedies = {"unsloth": "it needs a GPU", "report_to": "run `make setup-dev`"}
            remedy = remedies.get(module) or remedies.get(key) or "run `make setup`"
            raise UserError(f"{module} does not import: {first_line(error)} ({remedy}, or override {key})") from error
    return f"{', '.join(modules)} import" if modules else "none beyond PyTorch and transformers"


def names_to_report(recipe: dict[str, Any]) -> list[str]:
    """The loggers that a recipe names."""
    names = recipe.get("report_to") or []
    names = [names] if isinstance(names, str) else names
    return [name for name in names if name not in ("none", "all")]


@check("disk")
def check_disk(run: Run) -> str:
    """Room for the checkpoints and, where it is not here yet, for the base model."""
    saved = (run.parsed["training"].save_total_limit or 10) + 1
    checkpoints = saved * trained_weights(run.recipe, run.config)[0] * 12 / 2**30 + 0.2  # weights and two moments
    wanted = {"checkpoints": (run.output, checkpoints)}
    if not Path(run.model).is_dir() and not is_cached(run.model):
        from huggingface_hub import constants

        wanted["base model"] = (
            Path(constants.HF_HUB_CACHE),
            1.05 * trained_weights(run.recipe, run.config)[1] * 2 / 2**30,
        )
    said = []
    for what, (folder, need) in wanted.items():
        parent = next(path for path in [folder, *folder.absolute().parents] if path.exists())
        free = shutil.disk_usage(parent).free / 2**30
        if free < need:
            raise UserError(f"{free:.1f} GiB free, {what} want {need:.1f}; free some, or move HF_HOME or output_dir")
        if not os.access(parent, os.W_OK):
            raise UserError(f"{parent} cannot be written to; name another output_dir")
        said.append(f"{what} {need:.1f} of {free:.0f} GiB free")
    return "; ".join(said)


def is_cached(model: str) -> bool:
    """Whether the hub's cache holds a model's weights."""
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json")
    return any(isinstance(try_to_load_from_cache(model, file), str) for file in files)


@check("output_dir")
def check_output_dir(run: Run) -> str:
    """output_dir is new, or holds an unfinished run of this very recipe and data; a broken checkpoint is set aside."""
    state = runs.state(run.output, run.identity)
    if state in ("finished", "foreign"):
        what = {
            "finished": "already holds this run, finished",
            "foreign": "holds a run with another recipe, dataset or base model, which training would silently resume",
        }[state]
        raise UserError(f"{run.output} {what}. Name another (output_dir=saves/NAME) or move it away")
    moved = runs.set_aside_broken(run.output)
    runs.trim_log(run.output)
    last = runs.checkpoints(run.output)[-1:]
    said = f"{run.output}: " + (f"resumes from {last[0].name}" if last else "new run")
    return Warn("; ".join([*moved, said])) if moved else said


def examine(run: Run) -> list[Row]:
    """All checks of a recipe; what one finds wrong becomes a failed row instead of ending the rest."""
    rows: list[Row] = []
    for name, function in CHECKS:
        try:
            found = function(run)
            rows.append(Row(name, "warn" if isinstance(found, Warn) else "ok", found))
        except Skip as reason:
            rows.append(Row(name, "skip", str(reason)))
        except UserError as error:
            known = any(row.found == str(error) for row in rows)  # one missing file is one failure
            rows.append(Row(name, "skip" if known else "FAIL", "needs what failed above" if known else str(error)))
        except (TypeError, ValueError):
            if not any(row.status == "FAIL" for row in rows):
                raise
            rows.append(Row(name, "skip", "needs what failed above"))  # a value of another type, already said
    return rows


def show_records(run: Run) -> None:
    """Print a record from the middle and the longest, the trained part apart from what is only read."""
    for label, place in (("a record", len(run.records.ids) // 2), ("the longest record", run.records.longest)):
        ids, labels = run.records.ids[place], run.records.labels[place]
        read = run.format.decode([t for t, label_ in zip(ids, labels, strict=True) if label_ == IGNORED])
        trained = run.format.decode([t for t in labels if t != IGNORED])
        print(f"\n--- {label} ({place + 1}), {len(ids)} tokens. Read, not trained:\n{read[:SHOWN]}")
        print(f"--- trained:\n{trained[:SHOWN]}{' …' if len(trained) > SHOWN else ''}")


def report(run: Run, rows: list[Row]) -> bool:
    """Print the table and what follows from it; True where the run is ready."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.status:4s}  {row.name:{width}s}  {row.found}")
    failed = sum(row.status == "FAIL" for row in rows)
    if failed:
        print(f"{failed} of {len(rows)} checks failed: not ready to train")
        return False
    if run.parsed["finetuning"].stage == "sft":
        print(estimate(run.recipe, run.config, run.records.lengths, run.parsed))
    changed = f" with {' '.join(run.overrides)}" if run.overrides else ""
    print(f"Ready: {run.path}{changed}", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.train.preflight",
        description="Check a training run before it starts; exit status 1 if it would be wasted.",
        epilog="examples:\n  python -m scripts.train.preflight yamls/qlora.yaml\n"
        "  python -m scripts.train.preflight yamls/qlora.yaml --show output_dir=saves/second learning_rate=5e-5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a YAML recipe of yamls/ or examples/")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as behind llamafactory-cli train")
    parser.add_argument("--show", action="store_true", help="print two records as the trainer sees them")
    parser.add_argument("--time", action="store_true", help="run the first steps and foretell the rest from them")
    args = parser.parse_intermixed_args()
    quiet_libraries()
    run = Run.planned(args.recipe, args.overrides)
    print("checking the recipe, its records and this machine …", file=sys.stderr, flush=True)
    ready = report(run, examine(run))
    if args.show and ready:
        show_records(run)
    if args.time and ready:
        print(time_first_steps(run.path, run.overrides))
    return 0 if ready else 1


if __name__ == "__main__":
    run_main(main)
