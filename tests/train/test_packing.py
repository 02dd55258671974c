"""Packed records must not see each other: with neat_packing (examples/qlora_tiny.yaml) they don't, without it they do.

LLaMA-Factory itself loads the model, packs two records and makes the batch, on the CPU without Unsloth. Then the first
record's tokens are replaced: where the second record's gradients move, training would be wrong.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from scripts.train.bases import build_model, build_tokenizer


def pack_of_two(folder: Path, neat: bool):
    """(model, batch) as `llamafactory-cli train` makes them of two records that fill one pack of 256 tokens."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer

    words = ["fever", "pain", "dose", "cough", "nurse", "heart"]
    build_tokenizer([" ".join(words)] * 3, folder / "model", vocab_size=300)
    build_model(folder / "model", hidden=64, layers=2)
    texts = [" ".join(random.Random(seed).choices(words, k=90)) for seed in (1, 2)]
    rows = [{"instruction": text[:40], "input": "", "output": text[40:]} for text in texts]
    (folder / "two.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"two": {"file_name": "two.json"}}))
    recipe = {"model_name_or_path": str(folder / "model"), "dataset_dir": str(folder), "dataset": "two"}
    recipe |= {"output_dir": str(folder / "out"), "stage": "sft", "do_train": True, "finetuning_type": "lora"}
    recipe |= {"template": "deepseekr1", "cutoff_len": 1024, "packing": True, "neat_packing": neat, "report_to": "none"}
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(recipe | {"use_cpu": True})
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    data = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
    model = load_model(module["tokenizer"], model_args, finetuning_args, is_trainable=True).train()
    collator = SFTDataCollatorWith4DAttentionMask(
        template=template,
        model=model,
        block_diag_attn=model_args.block_diag_attn,
        neat_packing=neat,
        attn_implementation=model.config._attn_implementation,
        compute_dtype=model_args.compute_dtype,
        **module,
    )
    assert len(data) == 1, "both records are in one pack"
    return model, collator([data[0]])


def gradients(model, batch):
    """The trainable weights' gradients, one after the other."""
    import torch

    model.zero_grad()
    model(**batch).loss.backward()
    return torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.slow
@pytest.mark.parametrize(("neat", "mixes"), [(True, False), (False, True)])
def test_the_second_record_of_a_pack_does_not_depend_on_the_first(neat, mixes, tmp_path):
    import torch

    model, batch = pack_of_two(tmp_path, neat)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.requires_grad and "lora_B" in name:  # zero at the start, where half of the gradients vanish
            weight.data.normal_(0, 0.05)
    second = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()[1]
    batch["labels"][:, :second] = -100
    other = batch | {"input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, 1:second] = torch.randint(9, 250, (1, second - 1))
    before, after = gradients(model, batch), gradients(model, other)
    change = float((after - before).norm() / before.norm())
    assert (change > 0.1) is mixes, change
    assert mixes or change < 0.02, change
