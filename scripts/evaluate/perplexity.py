"""Perplexity of held-out records, prompt masked; run as ``python -m scripts.evaluate perplexity --help``.

ppl = exp(sum of -log p over the response tokens of all records / number of these tokens), in nats: a mean over
tokens, not over records. The tokens are those of training (LLaMA-Factory's template and truncation). Intervals:
percentile bootstrap over records, 9,999 resamples, base and tuned drawn together.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from scripts.common import THINK_CLOSE, THINK_OPEN, UserError, file_hash, provenance, read_jsonl, write_json
from scripts.evaluate.stats import bootstrap_ppl, is_gain
from scripts.evaluate.subject import MODELS, Store, Subject, as_model, key_of

PARTS = ("reasoning", "answer")
EDGES = (0, 64, 128, 256, 512, 1024, 2048, 1 << 31)


def read_records(path: str | Path) -> list[dict]:
    """Prepared records with ``input``, ``output``, ``lang`` and ``id``; raises UserError on any other shape."""
    records = []
    for line, row in read_jsonl(path):
        output = row.get("output")
        if not isinstance(row.get("input"), str) or not isinstance(output, str):
            raise UserError(f"{path}:{line}: expected texts `input` and `output`; prepare it with scripts.prepare")
        if not output.startswith(THINK_OPEN) or THINK_CLOSE not in output:
            raise UserError(f"{path}:{line}: `output` is not <think>…</think> and an answer; use scripts.prepare")
        records.append({"id": str(row.get("id", line)), "lang": row.get("lang", "?"), **row, "line": line})
    if not records:
        raise UserError(f"{path}: no records in this split; prepare more data or another split")
    return records


def encode(record: dict, tokenizer: Any, template: Any, cutoff_len: int) -> dict[str, Any]:
    """Token ids of prompt and response as in training; ``answer_at``: index of the response's first answer token."""
    from llamafactory.data.processor.processor_utils import infer_seqlen

    messages = [{"role": "user", "content": record["input"]}, {"role": "assistant", "content": record["output"]}]
    prompt, response = template.encode_oneturn(tokenizer, messages)
    plain = tokenizer(record["output"], add_special_tokens=False, return_offsets_mapping=True)
    if response != [*plain["input_ids"], tokenizer.eos_token_id]:
        raise UserError(f"{record['id']}: this template does not end with output and end token; use deepseekr1")
    ends_at = record["output"].index(THINK_CLOSE) + len(THINK_CLOSE)
    answer_at = sum(start < ends_at for start, _ in plain["offset_mapping"])
    kept_prompt, kept = infer_seqlen(len(prompt), len(response), cutoff_len)
    parts = {"prompt": prompt[:kept_prompt], "response": response[:kept], "answer_at": min(answer_at, kept)}
    return parts | {"truncated": kept_prompt < len(prompt) or kept < len(response)}


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


def measure(subject: Subject, data: str | Path, cutoff_len: int, store: Store, limit: int | None = None) -> list[dict]:
    """Score every record by every model; finished ones are read from ``store``. Returns rows in the file's order."""
    from tqdm import tqdm

    records = read_records(data)[:limit]
    wanted = [
        (name, record, key_of(subject.identity(name), cutoff_len, record["input"], record["output"]))
        for name in subject.names
        for record in records
    ]
    missing = [entry for entry in wanted if entry[2] not in store.rows]
    if missing:
        model, tokenizer, template = subject.loaded()
        for name, record, key in tqdm(missing, desc="perplexity", unit="record"):
            with as_model(model, name):
                began = time.perf_counter()
                tokens = encode(record, tokenizer, template, cutoff_len)
                nll = response_nll(model, tokens["prompt"], tokens["response"])
            cut = tokens["answer_at"]
            row = {"key": key, "model": name, "id": record["id"], "lang": record["lang"], "line": record["line"]}
            row |= {"nll": {"reasoning": sum(nll[:cut]), "answer": sum(nll[cut:])}}
            row |= {"tokens": {"reasoning": cut, "answer": len(nll) - cut}, "truncated": tokens["truncated"]}
            store.add([row | {"seconds": round(time.perf_counter() - began, 4)}])
    place = ("id", "lang", "line")
    return [store.rows[key] | {"model": name} | {k: record[k] for k in place} for name, record, key in wanted]


def summarise(rows: list[dict], parts: tuple[str, ...] = PARTS, seed: int = 42) -> dict[str, Any]:
    """base, tuned and their paired difference (tuned - base, ppl) for the given parts of the responses."""
    result: dict[str, Any] = {}
    columns: list[list] = []  # each model's nats and tokens per record
    for name in MODELS:
        if mine := [row for row in rows if row["model"] == name]:
            nll, tokens = ([sum(row[key][part] for part in parts) for row in mine] for key in ("nll", "tokens"))
            found = bootstrap_ppl(nll, tokens, seed=seed)
            result[name] = {"ppl": found.pop("value"), **found, "tokens": sum(tokens)}
            columns += [nll, tokens]
    if len(result) == 2:
        found = bootstrap_ppl(*columns, seed=seed)
        result["difference"] = {"ppl": found.pop("value"), **found, "gain": is_gain(found["ci95"], better=-1)}
    return result


def evaluate(
    subject: Subject, data: str | Path, cutoff_len: int, out: str | Path, limit: int | None = None, seed: int = 42
) -> dict[str, Any]:
    """Write ``perplexity.json`` and ``perplexity_samples.jsonl`` into ``out``; returns what was written."""
    began = time.perf_counter()
    rows = measure(subject, data, cutoff_len, Store(Path(out) / "perplexity_samples.jsonl"), limit)

    def by_part(group: list[dict]) -> dict[str, Any]:
        return {"both": summarise(group, seed=seed)} | {part: summarise(group, (part,), seed) for part in PARTS}

    languages = {lang: [row for row in rows if row["lang"] == lang] for lang in sorted({row["lang"] for row in rows})}
    lengths = {}
    for low, high in itertools.pairwise(EDGES):
        if chosen := [row for row in rows if low <= sum(row["tokens"].values()) < high]:
            lengths[f"{low}-{high - 1}" if high < EDGES[-1] else f"{low}+"] = summarise(chosen, seed=seed)
    parts = by_part(rows)
    settings = {"data": str(data), "data_hash": file_hash(data), "cutoff_len": cutoff_len, "seed": seed, "limit": limit}
    result = parts.pop("both") | {
        "parts": parts,
        "languages": {lang: by_part(group) for lang, group in languages.items()},
        "lengths": lengths,
        "truncated": sum(row["truncated"] for row in rows if row["model"] == "base"),
        "settings": settings | {"models": {name: subject.identity(name) for name in subject.names}},
        "provenance": provenance() | {"seconds": round(time.perf_counter() - began, 1)},
    }
    write_json(Path(out) / "perplexity.json", result)
    return result
