"""The peers of scripts.prepare on the same questions: datatrove's MinHash, and the word 8-grams of open-r1.

`scripts.bench.prepare` runs each in a process of its own. Each gets questions alone (no reasoning to read), and for
Chinese spaces between characters, as neither has words there. `ours_duplicates` is datatrove's work by our functions.
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
WORKERS = len(os.sched_getaffinity(0))
JOBS = {"ours_duplicates": "near", "datatrove_minhash": "near", "ngram_8": "leak"}


class Split:
    """Words between spaces; datatrove's own tokenisers want spaCy or Stanza, which are slower than this."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return text.split()


def xxhash64(text: str) -> int:
    """datatrove's default hash; its own wrapper passes str, which xxhash 4 refuses."""
    import xxhash

    return xxhash.xxh64_intdigest(text.encode())


def datatrove_minhash(folder: Path) -> set[int]:
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
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=min(tasks, WORKERS), logging_dir=logs).run()
    return {int(row["id"]) for file in (folder / "removed").glob("*.jsonl") for _, row in read_jsonl(file)}


def runs_of_8(text: str) -> set[tuple[str, ...]]:
    """Every run of 8 words of a text."""
    words = text.lower().split()
    return set(zip(*(words[start:] for start in range(8)), strict=False))


def ngram_8(folder: Path) -> set[int]:
    """Lines that share a run of 8 words with an item: the rule of huggingface/open-r1, scripts/decontaminate.py."""
    known: set[tuple[str, ...]] = set()
    for path in sorted((folder.parent / "benchmarks").glob("*.jsonl")):
        known.update(*(runs_of_8(HAN.sub(r" \1 ", item["question"])) for _, item in read_jsonl(path)))
    return {
        line for line, row in read_jsonl(folder / "questions.jsonl") if not runs_of_8(row["text"]).isdisjoint(known)
    }


def _sketch(row: dict) -> SimpleNamespace:
    from scripts.prepare import dedup
    from scripts.prepare.text import is_han, tokens

    parts = tokens(row["text"])
    lang = "zh" if any(map(is_han, parts)) else "en"
    return SimpleNamespace(key=" ".join(parts), lang=lang, quality=(0, 0), sketches=dedup.sketch(parts, 42))


def ours_duplicates(folder: Path) -> set[int]:
    """Lines that our own near-duplicates leave out."""
    from scripts.prepare import dedup

    rows = [row for _, row in read_jsonl(folder / "questions.jsonl")]
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as pool:
        records = list(pool.map(_sketch, rows, chunksize=256))
    return {place + 1 for place in dedup.find(records, 0.5).matched}


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
    removed = globals()[job](folder)
    seconds = round(time.perf_counter() - begin, 2)
    write_json(folder / f"{job}.json", {"seconds": seconds, "removed": sorted(removed)})


if __name__ == "__main__":  # datatrove starts processes that import this module again
    multiprocessing.freeze_support()
    run_main(main)
