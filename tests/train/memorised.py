"""A tiny model that has learned a few conversations by heart: real weights behind real servers, known answers."""

from __future__ import annotations

from pathlib import Path

from scripts.common import ASSISTANT, BOS, EOS, USER
from scripts.train.bases import build_model, build_tokenizer


def memorise(folder: Path, replies: dict[str, str], steps: int = 300) -> Path:
    """Save in ``folder`` a model that answers each question with its reply, also when sampled at temperature 0.6."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them wait for each other on a busy machine, 20 times as long
    build_tokenizer([*replies, *replies.values()] * 3, folder, vocab_size=500)
    build_model(folder, hidden=64, layers=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = [f"{BOS}{USER}{question}{ASSISTANT}{reply}{EOS}" for question, reply in replies.items()]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    labels = batch["input_ids"].clone()
    labels[batch["attention_mask"] == 0] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for row, reply in enumerate(replies.values()):
        begin = batch["input_ids"][row].tolist().index(tokenizer.convert_tokens_to_ids(ASSISTANT)) + 1
        with torch.no_grad():
            logits = model(batch["input_ids"][row : row + 1]).logits[0]
        wanted = labels[row, begin:][labels[row, begin:] >= 0]
        chances = logits[begin - 1 : begin - 1 + len(wanted)].softmax(-1)[range(len(wanted)), wanted]
        assert chances.min() > 0.9, f"not learned by heart: {reply!r} ({chances.min():.2f})"
    torch.set_num_threads(threads)
    model.save_pretrained(folder)
    return folder
