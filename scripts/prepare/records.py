"""Raw rows to records: question, thought, answer and system text, exactly as they lie in the source.

Three shapes are told apart by the column names of a source's beginning (its first 1,000 rows):
- columns: ``Question, Complex_CoT, Response``, in any case, or those named by --columns;
- alpaca: ``instruction, input, output``;
- chat: ShareGPT's ``conversations`` or OpenAI's ``messages``, one question and one answer.
Without a thought of its own, a record's thought is taken from its answer: ``<think>…</think>``, or other marks.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from scripts.common import UserError
from scripts.prepare.load import BadRow, Repeated, is_hub, load_rows

BEGINNING = 1000  # rows that a source's shape is told from
TAGS = ("<think>", "</think>")
OURS = ("Question", "Complex_CoT", "Response")
REASONS = (
    "not_json", "not_an_object", "bad_quotes", "wrong_fields", "duplicate_keys", "not_text",
    "several_turns", "tool_turns", "unknown_turns", "open_thought", "text_before_thought",
)  # fmt: skip
ROLES = {
    "system": ("system", "developer"),
    "question": ("user", "human"),
    "answer": ("assistant", "gpt", "model", "chatgpt", "bot"),
    "tool": ("tool", "function", "function_call", "observation"),
}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
# Words that give away what a column holds: only to suggest a --columns line, never to read by.
HINTS = {
    "Complex_CoT": ("cot", "think", "thought", "reason", "rationale", "思", "推理"),
    "Response": ("response", "answer", "output", "completion", "reply", "a", "答", "回复"),
    "Question": ("question", "query", "prompt", "problem", "input", "instruction", "q", "问", "题"),
}
OTHER_TAGS = re.compile(r"\s*([<\[【])(\w+)([>\]】])")


@dataclass(slots=True)
class Record:
    """One record. Texts are exactly those of the source, "" where a field is missing or null; ``raw``: the row."""

    source: str
    line: int
    question: str
    thought: str
    answer: str
    system: str
    raw: Any


@dataclass(slots=True)
class Unreadable:
    """A row that is no record. ``reason``: one of REASONS, ``matched``: what was found, ``raw``: the row."""

    source: str
    line: int
    reason: str
    matched: str
    raw: Any


class Fault(Exception):
    """Why a row is no record: its reason and what was found."""

    def __init__(self, reason: str, matched: str):
        super().__init__(reason, matched)
        self.reason, self.matched = reason, matched


@dataclass(slots=True)
class Shape:
    """Where a source keeps its texts: names of its columns, None where it has none for it.

    ``turns``: the column of a chat. ``instruction``: Alpaca's; ``common``: the instruction of most rows, which is then
    a system text and not part of the question.
    """

    question: str | None = None
    thought: str | None = None
    answer: str | None = None
    system: str | None = None
    instruction: str | None = None
    common: str | None = None
    turns: str | None = None


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


def common_instruction(rows: list[dict], instruction: str | None, given: str | None) -> str | None:
    """Alpaca's instruction where most of the rows that have an input share it, else None."""
    both = [str(row[instruction]) for row in rows if row.get(instruction) and row.get(given)]
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
    lacks = [] if shape.question or shape.instruction or shape.turns else ["Question"]
    lacks += [] if shape.answer or shape.turns else ["Response"]
    guessed = guess_columns(rows, shape)
    tried = replace(shape, answer=guessed["Response"])
    read = [read_row(spec, line, row, tried, tags) for line, row in first]
    records = [record for record in read if isinstance(record, Record)]
    answers = [record.answer for record in records if record.answer]
    if not shape.thought and answers and not any(record.thought for record in records):
        lacks.append("Complex_CoT")
    if lacks:
        line = next(line for line, row in first if isinstance(row, dict))
        remedy = how_to_name(lacks, guessed, answers)
        lacking = ", ".join(f"no column {ours}" for ours in lacks)
        lacking = lacking.replace("Complex_CoT", f"Complex_CoT (and no thought in {tags[0]} inside the answers)")
        found = ", ".join(name[:40] for name in column_names(rows))
        raise UserError(f"{spec}:{line}: {lacking}; found {found}; {remedy}")
    return shape


def guess_columns(rows: list[dict], shape: Shape) -> dict[str, str | None]:
    """Our names to the columns that the shape knows, and to the likeliest ones where it knows none."""
    free = [name for name in column_names(rows) if any(isinstance(row.get(name), str) for row in rows)]
    columns = {"Complex_CoT": shape.thought, "Response": shape.answer, "Question": shape.question or shape.instruction}
    for ours, hints in HINTS.items():
        free = [name for name in free if name not in columns.values()]
        exact = [name for hint in hints for name in free if name.casefold() == hint]
        close = [name for hint in hints for name in free if len(hint.encode()) > 1 and hint in name.casefold()]
        columns[ours] = columns[ours] or next(iter(exact + close), None)
    return columns


def how_to_name(lacks: list[str], guessed: dict[str, str | None], answers: list[str]) -> str:
    """The finished option that makes a source readable."""
    thoughtless = "Complex_CoT" in lacks
    marks = next((match for text in answers if (match := OTHER_TAGS.match(text)) and f"/{match[2]}" in text), None)
    if thoughtless and marks:
        begin, name, end = marks.groups()
        return f"the thought seems to stand in other marks: --thought-tags '{begin}{name}{end}' '{begin}/{name}{end}'"
    if thoughtless and not guessed["Complex_CoT"]:
        return "no column looks like reasoning, which every record needs; if one is, name it: --columns Complex_CoT=…"
    pairs = " ".join(shlex.quote(f"{ours}={guessed[ours] or '…'}") for ours in OURS if ours in lacks)
    return f"name the others: --columns {pairs}"


def read_row(spec: str, line: int, row: dict | BadRow, shape: Shape, tags: tuple[str, str]) -> Record | Unreadable:
    """One row of a known shape as a record, or why it is none."""
    if isinstance(row, BadRow):
        return Unreadable(spec, line, row.reason, row.matched, row.raw)
    try:
        question, thought, answer, system = chat_texts(row, shape) if shape.turns else column_texts(row, shape)
        if not thought.strip():
            thought, answer = split_thought(answer, tags)
    except Fault as fault:
        raw = row.pairs if isinstance(row, Repeated) else row
        return Unreadable(spec, line, fault.reason, fault.matched, raw)
    return Record(spec, line, question, thought, answer, system, row)


def column_texts(row: dict, shape: Shape) -> tuple[str, str, str, str]:
    """Question, thought, answer and system text of a row with a column for each."""
    question, instruction = text_of(row, shape.question), text_of(row, shape.instruction)
    system = text_of(row, shape.system)
    if shape.instruction and row.get("history"):
        raise Fault("several_turns", f"{1 + len(row['history'])} turns")
    if instruction and instruction == shape.common:
        system = "\n".join(part for part in (system, instruction) if part)
    elif instruction:
        question = "\n".join(part for part in (instruction, question) if part)
    return question, text_of(row, shape.thought), text_of(row, shape.answer), system


def chat_texts(row: dict, shape: Shape) -> tuple[str, str, str, str]:
    """Question, thought, answer and system text of a chat with one question and one answer."""
    turns = row.get(shape.turns)
    if isinstance(turns, str):  # a table holds it as JSON text
        try:
            turns = json.loads(turns)
        except ValueError as error:
            raise Fault("not_text", f"{shape.turns}: neither turns nor their JSON text") from error
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Fault("not_text", f"{shape.turns}: {type(turns).__name__}, expected a list of turns")
    said: dict[str, list[str]] = {"system": [text_of(row, shape.system)], "question": [], "answer": []}
    thought = text_of(row, shape.thought)
    for turn in turns:
        name = turn.get("from") or turn.get("role")
        role = ROLE_OF.get(str(name).casefold())
        if role == "tool" or turn.get("tool_calls"):
            raise Fault("tool_turns", f"a turn of {name}")
        if role is None or (role == "question" and said["answer"] and not said["question"]):
            raise Fault("unknown_turns", f"a turn of {name} after {len(said['answer'])} answers")
        said[role].append(text_of(turn, "value" if "value" in turn else "content"))
        if role == "answer":
            thought = thought or text_of(turn, "reasoning_content")
    count = len(said["question"]) + len(said["answer"])
    if max(len(said["question"]), len(said["answer"])) > 1:
        raise Fault("several_turns", f"{count} turns")
    question, answer, system = ("\n".join(filter(None, said[role])) for role in ("question", "answer", "system"))
    return question, thought, answer, system


def text_of(row: dict, name: str | None) -> str:
    """The text of a column, "" where there is none; a list of text parts is joined. Fault where it is no text."""
    value = row.get(name) if name else None
    if isinstance(row, Repeated) and name in row.names():
        raise Fault("duplicate_keys", name)
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        value = "".join(text_of(part, "text") for part in value)
    if value is None or value != value:  # NaN, which pandas writes for nothing
        return ""
    if not isinstance(value, str):
        raise Fault("not_text", f"{name}: {type(value).__name__}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Fault("not_text", f"{name}: half a surrogate pair at character {error.start}") from error
    return value


def split_thought(text: str, tags: tuple[str, str]) -> tuple[str, str]:
    """The thought that stands in its marks before the answer, and the answer; no thought where there are no marks.

    The opening mark may be missing: many chat templates put it into the prompt.
    """
    for opening, closing in dict.fromkeys((tags, TAGS)):
        if opening not in text and closing not in text:
            continue
        inside, mark, answer = text.partition(closing)
        before, found, thought = inside.rpartition(opening)
        if not mark:
            raise Fault("open_thought", f"{opening} without {closing}")
        if before.strip():
            raise Fault("text_before_thought", before.strip()[:80])
        return (thought if found else inside).strip("\r\n"), answer.strip("\r\n")
    return "", text
