"""The peers of scripts.prepare on the same rows: datatrove's MinHash, and word 8-grams as open-r1 decontaminates.

    python -m scripts.bench.prepare          # runs this too; see there

Each is given its best: its own workers on all cores, questions alone (no reasoning to read), and for Chinese spaces
between characters, as neither has words there. `ours` is the same work on the same file by scripts.prepare.
"""

from __future__ import annotations

import importlib.metadata  # noqa: F401 - datatrove uses it without importing it
import json
import multiprocessing
import re
import shutil
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from scripts.common import read_jsonl

HAN = re.compile("([\u3400-\u9fff])")


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


def ngram_decontamination(folder: Path, benchmarks: list[Path], workers: int, size: int = 8) -> set[int]:
    """Lines that share a run of 8 words with an item of any benchmark (open-r1's rule), by datasets.map."""
    from datasets import load_dataset

    def runs(text: str) -> set[str]:
        words = text.lower().split()
        return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}

    file, cache = str(folder / "questions.jsonl"), str(folder / "cache")
    rows = load_dataset("json", data_files=file, split="train", cache_dir=cache)
    leaked: set[int] = set()
    for path in benchmarks:
        known = set().union(*(runs(HAN.sub(r" \1 ", item["question"])) for _, item in read_jsonl(path)))
        marked = rows.map(lambda row, known=known: {"leak": not known.isdisjoint(runs(row["text"]))}, num_proc=workers)
        leaked |= {int(i) for i, leak in zip(marked["id"], marked["leak"], strict=True) if leak}
    return leaked


def _sketch_batch(texts: list[str]) -> tuple:
    from scripts.prepare import dedup, keys

    tokens = keys.tokenise(texts)
    sets = keys.features(tokens)
    return keys.text_keys(tokens), dedup.sketch(sets, 42), sets


def _search_batch(texts: list[str]) -> int:
    from scripts.prepare import keys

    tokens = keys.tokenise(texts)
    return sum(leak is not None for leak in _INDEX.search(tokens, keys.features(tokens)))


def ours(folder: Path, benchmarks: list[Path], workers: int) -> dict[str, float]:
    """Seconds of the same two jobs by scripts.prepare's functions, from the same file with as many processes."""
    global _INDEX
    import numpy as np

    from scripts.prepare import decontaminate, dedup, keys

    def batches() -> list[list[str]]:
        texts = [row["text"] for _, row in read_jsonl(folder / "questions.jsonl")]
        return [texts[i : i + 1500] for i in range(0, len(texts), 1500)]

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
    with ProcessPoolExecutor(workers, mp_context=fork) as pool:
        sum(pool.map(_search_batch, batches()))
    return {"near_duplicates": middle - begin, "leaks": time.perf_counter() - middle}


def sketching(corpus: Path, most: int = 5_000) -> dict[str, float]:
    """Seconds to sketch the same feature sets with rensa and with datasketch, 256 permutations each."""
    from datasketch import MinHash

    from scripts.prepare import dedup, keys

    sets = keys.features(keys.tokenise([str(row.get("Question", "")) for _, row in read_jsonl(corpus)][:most]))
    begin = time.perf_counter()
    dedup.sketch(sets, 42)
    middle = time.perf_counter()
    texts = [[int(h).to_bytes(8, "little") for h in sets.of(i)] for i in range(len(sets.starts) - 1)]
    after = time.perf_counter()
    MinHash.bulk(texts, num_perm=dedup.PERMUTATIONS)
    rensa, other = middle - begin, time.perf_counter() - after
    return {"questions": len(texts), "rensa_s": round(rensa, 3), "datasketch_s": round(other, 3)}


def judge(truths: list[dict], removed: set[int], family: str) -> dict:
    """Recall per language and kind, and the share of clean rows removed, of one peer."""
    figures: dict[str, dict] = {}
    for lang in ("en", "zh"):
        seen, hit = Counter(), Counter()
        for number, truth in enumerate(truths, 1):
            if truth["lang"] == lang and (truth["kind"].startswith(family) or truth["kind"] == "clean"):
                seen[truth["kind"]] += 1
                other = family == "duplicate" and truth["kind"] != "clean" and truth["of"] + 1 in removed
                hit[truth["kind"]] += number in removed or other
        figures[lang] = {kind: [hit[kind], count, round(hit[kind] / count, 4)] for kind, count in sorted(seen.items())}
    return figures


def measure(corpus: Path, work: Path, workers: int, truths: list[dict]) -> dict:
    """Seconds and quality of both peers, and how many times our own functions are faster at the same work."""
    folder, benchmarks = work / "peers", sorted((work / "benchmarks").glob("*.jsonl"))
    shutil.rmtree(folder, ignore_errors=True)
    write_questions(corpus, folder)
    own = ours(folder, benchmarks, workers)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        sketched = pool.submit(sketching, corpus).result()  # rensa's threads here would hang the next fork
    result = {"sketching": sketched, "ours_s": {name: round(seconds, 2) for name, seconds in own.items()}}
    jobs = {
        "datatrove_minhash": ("near_duplicates", "duplicate", lambda: datatrove_minhash(folder, workers)),
        "ngram_8": ("leaks", "leak", lambda: ngram_decontamination(folder, benchmarks, workers)),
    }
    for name, (job, family, run) in jobs.items():
        begin = time.perf_counter()
        removed = run()
        seconds = time.perf_counter() - begin
        result[name] = {"seconds": round(seconds, 2), "times_ours": round(seconds / own[job], 1)}
        result[name]["quality"] = judge(truths, removed, family)
        print(f"{name}: {seconds:.1f} s", file=sys.stderr)
    return result
