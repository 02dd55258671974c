"""Print the mean loss of 16 records under a base and its adapter: by transformers and peft, or loaded by Unsloth.

python -m tests.gpu.loss MODEL ADAPTER FOLDER [--unsloth | --base]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scripts.common import read_jsonl
from scripts.evaluate.engines import load_weights
from scripts.evaluate.perplexity import encode, response_nll
from scripts.evaluate.subject import Subject

NF4 = {"bits": 4, "dtype": "bfloat16", "type": "nf4", "double": True}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("adapter")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--unsloth", action="store_true")
    parser.add_argument("--base", action="store_true")
    args = parser.parse_args()
    subject = Subject(args.model, None if args.base else args.adapter, "deepseekr1", None, True, NF4, None)
    form = subject.prompt_format()
    if args.unsloth:
        import torch
        from unsloth import FastLanguageModel

        model, _ = FastLanguageModel.from_pretrained(
            args.adapter, max_seq_length=2048, dtype=torch.bfloat16, load_in_4bit=True
        )
        model.train()  # the patched kernels of training; there is no dropout
    else:
        model = load_weights(subject, NF4)
    losses: list[float] = []
    for _, row in list(read_jsonl(args.folder / "rows.jsonl"))[:16]:
        tokens, _ = encode(row | {"id": "-", "system": None}, form, 2048)
        measure = unsloth_nll if args.unsloth else response_nll
        losses += measure(model, tokens.prompt, tokens.response)
    print(json.dumps({"loss": sum(losses) / len(losses), "tokens": len(losses)}))


def unsloth_nll(model, prompt: list[int], response: list[int]) -> list[float]:
    """The response's mean loss (nats/token) by the model's own fused loss, once per token."""
    import torch

    ids = torch.tensor([prompt + response], device="cuda")
    labels = torch.tensor([[-100] * len(prompt) + response], device="cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        loss = model(input_ids=ids, labels=labels, num_items_in_batch=torch.tensor(len(response), device="cuda")).loss
    return [loss.item()] * len(response)


if __name__ == "__main__":
    main()
