"""A tiny stand-in for the base model, made on this machine: same architecture, special tokens and chat template.

DeepSeek-R1-Distill-Qwen-7B is a Qwen2 model with DeepSeek-R1's turn marks; so is this one, with 2.6 million random
weights and a byte-level BPE vocabulary learned from the given texts. It is for demonstrations and tests.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from scripts.common import ASSISTANT, BOS, EOS, USER, run_main
from scripts.prepare.load import read_rows

# As the official chat template: the generation prompt opens the thought.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + eos_token }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)


def build_tokenizer(texts: Iterable[str], folder: Path, vocab_size: int = 2048) -> None:
    """Learn a byte-level BPE tokenizer from ``texts`` and save it in ``folder`` in Hugging Face's layout."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # Byte-level like Qwen's, digits one by one; a run of Chinese characters stays one piece for the merges.
    split = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 6,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in (EOS, BOS)])
    marks = [AddedToken(mark, normalized=False, special=False) for mark in (USER, ASSISTANT, "<think>", "</think>")]
    tokenizer.add_tokens(marks)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=16384,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def build_model(folder: Path, hidden: int = 256, layers: int = 2, seed: int = 42) -> None:
    """Save a randomly initialised Qwen2 model for the tokenizer in ``folder`` beside it (float32).

    Heads of 32 values, 64 in models from 512 on; the MLP is three times as wide as the rest.
    """
    import torch
    from transformers import AutoTokenizer, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // (64 if hidden >= 512 else 32),
        num_key_value_heads=max(1, hidden // (128 if hidden >= 512 else 64)),
        max_position_embeddings=4096,
        rope_theta=10000.0,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, do_sample=True, top_p=0.95
    )
    model.save_pretrained(folder)


def strings(row: bytes) -> list[str]:
    """The texts of one raw row; none of a row that is not a JSON object (preparing rejects and reports it)."""
    try:
        value = json.loads(row)
    except ValueError:
        return []
    return [text for text in value.values() if isinstance(text, str)] if isinstance(value, dict) else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Build the demo's tiny model (random weights) and its tokenizer from raw records.",
        epilog="example: python -m scripts.train.bases data/sample.jsonl --out saves/tiny_init",
    )
    parser.add_argument("source", nargs="+", help="raw records whose words the vocabulary is learned from")
    parser.add_argument("--out", type=Path, default=Path("saves/tiny_init"), help="folder (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=256, help="width (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    texts = [text for path in args.source for _, row in read_rows(path) for text in strings(row)]
    build_tokenizer(texts, args.out, args.vocab_size)
    build_model(args.out, args.hidden, args.layers, args.seed)


if __name__ == "__main__":
    run_main(main)
