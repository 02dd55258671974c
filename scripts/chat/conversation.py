"""A conversation and how it is shown: the thought folded above its answer, then what is to be said of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from scripts.chat.thinking import Parts, Spent, Words, split


def message(content: str, mark: str, **fold: str) -> dict[str, Any]:
    """A message of the assistant as Gradio shows it. ``mark`` tells what it is; ``title``: of a fold."""
    return {"role": "assistant", "content": content, "metadata": {"id": mark, **fold}}


def turns_of(history: list[dict[str, Any]], question: str, side: str) -> list[dict[str, str]]:
    """What a model is sent: the questions that this side answered, with its answers, and the new question."""
    told, asked = [], ""
    for shown in history:
        if shown["role"] == "user":
            asked = shown["content"]
        elif (shown.get("metadata") or {}).get("id") == side:
            told += [{"role": "user", "content": asked}, {"role": "assistant", "content": shown["content"]}]
    return [*told, {"role": "user", "content": question}]


@dataclass
class Reply:
    """What one model says. ``note``: a key of the texts."""

    words: Words
    text: str = ""
    note: str = ""
    spent: Spent = field(default_factory=Spent)
    began: float = field(default_factory=time.monotonic)  # the wait, then the text
    thought_at: float = 0.0  # when the thought or the text ended
    ended_at: float = 0.0

    def parts(self) -> Parts:
        """Thought and answer so far."""
        return split(self.text, self.words)

    def add(self, piece: str) -> None:
        """Take in a piece of the stream."""
        if not self.text:
            self.began = time.monotonic()
        self.text += piece
        thought, _, closed = self.parts()
        if thought and closed and not self.thought_at:
            self.thought_at = time.monotonic()

    def finish(self, note: str) -> None:
        """No more comes."""
        self.note, self.ended_at = note, time.monotonic()
        self.thought_at = self.thought_at or self.ended_at

    def shown(self, side: str, texts: dict[str, str]) -> list[dict[str, Any]]:
        """Gradio's messages."""
        thought, answer, closed = self.parts()
        seconds = math.ceil((self.thought_at or time.monotonic()) - self.began)
        found, notes = [], [texts[self.note]] if self.note else []
        if thought or not closed:
            key = "thought" if closed else "unfinished" if self.ended_at else "thinking"
            # Gradio opens a fold whose status is not "done".
            found.append(message(thought or "…", "thought", title=texts[key].format(s=seconds), status="done"))
        if answer:
            found.append(message(answer, side))
        elif self.ended_at and not self.note:
            notes.append(texts["empty"])
        elif not self.text and not self.ended_at:
            notes.append(texts["waiting"].format(s=seconds))
        if self.ended_at and self.spent.new:
            speed = self.spent.new / max(self.ended_at - self.began, 0.001)
            notes.append(texts["speed"].format(n=f"{speed:.1f}"))
        return [*found, message(f"<small>{' '.join(notes)}</small>", "note")] if notes else found
