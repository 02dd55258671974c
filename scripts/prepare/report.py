"""The evidence: report.json, report.md, report.html and the data card, all from one dictionary."""

from __future__ import annotations

import argparse
import io
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import orjson

from scripts.common import NOTICE, file_hash, git_commit, versions, write_json, write_text
from scripts.prepare.batch import KEPT, LANGUAGES, REASONS, REPAIRS, WARNINGS
from scripts.prepare.decontaminate import BenchmarkIndex
from scripts.prepare.dedup import Duplicates
from scripts.prepare.publish import SPLITS

CUTOFFS = (512, 1024, 2048, 4096, 8192)
EXAMPLES, EXCERPT = 10, 300
FLAGS = (
    "out",
    "name",
    "benchmarks",
    "lang",
    "columns",
    "tokenizer",
    "cutoff_len",
    "threshold",
    "val",
    "test",
    "skip",
    "seed",
)
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}pre{white-space:pre-wrap}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}td,th{border:1px solid #ccc;padding:.2rem .6rem}"
    "svg{max-width:100%;height:auto}"
)


class Examples:
    """The first examples of each reason and every leak, gathered while the rejected lines pass by."""

    def __init__(self) -> None:
        self.shown: dict[str, list[dict]] = {}
        self.leaks: list[dict] = []
        self.personal: list[dict] = []

    def warn(self, warnings: int, line: bytes) -> None:
        """Remember where a kept line is that looks as if it held personal data; ``warnings``: bits of WARNINGS."""
        row = orjson.loads(line)
        kinds = [kind for bit, kind in enumerate(WARNINGS) if warnings >> bit & 1]
        self.personal.append({"id": row["id"], "source": row["source"], "line": row["line"], "looks_like": kinds})

    def add(self, reason: str, line: bytes) -> None:
        """Remember a rejected line if it is among the first of its reason, or a leak."""
        leak, shown = reason.startswith("leak"), self.shown.setdefault(reason, [])
        if not leak and len(shown) >= EXAMPLES:
            return
        head, _, record = line.partition(b',"record":')  # the record may be nested deeper than a parser goes
        where = {k: v for k, v in orjson.loads(head + b"}").items() if k in ("source", "line", "reason", "matched")}
        if leak:
            self.leaks.append(where)
        if len(shown) < EXAMPLES:
            shown.append(where | {"excerpt": record[:-2].decode("utf-8")[:EXCERPT]})


def command(args: argparse.Namespace) -> str:
    """The command that writes the same files; worker processes and the order of benchmarks are of no account."""
    parts = ["python", "-m", "scripts.prepare", *args.sources]
    for flag in FLAGS:
        value = getattr(args, flag)
        if flag == "columns":
            value = [f"{ours}={theirs}" for ours, theirs in value.items() if ours != theirs]
        if isinstance(value, list):
            value = sorted(map(str, value)) if flag != "lang" else value
            if not value and flag != "benchmarks":
                continue
        parts += [f"--{flag.replace('_', '-')}", *(value if isinstance(value, list) else [str(value)])]
    return shlex.join(parts)


def lengths(tokens: np.ndarray, cutoff: int) -> dict:
    """Distribution of record lengths in tokens, and the share of them that each cut-off would keep."""
    if not len(tokens):
        return {"records": 0, "cutoff_len": cutoff}
    edges = np.linspace(0, max(cutoff, int(np.percentile(tokens, 99))), 41).round(1)
    figures = {"records": len(tokens), "tokens": int(tokens.sum()), "mean": round(float(tokens.mean()), 1)}
    figures |= {f"p{q}": float(np.percentile(tokens, q)) for q in (50, 95)} | {"max": int(tokens.max())}
    figures |= {"cutoff_len": cutoff, "kept_at": {}}
    for length in sorted({*CUTOFFS, cutoff}):
        figures["kept_at"][str(length)] = round(float((tokens <= length).mean()), 4)
    counts = np.histogram(np.minimum(tokens, edges[-1]), edges)[0].tolist()
    return figures | {"histogram": {"edges": edges.tolist(), "counts": counts}}


def tally(codes: np.ndarray, names: tuple) -> dict[str, int]:
    """Count of each name among codes, most frequent first; absent names are left out."""
    counts = np.bincount(codes, minlength=len(names)).tolist()
    return dict(sorted(((n, c) for n, c in zip(names, counts, strict=True) if c and n), key=lambda x: (-x[1], x[0])))


def group(rows: dict[str, np.ndarray], own: np.ndarray) -> dict:
    """Counts of one language's or source's rows: read = kept + those of all reasons."""
    reason = rows["reason"][own]
    return {"read": int(own.sum()), "kept": int((reason == KEPT).sum()), "reasons": tally(reason, REASONS)}


def build_report(
    args: argparse.Namespace,
    rows: dict[str, np.ndarray],
    splits: np.ndarray,
    duplicates: Duplicates,
    index: BenchmarkIndex,
    examples: Examples,
    moves: list[dict],
    files: list[Path],
) -> dict:
    """The whole report; ``rows`` as in pipeline.Table, ``splits`` of those that passed, ``files`` of the splits."""
    reason, kept = rows["reason"], rows["reason"] == KEPT
    chosen = splits[duplicates.kept == np.arange(len(splits))]
    sizes = np.unique(duplicates.anchor, return_counts=True)[1]
    report = {"name": args.name, "notice": NOTICE, "command": command(args)}
    report["settings"] = {k: getattr(args, k) for k in ("seed", "val", "test", "threshold", "lang", "cutoff_len")}
    report |= {
        "commit": git_commit(),
        "versions": versions("tokenizers", "rensa", "ftfy", "numpy", "orjson", "datasets"),
    }
    report |= {
        "dataset_hash": file_hash(*files),
        "tokenizer": args.tokenizer,
        "tokenizer_hash": file_hash(args.tokenizer_file),
    }
    report |= {"read": len(reason), "kept": int(kept.sum()), "rejected": int((~kept).sum())}
    report |= {"reasons": tally(reason, REASONS), "splits": {}}
    for i, split in enumerate(SPLITS):
        tokens = rows["tokens"][kept][chosen == i]
        figures = {"records": len(tokens), "tokens": int(tokens.sum()), "sha256": file_hash(files[i])}
        report["splits"][split] = {"file": f"{args.name}_{split}.jsonl"} | figures
    languages = {lang or "unknown": rows["lang"] == i for i, lang in enumerate(LANGUAGES)}
    report["by_language"] = {lang: group(rows, own) for lang, own in languages.items() if own.any()}
    report["by_source"] = {source: group(rows, rows["source"] == i) for i, source in enumerate(args.sources)}
    measured = kept | (reason == REASONS.index("too_long"))
    report["lengths"] = lengths(rows["tokens"][measured], args.cutoff_len)
    report["repairs"] = {name: int((rows["repairs"] >> i & 1).sum()) for i, name in enumerate(REPAIRS)}
    report["warnings"] = {name: int((rows["warnings"][kept] >> i & 1).sum()) for i, name in enumerate(WARNINGS)}
    leaked = Counter(leak["matched"].partition("/")[0] for leak in examples.leaks)
    items = sorted(Counter(index.benchmarks).items())
    report["benchmarks"] = {name: {"items": count, "leaks": leaked[name]} for name, count in items}
    report["clusters"] = {"of_two_or_more": int((sizes > 1).sum()), "largest": int(sizes.max(initial=0))}
    report |= {"moves": moves, "leaks": examples.leaks, "personal_data": examples.personal}
    return report | {"examples": dict(sorted(examples.shown.items()))}


def table(head: Iterable[str], rows: Iterable[Iterable]) -> str:
    """A Markdown table; whole numbers with thousands' separators."""

    def line(cells: Iterable) -> str:
        texts = (f"{cell:,}" if isinstance(cell, int) else "" if cell is None else str(cell) for cell in cells)
        return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"

    head = list(head)
    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def counted(counts: dict[str, int]) -> str:
    """``reason 12, other 3``, or ``none``."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count) or "none"


def markdown(report: dict) -> str:
    """The report in Markdown."""
    size, where = report["lengths"], ("source", "line", "reason", "matched")
    share = report["kept"] / max(1, report["read"])
    summary = f"{report['read']:,} read = {report['kept']:,} kept ({share:.1%}) + {report['rejected']:,} rejected."
    parts = [f"# Data set {report['name']}", f"> {report['notice']}", summary]
    parts += [table(("rejected because", "records"), report["reasons"].items()), "## Splits"]
    splits = report["splits"].items()
    parts += [
        table(
            ("split", "records", "tokens", "SHA-256"),
            ((k, v["records"], v["tokens"], v["sha256"][:16]) for k, v in splits),
        )
    ]
    for title in ("by_language", "by_source"):
        rows = ((k, v["read"], v["kept"], counted(v["reasons"])) for k, v in report[title].items())
        parts += ["## " + title.capitalize().replace("_", " "), table(("", "read", "kept", "rejected"), rows)]
    if size["records"]:
        parts += ["## Lengths in tokens, template included"]
        parts += [
            f"p50 {size['p50']:.0f}, p95 {size['p95']:.0f}, max {size['max']:,}; the cut-off is {size['cutoff_len']:,}."
        ]
        parts += [table(("cutoff_len", "records kept"), ((k, f"{v:.2%}") for k, v in size["kept_at"].items()))]
    parts += ["## Leaks, by benchmark"]
    if report["benchmarks"]:
        rows = ((k, v["items"], v["leaks"]) for k, v in report["benchmarks"].items())
        parts += [table(("benchmark", "items", "leaks"), rows)]
        parts += [table(where, (leak.values() for leak in report["leaks"]))] if report["leaks"] else []
    else:
        parts += ["**Not decontaminated: no benchmark was given.**"]
    found = [(f"repaired {k}", v) for k, v in report["repairs"].items()]
    found += [(f"kept, but looks like {k}", v) for k, v in report["warnings"].items()]
    parts += ["## Repairs and warnings", table(("what", "records"), found)]
    if personal := [(*row.values(),) for row in report["personal_data"][:EXAMPLES]]:
        parts += [table(("id", "source", "line", "looks like"), personal), "All of them are in report.json."]
    parts += ["## Near-duplicates"]
    several, largest = report["clusters"].values()
    parts += [f"{several:,} clusters of two or more, the largest of {largest:,}. Kept of each: first a record without"]
    parts[-1] += " personal data, then the one with the longest reasoning, then the first."
    if report["moves"]:
        parts += ["Moved to another split since the last run, because their clusters were joined:"]
        parts += [table(("id", "from", "to"), (move.values() for move in report["moves"]))]
    parts += ["## Examples of what was rejected"]
    for reason, examples in report["examples"].items():
        rows = ((e["source"], e["line"], e["matched"], e["excerpt"]) for e in examples)
        parts += [f"### {reason}", table(("source", "line", "matched", "its beginning"), rows)]
    origin = {"dataset hash": report["dataset_hash"], "commit": report["commit"], "tokenizer": report["tokenizer"]}
    origin |= {"tokenizer hash": report["tokenizer_hash"]} | report["versions"]
    parts += ["## Where it comes from", "    " + report["command"], table(("what", "which"), origin.items())]
    return "\n\n".join(parts) + "\n"


def plots(report: dict) -> str:
    """Lengths and rejections as one SVG, the same bytes for the same figures."""
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which takes longer to start

    matplotlib.rcParams["svg.hashsalt"] = "medcot"
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    if histogram := report["lengths"].get("histogram"):
        left.stairs(histogram["counts"], histogram["edges"], fill=True, color="#4477aa")
    left.axvline(report["lengths"]["cutoff_len"], color="#cc3311", linestyle="--", label="cutoff_len")
    left.set(xlabel="tokens, template included", ylabel="records", title="Lengths")
    left.legend()
    reasons, before = list(report["reasons"])[::-1], np.zeros(len(report["reasons"]))
    for lang, own in report["by_language"].items():
        counts = np.array([own["reasons"].get(reason, 0) for reason in reasons], float)
        right.barh(reasons, counts, left=before, label=lang)
        before += counts
    right.set(xlabel="records", title="Rejected, by reason")
    right.legend()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def page(report: dict) -> str:
    """The report as one HTML page that needs nothing beside it; what records hold is shown as text, never as HTML."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown(report))
    head, mark, rest = body.partition("<h2>")
    start = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{report["name"]}</title><style>{STYLE}</style>'
    )
    return f"{start}\n{head}{plots(report)}\n{mark}{rest}</html>\n"


def data_card(report: dict) -> str:
    """A data card in the hub's form, all of it from the report."""
    languages = ", ".join(lang for lang, own in report["by_language"].items() if own["kept"])
    leaks = "; ".join(
        f"{k} ({v['items']:,} items, {v['leaks']:,} leaks removed)" for k, v in report["benchmarks"].items()
    )
    warned = counted(report["warnings"])
    sources = "; ".join(f"`{k}` ({v['read']:,} read, {v['kept']:,} kept)" for k, v in report["by_source"].items())
    sizes = counted({split: v["records"] for split, v in report["splits"].items()})
    return f"""---
pretty_name: {report["name"]}
language: [{languages}]
task_categories: [question-answering]
tags: [medical, chain-of-thought]
---

# Data card: {report["name"]}

> {report["notice"]}

- **Records**: {sizes}. Languages: {languages or "none"}. Each is a question (`input`) and a reasoned answer (`output`:
  the reasoning between `<think>` and `</think>`, then the answer), with `id`, `lang`, `source` and `line`.
- **Sources**: {sources}. Their licences and terms go on to hold for their records: check them before you publish.
- **Cleaning**: {report["read"]:,} read, {report["rejected"]:,} rejected ({counted(report["reasons"])}). Every
  rejected record is in `rejected.jsonl` with its reason. Repairs: {counted(report["repairs"])}.
- **Near-duplicates**: questions from a Jaccard similarity of {report["settings"]["threshold"]} on (English: 0.1 more);
  one record of each is kept, and no cluster lies in two splits.
- **Decontamination**: {leaks or "none, no benchmark was given"}. Translated or freely reworded leaks are not found.
- **Personal data**: kept records with what looks like it: {warned}. Names, dates and places are not looked for.
- **Use**: to study how models learn to reason. No clinician has checked the answers.
- **Made by** `{report["command"]}` at commit {report["commit"]}; data set hash `{report["dataset_hash"]}`.
"""


def write_reports(folder: Path, report: dict) -> list[Path]:
    """Write every form of the report into a folder; their paths."""
    write_json(folder / "report.json", report)
    for name, form in (("report.md", markdown), ("report.html", page), ("DATA_CARD.md", data_card)):
        write_text(folder / name, form(report))
    return sorted(folder.iterdir())
