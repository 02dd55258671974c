"""Preparing, measured: corpora from real text with planted dirt, and the peers on the same rows in the same run.

    python -m scripts.bench.prepare                              # 10^3 and 10^4 records, a few minutes
    python -m scripts.bench.prepare --sizes 10000 100000 --json docs/figures/prepare.json

Real text is in the folder --text where there is one, else data/sample.jsonl; questions are put together from real
sentences. Prints, per size: recall and precision on what was planted, the floor (reading and tokenising once), seconds
of all steps together, peak memory of all processes, and the same for datatrove's MinHash and open-r1's 8-grams.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.common import ROOT, UserError, git_commit, machine, read_jsonl, run_main, write_json, write_jsonl

SENTENCES = {"en": re.compile(r"(?<=[.?!])\s+"), "zh": re.compile(r"(?<=[。？！，；,?!])\s*")}
REFUSED = {"en": "I'm sorry, but I can't help with that.", "zh": "抱歉，我无法提供医疗建议。"}
CUT = {"en": " and the", "zh": "，因为"}


def looping(text: str) -> str:
    """A text that falls into a loop."""
    return text[:200] + (text[:60] + "。. ") * 30


def endless(text: str) -> str:
    """Far more text than a record may have, without a loop."""
    return "".join(random.Random(number).choice(text) for number in range(20_000)) + "."


# Every kind of dirt: what it does to a clean row; its name is the reason that must be given.
DIRT: dict[str, Callable[[dict], dict]] = {
    "no_reasoning": lambda r: r | {"Complex_CoT": " "},
    "no_answer": lambda r: {k: v for k, v in r.items() if k != "Response"},
    "not_text": lambda r: r | {"Question": 7},
    "special_token": lambda r: r | {"Response": r["Response"] + " <｜User｜>" + r["Question"]},
    "think_tag": lambda r: r | {"Complex_CoT": "So </think> " + r["Complex_CoT"]},
    "reasoning_is_answer": lambda r: r | {"Response": r["Complex_CoT"]},
    "looping_reasoning": lambda r: r | {"Complex_CoT": looping(r["Complex_CoT"])},
    "cut_off_reasoning": lambda r: r | {"Complex_CoT": r["Complex_CoT"].rstrip(".。!！?？") + CUT[r["lang"]]},
    "wrong_language": lambda r: r | {"lang": {"en": "zh", "zh": "en"}[r["lang"]]},
    "refusal": lambda r: r | {"Response": REFUSED[r["lang"]]},
    "too_long": lambda r: r | {"Complex_CoT": endless(r["Complex_CoT"])},
}
REPAIRED: tuple[Callable[[str], str], ...] = (
    lambda text: f"<p>{text}</p>&nbsp;",
    lambda text: text.replace(" ", "\u00a0 ") + "\r\n",
    lambda text: "\ufeff" + text,
)


def sentences(items: list[dict], text: Path) -> dict[str, dict[str, list[str]]]:
    """Pools of real sentences: by language, for questions ("ask") and for reasoning ("think")."""
    pools: dict[str, dict[str, list[str]]] = {lang: {"ask": [], "think": []} for lang in ("en", "zh")}

    def add(lang: str, use: str, words: str) -> None:
        low, high = (30, 200) if lang == "en" else (6, 40)
        pools[lang][use] += [s.strip() for s in SENTENCES[lang].split(words) if low < len(s.strip()) < high]

    for item in items:
        add(item["lang"], "ask", item["question"])
    if (text / "data").is_dir():
        for row in json.loads((text / "data/raw/medical_o1_demo_en.json").read_text("utf-8")):
            add("en", "ask", row["Question"])
            add("en", "think", f"{row['Complex_CoT']} {row['Response']}")
        for row in json.loads((text / "data/raw/cmedqa2_zh.json").read_text("utf-8")):
            add("zh", "ask", row["input"])
            add("zh", "think", row["output"])
    else:
        for line in (ROOT / "data/sample.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            if not isinstance(row, dict):
                continue  # planted for the cleaning
            lang = "en" if row["Question"].isascii() else row.get("lang", "zh")
            add(lang, "ask", row["Question"])
            add(lang, "think", f"{row['Complex_CoT']} {row['Response']}")
    return {lang: {use: sorted(set(pool)) for use, pool in uses.items()} for lang, uses in pools.items()}


def benchmark_items(folder: Path, text: Path) -> tuple[list[dict], list[dict]]:
    """Half of the real benchmark items (stems of six characters and more) to leak, other text for clean questions."""
    from scripts.prepare.benchmarks import convert
    from scripts.prepare.items import read_items

    if (text / "data").is_dir():
        files = [*sorted((text / "data/eval").glob("*.jsonl")), *sorted((text / "data/eval_zh").glob("*.json"))]
    else:
        files = sorted((ROOT / "data/benchmarks").glob("medcot_*.jsonl"))
    leaked, free = [], []
    for file in files:
        name = {"mmlu": "mmlu_medical", "mmlu-pro": "mmlu_pro_health"}.get(file.stem, file.stem)
        array = file.suffix == ".json"
        rows = json.loads(file.read_text("utf-8")) if array else [row for _, row in read_jsonl(file)]
        items = read_items(file) if name.startswith("medcot") else convert(name, rows, file.name)[0]
        if file.stem in ("pubmedqa", "medqa"):  # abstracts and vignettes, their last sentence (the question) left out
            spare = items if file.stem == "pubmedqa" else items[1::2]
            free += [item | {"question": "\n".join(SENTENCES["en"].split(item["question"])[:-1])} for item in spare]
        if file.stem != "pubmedqa":
            chosen = [item for item in items[::2] if len(item["question"]) >= 6]
            write_jsonl(folder / f"{file.stem}.jsonl", (item | {"id": str(n)} for n, item in enumerate(chosen)))
            leaked += chosen
    return leaked, free


def edit(text: str, lang: str, share: float, rng: random.Random, pool: list[str]) -> str:
    """Replace, drop or insert ``share`` of the words (en) or characters (zh), at places drawn at random."""
    parts, glue = (text.split(), " ") if lang == "en" else (list(text), "")
    other = rng.choice(pool)
    spare = other.split() if lang == "en" else list(other)
    for place in sorted(rng.sample(range(len(parts)), round(share * len(parts))), reverse=True):
        parts[place : place + 1] = rng.choice(([rng.choice(spare)], [], [parts[place], rng.choice(spare)]))
    return glue.join(parts)


def reorder(text: str, lang: str, rng: random.Random) -> str:
    """The same sentences in another order."""
    parts = SENTENCES[lang].split(text)
    rng.shuffle(parts)
    return (" " if lang == "en" else "").join(parts)


def folded(item: dict, rng: random.Random) -> str:
    """A benchmark item with its options written into the question."""
    mark = rng.choice((". ", ") ", "、"))
    return item["question"] + "\n" + "\n".join(f"{letter}{mark}{text}" for letter, text in item["options"].items())


def disguised(text: str, lang: str, traditional: Callable[[str], str]) -> str:
    """Full-width for half-width (en), traditional for simplified (zh)."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text) if lang == "en" else traditional(text)


def corpus(size: int, seed: int, items: list[dict], pools: dict, reasoning: float = 1) -> Iterator[tuple[dict, dict]]:
    """``size`` raw rows with their truth ``{"kind", "lang", "of"}``; ``of``: the original's number.

    ``reasoning`` scales the length of the reasoning (1: about 25 sentences)."""
    import opencc

    rng, traditional = random.Random(seed), opencc.OpenCC("s2t").convert
    by_lang = {lang: [item for item in items if item["lang"] == lang] for lang in ("en", "zh")}
    clean: list[tuple[int, dict]] = []
    for number in range(size):
        lang = rng.choice(("en", "zh"))
        ask, think = pools[lang]["ask"], pools[lang]["think"]
        glue, (low, high) = (" ", (4, 6)) if lang == "en" else ("", (6, 10))
        draw = lambda pool, count, glue=glue: glue.join(rng.choices(pool, k=count))  # noqa: E731
        count = max(4, round(reasoning * (rng.randint(14, 28) if lang == "en" else rng.randint(30, 70))))
        thought = draw(think, count).rstrip("，,；; ")
        row = {"Question": draw(ask, rng.randint(low, high)), "Complex_CoT": thought + ("." if lang == "en" else "。")}
        row |= {"Response": draw(think, 4).rstrip("，,；; ") + ("." if lang == "en" else "。"), "lang": lang}
        truth, fate = {"kind": "clean", "lang": lang, "of": number}, rng.random()
        if fate < 0.07 and (own := [pair for pair in clean[-400:] if pair[1]["lang"] == lang]):
            truth["of"], original = rng.choice(own)
            question = original["Question"]
            if fate < 0.02:
                truth["kind"] = "duplicate_exact"
            elif fate < 0.055:
                truth["kind"], question = "duplicate_near", edit(question, lang, rng.uniform(0.05, 0.2), rng, ask)
            else:
                truth["kind"], question = "duplicate_near", reorder(edit(question, lang, 0.05, rng, ask), lang, rng)
            row["Question"] = question
        elif fate < 0.10:
            item = rng.choice(by_lang[lang])
            kind = rng.choice(("leak_verbatim", "leak_edited", "leak_folded", "leak_disguised"))
            text = folded(item, rng) if kind == "leak_folded" else item["question"]
            text = edit(text, lang, rng.uniform(0.02, 0.1), rng, ask) if kind == "leak_edited" else text
            row["Question"] = disguised(text, lang, traditional) if kind == "leak_disguised" else text
            truth["kind"], truth["length"] = kind, len(item["question"].split() if lang == "en" else item["question"])
        elif fate < 0.13:
            truth["kind"] = rng.choice(list(DIRT))
            row = DIRT[truth["kind"]](row)
        elif fate < 0.15:
            row["Question"] = rng.choice(REPAIRED)(row["Question"])
        else:
            clean.append((number, row))
        yield row, truth


def write_corpus(path: Path, size: int, seed: int, items: list[dict], pools: dict, reasoning: float) -> list[dict]:
    """Write the rows as JSON lines; their truth, line by line."""
    truths = []
    with path.open("w", encoding="utf-8") as file:
        for row, truth in corpus(size, seed, items, pools, reasoning):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            truths.append(truth)
    return truths


def measured(command: list[str], log: Path) -> dict[str, float]:
    """Run a command: its wall and processor seconds, and the peak resident memory of all its processes in MiB.

    Compiled modules are cached beside ``log``, as on a user's machine: the first size measured pays for that."""
    import psutil

    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(log.parent / "compiled")
    begin, before, peak = time.perf_counter(), os.times(), 0
    with log.open("w") as file:
        process = psutil.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=file)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, sum(p.memory_info().rss for p in (process, *process.children(recursive=True))))
            time.sleep(0.1)
    if process.returncode:
        raise UserError(f"{' '.join(command)}: exit status {process.returncode}: {log.read_text()[-2000:]}")
    wall, after = time.perf_counter() - begin, os.times()
    cpu = sum(after[i] - before[i] for i in (2, 3))  # of ended children, theirs included
    return {"seconds": round(wall, 2), "cpu_s": round(cpu, 2), "peak_mib": round(peak / 2**20)}


def floor(path: str, tokenizer: str) -> None:
    """Read every row and tokenise its text once, with the library's own threads; prints the tokens."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # scripts.prepare, once imported, has switched it off for children
    from itertools import islice

    import orjson
    from tokenizers import Tokenizer

    engine, tokens = Tokenizer.from_file(tokenizer), 0
    with open(path, "rb") as file:
        while lines := list(islice(file, 2000)):
            rows = map(orjson.loads, lines)
            texts = [str(r.get(k, "")) for r in rows for k in ("Question", "Complex_CoT", "Response")]
            tokens += sum(map(len, engine.encode_batch_fast(texts, add_special_tokens=False)))
    print(tokens)


def quality(truths: list[dict], rejected: dict[int, dict], kept_line: dict[str, int]) -> dict:
    """Recall and precision per language, from the truth and our rejected rows (by line)."""
    figures: dict[str, dict] = {}
    for lang in ("en", "zh"):
        seen, hit, named, right, alarms, leaks = Counter(), Counter(), 0, 0, Counter(), 0
        for number, truth in enumerate(truths):
            row = rejected.get(number + 1)
            reason = row["reason"] if row else ""
            own = truth["lang"] == lang
            if reason == "duplicate_near":
                other = truths[kept_line.get(row["matched"], 1) - 1]
                named += own
                right += own and other["of"] == truth["of"]
            if not own:
                continue
            kind = truth["kind"]
            seen[kind] += 1
            family = kind.split("_")[0]
            leaks += family == "leak" and reason.startswith("leak")
            found = reason.startswith(family) if family in ("leak", "duplicate") else reason == kind
            if family == "duplicate" and not found:  # its original may have gone instead: one of the two must go
                found = rejected.get(truth["of"] + 1, {}).get("reason", "").startswith("duplicate")
            hit[kind] += found
            alarms["leak"] += kind in ("clean", "duplicate_near", "duplicate_exact") and reason.startswith("leak")
            alarms["filter"] += kind == "clean" and bool(reason) and not reason.startswith(("leak", "duplicate"))
        base = seen["clean"] + seen["duplicate_near"] + seen["duplicate_exact"]
        figures[lang] = {
            "recall": {k: [hit[k], n, round(hit[k] / n, 4)] for k, n in sorted(seen.items()) if k != "clean"}
        }
        flagged = leaks + alarms["leak"]
        figures[lang] |= {"near_precision": [right, named, round(right / max(1, named), 4)]}
        figures[lang] |= {"leak_precision": [leaks, flagged, round(leaks / max(1, flagged), 4)]}
        figures[lang] |= {"false_alarms": {k: [v, base, round(v / max(1, base), 5)] for k, v in alarms.items()}}
    return figures


def ours(path: Path, work: Path, tokenizer: str, processes: int, truths: list[dict]) -> dict:
    """Run scripts.prepare as a user would, and judge its outputs."""
    out, benchmarks = work / "out", sorted((work / "benchmarks").glob("*.jsonl"))
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "scripts.prepare", str(path), "--out", str(out), "--name", "bench"]
    command += ["--benchmarks", *map(str, benchmarks), "--tokenizer", tokenizer, "--num-proc", str(processes)]
    figures = measured(command, work / "ours.log")
    rejected = {row["line"]: row for _, row in read_jsonl(out / "rejected.jsonl")}
    kept = {}
    for split in ("train", "val", "test"):
        kept |= {row["id"]: row["line"] for _, row in read_jsonl(out / f"bench_{split}.jsonl")}
    return figures | {"quality": quality(truths, rejected, kept)}


def measure(size: int, args: argparse.Namespace) -> dict:
    """Everything for one size, in one run."""
    items, free = benchmark_items(args.work / "benchmarks", args.text)
    path = args.work / f"corpus_{size}.jsonl"
    truths = write_corpus(path, size, args.seed, items, sentences(free, args.text), args.reasoning)
    command = [sys.executable, "-m", "scripts.bench.prepare", "--floor", str(path), "--tokenizer", args.tokenizer]
    base = measured(command, args.work / "floor.log")
    own = ours(path, args.work, args.tokenizer, args.num_proc, truths)
    result = {"records": size, "corpus_mib": path.stat().st_size >> 20, "floor": base} | own
    result["times_floor"] = {key: round(own[key] / base[key], 2) for key in ("seconds", "cpu_s")}
    result["ms_per_record"] = {key: round(1000 * own[key] / size, 4) for key in ("seconds", "cpu_s")}
    result["records_per_s"] = round(size / own["seconds"])
    if not args.no_peers:
        from scripts.bench import prepare_peers

        result["peers"] = prepare_peers.measure(path, args.work, args.num_proc, truths)
    path.unlink()
    return result


def main() -> None:
    """Measure every size asked for, print and write the figures."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m scripts.bench.prepare", description=__doc__, formatter_class=layout)
    add, cores = parser.add_argument, len(os.sched_getaffinity(0))
    add("--sizes", nargs="+", type=int, default=[1_000, 10_000], help="records (default: 1000 10000)")
    add("--text", type=Path, default=ROOT.parent / "shared", help="folder of real text (default: ../shared)")
    add("--tokenizer", help="folder with tokenizer.json (default: tokenizer/deepseek-r1-distill-qwen in --text)")
    add("--work", type=Path, default=Path("/tmp/medcot-bench-prepare"), help="folder for corpora")
    add("--num-proc", type=int, default=cores, help="worker processes")
    add("--reasoning", type=float, default=1, help="length of the reasoning (default: 1, real length)")
    add("--seed", type=int, default=1, help="of the corpora; the thresholds were set on 1 (default: 1)")
    add("--no-peers", action="store_true", help="leave datatrove and the 8-grams out")
    add("--json", type=Path, help="write the figures here too")
    add("--floor", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.tokenizer = args.tokenizer or str(args.text / "tokenizer/deepseek-r1-distill-qwen")
    if args.floor:
        return floor(args.floor, str(Path(args.tokenizer) / "tokenizer.json"))
    words = [Path(word).name if word.startswith(("/", "..")) else word for word in sys.argv[1:]]  # no machine's paths
    results = {"machine": machine(), "command": " ".join(["python -m scripts.bench.prepare", *words])}
    results |= {"commit": git_commit(), "sizes": []}
    for size in args.sizes:
        results["sizes"].append(measure(size, args))
        print(json.dumps(results["sizes"][-1], ensure_ascii=False, indent=1), flush=True)
        if args.json:
            write_json(args.json, results)
    return None


if __name__ == "__main__":
    run_main(main)
