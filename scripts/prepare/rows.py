"""One raw row to a record: question, thought, answer and system text, exactly as they lie in the source.

A source's shape tells where its rows keep them (records.find_shape). A thought that has no column of its own is taken
from the answer: ``<think>…</think>``, or other marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scripts.prepare.load import BadRow, Repeated

TAGS = ("<think>", "</think>")
REASONS = (
    "not_json", "not_an_object", "bad_quotes", "wrong_fields", "duplicate_keys", "not_text",
    "several_turns", "unknown_turns", "open_thought", "text_before_thought",
)  # fmt: skip
ROLE_OF = {
    "system": "system", "developer": "system",
    "user": "question", "human": "question",
    "assistant": "answer", "gpt": "answer", "model": "answer", "bot": "answer",
}  # fmt: skip
OWN_THOUGHT = ("reasoning_content", "reasoning", "thinking")  # beside the content of an answering turn
Texts = tuple[str, str, str, str]  # question, thought, answer, system text


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


def read_row(spec: str, line: int, row: dict | BadRow, shape: Shape, tags: tuple[str, str]) -> Record | Unreadable:
    """One row of a known shape as a record, or why it is none."""
    if isinstance(row, BadRow):
        return Unreadable(spec, line, row.reason, row.matched, row.raw)
    try:
        question, thought, answer, system = chat_texts(row, shape) if shape.turns else column_texts(row, shape)
        if not thought.strip():
            thought, answer = split_thought(answer, tags)
    except BadRow as bad:
        return Unreadable(spec, line, bad.reason, bad.matched, row)
    return Record(spec, line, question, thought, answer, system, row)


def column_texts(row: dict, shape: Shape) -> Texts:
    """Question, thought, answer and system text of a row with a column for each."""
    question, instruction = text_of(row, shape.question), text_of(row, shape.instruction)
    system = text_of(row, shape.system)
    history = row.get("history") if shape.instruction else None
    if history and isinstance(history, list):  # a text may be the patient's history
        raise BadRow("several_turns", f"{1 + len(history)} questions")
    if instruction and instruction == shape.common:
        system = "\n".join(filter(None, (system, instruction)))
    elif instruction.strip():
        question = f"{instruction}\n{question}" if question.strip() else instruction
    return question, text_of(row, shape.thought), text_of(row, shape.answer), system


def chat_texts(row: dict, shape: Shape) -> Texts:
    """Question, thought, answer and system text of a chat with one question and one answer."""
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
    system = "\n".join(filter(None, said["system"]))
    return "".join(said["question"]), thought, "".join(said["answer"]), system


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
