"""The data report from one dictionary: Markdown in two languages, one HTML page of both, and the data card.

The forms are in templates/, words and a sentence for each reason in texts.json. Text of records goes through `shown`
or `beside`, so that none of it ever becomes a picture, a link or markup.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from scripts import page
from scripts.common import NOTICE, NOTICE_ZH, read_json, write_text

HERE = Path(__file__).parent
TEXTS = HERE / "texts.json"
NOTICES = {"en": NOTICE, "zh": NOTICE_ZH}
EXCERPT = 500  # characters of a record's text
PAIRED = ("leak", "duplicate_near")  # reasons whose records are shown beside what they match
SEARCHED = 20_000  # of a long text, in which its likeness to another is looked for
SIZES = {"n<1K": 1_000, "1K<n<10K": 10_000, "10K<n<100K": 100_000, "100K<n<1M": 1_000_000, "1M<n<10M": 10_000_000}
ADDRESS = re.compile(r"(?=://)|(?<=www)(?=\.)", re.I)  # where a backslash keeps GitHub and the hub from making a link


class Words:
    """The texts of one language, ``en`` or ``zh``."""

    def __init__(self, language: str) -> None:
        texts, place = read_json(TEXTS), list(NOTICES).index(language)
        self.words = {key: both[place] for key, both in texts["words"].items()}
        self.reasons = {key: both[place] for key, both in texts["reasons"].items()}

    def __call__(self, key: str, **values: str) -> str:
        return self.words[key].format(**values)

    def means(self, reason: str) -> str:
        """A reason in one sentence; one without a sentence of its own is named."""
        return self.reasons.get(reason) or self("by_rule", reason=name_of(reason))


def shown(text: Any) -> str:
    """A text of a record, or its beginning, as Markdown that shows it as it is, fit for a table's cell."""
    text = str(text)
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


def number(value: int) -> str:
    """A number with thousands' separators."""
    return f"{value:,}"


def share(part: int, whole: int) -> str:
    """A share in per cent."""
    return f"{part / whole:.1%}" if whole else "–"


def most_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Names with their counts, the most frequent first."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def counted(counts: dict[str, int]) -> str:
    """``email 12, phone 3``."""
    return ", ".join(f"{name} {number(count)}" for name, count in most_first(counts))


def attention(report: dict[str, Any], words: Words) -> list[str]:
    """What the reader should do something about."""
    if not report["kept"]:
        return [words("look_nothing")]
    personal, wanted = report["personal"], report["settings"]
    empty = [name for name, own in report["splits"].items() if not own["records"] and wanted.get(name, 1)]
    found = [words("look_empty", split=name_of(name)) for name in empty]
    if personal["rows"] and not personal["rejected"]:
        found.append(words("look_personal", rows=number(personal["rows"]), kinds=counted(personal["kinds"])))
    if count_of("cut_off", report) > 0.2 * report["read"]:
        found.append(words("look_cut_off"))
    if not report["lengths"]["checked"]:
        found.append(words("look_lengths"))
    if not report["benchmarks"]:
        found.append(words("look_benchmarks"))
    return found


def count_of(kind: str, report: dict[str, Any]) -> int:
    """How many records were rejected for reasons that begin with ``kind``."""
    return sum(count for reason, count in report["reasons"].items() if reason.startswith(kind))


def shown_of(kind: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    """The examples of what was rejected for reasons that begin with ``kind``."""
    reasons = [reason for reason, _ in most_first(report["reasons"]) if reason.startswith(kind)]
    return [row for reason in reasons for row in report["examples"].get(reason, [])]


def markdown(report: dict[str, Any], language: str, template: str = "report.md.j2", **more: str) -> str:
    """A template filled from the report in one language; of several empty lines, one is left."""
    import jinja2

    words = Words(language)
    forms = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    forms.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    forms.filters |= {"say": words, "most_first": most_first}
    forms.globals |= {function.__name__: function for function in (shown, beside, name_of, number, share, counted)}
    forms.globals |= {"say": words, "means": words.means, "notice": NOTICES[language]}
    text = forms.get_template(template).render(
        **report,
        **more,
        attention=attention(report, words),
        count_of=lambda kind: count_of(kind, report),
        shown_of=lambda kind: shown_of(kind, report),
        others=[row for row in shown_of("", report) if not row["reason"].startswith(PAIRED)],
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


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
    texts = {language: markdown(report, language) for language in NOTICES}
    titles = {language: Words(language)("title", name=report["name"]) for language in NOTICES}
    write_text(folder / f"{name}_report.md", texts["en"])
    write_text(folder / f"{name}_report.zh.md", texts["zh"])
    page.write_page(folder / f"{name}_report.html", titles, texts)
    write_text(folder / f"{name}_DATA_CARD.md", data_card(report))
