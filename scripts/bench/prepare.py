"""Preparing, measured: corpora of real text with planted faults, and the peers on the same rows in the same run.

    python -m scripts.bench.prepare --text FOLDER                    # 1,000 and 10,000 records, a few minutes
    python -m scripts.bench.prepare --text FOLDER --sizes 20000 --seed 7 --json docs/prepare.json

Real text is in the folder --text. Clean questions and reasoning are put together from real sentences; cuts and loops
are planted into real records. Prints for each size recall and precision of what was planted, the floor (reading and
tokenising once), seconds and peak memory of all steps together, and what datatrove's MinHash finds.
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
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from scripts.common import ROOT, UserError, git_commit, machine, read_jsonl, run_main, write_json, write_jsonl

SENTENCES = {"en": re.compile(r"(?<=[.?!])\s+"), "zh": re.compile(r"(?<=[。？！，；,?!])\s*")}
GLUE = {"en": " ", "zh": ""}
NUMBERS = "4 11 17 23 38 46 52 69 74 88"
DRUGS = (
    "warfarin heparin aspirin metformin insulin digoxin lisinopril furosemide amoxicillin rifampin prednisone lithium"
)
DRUGS_ZH = "华法林 肝素 阿司匹林 二甲双胍 胰岛素 地高辛 卡托普利 呋塞米 阿莫西林 利福平 泼尼松 秋水仙碱"
# What makes another question of one: a sentence that both have, in which one word differs (English, Chinese).
CONTRASTS = {
    "number": (("The count was {} at first.", NUMBERS), ("入院时计数为{}。", NUMBERS)),
    "age": (("This is about a {}-year-old.", NUMBERS), ("患者今年{}岁。", NUMBERS)),
    "side": (("The pain is in the {} leg.", "left right"), ("疼痛在{}下肢。", "左侧 右侧")),
    "drug": (("So far only {} was given.", DRUGS), ("目前只用过{}。", DRUGS_ZH)),
}
DEMANDS = {
    "en": "What should be done next?|How should this be treated at home?|Which complication is to be feared most?|"
    "And what is the mechanism behind it?|Please also explain how this can be prevented.|Why does this happen?",
    "zh": "下一步怎么处理？|并说明如何预防。|另外，最需警惕哪种并发症？|发病机制是什么？|为什么会这样？",
}
SMALL_WORDS = {
    "en": "really quite some other such kindly well also thus same with about",
    "zh": "的 了 呢 啊 也 就 会 很 这 那 又",
}
# Where a benchmark's item leaks; in a question twice as often.
PLACES = [("Question", "leak"), ("Question", "leak"), ("Complex_CoT", "quote_thought"), ("Response", "quote_answer")]
WORK = Path("/tmp/medcot-bench-prepare")  # corpora, outputs and logs
Row = dict


def cut(text: str, rng: random.Random) -> str:
    """A text cut at a random place of its second half, as a limit on tokens cuts it, but never after a sentence."""
    while not (part := text[: rng.randrange(len(text) // 2, len(text) - 3)].rstrip())[-1].isalnum():
        pass
    return part


def loop(text: str, rng: random.Random) -> str:
    """A text that falls into a loop: a sentence, two in turn, or a few words, again and again."""
    parts = [part for part in re.split(r"(?<=[.。？！?!，,])", text) if len(part) > 4]
    start = rng.randrange(max(1, len(parts) - 3))
    said = "".join(parts[start : start + rng.choice((1, 2, 3))])
    return text[: rng.randrange(len(text) // 3, len(text))] + said * rng.randrange(5, 30)


# What is planted into a field of a real record, and how.
PLANTS: dict[str, tuple[str, Callable[[str, random.Random], str]]] = {
    "cut_off_reasoning": ("Complex_CoT", cut),
    "cut_off_answer": ("Response", cut),
    "looping_reasoning": ("Complex_CoT", loop),
    "looping_answer": ("Response", loop),
}


def real_records(text: Path) -> dict[str, list[Row]]:
    """Real records by language, as they lie: question, reasoning, answer."""
    from scripts.prepare.records import read_source

    raw = text / "data/raw"
    theirs = {"Question": "question", "Complex_CoT": "think", "Response": "answer"}
    sources = {"medical_o1_demo_en.json": {}, "medical_o1_zh_alpaca.jsonl": {}, "delicate_r1_zh.jsonl": theirs}
    found: dict[str, list[Row]] = {"en": [], "zh": []}
    for name, columns in sources.items():
        lang = "en" if "_en" in name else "zh"
        for record in read_source(str(raw / name), columns):
            if min(len(record.thought), len(record.answer)) > 60:
                found[lang].append({"Complex_CoT": record.thought, "Response": record.answer, "lang": lang})
    return found


def benchmark_items(folder: Path, text: Path) -> tuple[list[Row], dict[str, list[str]]]:
    """Write half of the real benchmarks' items into ``folder`` to leak; other real questions, by language.

    These are MedQA's other half without the sentence that asks, and patients' questions of cMedQA2.
    """
    from scripts.prepare.benchmarks import convert, local_rows, read_items

    names = {"medqa": "eval/medqa.jsonl", "medmcqa": "eval/medmcqa.jsonl", "cmexam": "eval_zh/cmexam.json"}
    names |= {"medqa_zh": "eval_zh/medqa_zh.json"}
    leaked, free = [], {}
    for name, file in names.items():
        source = str(text / "data" / file)
        items, _ = convert(name, list(local_rows(source)), source)
        write_jsonl(folder / f"{name}.jsonl", [item for item in items[::2] if len(item["question"]) >= 6])
        leaked += read_items(folder / f"{name}.jsonl")
        if name == "medqa":
            free["en"] = [" ".join(SENTENCES["en"].split(item["question"])[:-1]) for item in items[1::2]]
    free["zh"] = [row["input"] for row in local_rows(str(text / "data/raw/cmedqa2_zh.json"))]
    return leaked, free


def sentences(rows: list[str], lang: str) -> list[str]:
    """Real sentences of middling length."""
    low, high = (30, 200) if lang == "en" else (6, 40)
    parts = {part.strip() for text in rows for part in SENTENCES[lang].split(text)}
    return sorted(part for part in parts if low < len(part) < high)


def edit(text: str, lang: str, share: float, rng: random.Random) -> str:
    """Replace, drop or insert ``share`` of the words (en) or characters (zh); what holds a digit stays."""
    parts = text.split() if lang == "en" else list(text)
    spare = SMALL_WORDS[lang].split()
    places = [place for place, part in enumerate(parts) if not any(map(str.isdigit, part))]
    for place in sorted(rng.sample(places, min(len(places), round(share * len(parts)))), reverse=True):
        parts[place : place + 1] = rng.choice(([rng.choice(spare)], [], [parts[place], rng.choice(spare)]))
    return GLUE[lang].join(parts)


def leak(item: Row, kind: str, rng: random.Random) -> str:
    """A benchmark item as it leaks: as it is, edited, or with its options."""
    if kind == "edited":
        return edit(item["question"], item["lang"], rng.uniform(0.02, 0.1), rng)
    mark = rng.choice((". ", ") ", "、"))
    options = [f"{letter}{mark}{option}" for letter, option in item["options"].items()]
    return "\n".join([item["question"], *(options if kind == "folded" else [])])


def near(question: str, lang: str, rng: random.Random) -> tuple[str, str]:
    """The kind of a near-duplicate, and the question so changed."""
    if rng.random() < 0.7:
        return "near_edited", edit(question, lang, rng.uniform(0.05, 0.2), rng)
    parts = SENTENCES[lang].split(question)
    return "near_moved", edit(GLUE[lang].join(rng.sample(parts, len(parts))), lang, 0.05, rng)


def contrast(question: str, lang: str, rng: random.Random) -> tuple[str, str, str]:
    """The kind of a contrast, and two questions that it keeps apart."""
    kind = rng.choice((*CONTRASTS, "demand"))
    if kind == "demand":
        return f"other_{kind}", question, question + GLUE[lang] + rng.choice(DEMANDS[lang].split("|"))
    frame, words = CONTRASTS[kind][lang == "zh"]
    one, two = (f"{frame.format(word)}{GLUE[lang]}{question}" for word in rng.sample(words.split(), 2))
    return f"other_{kind}", one, two


def draw(pool: list[str], lang: str, low: int, high: int, rng: random.Random) -> str:
    """A text of ``low`` to ``high`` real sentences."""
    text = GLUE[lang].join(rng.choices(pool, k=rng.randint(low, high))).rstrip("，,；;： ")
    return text if text.endswith((".", "?", "!", "。", "？", "！")) else text + ("." if lang == "en" else "。")


def corpus(size: int, seed: int, items: list[Row], free: dict[str, list[str]], text: Path) -> Iterator[tuple[Row, Row]]:
    """``size`` raw rows, each with its truth: ``kind``, ``lang`` and ``of``, the number of the row it was made from."""
    rng, real = random.Random(seed), real_records(text)
    ask = {lang: sentences(free[lang], lang) for lang in GLUE}
    think = {lang: sentences([f"{r['Complex_CoT']} {r['Response']}" for r in real[lang]], lang) for lang in GLUE}
    own = {lang: [item for item in items if item["lang"] == lang] for lang in GLUE}
    clean: dict[str, list[tuple[int, str]]] = {lang: [] for lang in GLUE}  # numbers and questions
    waiting: list[tuple[Row, Row]] = []  # the other questions of contrasts
    for number in range(size):
        lang = rng.choice(("en", "zh"))
        row = {"Question": draw(ask[lang], lang, *((4, 6) if lang == "en" else (6, 10)), rng)}
        row["Complex_CoT"] = draw(think[lang], lang, *((14, 28) if lang == "en" else (30, 70)), rng)
        row |= {"Response": draw(think[lang], lang, 4, 4, rng), "lang": lang}
        truth, fate = {"kind": "clean", "lang": lang, "of": number}, rng.random()
        if waiting and fate < 0.3:
            row, truth = waiting.pop(rng.randrange(len(waiting)))
        elif fate < 0.36 and clean[lang]:
            truth["of"], question = rng.choice(clean[lang][-150:])
            truth["kind"], row["Question"] = near(question, lang, rng)
        elif fate < 0.40:
            kind, row["Question"], other = contrast(row["Question"], lang, rng)
            copy = row | {"Question": other, "Complex_CoT": draw(think[lang], lang, 20, 28, rng)}
            waiting.append((copy, truth | {"kind": kind}))
        elif fate < 0.46:
            where, name = rng.choice(PLACES)
            kind = rng.choice(("verbatim", "folded", "edited") if name == "leak" else ("verbatim", "folded"))
            said = leak(rng.choice(own[lang]), kind, rng)
            truth["kind"] = f"{name}_{kind}"
            row[where] = said if name == "leak" else f"{draw(think[lang], lang, 3, 5, rng)}\n{said}\n{row[where]}"
        elif fate < 0.54:
            truth["kind"] = rng.choice(list(PLANTS))
            where, plant = PLANTS[truth["kind"]]
            row |= rng.choice(real[lang])
            row[where] = plant(row[where], rng)
        else:
            clean[lang].append((number, row["Question"]))
        yield row, truth


def tally(outcomes: Iterable[tuple[str, str, bool]]) -> dict[str, dict[str, list[int]]]:
    """Language → kind → [hits, of how many], from (language, kind, whether it was a hit)."""
    found: dict[str, dict[str, list[int]]] = {lang: {} for lang in GLUE}
    for lang, kind, hit in outcomes:
        hits, seen = found[lang].get(kind, [0, 0])
        found[lang][kind] = [hits + hit, seen + 1]
    return {lang: dict(sorted(kinds.items())) for lang, kinds in found.items()}


def outcomes(truths: list[Row], rejected: dict[int, Row], line_of: dict[str, int]) -> Iterator[tuple[str, str, bool]]:
    """What was found of each row. A hit among ``other_…`` is a question taken for the duplicate of another one."""
    reasons = {line: row["reason"] for line, row in rejected.items()}
    for number, truth in enumerate(truths, 1):
        lang, kind, reason = truth["lang"], truth["kind"], reasons.get(number, "")
        pair = (number, truth["of"] + 1)  # of two duplicates either may go
        gone = [rejected[line] for line in pair if reasons.get(line, "").startswith("duplicate")]
        if kind.startswith("other"):
            yield lang, kind, any(line_of.get(row["matched"]) in pair for row in gone)
        elif kind.startswith("near"):
            yield lang, kind, bool(gone)
        elif kind.startswith(("leak", "quote")):
            yield lang, kind, reason.startswith("leak")
        else:
            yield lang, kind, kind in PLANTS and reason not in ("", "duplicate_near", "duplicate_exact")
        if reason == "duplicate_near":
            matched = truths[line_of.get(rejected[number]["matched"], 1) - 1]
            yield lang, "precision_near", matched["of"] == truth["of"] and not kind.startswith("other")
        if kind in ("clean", "near_edited", "near_moved"):
            yield lang, "alarm_leak", reason.startswith("leak")
            yield lang, "alarm_filter", kind == "clean" and reason in PLANTS


def measured(command: list[str], log: Path) -> dict[str, float]:
    """Run a command: its wall and processor seconds, and the peak memory of all its processes (shared parts once)."""
    import psutil

    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(log.parent.parent / "compiled")  # as on a user's machine
    begin, before, peak = time.perf_counter(), os.times(), 0
    with log.open("w") as file:
        process = psutil.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=file)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, sum(p.memory_full_info().pss for p in (process, *process.children(recursive=True))))
            time.sleep(0.2)
    if process.returncode:
        raise UserError(f"{' '.join(command)}: exit status {process.returncode}: {log.read_text()[-2000:]}")
    after = os.times()
    processor = sum(after[i] - before[i] for i in (2, 3))  # of ended children, theirs included
    seconds = round(time.perf_counter() - begin, 1)
    return {"seconds": seconds, "processor_s": round(processor, 1), "peak_mib": round(peak / 2**20)}


def floor(path: str, tokenizer: str) -> None:
    """Read every row and tokenise its texts once, with the library's own threads; prints the tokens."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import orjson
    from tokenizers import Tokenizer

    engine, tokens = Tokenizer.from_file(f"{tokenizer}/tokenizer.json"), 0
    with open(path, "rb") as file:
        while rows := [orjson.loads(line) for line in islice(file, 2000)]:
            texts = [str(row.get(key, "")) for row in rows for key in ("Question", "Complex_CoT", "Response")]
            tokens += sum(map(len, engine.encode_batch_fast(texts, add_special_tokens=False)))
    print(tokens)


def measure(size: int, seed: int, text: Path) -> dict:
    """Make a corpus of one size and measure the floor, ours and the peers on it."""
    from scripts.bench import prepare_peers

    work, tokenizer = WORK / f"{size}-{seed}", str(text / "tokenizer/deepseek-r1-distill-qwen")
    shutil.rmtree(work, ignore_errors=True)
    (work / "benchmarks").mkdir(parents=True)
    rows = list(corpus(size, seed, *benchmark_items(work / "benchmarks", text), text))
    truths, path = [truth for _, truth in rows], str(work / "corpus.jsonl")
    write_jsonl(path, (row for row, _ in rows))
    reading = f"from scripts.bench.prepare import floor; floor({path!r}, {tokenizer!r})"
    result = {"records": size, "floor": measured([sys.executable, "-c", reading], work / "floor.log")}
    command = [sys.executable, "-m", "scripts.prepare", path, "--out", str(work / "out"), "--name", "b"]
    command += ["--tokenizer", tokenizer, "--benchmarks", *map(str, sorted((work / "benchmarks").glob("*.jsonl")))]
    result["ours"] = measured(command, work / "ours.log")
    result["times_the_floor"] = round(result["ours"]["seconds"] / result["floor"]["seconds"], 2)
    rejected = {row["line"]: row for _, row in read_jsonl(work / "out/b_rejected.jsonl")}
    kept = [row for part in ("train", "val", "test") for _, row in read_jsonl(work / f"out/b_{part}.jsonl")]
    result["found"] = tally(outcomes(truths, rejected, {row["id"]: row["line"] for row in kept}))
    return result | {"peers": prepare_peers.measure(work, truths)}


def main() -> None:
    """Measure each size; print, and write --json after each."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m scripts.bench.prepare", description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", default=[1000, 10000], help="records (default: 1000 10000)")
    add("--text", type=Path, required=True, help="folder of real text")
    add("--seed", type=int, default=1, help="of the corpora; the rules were set on 1 (default: 1)")
    add("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    results = {"machine": machine(), "commit": git_commit(), "seed": args.seed, "sizes": []}
    for size in args.sizes:
        results["sizes"].append(measure(size, args.seed, args.text))
        print(json.dumps(results["sizes"][-1], ensure_ascii=False, indent=1), flush=True)
        if args.json:
            write_json(args.json, results)


if __name__ == "__main__":
    run_main(main)
