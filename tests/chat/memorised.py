"""A tiny model that has learned a few conversations by heart: real weights behind real servers, known answers."""

from __future__ import annotations

from pathlib import Path

from scripts.train.bases import build_model, build_tokenizer
from scripts.train.template import PromptFormat


def memorise(folder: Path, replies: dict[str, str], template: str = "qwen", steps: int = 300) -> Path:
    """Save in ``folder`` a model that answers each question with its reply by a template."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # more of them wait for each other on a busy machine, 20 times as long
    build_tokenizer([*replies, *replies.values()] * 3, folder, vocab_size=500, template=template)
    build_model(folder, hidden=64, layers=2)
    form = PromptFormat.load(str(folder), template)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = [form.encode(question, reply) for question, reply in replies.items()]
    longest = max(len(row.prompt) + len(row.response) for row in rows)
    ids = torch.full((len(rows), longest), form.tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        end = len(row.prompt) + len(row.response)
        ids[number, :end] = torch.tensor(row.prompt + row.response)
        labels[number, len(row.prompt) : end] = torch.tensor(row.response)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05, f"not learned by heart: loss {loss.item():.3f}"
    model.save_pretrained(folder)
    return folder
