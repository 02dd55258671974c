"""Sources to records: each row a Record, or Unreadable with its reason; what is wrong with a source as a whole.

Three shapes are told apart by the column names of a source's beginning (its first 1,000 rows):
- columns: ``Question, Complex_CoT, Response``, in any case, or those named by --columns;
- alpaca: ``instruction, input, output``;
- chat: ShareGPT's ``conversations`` or OpenAI's ``messages``, one question and one answer.
"""

from __future__ import annotations

import difflib
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
SHOWN = 30  # columns named in an error
OURS = ("Question", "Complex_CoT", "Response")
# What a column's name looks like: only to suggest a --columns line, never to read by. The likeliest stand first.
HINTS = {
    "Complex_CoT": (r"cot|thought|think|reason|rationale|思|推理", r"^t$"),
    "Response": (r"response|answer|output|completion|reply|答|回复", r"^a$"),
    "Question": (r"question|query|问|题", r"prompt|problem|input|instruction|^q$"),
}
OTHER_TAGS = re.compile(r"([<\[【])(\w+)([>\]】]).*\1/\2\3", re.S)
Rows = list[tuple[int, dict | BadRow]]  # with their lines


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
    shape = find_shape(spec, first, columns)
    for line, row in itertools.chain(first, rows):
        yield read_row(spec, line, row, shape, tags)


def check_sources(specs: Iterable[str], columns: dict[str, str], tags: tuple[str, str] = TAGS) -> None:
    """Read the beginning of every source; UserError that names everything wrong in all of them at once."""
    faults, names = [], []
    if not all(tags):
        raise UserError(f"--thought-tags: found {tags}, expected two marks such as {' '.join(TAGS)}")
    for spec in specs:
        try:
            first = list(itertools.islice(load_rows(spec), BEGINNING))
            names += column_names(first)
            check_shape(spec, first, find_shape(spec, first, columns), tags)
        except UserError as error:
            faults.append(str(error))
    absent = [f"{ours}={theirs}" for ours, theirs in columns.items() if names and not matching(names, theirs)]
    if absent:
        faults.append(f"--columns {' '.join(absent)}: no source has such a column; found {listed(names)}")
    if faults:
        raise UserError("\n".join(faults))


def column_names(rows: Rows) -> list[str]:
    """Names of all columns of the rows, in the order of their first appearance."""
    return list(dict.fromkeys(name for _, row in rows if isinstance(row, dict) for name in row))


def listed(names: list[str]) -> str:
    """The first column names, for an error."""
    return ", ".join(name[:40] for name in list(dict.fromkeys(names))[:SHOWN]) or "none"


def matching(names: list[str], wanted: str) -> list[str]:
    """The columns of this name without regard to case and blanks around it."""
    return [name for name in names if name.strip().casefold() == wanted.strip().casefold()]


def find_shape(spec: str, rows: Rows, columns: dict[str, str]) -> Shape:
    """The shape that the column names tell; a text is None where no column is found for it."""
    names = column_names(rows)

    def find(wanted: str) -> str | None:
        found = [wanted] if wanted in names else matching(names, wanted)
        if len(found) > 1:
            raise UserError(f"{spec}: columns {' and '.join(found)} differ in case only; name one with --columns")
        return found[0] if found else None

    named = {ours: find(theirs) for ours, theirs in columns.items()}
    question, thought, answer = (named.get(ours) or find(ours) for ours in OURS)
    if (question and answer) or named.get("Question") or named.get("Response"):
        return Shape(question, thought, answer)
    if turns := find("conversations") or find("messages"):
        return Shape(thought=thought, turns=turns, system=find("system"))
    instruction, given, output = (find(name) for name in ("instruction", "input", "output"))
    if output and (instruction or given):
        common = common_instruction(rows, instruction, given)
        return Shape(given, thought, output, find("system"), instruction, common)
    return Shape(question, thought, answer)


def has_text(row: dict | BadRow, name: str | None) -> bool:
    """Whether a row holds text that is not blank in this column."""
    return isinstance(row, dict) and isinstance(row.get(name), str) and bool(row[name].strip())


def common_instruction(rows: Rows, instruction: str | None, given: str | None) -> str | None:
    """Alpaca's instruction where most of the rows that have an input share it, else None."""
    both = [row[instruction] for _, row in rows if has_text(row, instruction) and has_text(row, given)]
    common, count = (Counter(both).most_common(1) or [(None, 0)])[0]
    return common if count > max(1, len(both) / 2) else None


def check_shape(spec: str, rows: Rows, shape: Shape, tags: tuple[str, str]) -> None:
    """UserError where a source lacks a question, a thought or an answer, with the options that make it readable."""
    names = column_names(rows)
    if not names:
        return  # every row is rejected by name
    guessed = guess_columns(rows, shape)
    answered = replace(shape, answer=guessed["Response"])  # a thought may stand in an answer that is not named yet
    lacks = {
        "Question": not (shape.question or shape.instruction or shape.turns),
        "Complex_CoT": not shape.thought and lacks_thought(spec, answered, tags),
        "Response": not (shape.answer or shape.turns),
    }
    missing = [ours for ours in OURS if lacks[ours]]
    if missing:
        line = next(line for line, row in rows if isinstance(row, dict))
        lacking = " and ".join(f"no column {ours}" for ours in missing)
        lacking += f" (nor {tags[0]} in the answers)" if lacks["Complex_CoT"] else ""
        texts = [str(row.get(shape.turns or answered.answer)) for _, row in rows if isinstance(row, dict)]
        raise UserError(f"{spec}:{line}: {lacking}; found {listed(names)}; {remedy(missing, guessed, texts)}")


def lacks_thought(spec: str, shape: Shape, tags: tuple[str, str]) -> bool:
    """Whether a source has answers and none of them holds a thought."""
    answered = False
    for line, row in load_rows(spec):
        record = read_row(spec, line, row, shape, tags)
        if isinstance(record, Record) and record.thought:
            return False
        answered = answered or (isinstance(record, Record) and bool(record.answer))
    return answered


def guess_columns(rows: Rows, shape: Shape) -> dict[str, str | None]:
    """Our names to the columns that the shape knows, and to the likeliest ones where it knows none."""
    columns = {"Complex_CoT": shape.thought, "Response": shape.answer, "Question": shape.question or shape.instruction}
    names = [name for name in column_names(rows) if any(has_text(row, name) for _, row in rows)]
    for ours, hints in HINTS.items():
        free = [name for name in names if name not in (*columns.values(), shape.instruction)]
        likely = [name for hint in hints for name in free if re.search(hint, name, re.I)]
        likely += difflib.get_close_matches(ours, free, 1)
        columns[ours] = columns[ours] or next(iter(likely), None)
    return columns


def remedy(missing: list[str], guessed: dict[str, str | None], answers: list[str]) -> str:
    """The finished options that make a source readable."""
    marks = next(filter(None, map(OTHER_TAGS.search, answers)), None) if "Complex_CoT" in missing else None
    if missing == ["Complex_CoT"] and not (marks or guessed["Complex_CoT"]):
        return "no column looks like reasoning, which every record needs; if one is, name it: --columns Complex_CoT=…"
    named = [ours for ours in missing if not (marks and ours == "Complex_CoT")]
    options = [shlex.quote(f"{ours}={guessed[ours]}") if guessed[ours] else f"{ours}=…" for ours in named]
    columns = [f"--columns {' '.join(options)}"] if options else []
    if marks:
        begin, name, end = marks.groups()
        columns.append(f"--thought-tags '{begin}{name}{end}' '{begin}/{name}{end}'")
    return f"name yours: {' '.join(columns)}"
