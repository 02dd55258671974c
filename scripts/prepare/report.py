"""The data report from one dictionary: Markdown in two languages, one HTML page of both, and the data card.

Words and a sentence for each reason are in texts.json. Text of records goes through `shown` or `beside`, so that none
of it ever becomes a picture, a link or markup.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from scripts import page
from scripts.common import NOTICE, NOTICE_ZH, read_json, write_text

TEXTS = Path(__file__).with_name("texts.json")
NOTICES = {"en": NOTICE, "zh": NOTICE_ZH}
EXCERPT = 500  # characters of a record's text
SEARCHED = 20_000  # of a long text, in which its likeness to another is looked for
SIZES = {"n<1K": 1_000, "1K<n<10K": 10_000, "10K<n<100K": 100_000, "100K<n<1M": 1_000_000, "1M<n<10M": 10_000_000}
ADDRESS = re.compile(r"(?=://)|(?<=www)(?=\.)", re.I)  # where a backslash keeps GitHub and the hub from making a link


class Words:
    """The texts of one language, ``en`` or ``zh``."""

    def __init__(self, language: str) -> None:
        texts, place = read_json(TEXTS), list(NOTICES).index(language)
        self.language = language
        self.words = {key: both[place] for key, both in texts["words"].items()}
        self.reasons = {key: both[place] for key, both in texts["reasons"].items()}

    def __call__(self, key: str, **values: Any) -> str:
        return self.words[key].format(**values)

    def head(self, *keys: str) -> list[str]:
        """The titles of a table's columns."""
        return [self.words[key] for key in keys]

    def means(self, reason: str) -> str:
        """A reason in one sentence: its own, its kind's (leak_…), or one that names the rule."""
        found = self.reasons.get(reason) or self.reasons.get(reason.partition("_")[0])
        return found or self("by_rule", reason=name_of(reason))


def shown(text: Any) -> str:
    """A text of a record, or its beginning, as Markdown that shows it as it is, fit for a table's cell."""
    text = "" if text is None else str(text)
    return ADDRESS.sub(r"\\", page.plain(text if len(text) <= EXCERPT else f"{text[:EXCERPT]} …"))


def beside(left: str, right: str) -> tuple[str, ...]:
    """Two texts as cells, the words marked that the other has not; of a long one the part that is like the other."""
    return tuple(ADDRESS.sub(r"\\", cell) for cell in page.side_by_side(around(left, right), around(right, left)))


def around(text: str, other: str) -> str:
    """The part of a long text that is most like another one."""
    if len(text) <= EXCERPT:
        return text
    like = difflib.SequenceMatcher(None, text[:SEARCHED], other[:EXCERPT], autojunk=False).find_longest_match()
    start = max(0, min(like.a - like.b, len(text) - EXCERPT))
    end = start + EXCERPT
    return f"{'… ' if start else ''}{text[start:end]}{' …' if end < len(text) else ''}"


def name_of(name: str) -> str:
    """A name of ours as code; any other as text."""
    return f"`{name}`" if re.fullmatch(r"[\w.-]+", name, re.ASCII) else shown(name)


def number(value: float) -> str:
    """A number with thousands' separators."""
    return f"{value:,.0f}"


def share(part: int, whole: int) -> str:
    """A share in per cent."""
    return f"{part / whole:.1%}" if whole else "–"


def most_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Names that were counted at least once, the most frequent first."""
    return sorted(((name, count) for name, count in counts.items() if count), key=lambda pair: (-pair[1], pair[0]))


def counted(counts: dict[str, int]) -> str:
    """``email 12, phone 3``."""
    return ", ".join(f"{shown(name)} {number(count)}" for name, count in most_first(counts))


def where(row: dict[str, Any]) -> str:
    """``file:12`` of a record."""
    return shown(f"{row['source']}:{row['line']}")


def under(about: str, text: str) -> str:
    """A cell with a small line above its text."""
    return f"<small>{about}</small><br>{text}"


def summary(report: dict[str, Any], words: Words) -> str:
    """What happened, and below it what the reader should do something about."""
    counts = {key: number(report[key]) for key in ("read", "kept", "rejected")}
    text = words("summary", **counts, share=share(report["kept"], report["read"]))
    for reason, count in most_first(report["reasons"])[:1]:
        text += " " + words("most", sentence=words.means(reason), count=number(count))
    return text + "".join(f"\n- {line}" for line in attention(report, words))


def attention(report: dict[str, Any], words: Words) -> list[str]:
    """What the reader should do something about."""
    if not report["kept"]:
        return [words("look_nothing")]
    personal, wanted = report["personal"], report["settings"]
    empty = [name for name, own in report["splits"].items() if not own["records"] and wanted.get(name, 1)]
    found = [words("look_empty", split=name_of(name)) for name in empty]
    if personal["rows"] and not personal["rejected"]:
        found.append(words("look_personal", rows=number(personal["rows"]), kinds=counted(personal["kinds"])))
    if sum(count for reason, count in report["reasons"].items() if reason.startswith("cut_off")) > report["read"] / 5:
        found.append(words("look_cut_off"))
    if not report["lengths"]["checked"]:
        found.append(words("look_lengths"))
    if not report["benchmarks"]:
        found.append(words("look_benchmarks"))
    return found


def sources(report: dict[str, Any], words: Words) -> str:
    """Read, kept and rejected by source."""
    keys = ("read", "kept", "rejected")
    rows = [[shown(own["source"]), *(number(own[key]) for key in keys)] for own in report["sources"]]
    return page.table(words.head("source", *keys), rows)


def reasons(report: dict[str, Any], words: Words, kind: str = "reasons") -> str:
    """Reasons, or ``warnings``: number, share of the rows read, meaning."""
    counts = [(name_of(name), count, words.means(name)) for name, count in most_first(report[kind])]
    rows = [[name, number(count), share(count, report["read"]), meaning] for name, count, meaning in counts]
    return page.table(words.head("reason", "records", "share", "meaning"), rows)


def splits(report: dict[str, Any], words: Words) -> str:
    """Records, tokens and languages of each split."""
    counts, columns = report["splits"], ["records", "zh", "en"]
    if report["lengths"]["checked"]:
        columns.insert(1, "tokens")
    rows = [[name_of(name), *(number(own[key]) for key in columns)] for name, own in counts.items()]
    return words("splits_note") + "\n\n" + page.table(words.head("split", *columns), rows)


def lengths(report: dict[str, Any], words: Words) -> str:
    """How long records are, where that was measured."""
    found = report["lengths"]
    if not found["checked"] or not report["kept"]:
        return ""
    row = [number(found[key]) for key in ("p50", "p95", "max")]
    table = page.table(words.head("half", "most_have", "longest"), [row])
    return words("lengths_note", cutoff_len=number(found["cutoff_len"])) + "\n\n" + table


def personal(report: dict[str, Any], words: Words) -> str:
    """What was found of personal data, and what to do."""
    found = report["personal"]
    told = {"rows": number(found["rows"]), "kinds": counted(found["kinds"])}
    kind = "personal_none" if not found["rows"] else "personal_rejected" if found["rejected"] else "look_personal"
    return f"{words(kind, **told)} {words('personal_note')}"


def examples(report: dict[str, Any], kind: str = "") -> list[dict[str, Any]]:
    """The shown records whose reasons begin with ``kind``."""
    reasons = [reason for reason, _ in most_first(report["reasons"]) if reason.startswith(kind)]
    return [row for reason in reasons for row in report["examples"].get(reason, [])]


def of_all(report: dict[str, Any], kind: str, words: Words) -> str:
    """How many of the leaks or duplicates (``kind``: how their reasons begin) are shown."""
    count = sum(count for reason, count in report["reasons"].items() if reason.startswith(kind))
    return words("first", shown=number(len(examples(report, kind))), count=number(count))


def leaks(report: dict[str, Any], words: Words) -> str:
    """How many items were looked for, and each leak beside its item."""
    if not report["benchmarks"]:
        return words("look_benchmarks")
    rows = []
    for leak in examples(report, "leak"):
        about = f"{where(leak)} · {words(leak['where'])} · {name_of(leak['reason'])}"
        text, item = beside(leak["leaked"], leak["item_text"])
        rows.append([under(about, text), under(shown(leak["matched"]), item)])
    counts = [[shown(file), number(items)] for file, items in report["benchmarks"].items()]
    note = f"{words('leaks_note')} {of_all(report, 'leak', words)}" if rows else words("leaks_none")
    tables = page.table(words.head("benchmark", "items"), counts), page.table(words.head("text", "item"), rows)
    return f"{tables[0]}\n\n{note}\n\n{tables[1]}"


def duplicates(report: dict[str, Any], words: Words) -> str:
    """Each duplicate beside the record that was kept."""
    rows = []
    for dropped in examples(report, "duplicate"):
        kept = dropped["kept"]
        cells = beside(kept["text"], dropped["text"])
        rows.append([f"{dropped['similarity']:.2f}", under(where(kept), cells[0]), under(where(dropped), cells[1])])
    table = page.table(words.head("likeness", "kept", "dropped"), rows)
    return f"{words('duplicates_note')} {of_all(report, 'duplicate', words)}\n\n{table}" if rows else ""


def others(report: dict[str, Any], words: Words) -> str:
    """A few rejected records of each other reason."""
    rows = [row for row in examples(report) if not row["reason"].startswith(("leak", "duplicate"))]
    cells = [[name_of(row["reason"]), under(where(row), shown(row["text"])), shown(row["matched"])] for row in rows]
    return page.table(words.head("reason", "text", "matched"), cells)


def systems(report: dict[str, Any], words: Words) -> str:
    """System texts that records bring along."""
    rows = [[shown(text), number(count)] for text, count in most_first(report["system_texts"])]
    return page.table(words.head("text", "records"), rows)


def made(report: dict[str, Any], words: Words) -> str:
    """Settings and provenance, and the files with their hashes."""
    settings = {**report["settings"], **report["provenance"]}
    told = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in settings.items()}
    rows = [[name_of(name), shown(value)] for name, value in told.items()]
    files = [[shown(name), number(own["records"]), name_of(own["sha256"])] for name, own in report["files"].items()]
    tables = page.table(words.head("setting", "value"), rows), page.table(words.head("file", "records", "hash"), files)
    return "\n".join(tables)


PARTS = {
    "rejected_why": reasons,
    "warned": partial(reasons, kind="warnings"),
    "personal": personal,
    "leaks": leaks,
    "duplicates": duplicates,
    "splits": splits,
    "lengths": lengths,
    "sources": sources,
    "system": systems,
    "examples": others,
    "made": made,
}
CARD = ("form", "splits", "sources", "rejected_why", "personal", "use")  # what a data card tells


def markdown(report: dict[str, Any], language: str, titles: Iterable[str] = PARTS) -> str:
    """The report in one language; a part without content is left out."""
    words = Words(language)
    text = f"# {words('title', name=shown(report['name']))}\n\n> {NOTICES[language]}\n\n{summary(report, words)}\n"
    for title in titles:
        part = PARTS[title](report, words).strip() if title in PARTS else words(f"{title}_text")
        text += f"\n## {words(title)}\n\n{part}\n" if part else ""
    return text


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
    return f"---\n{header.to_yaml()}\n---\n\n{markdown(report, 'en', CARD)}"


def write_reports(folder: Path, name: str, report: dict[str, Any]) -> list[Path]:
    """Write every form of a report into a folder, as ``NAME_report.*`` and ``NAME_DATA_CARD.md``; their paths."""
    texts = {language: markdown(report, language) for language in NOTICES}
    titles = {language: Words(language)("title", name=report["name"]) for language in NOTICES}
    names = ("report.md", "report.zh.md", "report.html", "DATA_CARD.md")
    paths = [folder / f"{name}_{kind}" for kind in names]
    write_text(paths[0], texts["en"])
    write_text(paths[1], texts["zh"])
    page.write_page(paths[2], titles, texts)
    write_text(paths[3], data_card(report))
    return paths
