"""The peers of scripts.prepare on the same rows: datatrove's MinHash, and word 8-grams as open-r1 decontaminates.

    python -m scripts.bench.prepare          # runs each of them in a process of its own; see there

Each is given its best: its own workers on all cores, questions alone (no reasoning to read), and for Chinese spaces
between characters, as neither has words there. `ours` is the same work on the same file by scripts.prepare. 8-grams
come twice: over one benchmark after the other, as open-r1 reads them, and over all benchmarks merged into one set.
"""

from __future__ import annotations

import argparse
import importlib.metadata  # noqa: F401 - datatrove uses it without importing it
import itertools
import json
import multiprocessing
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import orjson

from scripts.common import read_json, read_jsonl, run_main, write_json

HAN = re.compile("([\u3400-\u9fff])")
PEERS = {"datatrove_minhash": "near_duplicates", "ngram_8": "leaks", "ngram_8_merged": "leaks"}  # our step for each


class Split:
    """Words between spaces; datatrove's own tokenisers want spaCy or Stanza, which are slower than this."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        return text.split()


def xxhash64(text: str) -> int:
    """datatrove's default hash; its own wrapper passes str, which xxhash 4 refuses."""
    import xxhash

    return xxhash.xxh64_intdigest(text.encode())


def write_questions(corpus: Path, folder: Path) -> None:
    """Questions of a corpus as {"text", "id"}, Chinese characters set apart by spaces."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
        for number, row in read_jsonl(corpus):
            text = HAN.sub(r" \1 ", str(row.get("Question", "")))
            file.write(json.dumps({"text": text, "id": str(number)}, ensure_ascii=False) + "\n")


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
    buckets = config.num_buckets
    stages = [
        ([reader, signature], 1),
        ([MinhashDedupBuckets(at("signatures"), at("buckets"), config=config)], buckets),
        ([MinhashDedupCluster(at("buckets"), at("remove"), config=config)], 1),
        ([reader, MinhashDedupFilter(at("remove"), JsonlWriter(at("removed"), compression=None))], 1),
    ]
    for number, (pipeline, tasks) in enumerate(stages):
        logs = at(f"logs{number}")
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=min(tasks, workers), logging_dir=logs).run()
    return {int(row["id"]) for file in (folder / "removed").glob("*.jsonl") for _, row in read_jsonl(file)}


def ngram_decontamination(folder: Path, benchmarks: list[list[Path]], workers: int, size: int = 8) -> set[int]:
    """Lines that share a run of ``size`` words with an item, found and removed as open-r1's script does it.

    For each list of benchmarks a dictionary from run to items and one datasets.map that marks the rows; then one
    datasets.filter for each. Source: huggingface/open-r1, scripts/decontaminate.py, with its --cleanup.
    """
    from datasets import load_dataset

    def runs(text: str) -> set[str]:
        words = text.lower().split()
        return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}

    rows = load_dataset("json", data_files=str(folder / "questions.jsonl"), split="train", cache_dir=folder / "cache")
    everything, marks = set(rows["id"]), [f"leak_{number}" for number in range(len(benchmarks))]
    for mark, paths in zip(marks, benchmarks, strict=True):
        lookup: dict[str, set[int]] = {}
        for number, item in enumerate(item for path in paths for _, item in read_jsonl(path)):
            for run in runs(HAN.sub(r" \1 ", item["question"])):
                lookup.setdefault(run, set()).add(number)

        def find(row: dict, mark: str = mark, lookup: dict = lookup) -> dict:
            return row | {mark: any(run in lookup for run in runs(row["text"]))}

        rows = rows.map(find, num_proc=workers)
    for mark in marks:
        rows = rows.filter(lambda row, mark=mark: not row[mark], num_proc=workers)
    return {int(line) for line in everything - set(rows["id"])}


def _sketch_batch(lines: list[bytes]) -> tuple:
    from scripts.prepare import dedup, keys

    tokens = keys.tokenise([orjson.loads(line)["text"] for line in lines])
    sets = keys.features(tokens)
    return keys.text_keys(tokens), dedup.sketch(sets, 42), sets


def _search_batch(lines: list[bytes]) -> list[bytes]:
    from scripts.prepare import keys

    tokens = keys.tokenise([orjson.loads(line)["text"] for line in lines])
    leaks = _INDEX.search(tokens, keys.features(tokens))
    return [line for line, leak in zip(lines, leaks, strict=True) if leak is None]


def ours(folder: Path, benchmarks: list[Path], workers: int) -> dict[str, float]:
    """Seconds of the same two jobs by scripts.prepare's functions, from the same file with as many processes."""
    global _INDEX
    import numpy as np

    from scripts.prepare import decontaminate, dedup, keys

    def batches() -> Iterator[list[bytes]]:  # lines, read by the workers as scripts.prepare's own are
        with (folder / "questions.jsonl").open("rb") as file:
            while lines := list(itertools.islice(file, 1500)):
                yield lines

    fork, begin = multiprocessing.get_context("fork"), time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=fork) as pool:
        parts = list(pool.map(_sketch_batch, batches()))
    own, sketches, sets = zip(*parts, strict=True)
    starts = np.concatenate(([0], np.cumsum(np.concatenate([np.diff(part.starts) for part in sets]))))
    features = keys.Tokens(np.concatenate([part.hashes for part in sets]), np.zeros(0, bool), starts)
    count = len(starts) - 1
    plain = np.zeros(count, np.int64), np.zeros(count, bool)
    dedup.deduplicate(np.concatenate(own), np.concatenate(sketches), features, *plain, 0.5)
    middle = time.perf_counter()
    _INDEX = decontaminate.BenchmarkIndex(decontaminate.read_items(benchmarks))
    with ProcessPoolExecutor(workers, mp_context=fork) as pool, (folder / "clean.jsonl").open("wb") as file:
        for lines in pool.map(_search_batch, batches()):
            file.writelines(lines)
    return {"near_duplicates": round(middle - begin, 2), "leaks": round(time.perf_counter() - middle, 2)}


def sketching(folder: Path, most: int = 5_000) -> dict[str, float]:
    """Seconds to sketch the same feature sets with rensa and with datasketch, 256 permutations each."""
    from datasketch import MinHash

    from scripts.prepare import dedup, keys

    sets = keys.features(keys.tokenise([row["text"] for _, row in read_jsonl(folder / "questions.jsonl")][:most]))
    begin = time.perf_counter()
    dedup.sketch(sets, 42)
    middle = time.perf_counter()
    texts = [[int(h).to_bytes(8, "little") for h in sets.of(i)] for i in range(len(sets.starts) - 1)]
    after = time.perf_counter()
    MinHash.bulk(texts, num_perm=dedup.PERMUTATIONS)
    rensa, other = middle - begin, time.perf_counter() - after
    return {"questions": len(texts), "rensa_s": round(rensa, 3), "datasketch_s": round(other, 3)}


def run_job(job: str, folder: Path, workers: int) -> None:
    """Run one peer, ours or the sketching, and write its seconds and the lines it removes to ``folder``/JOB.json."""
    benchmarks, begin = sorted((folder.parent / "benchmarks").glob("*.jsonl")), time.perf_counter()
    if job == "ours":
        return write_json(folder / f"{job}.json", ours(folder, benchmarks, workers))
    if job == "sketching":
        return write_json(folder / f"{job}.json", sketching(folder))
    if job == "datatrove_minhash":
        removed = datatrove_minhash(folder, workers)
    else:
        lists = [benchmarks] if job == "ngram_8_merged" else [[path] for path in benchmarks]
        removed = ngram_decontamination(folder, lists, workers)
    result = {"seconds": round(time.perf_counter() - begin, 2), "removed": sorted(removed)}
    return write_json(folder / f"{job}.json", result)


def judge(truths: list[dict], removed: set[int], family: str) -> dict:
    """A peer's recall per language and kind, the share of clean rows that it removes, and its precision."""
    figures: dict[str, dict] = {}
    copied = {truth["of"] + 1 for truth in truths if truth["kind"].startswith("duplicate")}
    for lang in ("en", "zh"):
        seen, hit = Counter(), Counter()
        for number, truth in enumerate(truths, 1):
            pair = family == "duplicate" and (truth["kind"] != "clean" or number in copied)  # one of the two must go
            if truth["lang"] != lang or not (
                truth["kind"].startswith(family) or (truth["kind"] == "clean" and not pair)
            ):
                continue
            seen[truth["kind"]] += 1
            hit[truth["kind"]] += number in removed or (pair and truth["of"] + 1 in removed)
        figures[lang] = {kind: [hit[kind], count, round(hit[kind] / count, 4)] for kind, count in sorted(seen.items())}
        figures[lang]["precision"] = round(1 - hit["clean"] / max(1, hit.total()), 4)
    return figures


def measure(corpus: Path, work: Path, workers: int, truths: list[dict]) -> dict:
    """Seconds, peak memory (MiB) and quality of each peer, and how many times our own functions are faster."""
    from scripts.bench.prepare import measured

    folder = work / "peers"
    shutil.rmtree(folder, ignore_errors=True)
    write_questions(corpus, folder)
    result: dict[str, dict] = {}
    for job in ("sketching", "ours", *PEERS):
        command = [sys.executable, "-m", "scripts.bench.prepare_peers", job, str(folder), str(workers)]
        peak = measured(command, work / f"{job}.log")["peak_mib"]
        result[job] = read_json(folder / f"{job}.json") | {"peak_mib": peak}
        if job in PEERS:
            own, removed = result["ours"][PEERS[job]], set(result[job].pop("removed"))
            result[job] |= {"times_ours": round(result[job]["seconds"] / own, 1)}
            result[job]["records_per_s"] = round(len(truths) / result[job]["seconds"])
            result[job]["quality"] = judge(truths, removed, "duplicate" if "hash" in job else "leak")
    return result


def main() -> None:
    """Run one job, as measure() starts it."""
    parser = argparse.ArgumentParser("python -m scripts.bench.prepare_peers", description=__doc__)
    parser.add_argument("job", choices=("sketching", "ours", *PEERS))
    parser.add_argument("folder", type=Path, help="with questions.jsonl; benchmarks/ stands beside it")
    parser.add_argument("workers", type=int)
    run_job(**vars(parser.parse_args()))


if __name__ == "__main__":  # datatrove starts processes that import this module again
    multiprocessing.freeze_support()
    run_main(main)
