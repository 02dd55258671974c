"""A thought apart from its answer, and a thought that is closed at a budget, by a template's own words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import NamedTuple

Words = tuple[str, str]  # a template's thought words, e.g. "<think>\n" and "\n</think>\n\n"


@dataclass
class Spent:
    """Tokens of an answer as it comes: of its prompt, new ones, the last one's id; ``left``: the reader has gone."""

    prompt: int = 0
    new: int = 0
    last: int = -1
    left: bool = False


class Parts(NamedTuple):
    """``closed``: no thought is open; text without any thought is all answer."""

    thought: str
    answer: str
    closed: bool


def split(text: str, words: Words) -> Parts:
    """Thought and answer of a text, which may still grow: half a mark is not shown."""
    start, end = (word.strip() for word in words)
    body = text.lstrip()
    if not body.startswith(start) and end not in body:
        return Parts("", "" if start.startswith(body) else body.strip(), True)
    body = body.removeprefix(start)
    thought, found, answer = body.partition(end)
    if found:
        return Parts(thought.strip(), answer.strip(), True)
    return Parts(without_half(body, end).strip(), "", False)


def without_half(text: str, mark: str) -> str:
    """The text without a beginning of ``mark`` at its end: where the mark is plain text, a limit can cut inside it."""
    for size in range(len(mark) - 1, 0, -1):
        if text.endswith(mark[:size]):
            return text[:-size]
    return text


async def think_then_answer(
    complete: Callable[[str, int], AsyncIterator[str]], prompt: str, words: Words, budget: int, limit: int
) -> AsyncIterator[str]:
    """A thought of at most ``budget`` tokens, closed if need be, and an answer of at most ``limit``, as one text.

    ``complete(text, tokens)`` raises EOFError where the tokens are used up. It is always given the whole text so far:
    pieces encoded apart would be other tokens.
    """
    start, end = words[0], words[1].strip()
    text, sent = "", 0
    yield start
    try:
        async for piece in complete(prompt + start, budget):
            text += piece
            ready = text if end in text else without_half(text, end)
            yield ready[sent:]
            sent = len(ready)
        yield text[sent:]
        return
    except EOFError:
        if end not in text:
            yield words[1]
            text = text[:sent].rstrip() + words[1]
    async for piece in complete(prompt + start + text, limit):
        yield piece
