"""Sources to records: question, thought, answer and system text of each row, exactly as they lie in the source.

Three shapes are told apart by the column names of a source's beginning:
- columns: ``Question, Complex_CoT, Response``, in any case, or those named by --columns;
- alpaca: ``instruction, input, output``;
- chat: ShareGPT's ``conversations`` or OpenAI's ``messages``, one question and one answer.
A thought that has no column of its own is taken from the answer: ``<think>…</think>``, or other marks.
"""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from scripts.common import UserError
from scripts.prepare.load import BadRow, Repeated, is_hub, load_rows

TAGS = ("<think>", "</think>")
BEGINNING = 1000  # rows that a source's shape is told from
OURS = ("Question", "Complex_CoT", "Response")
# What a column's name looks like: only to suggest a --columns line, never to read by. The likeliest stand first.
HINTS = {
    "Complex_CoT": r"cot|thought|think|reason|rationale|思|推理|^t$",
    "Response": r"response|answer|output|completion|reply|答|回复|^a$",
    "Question": r"question|query|问|题|prompt|problem|input|instruction|^q$",
}
ROLE_OF = {"system": "system", "developer": "system", "user": "question", "human": "question"}
ROLE_OF |= dict.fromkeys(("assistant", "gpt", "model", "bot"), "answer")
OWN_THOUGHT = ("reasoning_content", "reasoning", "thinking")  # beside the content of an answering turn
OTHER_TAGS = re.compile(r"([<\[【])(\w+)([>\]】]).*\1/\2\3", re.S)
Rows = list[tuple[int, dict | BadRow]]  # with their lines
Texts = tuple[str, str, str, str]  # question, thought, answer, system text


@dataclass(slots=True)
class Record:
    """One row. Texts are those of the source, "" where a field is missing or null; ``raw``: the row as it lies.

    ``reason`` and ``matched``: why the row cannot be read, and what was found; "" where it can. ``claimed``: the
    language that the row or its source claims; ``lang``: the one that its text has, zh, en or None (neither).
    """

    source: str
    line: int
    raw: Any
    question: str = ""
    thought: str = ""
    answer: str = ""
    system: str = ""
    reason: str = ""
    matched: str = ""
    claimed: str | None = None
    lang: str | None = None


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


@cache  # asked for every row
def claimed_language(spec: str) -> str | None:
    """The language that a hub configuration claims (``…:zh`` -> zh); mixed ones and files claim none."""
    config = spec.partition(":")[2] if is_hub(spec) else ""
    return config if config in ("zh", "en") else None


def read_source(spec: str, columns: dict[str, str], tags: tuple[str, str] = TAGS) -> Iterator[Record]:
    """Every row of a source, in its order.

    ``columns``: our names (OURS) to the source's, where given. ``tags``: marks around a thought inside the answer;
    ``<think>`` counts too. Raises UserError where the source as a whole cannot be read.
    """
    rows = load_rows(spec)
    first = list(itertools.islice(rows, BEGINNING))
    shape = find_shape(spec, first, columns)
    for line, row in itertools.chain(first, rows):
        yield read_row(spec, line, row, shape, tags)


def read_row(spec: str, line: int, row: dict | BadRow, shape: Shape, tags: tuple[str, str]) -> Record:
    """One row of a known shape as a record, or with the reason why it is none."""
    try:
        if isinstance(row, BadRow):
            raise row
        question, thought, answer, system = chat_texts(row, shape) if shape.turns else column_texts(row, shape)
        if not thought.strip():
            thought, answer = split_thought(answer, tags)
    except BadRow as bad:
        raw = bad.raw if row is bad else row
        return Record(spec, line, raw, reason=bad.reason, matched=bad.matched)
    claimed = row.get("lang") if row.get("lang") in ("zh", "en") else claimed_language(spec)
    return Record(spec, line, row, question, thought, answer, system, claimed=claimed)


def column_texts(row: dict, shape: Shape) -> Texts:
    """The texts of a row with a column for each."""
    question, instruction = text_of(row, shape.question), text_of(row, shape.instruction)
    system, history = text_of(row, shape.system), row.get("history")
    if shape.instruction and history and isinstance(history, list):  # a text may be the patient's history
        raise BadRow("several_turns", f"{1 + len(history)} questions")
    if instruction and instruction == shape.common:
        system = "\n".join(filter(None, (system, instruction)))
    elif instruction.strip():
        question = f"{instruction}\n{question}" if question.strip() else instruction
    return question, text_of(row, shape.thought), text_of(row, shape.answer), system


def chat_texts(row: dict, shape: Shape) -> Texts:
    """The texts of a chat with one question and one answer."""
    turns = row.get(shape.turns)
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRow("not_text", f"{shape.turns}: {type(turns).__name__}, expected a list of turns")
    said: dict[str, list[str]] = {"system": [text_of(row, shape.system)], "question": [], "answer": []}
    thought = text_of(row, shape.thought)
    for turn in turns:
        name = turn.get("from") or turn.get("role")
        role = ROLE_OF.get(str(name).casefold())
        if role is None or (role == "question" and said["answer"] and not said["question"]):
            raise BadRow("unknown_turns", f"a turn of {name}{' after the answer' if said['answer'] else ''}")
        said[role].append(text_of(turn, "value" if "value" in turn else "content"))
        if role == "answer":
            thought = thought or next(filter(None, (text_of(turn, name) for name in OWN_THOUGHT)), "")
    if max(len(said["question"]), len(said["answer"])) > 1:
        raise BadRow("several_turns", f"{len(said['question']) + len(said['answer'])} turns")
    return "".join(said["question"]), thought, "".join(said["answer"]), "\n".join(filter(None, said["system"]))


def text_of(row: dict, name: str | None) -> str:
    """The text of a column, "" where there is none; text parts are joined. BadRow where it is no text, or repeated."""
    value = row.get(name)
    if isinstance(value, Repeated):
        raise BadRow("duplicate_keys", name)
    if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        return "".join(text_of(part, "text") for part in value)
    if value is None or value != value:  # NaN, which pandas writes for nothing
        return ""
    if not isinstance(value, str):
        raise BadRow("not_text", f"{name}: {type(value).__name__}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRow("not_text", f"{name}: no Unicode character at place {error.start}") from error
    return value


def split_thought(text: str, tags: tuple[str, str]) -> tuple[str, str]:
    """The thought that stands in its marks before the answer, and the answer; no thought where there are no marks.

    The opening mark may be missing: many chat templates put it into the prompt.
    """
    opening, closing = tags if any(mark in text for mark in tags) else TAGS
    inside, mark, answer = text.partition(closing)
    before, found, thought = inside.rpartition(opening)
    if not mark and not found:
        return "", text
    if not mark:
        raise BadRow("open_thought", f"{opening} without {closing}")
    if before.strip():
        raise BadRow("text_before_thought", before.strip()[:80])
    return (thought if found else inside).strip("\r\n"), answer.strip("\r\n")


def column_names(rows: Rows) -> list[str]:
    """Names of all columns of the rows, in the order of their first appearance."""
    return list(dict.fromkeys(name for _, row in rows if isinstance(row, dict) for name in row))


def listed(names: list[str]) -> str:
    """The first column names, for an error."""
    return ", ".join(name[:40] for name in dict.fromkeys(names[:30])) or "none"


def matching(names: list[str], wanted: str) -> list[str]:
    """The columns of this name: the very one, or those that are it without regard to case and blanks around it."""
    if wanted in names:
        return [wanted]
    return [name for name in names if name.strip().casefold() == wanted.strip().casefold()]


def find_shape(spec: str, rows: Rows, columns: dict[str, str]) -> Shape:
    """The shape that the column names tell; a text is None where no column is found for it."""
    names = column_names(rows)

    def find(wanted: str) -> str | None:
        found = matching(names, wanted)
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


def check_shape(spec: str, rows: Rows, shape: Shape, tags: tuple[str, str]) -> None:
    """UserError where a source lacks a question, a thought or an answer, with the options that make it readable."""
    names = column_names(rows)
    likely = guess_columns(rows, shape)
    answered = replace(shape, answer=likely["Response"])  # a thought may stand in an answer that is not named yet
    lacks = {
        "Question": not (shape.question or shape.instruction or shape.turns),
        "Complex_CoT": not shape.thought and lacks_thought(spec, answered, tags),
        "Response": not (shape.answer or shape.turns),
    }
    missing = [ours for ours in OURS if lacks[ours]]
    if not names or not missing:  # without names every row is rejected by name
        return
    line = next(line for line, row in rows if isinstance(row, dict))
    lacking = " and ".join(f"no column {ours}" for ours in missing)
    lacking += f" (nor {tags[0]} in the answers)" if lacks["Complex_CoT"] else ""
    texts = [str(row.get(shape.turns or answered.answer)) for _, row in rows if isinstance(row, dict)]
    marks = next(filter(None, map(OTHER_TAGS.search, texts)), None) if lacks["Complex_CoT"] else None
    raise UserError(f"{spec}:{line}: {lacking}; found {listed(names)}; {remedy(missing, likely, marks)}")


def lacks_thought(spec: str, shape: Shape, tags: tuple[str, str]) -> bool:
    """Whether a source has answers and none of them holds a thought."""
    records = (read_row(spec, line, row, shape, tags) for line, row in load_rows(spec))
    answered = False
    for record in records:
        if record.thought:
            return False
        answered = answered or bool(record.answer)
    return answered


def guess_columns(rows: Rows, shape: Shape) -> dict[str, str | None]:
    """Our names to the columns that the shape knows, and to the likeliest ones where it knows none."""
    columns = {"Complex_CoT": shape.thought, "Response": shape.answer, "Question": shape.question or shape.instruction}
    names = [name for name in column_names(rows) if any(has_text(row, name) for _, row in rows)]
    for ours, hint in HINTS.items():
        free = [name for name in names if name not in (*columns.values(), shape.instruction)]
        likely = [name for part in hint.split("|") for name in free if re.search(part, name, re.I)]
        likely += difflib.get_close_matches(ours, free, 1)
        columns[ours] = columns[ours] or next(iter(likely), None)
    return columns


def remedy(missing: list[str], likely: dict[str, str | None], marks: re.Match | None) -> str:
    """The finished options that make a source readable. ``marks``: around thoughts in the answers, where found."""
    if missing == ["Complex_CoT"] and not (marks or likely["Complex_CoT"]):
        return "no column looks like reasoning, which every record needs; if one is, name it: --columns Complex_CoT=…"
    named = [ours for ours in missing if not (marks and ours == "Complex_CoT")]
    options = [shlex.quote(f"{ours}={likely[ours]}") if likely[ours] else f"{ours}=…" for ours in named]
    found = [f"--columns {' '.join(options)}"] if options else []
    if marks:
        begin, name, end = marks.groups()
        found.append(f"--thought-tags '{begin}{name}{end}' '{begin}/{name}{end}'")
    return f"name yours: {' '.join(found)}"
