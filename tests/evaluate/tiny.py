"""A Qwen2 model of about 100,000 weights with DeepSeek-R1's turn marks and a random, non-zero adapter, in seconds."""

from __future__ import annotations

import json
from pathlib import Path

from scripts.train.bases import build_model, build_tokenizer

TEXTS = [
    "A 54-year-old man has crushing chest pain for two hours; the ECG shows ST elevation. The answer is B.",
    "患者发热3天，咳嗽，胸片示右下肺炎，首选青霉素治疗。答案是 C。",
    "Think step by step: fever, cough and a consolidation suggest pneumonia. 因此诊断为肺炎。",
]


def build_tiny(folder: Path) -> tuple[str, str]:
    """Write a base model and an adapter; returns their folders."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # so small that a second thread only costs
    base, adapter = folder / "base", folder / "adapter"
    build_tokenizer(TEXTS, base, vocab_size=600)
    build_model(base, hidden=64, layers=2, seed=0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(adapter)
    return str(base), str(adapter)


def write_records(path: Path, n: int = 6) -> Path:
    """``n`` prepared records, English and Chinese by turns, of different lengths."""
    rows = [
        {
            "id": f"r{i}",
            "lang": ("en", "zh")[i % 2],
            "input": TEXTS[i % 2] + f" ({i})",
            "output": f"<think>\n{TEXTS[2] * (1 + i % 3)}\n</think>\n\n{TEXTS[(i + 1) % 2]}",
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
