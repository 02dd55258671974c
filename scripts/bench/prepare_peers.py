"""Near-duplicates by datatrove's MinHash, and by our own functions, on the same questions in the same run.

`scripts.bench.prepare` runs each in a process of its own. Each gets questions alone (no reasoning to read), and for
Chinese spaces between characters, as datatrove has no words there.
"""

from __future__ import annotations

import importlib.metadata  # noqa: F401 - datatrove uses it without importing it
import multiprocessing
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from scripts.common import read_json, read_jsonl, write_json, write_jsonl

HAN = re.compile("([\u3400-\u9fff])")
WORKERS = len(os.sched_getaffinity(0))


def datatrove_minhash(folder: Path) -> set[int]:
    """Lines that datatrove's four MinHash stages remove, in their default configuration."""
    import xxhash
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup import MinhashDedupSignature as Signature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    signature = Signature(str(folder / "signatures"), config=MinhashConfig(), language="zho")
    # Words between spaces: datatrove's own tokenisers want spaCy or Stanza, which are slower than this. And its default
    # hash in bytes: its own wrapper passes str, which xxhash 4 refuses.
    signature.word_tokenizer = SimpleNamespace(word_tokenize=str.split)
    signature._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())
    config, at = signature.config, lambda name: str(folder / name)
    reader = JsonlReader(str(folder), glob_pattern="questions.jsonl")
    stages = [
        ([reader, signature], 1),
        ([MinhashDedupBuckets(at("signatures"), at("buckets"), config=config)], config.num_buckets),
        ([MinhashDedupCluster(at("buckets"), at("remove"), config=config)], 1),
        ([reader, MinhashDedupFilter(at("remove"), JsonlWriter(at("removed"), compression=None))], 1),
    ]
    for number, (pipeline, tasks) in enumerate(stages):
        logs = at(f"logs{number}")
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=min(tasks, WORKERS), logging_dir=logs).run()
    return {int(row["id"]) for file in (folder / "removed").glob("*.jsonl") for _, row in read_jsonl(file)}


def _sketch(row: dict) -> SimpleNamespace:
    from scripts.prepare import dedup
    from scripts.prepare.text import is_han, tokens

    parts = tokens(row["text"])
    lang = "zh" if any(map(is_han, parts)) else "en"
    return SimpleNamespace(key=" ".join(parts), lang=lang, quality=(0, 0), bands=dedup.sketch(parts, 42))


def ours_duplicates(folder: Path) -> set[int]:
    """Lines that our own near-duplicates leave out."""
    from scripts.prepare import dedup

    rows = [row for _, row in read_jsonl(folder / "questions.jsonl")]
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as pool:
        records = list(pool.map(_sketch, rows, chunksize=256))
    return {place + 1 for place in dedup.find(records, 0.5)[0]}


def run(job: str, folder: str) -> None:
    """Time one job and note the lines that it removes, as ``measure`` starts it."""
    begin = time.perf_counter()
    removed = {"ours_duplicates": ours_duplicates, "datatrove_minhash": datatrove_minhash}[job](Path(folder))
    write_json(Path(folder) / f"{job}.json", {"seconds": time.perf_counter() - begin, "removed": sorted(removed)})


def measure(work: Path, truths: list[dict]) -> dict:
    """Seconds of each job on ``work``/corpus.jsonl, and how many near-duplicates of how many it found, by language."""
    from scripts.bench.prepare import measured, tally

    folder = work / "peers"
    folder.mkdir()
    rows = ((HAN.sub(r" \1 ", row["Question"]), str(number)) for number, row in read_jsonl(work / "corpus.jsonl"))
    write_jsonl(folder / "questions.jsonl", ({"text": text, "id": number} for text, number in rows))
    near = [(n, truth) for n, truth in enumerate(truths, 1) if truth["kind"].startswith("near")]
    result: dict[str, dict] = {}
    for job in ("ours_duplicates", "datatrove_minhash"):
        code = f"from scripts.bench.prepare_peers import run; run({job!r}, {str(folder)!r})"
        measured([sys.executable, "-c", code], work / f"{job}.log")
        found = read_json(folder / f"{job}.json")
        removed = set(found["removed"])
        hits = [(truth["lang"], truth["kind"], bool({n, truth["of"] + 1} & removed)) for n, truth in near]
        result[job] = {"seconds": round(found["seconds"], 2), "found": tally(hits)}
    return result
