"""Which run a folder holds: its model, data and settings.

``medcot.json`` in the run's folder is its identity: the settings as LLaMA-Factory parsed them, overrides included,
with the hashes of model and data. `make train` and the demo write it when training starts and complete it when it
ends; whoever comes later (evaluation, export, chat, model card) reads it and never the recipe file again. A bare
``llamafactory-cli train`` leaves none: then the recipe of this output_dir is assumed, and said to be.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, file_hash, first_line, load_recipe, provenance, read_json, write_json
from scripts.train.template import reachable

IDENTITY = "medcot.json"
FORMAT = 2
NEEDED = {"recipe", "settings", "model", "template", "precision", "datasets", "adapter_hash"}  # of an identity
# Keys of a recipe that change where a run writes or what it prints, not what it learns.
COSMETIC = frozenset(
    "output_dir overwrite_output_dir resume_from_checkpoint logging_steps save_steps save_total_limit plot_loss "  # noqa: SIM905
    "report_to run_name preprocessing_num_workers dataloader_num_workers".split()
)


def parse(recipe: dict[str, Any]) -> dict[str, Any]:
    """LLaMA-Factory's own view of a merged recipe: "model", "data", "training", "finetuning" arguments.

    A GPU recipe is parsed as for a CPU where there is no GPU. Raises UserError with LLaMA-Factory's words.
    """
    import torch
    from llamafactory.hparams import get_train_args

    # output_dir is set aside: parsing must not look at, or refuse, an unfinished run that is to be resumed.
    args = {**recipe, "output_dir": f"{recipe['output_dir']}/.parse-only", "report_to": "none"}
    if not torch.cuda.is_available():
        args["use_cpu"] = True
    try:
        model, data, training, finetuning, _ = get_train_args(args)
    except Exception as error:  # LLaMA-Factory and transformers raise many kinds
        raise UserError(f"LLaMA-Factory refuses this recipe: {first_line(error)}") from error
    return {"model": model, "data": data, "training": training, "finetuning": finetuning}


def registered_files(name: str, dataset_dir: str) -> list[Path] | None:
    """Local files of a registered dataset; None for one that LLaMA-Factory fetches from a hub.

    Raises UserError for a name that is not registered, and for files that are missing or empty.
    """
    remedy = "Prepare it first: python -m scripts.prepare SOURCE --out data --name NAME"
    if dataset_dir == "ONLINE" or dataset_dir.startswith("REMOTE:"):
        return None
    registry_path = Path(dataset_dir) / "dataset_info.json"
    registry = read_json(registry_path)
    if name not in registry:
        known = ", ".join(sorted(registry)) or "none"
        raise UserError(f"{registry_path}: no dataset named {name!r}; found {known}. {remedy}")
    if "file_name" not in registry[name]:
        return None
    path = Path(dataset_dir) / registry[name]["file_name"]
    if not path.exists():
        raise UserError(f"{registry_path}: dataset {name!r} names {path}, which does not exist. {remedy}")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    if not any(file.stat().st_size for file in files):
        raise UserError(f"{path}: the dataset is empty; nothing to train on. See the report beside it")
    return files


def describe_datasets(names: list[str] | None, dataset_dir: str) -> list[dict[str, Any]]:
    """Datasets in an identity: name, and files with their hashes (None for one from a hub)."""
    found = []
    for name in names or ():
        files = registered_files(name, dataset_dir)
        hashed = files and [{"path": str(file), "hash": file_hash(file)} for file in files]
        found.append({"name": name, "files": hashed})
    return found


def held_out_file(dataset: str, dataset_dir: str) -> dict[str, str] | None:
    """The test split that belongs to a training split NAME_train, with its hash; None where there is none."""
    try:
        files = describe_datasets([dataset.removesuffix("_train") + "_test"], dataset_dir)[0]["files"]
    except UserError:
        return None
    return files and files[0]


def folder_hash(path: str | Path) -> str:
    """SHA-256 of a folder's configuration, tokenizer and weights; for a hub id, the id and its resolved revision."""
    folder = Path(path) if Path(path).is_dir() else Path(reachable(str(path)))
    if not folder.is_dir():
        from transformers import AutoConfig

        try:
            return f"{path}@{getattr(AutoConfig.from_pretrained(str(path)), '_commit_hash', None)}"
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no folder, and the hub does not give it ({first_line(error)})") from error
    names = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin", "*config.json", "tokenizer*", "*.jinja")
    files = sorted({file for name in names for file in folder.glob(name)})
    if not files:
        raise UserError(f"{path}: found no model files; expected a model folder or a hub id")
    return file_hash(*files)


def identity(recipe_path: str, overrides: list[str], recipe: dict[str, Any], parsed: dict[str, Any]) -> dict[str, Any]:
    """What makes this run this run, from the merged recipe and LLaMA-Factory's view of it."""
    model, data, training, finetuning = (parsed[group] for group in ("model", "data", "training", "finetuning"))
    datasets = describe_datasets(data.dataset, data.dataset_dir)
    settings = {key: value for key, value in sorted(recipe.items()) if key not in COSMETIC}
    return {
        "format": FORMAT,
        "recipe": recipe_path,
        "overrides": overrides,
        "settings": json.loads(json.dumps(settings, default=str)),
        "model": {"name": model.model_name_or_path, "hash": folder_hash(model.model_name_or_path)},
        "adapter": recipe["output_dir"] if finetuning.finetuning_type == "lora" else None,
        "template": data.template,
        "system": data.default_system,
        "thinking": data.enable_thinking,
        "precision": precision(model),
        "cutoff_len": data.cutoff_len,
        "seed": training.seed,
        "datasets": datasets,
        "validation": describe_datasets(data.eval_dataset, data.dataset_dir),
        "held_out": held_out_file(datasets[0]["name"], data.dataset_dir),
        "learning": {
            "lora_rank": finetuning.lora_rank,
            "lora_alpha": finetuning.lora_alpha,
            "learning_rate": training.learning_rate,
            "num_train_epochs": training.num_train_epochs,
            "max_steps": training.max_steps,
        },
    }


def precision(model: Any) -> dict[str, Any]:
    """Bits (None: not quantised), dtype of the sums, and how it is quantised, from LLaMA-Factory's model arguments."""
    dtype = str(model.compute_dtype).removeprefix("torch.") if model.compute_dtype else "auto"
    found = {"bits": model.quantization_bit, "dtype": dtype}
    if model.quantization_bit:
        found |= {"type": model.quantization_type, "double": model.double_quantization}
    return found


def begin(output_dir: Path, run: dict[str, Any]) -> None:
    """Write the identity of a run that starts or resumes now."""
    about = provenance() | {"started": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(output_dir / IDENTITY, run | {"provenance": about, "finished": None, "adapter_hash": None})


def finish(output_dir: Path) -> None:
    """Note that a run has ended, with the hash of its adapter, or confirm it: `make eval` takes the newest such run."""
    run = read_json(output_dir / IDENTITY)
    run["finished"] = run["finished"] or datetime.now(UTC).isoformat(timespec="seconds")
    run["adapter_hash"] = run["adapter_hash"] or folder_hash(output_dir)
    write_json(output_dir / IDENTITY, run)


def home_of(folder: Path) -> Path:
    """The folder of the run that wrote the adapter in ``folder``, which may be a checkpoint of it."""
    return folder.parent if re.fullmatch(r"checkpoint-\d+", folder.name) else folder


def read_run(folder: str | Path) -> dict[str, Any]:
    """The identity of the run that wrote the adapter in ``folder`` (or in a checkpoint of it), with ``assumed``.

    ``assumed``: it comes from a recipe whose output_dir this is; overrides, if there were any, are not known. Raises
    UserError where the folder contradicts its identity, and where there is none.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        wanted = "expected the output_dir of a LoRA run that finished (train first, or name another)"
        raise UserError(f"{folder}: found no adapter_config.json; {wanted}")
    home = home_of(folder)
    if (home / IDENTITY).is_file():
        run = read_json(home / IDENTITY)
        if not isinstance(run, dict) or run.get("format") != FORMAT or not run.keys() >= NEEDED:
            raise UserError(
                f"{home / IDENTITY} is of an older MedCoT, or damaged: what is needed is not in it; train again"
            )
        run |= {"assumed": False}
        if home == folder and run["adapter_hash"] is None:
            raise UserError(f"{folder}: this run did not end; the same `make train` resumes it, or confirms its end")
        if home == folder and run["adapter_hash"] != folder_hash(folder):
            raise UserError(
                f"{folder} holds another adapter than its {IDENTITY} describes: it was trained again without "
                f"`make train`. Remove {folder / IDENTITY} to have its recipe assumed, or train again"
            )
    else:
        run = assume(home) | {"assumed": True}
    if found := contradictions(folder, run):
        raise UserError(f"{folder} is not of the run that {run['recipe']} describes: {'; '.join(found)}. Train again")
    return run | {"adapter": str(folder)}


def assume(folder: Path) -> dict[str, Any]:
    """The identity that the shipped recipe with this output_dir would give."""
    wanted = folder.resolve()
    for path in sorted([*ROOT.glob("yamls/*.yaml"), *ROOT.glob("examples/*.yaml")]):
        recipe = load_recipe(str(path), [], keys=())
        if recipe.get("do_train") and (ROOT / recipe["output_dir"]).resolve() == wanted:
            return identity(str(path.relative_to(ROOT)), [], recipe, parse(recipe))
    raise UserError(
        f"{folder}: no {IDENTITY}, and no recipe of yamls/ or examples/ has this output_dir, so template and precision "
        "are not known. Train by `make train`, which keeps them"
    )


def contradictions(folder: Path, run: dict[str, Any]) -> list[str]:
    """What the folder itself says against an identity: its adapter's shape and base, its log, its data's names."""
    adapter, learning = read_json(folder / "adapter_config.json"), run["learning"]
    log, card = folder / "trainer_state.json", folder / "README.md"
    state = read_json(log) if log.is_file() else {"log_history": []}
    wanted = {
        "adapter's r": (adapter.get("r"), learning["lora_rank"]),
        "adapter's lora_alpha": (adapter.get("lora_alpha"), learning["lora_alpha"]),
        "adapter's base": (plain_name(adapter.get("base_model_name_or_path")), plain_name(run["model"]["name"])),
    }
    if learning["max_steps"] <= 0:
        wanted["number of epochs"] = (state.get("num_train_epochs"), math.ceil(learning["num_train_epochs"]))
    rates = [row["learning_rate"] for row in state["log_history"] if "learning_rate" in row]
    if max(rates, default=0) > learning["learning_rate"] * 1.001:
        wanted["highest learning rate"] = (max(rates), learning["learning_rate"])
    said = re.search(r"on the (.+?) datasets?\.", card.read_text(encoding="utf-8")) if card.is_file() else None
    names = [dataset["name"] for dataset in run["datasets"]]
    if said and "unknown" not in said[1] and not all(name in said[1] for name in names):
        wanted["data in its README"] = (said[1], ", ".join(names))
    differ = {what: pair for what, pair in wanted.items() if None not in pair and pair[0] != pair[1]}
    return [f"the {what} is {found}, the run's {expected}" for what, (found, expected) in differ.items()]


def plain_name(model: str | None) -> str | None:
    """A model's name without its owner, in small letters, also of the hub's cache.

    Unsloth names its own 4-bit copy of a base in the adapter.
    """
    cached = re.search(r"models--(?:[^/]+--)?([^/]+)/snapshots/", model or "")
    return Path(cached[1] if cached else model).name.lower().removesuffix("-bnb-4bit") if model else None


def same_base(own: str, base: str, own_hash: str | None) -> bool:
    """Whether two names are of one base model: folders, which may have moved, by their files, others by their names."""
    if own == base or Path(own).resolve() == Path(base).resolve():
        return True
    if Path(base).is_dir() and not own_hash and Path(own).is_dir():
        own_hash = folder_hash(own)
    if Path(base).is_dir() and own_hash and "@" not in own_hash:  # a hub id and its revision
        return folder_hash(base) == own_hash
    return plain_name(own) == plain_name(base)


def newest_adapter(or_else: str) -> Path:
    """The folder of the fine-tune under saves/ that ended, or was confirmed, last; without one, ``or_else`` is told."""
    found = {}
    for path in (ROOT / "saves").glob("*/adapter_config.json"):
        marks = [path.with_name(name) for name in (IDENTITY, "train_results.json")]
        if marks[1].exists():
            found[path.parent] = max(mark.stat().st_mtime for mark in marks if mark.exists())
    if not found:
        raise UserError(
            f"found no finished fine-tune under saves/: run `make demo` or `make train` first, or {or_else}"
        )
    return max(found, key=found.__getitem__).relative_to(ROOT)
