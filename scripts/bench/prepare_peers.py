"""The peers of scripts.prepare on the same questions: datatrove's MinHash, and word 8-grams as open-r1 decontaminates.

`scripts.bench.prepare` runs each in a process of its own. Each gets all cores, questions alone (no reasoning to read),
and for Chinese spaces between characters, as neither has words there; `ours` is the same work by our own functions.
"""

from __future__ import annotations

import importlib.metadata  # noqa: F401 - datatrove uses it without importing it
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from scripts.common import read_json, read_jsonl, run_main, write_json, write_jsonl

HAN = re.compile("([\u3400-\u9fff])")
JOBS = {"ours_duplicates": "near", "datatrove_minhash": "near", "ours_leaks": "leak", "ngram_8": "leak"}


class Split:
    """Words between spaces; datatrove's own tokenisers want spaCy or Stanza, which are slower than this."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return text.split()


def xxhash64(text: str) -> int:
    """datatrove's default hash; its own wrapper passes str, which xxhash 4 refuses."""
    import xxhash

    return xxhash.xxh64_intdigest(text.encode())


def datatrove_minhash(folder: Path, workers: int) -> set[int]:
    """Lines that datatrove's four MinHash stages remove, in their default configuration."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup import MinhashDedupSignature as Signature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    signature = Signature(str(folder / "signatures"), config=MinhashConfig(), language="zho")
    signature.word_tokenizer, signature._hash_func = Split(), xxhash64
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
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=min(tasks, workers), logging_dir=logs).run()
    return {int(row["id"]) for file in (folder / "removed").glob("*.jsonl") for _, row in read_jsonl(file)}


def ngram_8(folder: Path, workers: int) -> set[int]:
    """Lines that share a run of 8 words with an item. Source: huggingface/open-r1, scripts/decontaminate.py.

    For each benchmark a dictionary of runs and one datasets.map that marks the rows, then one datasets.filter.
    """
    from datasets import load_dataset

    def runs(text: str) -> set[str]:
        words = text.lower().split()
        return {" ".join(words[i : i + 8]) for i in range(len(words) - 7)}

    rows = load_dataset("json", data_files=str(folder / "questions.jsonl"), split="train", cache_dir=folder / "cache")
    everything, files = set(rows["id"]), sorted((folder.parent / "benchmarks").glob("*.jsonl"))
    for number, path in enumerate(files):
        lookup = {run for _, item in read_jsonl(path) for run in runs(HAN.sub(r" \1 ", item["question"]))}

        def find(row: dict, mark: str = f"leak_{number}", lookup: set = lookup) -> dict:
            return row | {mark: not runs(row["text"]).isdisjoint(lookup)}

        rows = rows.map(find, num_proc=workers)
    for number in range(len(files)):
        rows = rows.filter(lambda row, mark=f"leak_{number}": not row[mark], num_proc=workers)
    return {int(line) for line in everything - set(rows["id"])}


def _sketch(row: dict) -> SimpleNamespace:
    from scripts.prepare import dedup
    from scripts.prepare.text import is_han, tokens

    parts = tokens(row["text"])
    lang = "zh" if any(map(is_han, parts)) else "en"
    return SimpleNamespace(key=" ".join(parts), lang=lang, quality=(0, 0), sketches=dedup.sketch(parts, 42))


def ours_duplicates(folder: Path, workers: int) -> set[int]:
    """Lines that our own near-duplicates leave out."""
    from scripts.prepare import dedup

    rows = [row for _, row in read_jsonl(folder / "questions.jsonl")]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        records = list(pool.map(_sketch, rows, chunksize=256))
    return {place + 1 for place in dedup.find(records, 0.5).matched}


def _leaks(row: dict) -> bool:
    return _INDEX.in_question(row["text"]) is not None


def ours_leaks(folder: Path, workers: int) -> set[int]:
    """Lines that our own search for leaks leaves out."""
    global _INDEX
    from scripts.prepare.items import read_items
    from scripts.prepare.leaks import Index

    files = sorted((folder.parent / "benchmarks").glob("*.jsonl"))
    _INDEX = Index([item for path in files for item in read_items(path)])
    rows = [row for _, row in read_jsonl(folder / "questions.jsonl")]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        return {line for line, leak in enumerate(pool.map(_leaks, rows, chunksize=256), 1) if leak}


def outcomes(truths: list[dict], removed: set[int], family: str) -> Iterator[tuple[str, str, bool]]:
    """(language, kind, removed) of each planted row of a family, and of the clean ones."""
    copied = {truth["of"] + 1 for truth in truths if truth["kind"] != "clean"}
    for number, truth in enumerate(truths, 1):
        if truth["kind"].startswith(family):
            either = family == "near" and truth["of"] + 1 in removed
            yield truth["lang"], truth["kind"], number in removed or either
        elif truth["kind"] == "clean" and number not in copied:
            yield truth["lang"], "clean", number in removed


def measure(work: Path, truths: list[dict]) -> dict:
    """Seconds, peak memory (MiB) and what was removed, for each job on ``work``/corpus.jsonl."""
    from scripts.bench.prepare import measured, tally

    folder = work / "peers"
    folder.mkdir()
    rows = ((HAN.sub(r" \1 ", str(row["Question"])), str(number)) for number, row in read_jsonl(work / "corpus.jsonl"))
    write_jsonl(folder / "questions.jsonl", ({"text": text, "id": number} for text, number in rows))
    result: dict[str, dict] = {}
    for job, family in JOBS.items():
        command = [sys.executable, "-m", "scripts.bench.prepare_peers", job, str(folder)]
        peak = measured(command, work / f"{job}.log")["peak_mib"]
        found = read_json(folder / f"{job}.json")
        removed = tally(outcomes(truths, set(found["removed"]), family))
        result[job] = {"seconds": found["seconds"], "peak_mib": peak, "removed": removed}
    return result


def main() -> None:
    """Run one job, as measure() starts it: JOB FOLDER."""
    job, folder, begin = sys.argv[1], Path(sys.argv[2]), time.perf_counter()
    removed = globals()[job](folder, len(os.sched_getaffinity(0)))
    seconds = round(time.perf_counter() - begin, 2)
    write_json(folder / f"{job}.json", {"seconds": seconds, "removed": sorted(removed)})


if __name__ == "__main__":  # datatrove starts processes that import this module again
    multiprocessing.freeze_support()
    run_main(main)
