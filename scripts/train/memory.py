"""Predict a training run's peak GPU memory from its recipe.

Counts what the tensors need at the worst moment (PyTorch's "allocated"); CUDA's own context comes on top. PyTorch
reserves 4 to 190% more while there is room (docs/bench_train.json) and gives it back before it runs out of memory.
Within 10% of every run measured with the pinned Unsloth: tests/train/test_memory.py.
"""

from __future__ import annotations

from typing import Any

from scripts.common import UserError

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # 4 bits, an 8-bit scale per 64 weights, a float per 256 scales
CONTEXT_GIB = 0.5  # CUDA's own context and kernels, outside of what PyTorch counts


def linear_sizes(config: dict[str, Any]) -> list[tuple[int, int]]:
    """(inputs, outputs) of the matrix products of one decoder layer: q, k, v, o, gate, up, down."""
    hidden, mlp, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    wide, narrow = heads * head, (config.get("num_key_value_heads") or heads) * head
    return [(hidden, wide), (hidden, narrow), (hidden, narrow), (wide, hidden), *[(hidden, mlp)] * 2, (mlp, hidden)]


def linear_weights(config: dict[str, Any]) -> int:
    """Weights of the matrix products of all decoder layers."""
    return config["num_hidden_layers"] * sum(i * o for i, o in linear_sizes(config))


def trained_weights(args: dict[str, Any], config: dict[str, Any]) -> tuple[int, int]:
    """(weights that a recipe trains, all weights of the model); UserError for a config of another kind of model."""
    try:
        linear = linear_weights(config)
        tables = config["vocab_size"] * config["hidden_size"] * (1 if config.get("tie_word_embeddings") else 2)
    except KeyError as error:
        raise UserError(f"the model's config has no {error}; expected a Qwen2-like decoder's config.json") from error
    whole = linear + tables
    if args.get("finetuning_type") == "full":
        return whole, whole
    per_rank = config["num_hidden_layers"] * sum(i + o for i, o in linear_sizes(config))
    return args.get("lora_rank", 8) * per_rank, whole


def tensors_gib(args: dict[str, Any], config: dict[str, Any], longest: int | None = None, shards: int = 1) -> float:
    """GiB that the tensors need at the worst moment.

    ``args``: a recipe. ``config``: the base model's config. ``longest``: tokens of the longest record where known;
    otherwise a micro-batch is taken to be as long as cutoff_len. ``shards``: GPUs among which FSDP shares out the
    layers and what is trained; embeddings and output layer are whole on each while a step runs. Source: sizes of Qwen2
    as in transformers; the factors of one layer's activations and of the logits were fitted to the 7B runs of
    docs/bench_train.json and foretell its others (examples/README.md says which). Unsloth 2026.10.9.
    """
    trained, whole = trained_weights(args, config)
    sizes, layers = linear_sizes(config), config["num_hidden_layers"]
    hidden, mlp, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    linear = linear_weights(config)
    tables = whole - linear
    packed = args.get("packing") or args.get("neat_packing")
    length = args.get("cutoff_len", 2048) if packed or not longest else min(longest, args.get("cutoff_len", 2048))
    tokens = args.get("per_device_train_batch_size", 8) * length
    full, unsloth = args.get("finetuning_type") == "full", bool(args.get("use_unsloth"))
    moments = 2 if "8bit" in str(args.get("optim")) else 8
    kept = 0 if unsloth else 2 * hidden  # bytes per token and layer; Unsloth moves them to the host's memory
    inside = 2 * (4 * hidden + 7 * mlp if unsloth else 10 * hidden + 6 * mlp)  # one layer's own activations, bf16
    if args.get("disable_gradient_checkpointing") and not unsloth:
        kept = inside
    four_bit = args.get("quantization_bit") == 4
    fused_loss = unsloth or args.get("enable_liger_kernel")
    frozen = 0.0 if full else linear * (NF4_BYTES if four_bit else 2) / shards + 2 * tables
    learning = trained * (4 + 4 + moments) / shards  # weights, gradients, optimiser
    activations = layers * kept * tokens
    one_layer = inside * tokens + 2 * max(i * o for i, o in sizes) * 2
    logits = 0 if fused_loss else tokens * vocab * 10.5
    return (frozen + learning + activations + one_layer + logits) / 2**30
