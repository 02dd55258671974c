"""Load what is evaluated: the base model once, the adapter on top, both in the precision of training.

The base model is the same object with the adapter switched off, so that nothing but the adapter differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, file_hash, read_json, read_jsonl

MODELS = ("base", "tuned")
TINY = 50_000_000  # parameters


@dataclass
class Subject:
    """What is evaluated. ``precision``: the recipe's 4-bit and dtype settings, used for base and tuned alike."""

    model: str
    adapter: str | None
    template: str = "deepseekr1"
    precision: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """base, and tuned where there is an adapter."""
        return MODELS if self.adapter else MODELS[:1]

    def identity(self, name: str) -> dict[str, Any]:
        """What determines a model's outputs: hashes of its files, precision and template."""
        adapter = self.hashes[self.adapter] if name == "tuned" else None
        return {"model": self.hashes[self.model], "adapter": adapter, **self.precision, "template": self.template}

    @cached_property
    def hashes(self) -> dict[str | None, str | None]:
        """Model and adapter → hash of their files, read once."""
        return {path: path and weights_hash(path) for path in (self.model, self.adapter)}

    def loaded(self) -> tuple[Any, Any, Any]:
        """Model, tokenizer and template, loaded once."""
        if not hasattr(self, "_loaded"):
            self._loaded = (load_model(self), *load_tokenizer(self))
        return self._loaded

    @cached_property
    def hflm(self) -> Any:
        """The loaded model as lm-eval's HFLM."""
        from lm_eval.models.huggingface import HFLM

        model, tokenizer, _ = self.loaded()
        return HFLM(pretrained=model, tokenizer=tokenizer)


def find_subject(model: str, adapter: str | None, recipe: str | None = None, template: str | None = None) -> Subject:
    """Settle what to load; precision and template come from the recipe, by default the one the adapter was trained by.

    Raises UserError for a missing adapter or recipe.
    """
    import yaml

    if adapter and not Path(adapter, "adapter_config.json").is_file():
        wanted = "expected the output_dir of a LoRA run that finished (train first, or name another)"
        raise UserError(f"{adapter}: found no adapter_config.json; {wanted}")
    if adapter and not recipe and Path(adapter, "medcot.json").is_file():
        recipe = str(ROOT / read_json(Path(adapter, "medcot.json"))["recipe"])
    if recipe and not Path(recipe).is_file():
        raise UserError(f"{recipe}: no such recipe; pass --recipe YAML, the file the adapter was trained with")
    settings = yaml.safe_load(Path(recipe).read_text(encoding="utf-8")) if recipe else {}
    precision = {"bits": settings.get("quantization_bit"), "dtype": "float16" if settings.get("fp16") else "bfloat16"}
    if precision["bits"]:
        precision["type"] = settings.get("quantization_type", "nf4")
        precision["double"] = settings.get("double_quantization", True)
    return Subject(model, adapter, template or settings.get("template", "deepseekr1"), precision)


def reachable(model: str) -> str:
    """The folder or hub id to load; downloads through ModelScope or Openmind where LLaMA-Factory would."""
    if Path(model).is_dir():
        return model
    from llamafactory.extras.misc import try_download_model_from_other_hub
    from llamafactory.hparams import ModelArguments

    return try_download_model_from_other_hub(ModelArguments(model_name_or_path=model))


def weights_hash(path: str) -> str:
    """SHA-256 of a folder's configuration, tokenizer and weights; for a hub id, the id and its resolved revision."""
    folder = Path(reachable(path))
    if not folder.is_dir():
        from transformers import AutoConfig

        return f"{path}@{getattr(AutoConfig.from_pretrained(path), '_commit_hash', None)}"
    names = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin", "*config.json", "tokenizer*", "*.jinja")
    files = sorted({file for name in names for file in folder.glob(name)})
    if not files:
        raise UserError(f"{path}: found no model files; expected a model folder or a hub id")
    return file_hash(*files)


def load_tokenizer(subject: Subject) -> tuple[Any, Any]:
    """The tokenizer and LLaMA-Factory's own template object, as the trainer makes them."""
    from llamafactory.data.template import TEMPLATES, get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments, ModelArguments
    from llamafactory.model import load_tokenizer as load

    if subject.template not in TEMPLATES:
        raise UserError(f"template {subject.template}: LLaMA-Factory has none of this name; try deepseekr1")
    tokenizer = load(ModelArguments(model_name_or_path=subject.model))["tokenizer"]
    return tokenizer, get_template_and_fix_tokenizer(tokenizer, DataArguments(template=subject.template))


def load_model(subject: Subject) -> Any:
    """The model in evaluation mode on the GPU, else the CPU; 4-bit where the recipe trained in 4-bit."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, subject.precision["dtype"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kwargs: dict[str, Any] = {"dtype": dtype, "device_map": {"": device}}
    if subject.precision["bits"] == 4:
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_type=subject.precision["type"],
            bnb_4bit_use_double_quant=subject.precision["double"],
        )
    elif subject.precision["bits"]:
        raise UserError(f"quantization_bit: found {subject.precision['bits']}, expected 4 or none; change the recipe")
    model = AutoModelForCausalLM.from_pretrained(reachable(subject.model), **kwargs)
    if device == "cpu" and model.num_parameters() < TINY:
        torch.set_num_threads(1)  # threads wait for each other longer than they work: 20 times slower on a busy machine
    if subject.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, subject.adapter)
    return model.eval()


def as_model(model: Any, name: str) -> Any:
    """A context in which the loaded model is ``base`` (adapter off) or ``tuned`` (adapter on)."""
    return model.disable_adapter() if name == "base" and hasattr(model, "disable_adapter") else nullcontext()


def key_of(*parts: Any) -> str:
    """A short stable hash of JSON-able values: what a finished item is found by."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:24]


class Store:
    """Finished items, one JSON line each, appended at once, so that a killed run loses at most the item in hand."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.lock = Path(path), threading.Lock()
        self.rows: dict[str, dict] = {}
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):  # a kill in the middle of a line
            os.truncate(self.path, data.rfind(b"\n") + 1)
        for line, row in read_jsonl(self.path):
            if "key" not in row:
                raise UserError(f"{path}:{line}: not a finished item; delete this file and rerun")
            self.rows[row["key"]] = row

    def add(self, rows: Iterable[dict]) -> None:
        """Append rows (each has a ``key``) and flush them to the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.lock, self.path.open("a", encoding="utf-8") as file:
            for row in rows:
                self.rows[row["key"]] = row
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
