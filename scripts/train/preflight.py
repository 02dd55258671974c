"""Check a training run before hours are spent on it: ``python -m scripts.train.preflight RECIPE [KEY=VALUE …]``.

Records are read, aligned and tokenised once by LLaMA-Factory's own code, so that the checks see what the trainer will.
Prints one table, each failure with what to do, how long the run will take, and exits with status 1 if anything that
would waste the run is wrong. `make train` runs it first.
"""

from __future__ import annotations

import argparse
import shutil
import typing
from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from scripts.common import UserError, counted, quiet_libraries, run_main
from scripts.train import resume
from scripts.train.duration import estimate, time_first_steps
from scripts.train.memory import CONTEXT_GIB, tensors_gib, trained_weights
from scripts.train.planned import IGNORED, PlannedRun, plan
from scripts.train.run import registered_files
from scripts.train.template import official_prompt

GIB = 2**30
SHOWN = 1500  # characters of a record that --show prints


class Row(NamedTuple):
    """One row of the table. ``status``: ok, warn (read it), skip (needs what failed above) or FAIL."""

    name: str
    status: str
    found: str


class Warn(str):
    """What a check found that should be read but does not stop the run."""


CHECKS: dict[str, Callable[[PlannedRun], str]] = {}


def check(name: str) -> Callable:
    """Register a check. It returns what it found (``Warn`` where it should be read), or raises UserError."""
    return lambda function: CHECKS.setdefault(name, function)


@check("recipe")
def check_recipe(run: PlannedRun) -> str:
    """Values have the type that LLaMA-Factory will use them as, and its own parser takes the recipe."""
    if wrong := mistyped(run.recipe):
        raise UserError(f"{run.path}: {'; '.join(wrong)}")
    training, stage = run.parsed["training"], run.parsed["finetuning"].stage
    if stage != "sft":
        raise UserError(f"{run.path}: stage is {stage}; only sft is known here; use llamafactory-cli train")
    if not training.do_train:
        raise UserError(f"{run.path}: nothing would be trained; set do_train: true")
    if not 0 < (training.learning_rate or 0) < 1:
        raise UserError(f"{run.path}: learning_rate is {training.learning_rate}, expected more than 0 and less than 1")
    return f"{run.path}: LLaMA-Factory parses it; {counted(run.batch, 'record')} per step"


def mistyped(recipe: dict[str, Any]) -> list[str]:
    """Values that are not of the type that LLaMA-Factory declares for their key, with what to do.

    Its parser takes ``learning_rate: "1e-4"`` or a ``default_system`` that YAML read as a mapping as they stand, and
    training fails on them, or trains on them.
    """
    from llamafactory import hparams
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    found = {}
    for name in ("Model", "Data", "Training", "Finetuning", "Generating"):
        group = getattr(hparams, f"{name}Arguments")
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
                text = "one value; quote a text of digits, or with a colon"
                remedy = "write it without quotes" if isinstance(value, str) else text
                found[key] = f"{key} is {value!r}, expected {said}: {remedy}"
    return [found[key] for key in sorted(found)]


@check("base model")
def check_base_model(run: PlannedRun) -> str:
    """The tokenizer gives back exactly what it was given, in both languages."""
    run.format.check_round_trip()
    return f"{run.model}; its tokenizer's round trip is exact in English and Chinese"


@check("template")
def check_template(run: PlannedRun) -> str:
    """Training's template and the tokenizer's own chat template give the same text up to the response."""
    tokenizer, data = run.format.tokenizer, run.parsed["data"]
    if not tokenizer.chat_template:
        return Warn(f"{data.template}: the tokenizer brings no chat template to compare with")
    question = "What causes fever? 发热的原因？"
    opened = run.format.frame().marks[0]  # with thinking off, an empty thought ends the prompt
    official = official_prompt(tokenizer, question, data.default_system).partition(opened)[0]
    trained = run.format.decode(run.format.encode_prompt(question)).partition(opened)[0]
    if trained != official:
        raise UserError(
            f"{data.template} gives {trained!r}, the tokenizer's own {official!r}; set `template` to that of this model"
        )
    return f"{data.template}: same text as the tokenizer's own chat template"


@check("dataset")
def check_datasets(run: PlannedRun) -> str:
    """Every dataset, that of validation too, is registered, has a file, and LLaMA-Factory reads all of its records."""
    for name in [*run.datasets, *run.validation]:
        registered_files(name, run.parsed["data"].dataset_dir)
    if run.records.lost > 0:
        lost = counted(run.records.lost, "record")
        raise UserError(f"LLaMA-Factory drops {lost} (an empty or odd turn); prepare again")
    said = f"{', '.join(run.datasets)}: {counted(len(run.records.ids), 'record')}"
    if not run.validation:
        return said
    return f"{said}; validation on {', '.join(run.validation)}: {len(run.read(run.validation).ids):,}"


@check("packing")
def check_packing(run: PlannedRun) -> str:
    """Packed records do not see each other."""
    data = run.parsed["data"]
    if not (data.packing or data.neat_packing):
        return "no packed records"
    if run.parsed["model"].use_unsloth:
        raise UserError("packing with Unsloth lets packed records see each other: packing=false group_by_length=true")
    if not data.neat_packing:
        raise UserError("packing without neat_packing lets packed records see each other: neat_packing=true")
    return "neat_packing: packed records do not see each other"


@check("thoughts")
def check_thoughts(run: PlannedRun) -> str:
    """The trained text of every record holds a thought; which system text stands before the questions is said."""
    opened, closed = run.format.frame().marks
    texts = [run.format.decode(run.records.trained(place)) for place in range(len(run.records.ids))]
    thoughts = [text.partition(opened)[2].partition(closed) for text in texts]
    without = [place for place, (thought, mark, _) in enumerate(thoughts) if not thought.strip() or not mark]
    if without:
        why = "prepare them with thoughts" if run.format.template.enable_thinking else "enable_thinking is off"
        raise UserError(
            f"no thought between {opened} and {closed} is trained by {len(without):,} of the "
            f"{counted(len(texts), 'record')} ({why}); the first is record {without[0] + 1}: {texts[without[0]][:80]!r}"
        )
    said = f"every record trains a thought between {opened} and {closed}"
    system = run.format.system
    return Warn(f"{said}; every question has this system text before it: {system[:80]!r}") if system else said


@check("lengths")
def check_lengths(run: PlannedRun) -> str:
    """No record is longer than cutoff_len: training would cut off its answer and its end token."""
    limit, lengths = run.parsed["data"].cutoff_len, run.records.lengths
    over = sum(length > limit for length in lengths)
    if over:
        raise UserError(
            f"longer than cutoff_len {limit:,}: {over:,} of the {counted(len(lengths), 'record')}; the longest has "
            f"{max(lengths):,} tokens (record {run.records.longest + 1}); prepare again with --cutoff-len {limit}, "
            "or raise cutoff_len"
        )
    return f"longest record {max(lengths):,} tokens, cutoff_len {limit:,}; {sum(lengths):,} tokens in all"


@check("held out")
def check_held_out(run: PlannedRun) -> str:
    """No held-out or validation question is trained on."""
    trained = run.records.prompts()
    if tests := [name for name in run.datasets if name.endswith("_test")]:
        raise UserError(f"dataset names {', '.join(tests)}: a test split must not be trained on; leave it out")
    others = run.validation
    if run.identity["held_out"]:
        others = [*others, run.datasets[0].removesuffix("_train") + "_test"]
    if not others:
        return Warn("no test split beside this dataset: perplexity of held-out records cannot be measured later")
    for name in others:
        shared = trained & run.read([name]).prompts()
        if shared:
            example = run.format.decode(list(next(iter(shared))))[-80:]
            found = f"{counted(len(shared), 'question')} of {name}, such as {example!r}"
            raise UserError(f"trained on too: {found}; prepare again")
    return f"no question of {', '.join(others)} is trained on"


@check("accelerator")
def check_accelerator(run: PlannedRun) -> str:
    """A GPU is there when the recipe wants one, with memory for it."""
    import torch

    if run.recipe.get("use_cpu"):
        return "the recipe says use_cpu"
    need = tensors_gib(run.recipe, run.config, max(run.records.lengths)) + CONTEXT_GIB
    if not torch.cuda.is_available():
        raise UserError(
            f"no NVIDIA GPU with a working driver was found, and this recipe needs one with about {need:.1f} GiB free. "
            "Check `nvidia-smi`; on a CPU try `make demo` (examples/qlora_cpu.yaml)"
        )
    free, total = (size / GIB for size in torch.cuda.mem_get_info())
    words = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {free:.1f} of {total:.1f} GiB free"
    if need > free:
        raise UserError(
            f"{words}, but about {need:.1f} GiB are needed: close other programs, or halve "
            "per_device_train_batch_size and double gradient_accumulation_steps"
        )
    words += f"; about {need:.1f} GiB needed"
    if run.gpus == 1:
        return words
    batch = counted(run.batch, "record")
    return Warn(f"{words}; {run.gpus} GPUs: {batch} per step; CUDA_VISIBLE_DEVICES=0 takes one of them")


@check("disk")
def check_disk(run: PlannedRun) -> str:
    """Room for the checkpoints and, where it is not here yet, for the base model."""
    from huggingface_hub import constants

    trained, whole = trained_weights(run.recipe, run.config)
    saved = (run.parsed["training"].save_total_limit or 10) + 1
    said = room(run.output, "checkpoints", saved * trained * 12 / GIB + 0.2)  # float32 weights and two moments
    if not Path(run.model).is_dir() and not is_cached(run.model):
        said += "; " + room(Path(constants.HF_HUB_CACHE), "base model", 1.05 * whole * 2 / GIB)
    return said


def room(folder: Path, what: str, need: float) -> str:
    """Free space for ``what`` in words; UserError where fewer than ``need`` GiB are free."""
    parent = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(parent).free / GIB
    if free < need:
        raise UserError(f"{free:.1f} GiB free, {what} want {need:.1f}; free some, or move HF_HOME or output_dir")
    return f"{what} {need:.1f} of {free:.0f} GiB free"


def is_cached(model: str) -> bool:
    """Whether the hub's cache holds a model's weights."""
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json")
    return any(isinstance(try_to_load_from_cache(model, file), str) for file in files)


@check("output_dir")
def check_output_dir(run: PlannedRun) -> str:
    """output_dir is new, or holds an unfinished run of this very recipe and data; a broken checkpoint is set aside."""
    refused = {
        "finished": "already holds this run, finished",
        "foreign": "holds a run with another recipe, dataset or base model, which training would silently resume",
    }
    state = resume.state(run.output, run.identity)
    if state in refused:
        raise UserError(f"{run.output} {refused[state]}. Name another (output_dir=saves/NAME) or move it away")
    moved = resume.set_aside_broken(run.output)
    resume.trim_log(run.output)
    last = resume.checkpoints(run.output)[-1:]
    said = f"{run.output}: " + (f"resumes from {last[0].name}" if last else "new run")
    return Warn("; ".join([*moved, said])) if moved else said


def examine(run: PlannedRun) -> list[Row]:
    """All checks of a recipe; what one finds wrong becomes a failed row. A recipe that is wrong ends them."""
    rows: list[Row] = []
    for name, function in CHECKS.items():
        try:
            found = function(run)
            rows.append(Row(name, "warn" if isinstance(found, Warn) else "ok", found))
        except UserError as error:
            known = any(row.found == str(error) for row in rows)  # one missing file is one failure
            rows.append(Row(name, "skip", "needs what failed above") if known else Row(name, "FAIL", str(error)))
            if name == "recipe":
                break
    return rows


def show_records(run: PlannedRun) -> None:
    """Print a record from the middle and the longest, the response apart from what is read before it."""
    records = run.records
    before = "Trained too" if run.parsed["data"].train_on_prompt else "Read, not trained"
    for what, place in (("a record", len(records.ids) // 2), ("the longest record", records.longest)):
        ids, labels = records.ids[place], records.labels[place]
        read = run.format.decode([token for token, label in zip(ids, labels, strict=True) if label == IGNORED])
        trained = run.format.decode(records.trained(place))
        print(f"\n--- {what} ({place + 1}), {len(ids)} tokens. {before}:\n{read[:SHOWN]}")
        print(f"--- trained:\n{trained[:SHOWN]}{' …' if len(trained) > SHOWN else ''}")


def ready(run: PlannedRun) -> bool:
    """Check a run and print the table and what follows from it; True where the run is ready."""
    rows = examine(run)
    for row in rows:
        print(f"{row.status:4s}  {row.name:11s}  {row.found}")
    failed = sum(row.status == "FAIL" for row in rows)
    if failed:
        print(f"{failed} of {len(CHECKS)} checks failed: not ready to train")
        return False
    print(estimate(run))
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
    run = plan(args.recipe, args.overrides)
    is_ready = ready(run)
    if args.show:
        show_records(run)
    if args.time and is_ready:
        print(time_first_steps(run))
    return 0 if is_ready else 1


if __name__ == "__main__":
    run_main(main)
