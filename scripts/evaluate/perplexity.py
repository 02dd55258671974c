"""Perplexity of held-out records, prompt masked: ``python -m scripts.evaluate perplexity --help``.

nats = sum of -log p over the response tokens of all records / number of these tokens: a mean over tokens, not over
records; perplexity = exp(nats). The tokens are those of training (LLaMA-Factory's template and truncation).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from scripts.common import UserError, read_jsonl
from scripts.evaluate.engines import LoadedModel
from scripts.evaluate.stats import compare_nats
from scripts.evaluate.store import Store
from scripts.evaluate.subject import key_of
from scripts.train.template import Encoded, PromptFormat

PARTS = ("reasoning", "answer")
EDGES = (0, 64, 128, 256, 512, 1024, 2048, 1 << 31)


def read_records(path: str | Path) -> list[dict]:
    """Records with ``input``, ``output``, ``lang``, ``id`` and ``line``; raises UserError on any other shape.

    Alpaca's ``instruction`` stands before ``input``, as LLaMA-Factory reads it.
    """
    records = []
    for line, row in read_jsonl(path):
        question = [row.get("instruction"), row.get("input")]
        question = "\n".join(text for text in question if isinstance(text, str) and text)
        if not question or not isinstance(row.get("output"), str):
            raise UserError(f"{path}:{line}: expected texts `input` and `output`; prepare it with scripts.prepare")
        about = {"id": str(row.get("id", line)), "lang": row.get("lang", "?"), "system": row.get("system") or None}
        records.append({**about, "input": question, "output": row["output"], "line": line})
    if not records:
        raise UserError(f"{path}: no records in this split; prepare more data or another split")
    return records


def encode(record: dict, form: PromptFormat, cutoff_len: int) -> tuple[Encoded, bool]:
    """A record's tokens as in training, cut as there; and whether anything was cut."""
    from llamafactory.data.processor.processor_utils import infer_seqlen

    if form.template.thought_words[1] not in record["output"]:
        words = form.frame().marks
        raise UserError(f"record {record['id']}: its `output` is not {words[0]}…{words[1]} and an answer; prepare it")
    whole = form.encode(record["input"], record["output"], record["system"])
    prompt, response = infer_seqlen(len(whole.prompt), len(whole.response), cutoff_len)
    cut = prompt < len(whole.prompt) or response < len(whole.response)
    return Encoded(whole.prompt[:prompt], whole.response[:response], min(whole.answer_at, response)), cut


def response_nll(model: Any, prompt: list[int], response: list[int]) -> list[float]:
    """-log p in nats of each response token, float32, one record at a time: no padding to get wrong."""
    import torch

    ids = torch.tensor([prompt + response], device=model.device)
    with torch.inference_mode():
        logits = model(ids, logits_to_keep=len(response) + 1).logits[0, :-1]  # (response, V)
        target = ids[0, -len(response) :]
        chunks = [
            torch.nn.functional.cross_entropy(row.float(), want, reduction="none")
            for row, want in zip(logits.split(256), target.split(256), strict=True)
        ]
    return torch.cat(chunks).tolist()


def measure(
    loaded: LoadedModel, records: list[dict], cutoff_len: int, store: Store, sides: tuple[str, ...]
) -> list[dict]:
    """Score every record by every side; finished ones are read from ``store``. Returns rows in the records' order."""
    from tqdm import tqdm

    encoded = [encode(record, loaded.form, cutoff_len) for record in records]  # a bad record is told before any bar
    wanted = []
    for side in sides:
        identity = [loaded.subject.identity(side), loaded.precision, cutoff_len]
        for place, record in enumerate(records):
            wanted.append((side, place, key_of(identity, *(record[k] for k in ("input", "output", "system")))))
    missing = [entry for entry in wanted if entry[2] not in store.rows]
    for side, place, key in tqdm(missing, desc="perplexity", unit="record", disable=not missing):
        tokens, cut = encoded[place]
        with loaded.as_side(side):
            nll = response_nll(loaded.model, tokens.prompt, tokens.response)
        at = tokens.answer_at
        row = {
            "key": key,
            "truncated": cut,
            "nll": {"reasoning": sum(nll[:at]), "answer": sum(nll[at:])},
            "tokens": {"reasoning": at, "answer": len(nll) - at},
        }
        store.add([row])
    about = [{name: record[name] for name in ("id", "lang", "line")} for record in records]
    return [store.rows[key] | {"model": side} | about[place] for side, place, key in wanted]


def compare_parts(rows: list[dict], parts: tuple[str, ...] = PARTS) -> dict[str, Any]:
    """base, tuned and their paired difference in nats per token, over the given parts of the responses."""
    columns: dict[str, tuple[list, list]] = {}
    for row in rows:
        nats, tokens = columns.setdefault(row["model"], ([], []))
        nats.append(sum(row["nll"][part] for part in parts))
        tokens.append(sum(row["tokens"][part] for part in parts))
    return compare_nats(columns)


def summarise(rows: list[dict]) -> dict[str, Any]:
    """The whole responses, their parts, each language and each length: base, tuned and difference."""
    languages = {lang: [row for row in rows if row["lang"] == lang] for lang in sorted({row["lang"] for row in rows})}
    lengths = {}
    for low, high in itertools.pairwise(EDGES):
        if chosen := [row for row in rows if low <= sum(row["tokens"].values()) < high]:
            lengths[f"{low}-{high - 1}" if high < EDGES[-1] else f"{low}+"] = compare_parts(chosen)
    return compare_parts(rows) | {
        "parts": {part: compare_parts(rows, (part,)) for part in PARTS},
        "languages": {lang: compare_parts(group) for lang, group in languages.items()},
        "lengths": lengths,
        "truncated": sum(row["truncated"] for row in rows if row["model"] == "base"),
    }
