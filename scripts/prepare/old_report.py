"""The evidence: report.json, report.md, report.html and the data card, all from one dictionary."""

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
FLAGS = "out name benchmarks lang columns tokenizer cutoff_len threshold val test skip seed".split()  # noqa: SIM905
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
    by_split = {}
    for i, split in enumerate(SPLITS):
        tokens = rows["tokens"][kept][chosen == i]
        figures = {"records": len(tokens), "tokens": int(tokens.sum()), "sha256": file_hash(files[i])}
        by_split[split] = {"file": f"{args.name}_{split}.jsonl"} | figures
    languages = {lang or "unknown": rows["lang"] == i for i, lang in enumerate(LANGUAGES)}
    measured = kept | (reason == REASONS.index("too_long"))
    leaked = Counter(leak["matched"].partition("/")[0] for leak in examples.leaks)
    items = sorted(Counter(index.benchmarks).items())
    return {
        "name": args.name,
        "notice": NOTICE,
        "command": command(args),
        "settings": {k: getattr(args, k) for k in ("seed", "val", "test", "threshold", "lang", "cutoff_len")},
        "commit": git_commit(),
        "versions": versions("tokenizers", "rensa", "ftfy", "numpy", "orjson", "datasets"),
        "dataset_hash": file_hash(*files),
        "tokenizer": args.tokenizer,
        "tokenizer_hash": file_hash(args.tokenizer_file),
        **group(rows, np.ones(len(reason), bool)),
        "rejected": int((~kept).sum()),
        "splits": by_split,
        "by_language": {lang: group(rows, own) for lang, own in languages.items() if own.any()},
        "by_source": {source: group(rows, rows["source"] == i) for i, source in enumerate(args.sources)},
        "lengths": lengths(rows["tokens"][measured], args.cutoff_len),
        "repairs": {name: int((rows["repairs"] >> i & 1).sum()) for i, name in enumerate(REPAIRS)},
        "warnings": {name: int((rows["warnings"][kept] >> i & 1).sum()) for i, name in enumerate(WARNINGS)},
        "benchmarks": {name: {"items": count, "leaks": leaked[name]} for name, count in items},
        "clusters": {"of_two_or_more": int((sizes > 1).sum()), "largest": int(sizes.max(initial=0))},
        "moves": moves,
        "leaks": examples.leaks,
        "personal_data": examples.personal,
        "examples": dict(sorted(examples.shown.items())),
    }


def cell(value: object) -> str:
    """A value as a table's cell: whole numbers with thousands' separators, marks of the table escaped."""
    value = ", ".join(value) if isinstance(value, list) else value
    text = f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def counted(counts: dict[str, int]) -> str:
    """``reason 12, other 3``, or ``none``."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count) or "none"


def render(name: str, report: dict) -> str:
    """The text of ``templates/NAME.j2``: report.md or DATA_CARD.md."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["pick"] = lambda row, keys: [row[key] for key in keys]
    languages = ", ".join(lang for lang, own in report["by_language"].items() if own["kept"])
    return environment.get_template(f"{name}.j2").render(report, languages=languages, cell=cell, counted=counted)


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
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def page(report: dict) -> str:
    """The report as one HTML page that needs nothing beside it; what records hold is shown as text, never as HTML."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(render("report.md", report))
    head, mark, rest = body.partition("<h2>")
    start = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{report["name"]}</title><style>{STYLE}</style>'
    )
    return f"{start}\n{head}{plots(report)}\n{mark}{rest}</html>\n"


def write_reports(folder: Path, report: dict) -> list[Path]:
    """Write every form of the report into a folder; their paths."""
    write_json(folder / "report.json", report)
    write_text(folder / "report.html", page(report))
    for name in ("report.md", "DATA_CARD.md"):
        write_text(folder / name, render(name, report))
    return sorted(folder.iterdir())
