"""Does a record's loss depend on its neighbour in a pack? ``python -m scripts.bench.packing --neat --unsloth``

LLaMA-Factory itself loads the model, packs two records and makes the batch. Then the first record's tokens are
replaced: if the second record's loss or gradients move, packed records see each other, and packing trains wrongly.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path
from typing import Any

from scripts.common import UserError, run_main, write_json, write_jsonl

TOLERANCE = 0.02  # relative change of the gradients; bf16 rounding stays under it, a mixed pack is far above


def batch_of_two(recipe: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(model, batch) as ``llamafactory-cli train`` would make them for a dataset of two records that fill one pack."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer

    model_args, data_args, training_args, finetuning_args, _ = get_train_args(recipe)
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    data = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
    # LLaMA-Factory's packs are longer than cutoff_len, where Unsloth cuts them off (and then fails: 255 labels against
    # 256 logits). More room shows what would happen to the records otherwise.
    model_args.model_max_length *= 2
    model = load_model(module["tokenizer"], model_args, finetuning_args, is_trainable=True).train()
    collator = SFTDataCollatorWith4DAttentionMask(
        template=template,
        model=model,
        pad_to_multiple_of=8,
        block_diag_attn=model_args.block_diag_attn,
        neat_packing=data_args.neat_packing,
        attn_implementation=getattr(model.config, "_attn_implementation", None),
        compute_dtype=model_args.compute_dtype,
        **module,
    )
    if len(data) != 1:
        raise UserError(f"expected the two records in one pack, found {len(data)} packs")
    return model, collator([data[0]])


def loss_and_gradients(model: Any, batch: dict[str, Any]) -> tuple[float, Any]:
    """Loss (nats/token) and the trainable weights' gradients, one after the other in a float32 vector."""
    import torch

    device = next(model.parameters()).device
    model.zero_grad()
    torch.manual_seed(0)
    on_device = {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}
    counted = (on_device["labels"][:, 1:] != -100).sum()  # the Trainer passes it, and Unsloth's loss expects it
    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss = model(**on_device, num_items_in_batch=counted).loss
    loss.backward()
    gradients = [p.grad.float().flatten() for p in model.parameters() if p.requires_grad and p.grad is not None]
    return loss.item(), torch.cat(gradients)


def compare(model: Any, batch: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Relative change of the second record's loss and gradients when the first record's tokens are replaced.

    ``batch``: one pack (1, T) of two records whose position_ids restart at the second.
    """
    import torch

    # Adapters start at zero, where half of the gradients vanish; stir them, as training does.
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.requires_grad and "lora_B" in name:
            weight.data.normal_(0, 0.05)
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    second = starts[1]
    batch["labels"][:, :second] = -100
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(seed)
    other = dict(batch, input_ids=batch["input_ids"].clone())
    other["input_ids"][:, 1:second] = torch.randint(9, vocabulary, (1, second - 1), generator=generator)
    loss, gradients = loss_and_gradients(model, batch)
    _, gradients_again = loss_and_gradients(model, batch)
    moved, gradients_moved = loss_and_gradients(model, other)
    norm = gradients.norm()
    result = {
        "loss": loss,
        "loss_change": abs(moved - loss) / loss,
        "gradient_change": float((gradients_moved - gradients).norm() / norm),
        "gradient_noise": float((gradients_again - gradients).norm() / norm),
    }
    return result | {"mixes": not result["gradient_change"] < max(TOLERANCE, 3 * result["gradient_noise"])}


def recipe_for(
    model: Path, data: Path, neat: bool, unsloth: bool, cpu: bool, attention: str = "auto"
) -> dict[str, Any]:
    """A QLoRA recipe with packing, on two records that share one pack of 256 tokens."""
    recipe: dict[str, Any] = {
        **{
            "model_name_or_path": str(model),
            "dataset_dir": str(data),
            "dataset": "two",
            "output_dir": str(data / "out"),
        },
        **{"stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_target": "all", "template": "deepseekr1"},
        **{"quantization_bit": 4, "quantization_method": "bnb", "cutoff_len": 256, "packing": True, "bf16": True},
        **{"neat_packing": neat, "use_unsloth": unsloth, "flash_attn": attention, "overwrite_cache": True},
        **{"report_to": "none", "preprocessing_num_workers": 1},
    }
    return recipe | ({"use_cpu": True} if cpu else {})


def write_two(folder: Path, tokenizer_dir: Path) -> None:
    """A dataset "two": two records of about 100 tokens each."""
    from transformers import AutoTokenizer

    tokenizer, rng, rows = AutoTokenizer.from_pretrained(tokenizer_dir), random.Random(1), []
    for _ in range(2):
        words = "".join(tokenizer.decode([rng.randrange(256, len(tokenizer) - 6)]) for _ in range(60))
        rows.append({"input": words[: len(words) // 4], "output": f"<think>\n{words}\n</think>\n\nyes"})
    write_jsonl(folder / "two.jsonl", rows)
    columns = {"prompt": "input", "response": "output"}
    write_json(folder / "dataset_info.json", {"two": {"file_name": "two.jsonl", "columns": columns}})


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Check whether packed records see each other, through LLaMA-Factory's own loading and collating.",
        epilog="example: python -m scripts.bench.packing --neat --unsloth",
    )
    parser.add_argument("--neat", action="store_true", help="neat_packing, LLaMA-Factory's block-diagonal mask")
    parser.add_argument("--unsloth", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--attention", default="auto", help="LLaMA-Factory's flash_attn (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("saves/bench/packing"))
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from scripts.train.bases import build_model, build_tokenizer

    model = args.work / "model"
    build_tokenizer([Path(__file__).read_text(), "患者发热三天，建议补液。"], model, vocab_size=2048)
    build_model(model, hidden=256, layers=4)
    write_two(args.work, model)
    recipe = recipe_for(model, args.work, args.neat, args.unsloth, args.cpu, args.attention)
    result = {"unsloth": args.unsloth, "neat_packing": args.neat} | compare(*batch_of_two(recipe))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    run_main(main)
