"""Sources to records: each row a Record, or Unreadable with its reason; what is wrong with a source as a whole.

Three shapes are told apart by the column names of a source's beginning (its first 1,000 rows):
- columns: ``Question, Complex_CoT, Response``, in any case, or those named by --columns;
- alpaca: ``instruction, input, output``;
- chat: ShareGPT's ``conversations`` or OpenAI's ``messages``, one question and one answer.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from scripts.common import UserError
from scripts.prepare.load import BadRow, is_hub, load_rows
from scripts.prepare.rows import REASONS, TAGS, Record, Shape, Unreadable, read_row

__all__ = ["REASONS", "TAGS", "Record", "Unreadable", "check_sources", "claimed_language", "read_source"]
BEGINNING = 1000  # rows that a source's shape is told from
OURS = ("Question", "Complex_CoT", "Response")
# Words that give away what a column holds: only to suggest a --columns line, never to read by.
HINTS = {
    "Complex_CoT": ("cot", "think", "thought", "reason", "rationale", "思", "推理"),
    "Response": ("response", "answer", "output", "completion", "reply", "a", "答", "回复"),
    "Question": ("question", "query", "prompt", "problem", "input", "instruction", "q", "问", "题"),
}
OTHER_TAGS = re.compile(r"\s*([<\[【])(\w+)([>\]】])")


def claimed_language(spec: str) -> str | None:
    """The language that a hub configuration claims (``…:zh`` -> zh); mixed ones and files claim none."""
    config = spec.partition(":")[2] if is_hub(spec) else ""
    return config if config in ("zh", "en") else None


def read_source(spec: str, columns: dict[str, str], tags: tuple[str, str] = TAGS) -> Iterator[Record | Unreadable]:
    """Every row of a source as a record, or as Unreadable with its reason, in the order of the source.

    ``columns``: our names (OURS) to the source's, where given. ``tags``: marks around a thought inside the answer;
    ``<think>`` counts too. Raises UserError where the source as a whole cannot be read.
    """
    rows = load_rows(spec)
    first = list(itertools.islice(rows, BEGINNING))
    shape = checked_shape(spec, first, columns, tags)
    for line, row in itertools.chain(first, rows):
        yield read_row(spec, line, row, shape, tags)


def check_sources(specs: Iterable[str], columns: dict[str, str], tags: tuple[str, str] = TAGS) -> None:
    """Read the beginning of every source; UserError that names everything wrong in all of them at once."""
    faults, names, tagged = [], [], False
    if not all(tags):
        raise UserError(f"--thought-tags: found {tags}, expected two marks such as {' '.join(TAGS)}")
    for spec in specs:
        try:
            first = list(itertools.islice(load_rows(spec), BEGINNING))
            names += column_names(row for _, row in first)
            tagged = tagged or any(tags[0] in str(row) for _, row in first)
            checked_shape(spec, first, columns, tags)
        except UserError as error:
            faults.append(str(error))
    known = {name.strip().casefold() for name in names}
    absent = [f"{ours}={theirs}" for ours, theirs in columns.items() if theirs.strip().casefold() not in known]
    if names and absent:
        found = ", ".join(dict.fromkeys(names))
        faults.append(f"--columns {' '.join(absent)}: no source has such a column; found {found}")
    if names and tags != TAGS and not tagged:
        faults.append(f"--thought-tags: no source has {tags[0]} in its first {BEGINNING:,} rows")
    if faults:
        raise UserError("\n".join(faults))


def column_names(rows: Iterable[dict | BadRow]) -> list[str]:
    """Names of all columns of the rows, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row))


def find(names: list[str], wanted: str) -> str | None:
    """The column of this name: exactly, else without regard to case. UserError where two differ in case only."""
    if wanted in names:
        return wanted
    found = [name for name in names if name.strip().casefold() == wanted.strip().casefold()]
    if len(found) > 1:
        raise UserError(f"columns {' and '.join(found)} differ in case only; name one exactly with --columns")
    return found[0] if found else None


def find_shape(rows: list[dict], columns: dict[str, str]) -> Shape:
    """The shape that the column names tell; a text is None where no column is found for it."""
    names = column_names(rows)
    named = {ours: find(names, theirs) for ours, theirs in columns.items()}
    own = {ours: named.get(ours) or find(names, ours) for ours in OURS}
    shape = Shape(question=own["Question"], thought=own["Complex_CoT"], answer=own["Response"])
    if (shape.question and shape.answer) or named.get("Question") or named.get("Response"):
        return shape
    turns = find(names, "conversations") or find(names, "messages")
    if turns:
        return Shape(thought=shape.thought, turns=turns, system=find(names, "system"))
    instruction, given, output = (find(names, name) for name in ("instruction", "input", "output"))
    if not output or not (instruction or given):
        return shape
    common = common_instruction(rows, instruction, given)
    return Shape(given, shape.thought, output, find(names, "system"), instruction, common)


def has_text(row: dict, name: str | None) -> bool:
    """Whether a row holds text that is not blank in this column."""
    return isinstance(row.get(name), str) and bool(row[name].strip())


def common_instruction(rows: list[dict], instruction: str | None, given: str | None) -> str | None:
    """Alpaca's instruction where most of the rows that have an input share it, else None."""
    both = [row[instruction] for row in rows if has_text(row, instruction) and has_text(row, given)]
    common, count = (Counter(both).most_common(1) or [(None, 0)])[0]
    return common if count > max(1, len(both) / 2) else None


def checked_shape(
    spec: str, first: list[tuple[int, dict | BadRow]], columns: dict[str, str], tags: tuple[str, str]
) -> Shape:
    """The shape of a source from its first rows; UserError where it lacks a question, a thought or an answer."""
    rows = [row for _, row in first if isinstance(row, dict)]
    if not rows:
        return Shape()  # every row is rejected by name
    try:
        shape = find_shape(rows, columns)
    except UserError as error:
        raise UserError(f"{spec}: {error}") from error
    guessed = guess_columns(rows, shape)
    tried = replace(shape, answer=guessed["Response"])  # a thought may stand in an answer that is not named yet
    read = [read_row(spec, line, row, tried, tags) for line, row in first]
    answers = [record.answer for record in read if isinstance(record, Record) and record.answer]
    lacks = {
        "Question": not (shape.question or shape.instruction or shape.turns),
        "Complex_CoT": not shape.thought and bool(answers) and not has_thought(spec, tried, tags, read),
        "Response": not (shape.answer or shape.turns),
    }
    missing = [ours for ours in OURS if lacks[ours]]
    if missing:
        line = next(line for line, row in first if isinstance(row, dict))
        lacking = " and ".join(f"no column {ours}" for ours in missing)
        lacking += f" (nor {tags[0]} in the answers)" if lacks["Complex_CoT"] else ""
        found = ", ".join(name[:40] for name in column_names(rows)) or "none"
        raise UserError(f"{spec}:{line}: {lacking}; found {found}; {remedy(missing, guessed, answers)}")
    return shape


def has_thought(spec: str, shape: Shape, tags: tuple[str, str], read: list[Record | Unreadable]) -> bool:
    """Whether an answer of a source holds a thought: one of those read already, or a later one."""
    later = (read_row(spec, line, row, shape, tags) for line, row in load_rows(spec))
    return any(isinstance(row, Record) and row.thought for row in itertools.chain(read, later))


def guess_columns(rows: list[dict], shape: Shape) -> dict[str, str | None]:
    """Our names to the columns that the shape knows, and to the likeliest ones where it knows none."""
    names = column_names(rows)
    free = [name for name in names if name != shape.instruction and any(has_text(row, name) for row in rows)]
    columns = {"Complex_CoT": shape.thought, "Response": shape.answer, "Question": shape.question or shape.instruction}
    for ours, hints in HINTS.items():
        free = [name for name in free if name not in columns.values()]
        exact = [name for hint in hints for name in free if name.casefold() == hint]
        close = [name for hint in hints for name in free if len(hint.encode()) > 1 and hint in name.casefold()]
        columns[ours] = columns[ours] or next(iter(exact + close), None)
    unknown = [ours for ours, name in columns.items() if not name]
    left = [name for name in names if name not in (*columns.values(), shape.instruction)]
    if len(names) == len(OURS) and len(unknown) == len(left) == 1:
        columns[unknown[0]] = left[0]
    return columns


def remedy(missing: list[str], guessed: dict[str, str | None], answers: list[str]) -> str:
    """The finished options that make a source readable."""
    options = {ours: f"{ours}={guessed[ours] or '…'}" for ours in missing}
    marks = next((match for text in answers if (match := OTHER_TAGS.match(text)) and f"/{match[2]}" in text), None)
    tags = ""
    if marks and "Complex_CoT" in missing:
        begin, name, end = marks.groups()
        tags = f" --thought-tags '{begin}{name}{end}' '{begin}/{name}{end}'"
        del options["Complex_CoT"]
    elif missing == ["Complex_CoT"] and not guessed["Complex_CoT"]:
        return "no column looks like reasoning, which every record needs; if one is, name it: --columns Complex_CoT=…"
    columns = " ".join(option if option.endswith("…") else shlex.quote(option) for option in options.values())
    return "name yours:" + (f" --columns {columns}" if columns else "") + tags
