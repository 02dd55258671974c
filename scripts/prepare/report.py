"""The data report: what became of the rows, counted into one dictionary (rows read = kept + rejected, by reason).

From it come Markdown in two languages, one HTML page of both, and the data card.
The forms are in templates/, words and a sentence for each reason in texts.json. Text of records goes through `shown`
or `beside`, so that none of it ever becomes a picture, a link or markup.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts import page
from scripts.common import file_hash, provenance, read_json, write_json, write_text
from scripts.evaluate.stats import ENOUGH
from scripts.prepare.split import SPLITS

if TYPE_CHECKING:
    from scripts.prepare.run import Row

HERE = Path(__file__).parent
TEXTS = read_json(HERE / "texts.json")  # English and Chinese of each
EXCERPT = 300  # characters of a record's question
SHOWN = 500  # characters of any text
SETTINGS = ("seed", "val", "test", "threshold", "lang", "template", "skip")
OF_LENGTHS = ("cutoff_len", "tokenizer")  # settings that say nothing where no tokens are counted
PAIRED = ("leak", "duplicate_near")  # reasons whose records are shown beside what they match
SEARCHED = 20_000  # of a long text, in which its likeness to another is looked for
SIZES = {"n<1K": 1_000, "1K<n<10K": 10_000, "10K<n<100K": 100_000, "100K<n<1M": 1_000_000, "1M<n<10M": 10_000_000}
ADDRESS = re.compile(r"(?=://)|(?<=www)(?=\.)", re.I)  # where a backslash keeps GitHub and the hub from making a link


def figures(args: argparse.Namespace, rows: list[Row], moved: int, folder: Path) -> dict:
    """What became of the rows, where the files in ``folder`` come from, and by which settings.

    ``moved``: records that are in another split than in the run before. There is neither date nor machine, so that the
    same input gives the same bytes. What is counted by name stands most frequent first.
    """
    kept = [row for row in rows if row.reason is None]
    read = Counter(row.source for row in rows)
    lost = Counter(row.source for row in rows if row.reason)
    personal = [row for row in rows if row.personal and row.reason in (None, "personal_data")]
    splits = {split: of_split([row for row in kept if row.split == split]) for split in SPLITS}
    counts = {split: own["records"] for split, own in splits.items()} | {"rejected": len(rows) - len(kept)}
    paths = {folder / f"{args.name}_{part}.jsonl": count for part, count in counts.items()}
    origin = {key: value for key, value in provenance().items() if key not in ("date", "machine")}
    repairs = Counter(f"repaired_{kind}" for row in rows for kind in row.repairs)
    lengths = sorted(row.tokens for row in kept) or [0]
    return {
        "name": args.name,
        "provenance": origin | {"command": args.command},
        "settings": {key: getattr(args, key) for key in SETTINGS + (() if args.no_lengths else OF_LENGTHS)},
        "sources": [
            {"source": source, "read": count, "kept": count - lost[source], "rejected": lost[source]}
            for source, count in read.items()
        ],
        "read": len(rows),
        "kept": len(kept),
        "rejected": len(rows) - len(kept),
        "reasons": counted(row.reason for row in rows if row.reason),
        "leaks": counted(row.benchmark for row in rows if row.benchmark),
        "warnings": dict((repairs + Counter(moved_to_another_split=moved)).most_common()),
        "personal": {
            "rows": len(personal),
            "kinds": counted(kind for row in personal for kind in row.personal),
            "rejected": args.reject_personal,
        },
        "system_texts": counted(row.system for row in kept if row.system),
        "splits": splits,
        "lengths": {
            "checked": not args.no_lengths,
            "cutoff_len": args.cutoff_len,
            "p50": lengths[(len(lengths) - 1) // 2],
            "p95": lengths[int(0.95 * (len(lengths) - 1))],
            "max": lengths[-1],
        },
        "files": {path.name: {"records": count, "sha256": file_hash(path)} for path, count in paths.items()},
    }


def counted(names: Iterable[str]) -> dict[str, int]:
    """How often each name comes, the most frequent first."""
    return dict(Counter(names).most_common())


def of_split(rows: list[Row]) -> dict:
    """Records and tokens of a split, its records by language, and those with a system text."""
    by_language = {lang: sum(row.lang == lang for row in rows) for lang in ("zh", "en")}
    with_system = sum(bool(row.system) for row in rows)
    return {"records": len(rows), "tokens": sum(row.tokens for row in rows), **by_language, "with_system": with_system}


def examples_of(reason: str) -> int:
    """How many rejections of this reason the report shows; more where each stands beside what it matches."""
    return 20 if reason.startswith(PAIRED) else 3


def example(line: bytes) -> dict[str, Any]:
    """What the report shows of a rejected line: its question's beginning, or the whole row's, in place of the record.

    Half of a surrogate pair, which UTF-8 cannot hold, becomes a question mark.
    """
    value = json.loads(json.dumps(json.loads(line), ensure_ascii=False).encode(errors="replace"))
    record = value.pop("record")
    if isinstance(record, dict):
        record = record.get("Question") or record
    text = record if isinstance(record, str) else json.dumps(record, ensure_ascii=False, default=str)
    return {**value, "text": text[:EXCERPT]}


def speaker(language: str) -> page.Say:
    """A function that gives the text of a name, its ``{places}`` filled, in one language."""
    pairs = TEXTS["words"] | TEXTS["reasons"]
    names = {name: english for name, (english, _) in pairs.items()}
    return page.speaker(names, dict(pairs.values()) if language == "zh" else {})


def means(reason: str, say: page.Say) -> str:
    """A reason in one sentence; one without a sentence of its own is named."""
    return say(reason) if reason in TEXTS["reasons"] else say("by_rule", reason=name_of(reason))


def kinds_of(kinds: dict[str, int], say: page.Say) -> str:
    """Kinds of personal data with their records: ``email 12, phone 3``."""
    return say("and").join(say("of_kind", kind=say(kind), count=number(count)) for kind, count in kinds.items())


def shown(text: Any) -> str:
    """A text of a record, or its beginning, as Markdown that shows it as it is, fit for a table's cell."""
    text = str(text)
    return ADDRESS.sub(r"\\", page.plain(text if len(text) <= SHOWN else f"{text[:SHOWN]} …"))


def beside(left: str, right: str) -> tuple[str, ...]:
    """Two texts as cells, the words marked that the other has not; of a long one the part that is like the other."""
    return tuple(ADDRESS.sub(r"\\", cell) for cell in page.side_by_side(around(left, right), around(right, left)))


def around(text: str, other: str) -> str:
    """The part of a long text that is most like another one."""
    if len(text) <= SHOWN:
        return text
    like = difflib.SequenceMatcher(None, text[:SEARCHED], other[:SHOWN], autojunk=False).find_longest_match()
    start = max(0, min(like.a - like.b, len(text) - SHOWN))
    end = start + SHOWN
    return f"{'… ' if start else ''}{text[start:end]}{' …' if end < len(text) else ''}"


def name_of(name: str) -> str:
    """A name of ours as code; any other as text."""
    return f"`{name}`" if re.fullmatch(r"[\w.-]+", name, re.ASCII) else shown(name)


def number(value: int) -> str:
    """A number with thousands' separators."""
    return f"{value:,}"


def share(part: int, whole: int) -> str:
    """A share in per cent."""
    return f"{part / whole:.1%}" if whole else "–"


def attention(report: dict[str, Any], say: page.Say) -> list[str]:
    """What the reader should do something about."""
    if not report["kept"]:
        return [say("look_nothing")]
    personal, wanted = report["personal"], report["settings"]
    records = {name: own["records"] for name, own in report["splits"].items()}
    found = [say("look_empty", split=name_of(name)) for name in records if not records[name] and wanted.get(name, 1)]
    if 0 < records["test"] < ENOUGH:
        found.append(say("look_few", records=number(records["test"]), enough=number(ENOUGH)))
    if personal["rows"] and not personal["rejected"]:
        found.append(say("look_personal", rows=number(personal["rows"]), kinds=kinds_of(personal["kinds"], say)))
    if count_of("cut_off", report) > 0.2 * report["read"]:
        found.append(say("look_cut_off"))
    if not report["lengths"]["checked"]:
        found.append(say("look_lengths"))
    if not report["benchmarks"]:
        found.append(say("look_benchmarks"))
    return found


def count_of(kind: str, report: dict[str, Any]) -> int:
    """How many records were rejected for reasons that begin with ``kind``."""
    return sum(count for reason, count in report["reasons"].items() if reason.startswith(kind))


def shown_of(kind: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    """The examples of what was rejected for reasons that begin with ``kind``."""
    return [row for reason in report["reasons"] if reason.startswith(kind) for row in report["examples"][reason]]


def markdown(report: dict[str, Any], language: str, template: str = "report.md.j2", **more: str) -> str:
    """A template filled from the report in one language."""
    say = speaker(language)
    functions = {function.__name__: function for function in (shown, beside, name_of, number, share)}
    functions |= {"say": say, "means": partial(means, say=say), "kinds_of": partial(kinds_of, say=say)}
    functions |= {function.__name__: partial(function, report=report) for function in (count_of, shown_of)}
    others = [row for row in shown_of("", report) if not row["reason"].startswith(PAIRED)]
    values = report | more | {"attention": attention(report, say), "others": others}
    return page.fill(HERE / "templates" / template, language, functions, values, strict=True)


def data_card(report: dict[str, Any]) -> str:
    """The card for Hugging Face's hub: front matter by its library, then what users of a data set must know."""
    from huggingface_hub import DatasetCardData

    kept = {name: own for name, own in report["splits"].items() if own["records"]}
    files = [{"split": name, "path": f"{report['name']}_{name}.jsonl"} for name in kept]
    header = DatasetCardData(
        pretty_name=report["name"],
        language=[language for language in ("zh", "en") if any(own[language] for own in kept.values())],
        task_categories=["question-answering", "text-generation"],
        tags=["medical", "chain-of-thought"],
        size_categories=next((name for name, size in SIZES.items() if report["kept"] < size), "n>10M"),
        configs=[{"config_name": "default", "data_files": files}],
    )
    return markdown(report, "en", "data_card.md.j2", header=header.to_yaml())


def write_reports(folder: Path, name: str, report: dict[str, Any]) -> None:
    """Write every form of a report into a folder, as ``NAME_report.*`` and ``NAME_DATA_CARD.md``."""
    write_json(folder / f"{name}_report.json", report)
    texts = {language: markdown(report, language) for language in page.LANGUAGES}
    titles = {language: speaker(language)("title", name=report["name"]) for language in page.LANGUAGES}
    page.write_page(folder / f"{name}_report.html", titles, texts)
    write_text(folder / f"{name}_DATA_CARD.md", data_card(report))
