"""The evidence: report.json, report.md, report.html and the data card, from one dictionary."""

from __future__ import annotations

import argparse
import io
import shlex
from collections import Counter
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


class Counts:
    """Examples and leaks, gathered while the rejected lines pass by."""

    def __init__(self, sources: list[str], index: BenchmarkIndex):
        self.sources, self.index = sources, index
        self.examples: dict[str, list[dict]] = {}
        self.leaks: list[dict] = []

    def example(self, reason: str, line: bytes) -> None:
        """Remember a rejected line among the first of its reason; every one that is a leak."""
        leak = reason.startswith("leak")
        shown = self.examples.setdefault(reason, [])
        if not leak and len(shown) >= EXAMPLES:
            return
        head, _, record = line.partition(b',"record":')  # the record may be nested deeper than a parser goes
        row = orjson.loads(head + b"}")
        where = {key: row[key] for key in ("source", "line", "reason", "matched")}
        if leak:
            self.leaks.append(where)
        if len(shown) < EXAMPLES:
            shown.append(where | {"excerpt": record[:-2].decode("utf-8")[:EXCERPT]})


def command(args: argparse.Namespace) -> str:
    """The command that writes the same files; worker processes and the order of benchmarks are of no account."""
    parts = ["python", "-m", "scripts.prepare", *args.sources, "--out", str(args.out), "--name", args.name]
    parts += ["--benchmarks", *sorted(map(str, args.benchmarks)), "--lang", *args.lang]
    if any(ours != theirs for ours, theirs in args.columns.items()):
        parts += ["--columns", *(f"{ours}={theirs}" for ours, theirs in args.columns.items())]
    parts += ["--tokenizer", args.tokenizer, "--cutoff-len", str(args.cutoff_len), "--threshold", str(args.threshold)]
    parts += ["--val", str(args.val), "--test", str(args.test), "--seed", str(args.seed)]
    return shlex.join(parts + (["--skip", *sorted(args.skip)] if args.skip else []))


def lengths(tokens: np.ndarray, cutoff: int) -> dict:
    """Distribution of record lengths in tokens, and the share of them that each cut-off would keep."""
    if not len(tokens):
        return {"records": 0, "cutoff_len": cutoff}
    p50, p95 = np.percentile(tokens, (50, 95))
    edges = np.linspace(0, max(cutoff, int(np.percentile(tokens, 99))), 41)
    counts, _ = np.histogram(np.minimum(tokens, edges[-1]), edges)
    return {
        "records": len(tokens), "tokens": int(tokens.sum()), "mean": round(float(tokens.mean()), 1), "p50": float(p50),
        "p95": float(p95), "max": int(tokens.max()), "cutoff_len": cutoff,
        "kept_at": {str(c): round(float((tokens <= c).mean()), 4) for c in sorted({*CUTOFFS, cutoff})},
        "histogram": {"edges": [round(float(e), 1) for e in edges], "counts": counts.tolist()},
    }  # fmt: skip


def tally(codes: np.ndarray, names: tuple) -> dict[str, int]:
    """Count of each name among codes, most frequent first; absent names are left out."""
    counts = np.bincount(codes, minlength=len(names)).tolist()
    return dict(sorted(((n, c) for n, c in zip(names, counts, strict=True) if c and n), key=lambda x: (-x[1], x[0])))


def build_report(
    args: argparse.Namespace, tokenizer: str, rows: dict[str, np.ndarray], splits: np.ndarray, duplicates: Duplicates,
    counts: Counts, moves: list[dict], files: list[Path],
) -> dict:  # fmt: skip
    """The whole report; rows read = kept + rejected, in all, by language and by source."""
    reason, alive = rows["reason"], duplicates.kept == np.arange(len(duplicates.kept))
    kept = reason == KEPT
    groups = {
        "by_language": {LANGUAGES[i] or "unknown": rows["lang"] == i for i in range(len(LANGUAGES))},
        "by_source": {source: rows["source"] == i for i, source in enumerate(args.sources)},
    }
    tokens_kept = rows["tokens"][kept]
    measured = kept | (reason == REASONS.index("too_long"))
    report = {
        "name": args.name, "command": command(args), "notice": NOTICE,
        "settings": {"seed": args.seed, "val": args.val, "test": args.test, "threshold": args.threshold, "lang": args.lang},
        "commit": git_commit(), "versions": versions("tokenizers", "rensa", "ftfy", "numpy", "orjson", "datasets"),
        "dataset_hash": file_hash(*files[: len(SPLITS)]), "tokenizer": args.tokenizer, "tokenizer_hash": file_hash(tokenizer),
        "read": len(reason), "kept": int(kept.sum()), "rejected": int((~kept).sum()), "reasons": tally(reason, REASONS),
        "splits": {
            split: {
                "file": f"{args.name}_{split}.jsonl", "records": int((splits[alive] == i).sum()),
                "tokens": int(tokens_kept[splits[alive] == i].sum()), "sha256": file_hash(files[i]),
            }
            for i, split in enumerate(SPLITS)
        },
    }  # fmt: skip
    for name, masks in groups.items():
        report[name] = {
            key: {"read": int(own.sum()), "kept": int((own & kept).sum()), "reasons": tally(reason[own], REASONS)}
            for key, own in masks.items()
            if own.any()
        }
    report["lengths"] = lengths(rows["tokens"][measured], args.cutoff_len)
    report["repairs"] = {name: int((rows["repairs"] >> i & 1).sum()) for i, name in enumerate(REPAIRS)}
    report["warnings"] = {name: int((rows["warnings"][kept] >> i & 1).sum()) for i, name in enumerate(WARNINGS)}
    report["benchmarks"] = {
        name: {"items": count, "leaks": sum(leak["matched"].startswith(f"{name}/") for leak in counts.leaks)}
        for name, count in sorted(Counter(counts.index.benchmarks).items())
    }
    sizes = np.unique(duplicates.anchor, return_counts=True)[1]
    report["clusters"] = {"of_two_or_more": int((sizes > 1).sum()), "largest": int(sizes.max(initial=0))}
    report |= {"moves": moves, "leaks": counts.leaks, "examples": dict(sorted(counts.examples.items()))}
    return report


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def markdown(report: dict) -> str:
    """The report in Markdown."""
    share = f"{report['kept'] / max(1, report['read']):.1%}"
    parts = [
        f"# Data set {report['name']}", f"> {report['notice']}",
        f"{report['read']:,} records read = {report['kept']:,} kept ({share}) + {report['rejected']:,} rejected.",
        table(("rejected because", "records"), [(k, f"{v:,}") for k, v in report["reasons"].items()]) if report["reasons"] else "Nothing was rejected.",
        "## Splits", table(("split", "records", "tokens", "SHA-256"), [(k, f"{v['records']:,}", f"{v['tokens']:,}", v["sha256"][:16]) for k, v in report["splits"].items()]),
    ]  # fmt: skip
    for title, name in (("By language", "by_language"), ("By source", "by_source")):
        rows = [(k, f"{v['read']:,}", f"{v['kept']:,}", ", ".join(f"{r} {c:,}" for r, c in v["reasons"].items())) for k, v in report[name].items()]  # fmt: skip
        parts += [f"## {title}", table(("", "read", "kept", "rejected"), rows)]
    size = report["lengths"]
    if size["records"]:
        parts += [
            "## Lengths in tokens, template included",
            f"p50 {size['p50']:.0f}, p95 {size['p95']:.0f}, max {size['max']:,}; the cut-off is {size['cutoff_len']:,}.",
            table(("cutoff_len", "records kept"), [(k, f"{v:.2%}") for k, v in size["kept_at"].items()]),
        ]
    if report["benchmarks"]:
        rows = [(k, f"{v['items']:,}", f"{v['leaks']:,}") for k, v in report["benchmarks"].items()]
        parts += ["## Leaks, by benchmark", table(("benchmark", "items", "leaks"), rows)]
        parts += [table(("source", "line", "kind", "item"), [tuple(leak[k] for k in ("source", "line", "reason", "matched")) for leak in report["leaks"]])] if report["leaks"] else []  # fmt: skip
    else:
        parts += ["## Leaks", "**Not decontaminated: no benchmark was given.**"]
    parts += ["## Repairs and warnings", table(("what", "records"), [*(("repaired " + k, v) for k, v in report["repairs"].items()), *(("kept, but looks like " + k, v) for k, v in report["warnings"].items())])]  # fmt: skip
    parts += [
        "## Clusters of near-duplicates",
        f"{report['clusters']['of_two_or_more']:,} clusters of two records or more, the largest of {report['clusters']['largest']:,}. Kept of "
        "each: the record without personal data, then with the longest reasoning, then the first.",
    ]
    if report["moves"]:
        parts += ["### Records that changed their split since the last run (their clusters were joined)", table(("id", "from", "to"), [tuple(m.values()) for m in report["moves"]])]  # fmt: skip
    parts += ["## Examples of what was rejected"]
    for reason, examples in report["examples"].items():
        rows = [(e["source"], e["line"], e["matched"] or "", e["excerpt"]) for e in examples]
        parts += [f"### {reason}", table(("source", "line", "matched", "record, its beginning"), rows)]
    parts += ["## Where it comes from", f"    {report['command']}", table(("", ""), [("dataset hash", report["dataset_hash"]), ("commit", report["commit"]), ("tokenizer", f"{report['tokenizer']} ({report['tokenizer_hash'][:16]})"), *report["versions"].items()])]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def plots(report: dict) -> str:
    """Lengths and rejections as one SVG, the same bytes for the same figures."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "medcot"
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    if histogram := report["lengths"].get("histogram"):
        left.stairs(histogram["counts"], histogram["edges"], fill=True, color="#4477aa")
    left.axvline(report["lengths"]["cutoff_len"], color="#cc3311", linestyle="--", label="cutoff_len")
    left.set(xlabel="tokens, template included", ylabel="records", title="Lengths")
    left.legend()
    reasons, before = list(report["reasons"])[::-1], np.zeros(len(report["reasons"]))
    for color, (lang, group) in zip(("#4477aa", "#ddaa33", "#bbbbbb"), report["by_language"].items(), strict=False):
        counts = np.array([group["reasons"].get(reason, 0) for reason in reasons], float)
        right.barh(reasons, counts, left=before, color=color, label=lang)
        before += counts
    right.set(xlabel="records", title="Rejected, by reason")
    if reasons:
        right.legend()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def page(report: dict) -> str:
    """The report as one HTML page that needs nothing beside it; what records hold is shown as text, never as HTML."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown(report))
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}table{border-collapse:"
        "collapse;display:block;overflow-x:auto}td,th{border:1px solid #ccc;padding:.2rem .6rem;text-align:left}"
        "svg{max-width:100%;height:auto}pre{white-space:pre-wrap}"
    )
    head, mark, rest = body.partition("<h2>")
    title = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{report["name"]}</title><style>{style}</style>'
    )
    return f"{title}\n{head}{plots(report)}\n{mark}{rest}</html>\n"


def data_card(report: dict) -> str:
    """A data card in the hub's form, all of it from the report."""
    languages = [lang for lang, group in report["by_language"].items() if group["kept"]]
    front = [
        "---",
        f"pretty_name: {report['name']}",
        "task_categories: [question-answering]",
        "tags: [medical, chain-of-thought]",
    ]
    front += [f"language: [{', '.join(languages)}]", f"size: {report['kept']}", "---"]
    sizes = ", ".join(f"{split} {value['records']:,}" for split, value in report["splits"].items())
    leaks = ", ".join(
        f"{k} ({v['items']:,} items, {v['leaks']:,} leaks removed)" for k, v in report["benchmarks"].items()
    )
    warned = ", ".join(f"{count} like {kind}" for kind, count in report["warnings"].items() if count)
    rejected = ", ".join(f"{reason} {count:,}" for reason, count in report["reasons"].items())
    personal = (
        f"Kept records with what looks like it: {warned}" if warned else "No e-mail, phone or identity number seen"
    )
    return "\n\n".join(
        [
            "\n".join(front), f"# Data card: {report['name']}", f"> {report['notice']}",
            f"**Records.** {sizes}; languages: {', '.join(languages) or 'none'}. Each has a question (`input`) and a reasoned "
            "answer (`output`: the reasoning inside `<think>`, then the answer), with `id`, `lang`, `source`, `line`.",
            "**Sources.** " + "; ".join(f"`{k}` ({v['read']:,} read, {v['kept']:,} kept)" for k, v in report["by_source"].items())
            + ". Each source's own licence and terms go on to apply to its records; check them before you publish.",
            f"**Cleaning.** {report['read']:,} read, {report['rejected']:,} rejected: {rejected or 'none'}. Every rejected "
            "record is in `rejected.jsonl` with its reason; repairs are counted in `report.md`.",
            f"**Near-duplicates.** Questions from a Jaccard similarity of {report['settings']['threshold']} on; one record of "
            "each cluster is kept, and no cluster lies in two splits.",
            "**Decontamination.** " + (leaks or "None: no benchmark was given.")
            + (" Translated or freely reworded leaks are not found." if leaks else ""),
            f"**Personal data.** {personal}; names, dates and places are not looked for. "
            "De-identify your own records before they come here.",
            "**Use.** To study how models learn to reason. The answers come from the sources and were not checked by clinicians.",
            f"**Made by** `{report['command']}` at commit {report['commit']}; dataset hash `{report['dataset_hash']}`.",
        ]
    ) + "\n"  # fmt: skip


def write_reports(folder: Path, report: dict) -> list[Path]:
    """Write every form of the report into a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", markdown(report))
    write_text(folder / "report.html", page(report))
    write_text(folder / "DATA_CARD.md", data_card(report))
    return sorted(folder.iterdir())
