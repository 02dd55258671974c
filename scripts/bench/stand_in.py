"""Stand-ins to measure training with: a model's exact shape with random weights, and records of medical-o1's lengths.

Speed and memory depend on neither the weights nor the words, so no hub is needed.
"""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

from scripts.common import atomic_folder, write_json, write_jsonl
from scripts.train.memory import linear_sizes, linear_weights


def shape(hidden: int, layers: int, mlp: int, heads: int, kv: int, vocab: int = 152064, **more: Any) -> dict[str, Any]:
    """A Qwen2 config (or another by ``more``) with the given sizes."""
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": mlp, "vocab_size": vocab}
    attention = {"num_attention_heads": heads, "num_key_value_heads": kv, "max_position_embeddings": 32768}
    return {"model_type": "qwen2", **sizes, **attention, "rope_theta": 1e4, "tie_word_embeddings": False, **more}


SHAPES = {
    "7b": shape(3584, 28, 18944, 28, 4),
    "1.5b": shape(1536, 28, 8960, 12, 2, 151936),
    "14b": shape(5120, 48, 13824, 40, 8),
    "qwen3-8b": shape(4096, 36, 12288, 32, 8, 151936, model_type="qwen3", head_dim=128),
    "tiny": shape(64, 2, 128, 4, 2, 2048),
}


def record_lengths(count: int, scale: float = 1.0) -> list[int]:
    """Token counts like medical-o1's: mean 567, p95 790, max 1,356: a log-normal's quantiles, in random order."""
    normal = statistics.NormalDist(6.3171, 0.2158)
    values = [min(1356.0, 2.718281828459045 ** normal.inv_cdf((k + 0.5) / count)) for k in range(count)]
    values[-1] = 1356.0
    random.Random(42).shuffle(values)
    return [round(value * scale) for value in values]


def build_data(folder: Path, tokenizer_dir: Path, lengths: list[int]) -> None:
    """Write a record for each of ``lengths`` (tokens) as dataset "bench" into ``folder``."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    pieces = [piece.removeprefix("Ġ") for piece in sorted(tokenizer.get_vocab()) if piece.startswith("Ġ")]
    words = [word for word in pieces if word.isascii() and word.isalpha() and len(word) > 2]
    words = [word for word in words if len(tokenizer.encode(f" {word} {word}", add_special_tokens=False)) == 2][:4000]
    rng, rows = random.Random(42), []
    weights = [1 / (rank + 3) for rank in range(len(words))]  # Zipf, as in real text: there is something to learn
    for length in lengths:
        text = rng.choices(words, weights, k=length)
        ask, close = length // 8, length * 3 // 4
        question = " " + " ".join(text[:ask])
        answer = f"<think>\n {' '.join(text[ask:close])}\n</think>\n\n {' '.join(text[close:])}"
        extra = len(tokenizer.encode(question + answer, add_special_tokens=False)) + 4 - length  # marks of the template
        rows.append({"input": question, "output": answer.rsplit(" ", extra)[0] if extra > 0 else answer})
    write_jsonl(folder / "bench.jsonl", rows)
    columns = {"prompt": "input", "response": "output"}
    write_json(folder / "dataset_info.json", {"bench": {"file_name": "bench.jsonl", "columns": columns}})


def build_model(config: dict[str, Any], folder: Path, tokenizer_dir: Path) -> None:
    """Save the config's model with random bf16 weights, made on the GPU where there is one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if folder.exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = config | marks | {"vocab_size": max(config["vocab_size"], len(tokenizer))}
    torch.manual_seed(42)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)
    with atomic_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)


def flops_per_token(config: dict[str, Any], context: float) -> float:
    """Useful FLOPs of one LoRA step per real token: 4 P + 12 L d c; ``context`` c: mean tokens that a token attends to.

    P weights of the matrix products, 2 P forward and 2 P back (frozen weights need no gradients), L layers, d attention
    width. The forward pass that gradient checkpointing repeats does not count.
    """
    weights = linear_weights(config) + config["hidden_size"] * config["vocab_size"]
    width = linear_sizes(config)[0][1]
    return 4 * weights + 12 * config["num_hidden_layers"] * width * context
