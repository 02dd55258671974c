"""A Qwen2 model of about 100,000 weights with DeepSeek-R1's turn marks and a random, non-zero adapter, in seconds."""

from __future__ import annotations

import json
from pathlib import Path

from scripts.common import ASSISTANT, BOS, EOS, USER

TEXTS = [
    "A 54-year-old man has crushing chest pain for two hours; the ECG shows ST elevation. The answer is B.",
    "患者发热3天，咳嗽，胸片示右下肺炎，首选青霉素治疗。答案是 C。",
    "Think step by step: fever, cough and a consolidation suggest pneumonia. 因此诊断为肺炎。",
]


def build_tiny(folder: Path) -> tuple[str, str]:
    """Write a base model and an adapter; returns their folders."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in (USER, ASSISTANT, "<think>", "</think>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=EOS)
    torch.set_num_threads(1)  # so small that a second thread only costs
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(fast), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=fast.bos_token_id, eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id,
    )  # fmt: skip
    base, adapter = folder / "base", folder / "adapter"
    model = Qwen2ForCausalLM(config)
    fast.save_pretrained(base)
    model.save_pretrained(base)
    lora = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False))
    lora.save_pretrained(adapter)
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
