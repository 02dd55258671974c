"""Shared scaffolding: tiny models in seconds, prepared records, real data beside the project where it is at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from scripts.common import ROOT

os.environ.setdefault("HF_HUB_OFFLINE", "1")

TEXTS = [
    "A 54-year-old man has crushing chest pain for two hours; the ECG shows ST elevation. The answer is B.",
    "患者发热3天，咳嗽，胸片示右下肺炎，首选青霉素治疗。答案是 C。",
    "Think step by step: fever, cough and a consolidation suggest pneumonia. 因此诊断为肺炎。",
]
TEMPLATES = ("deepseekr1", "qwen3", "qwen")


def build_tiny(folder: Path, template: str = "deepseekr1") -> Path:
    """A Qwen2-shaped model of about 100,000 random weights with the special tokens of a template's own model."""
    import torch

    from scripts.train.bases import build_model, build_tokenizer

    torch.set_num_threads(1)  # so small that a second thread only costs
    build_tokenizer(TEXTS, folder, vocab_size=600, template=template)
    build_model(folder, hidden=64, layers=2, seed=0)
    return folder


def build_adapter(base: Path, folder: Path) -> Path:
    """A random LoRA adapter that really changes what ``base`` says."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


def write_records(path: Path, n: int = 6, thought: str = TEXTS[2]) -> Path:
    """``n`` prepared records, English and Chinese by turns, of different lengths."""
    rows = [
        {
            "id": f"r{i}",
            "lang": ("en", "zh")[i % 2],
            "input": TEXTS[i % 2] + f" ({i})",
            "output": f"<think>\n{thought * (1 + i % 3)}\n</think>\n\n{TEXTS[(i + 1) % 2]}",
        }
        for i in range(n)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_registry(folder: Path, **files: str) -> None:
    """LLaMA-Factory's registry of prepared files: name → file."""
    columns = {"prompt": "input", "response": "output"}
    entries = {name: {"file_name": file, "columns": columns} for name, file in files.items()}
    (folder / "dataset_info.json").write_text(json.dumps(entries))


def write_recipe(path: Path, model: Path, dataset: str, **more: object) -> Path:
    """A sound recipe for the CPU, whose data and output lie beside it; ``more``: other keys."""
    recipe = {"model_name_or_path": str(model), "stage": "sft", "do_train": True, "finetuning_type": "lora"}
    recipe |= {"lora_rank": 4, "lora_alpha": 8, "template": "deepseekr1", "cutoff_len": 512, "learning_rate": 1e-4}
    recipe |= {"dataset_dir": str(path.parent), "dataset": dataset, "output_dir": str(path.parent / "run")}
    recipe |= {"num_train_epochs": 1, "use_cpu": True, "report_to": "none"}
    path.write_text(yaml.safe_dump(recipe | more))
    return path


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny base per template; copy it before changing it."""
    folder = tmp_path_factory.mktemp("tiny")
    return {template: build_tiny(folder / template, template) for template in TEMPLATES}


@pytest.fixture(scope="session")
def tiny_model(tiny_models) -> Path:
    """The tiny base with DeepSeek-R1's turn marks."""
    return tiny_models["deepseekr1"]


@pytest.fixture(scope="session")
def tiny_adapter(tiny_model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter on ``tiny_model``."""
    return build_adapter(tiny_model, tmp_path_factory.mktemp("adapter") / "adapter")


@pytest.fixture(scope="session")
def shared() -> Path:
    """../shared with real data and the real tokenizer; the tests that want it are skipped without."""
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip("../shared is not present")
    return path
