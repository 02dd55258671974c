"""A conversation and how it is shown: thoughts folded, text escaped, emergencies noticed. It lives in memory only."""

from __future__ import annotations

import html
import json
import math
import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from scripts.common import NOTICE, read_json
from scripts.evaluate.read import Reasoning, split_reasoning

TEXTS = read_json(Path(__file__).with_name("texts.json"))
HALF_TAG = re.compile(r"<\s*/?\s*(?:t(?:h(?:i(?:n(?:k\s*)?)?)?)?)?$", re.I)
DENIED = "".join(f"(?<!{word})" for word in ("no ", "denies ", "without ", "无", "没有", "否认"))
SIGNS = re.compile(f"{DENIED}(?:{'|'.join(TEXTS['emergency_signs'])})", re.I)
TEXTBOOK, PERSON = (re.compile(TEXTS[f"emergency_{kind}"], re.I) for kind in ("textbook", "person"))


@dataclass
class Reply:
    """What one model says. ``opened``: its prompt ended with ``<think>``; ``note``: a key of the texts."""

    opened: bool = False
    text: str = ""
    note: str = ""
    done: bool = False
    began: float = field(default_factory=time.monotonic)  # the wait, then the text
    thought_at: float = 0.0  # when the thought or the text ended

    def parts(self) -> Reasoning:
        """Thought and answer so far; half a tag is not shown before its other half came."""
        return split_reasoning(self.text if self.done else HALF_TAG.sub("", self.text), self.opened)

    def add(self, piece: str) -> None:
        """Take in a piece of the stream."""
        if not self.text:
            self.began = time.monotonic()
        self.text += piece
        if not self.thought_at and all(self.parts()[::2]):  # a thought that is closed
            self.thought_at = time.monotonic()

    def seconds(self) -> int:
        """Seconds of thinking; of waiting while there is no text."""
        return math.ceil((self.thought_at or time.monotonic()) - self.began)

    def finish(self, note: str) -> None:
        """No more comes. Text that ended by itself without closing a thought never opened one."""
        self.done, self.note = True, self.note or note
        self.opened = self.opened and (bool(self.note) or self.parts().closed)
        self.thought_at = self.thought_at or time.monotonic()


@dataclass
class Turn:
    """A question and the replies to it by side, "tuned" or "base"."""

    question: str
    replies: dict[str, Reply]
    stopped: bool = False


@dataclass
class Talk:
    """A conversation in the page's language."""

    language: str = "en"
    turns: list[Turn] = field(default_factory=list)

    def busy(self) -> bool:
        """Whether an answer is still coming."""
        return any(not reply.done for turn in self.turns[-1:] for reply in turn.replies.values())

    def history(self, side: str) -> list[tuple[str, str]]:
        """Questions that this side answered, with its answers; DeepSeek-R1 wants no earlier thoughts."""
        asked = [(turn.question, turn.replies[side].parts().answer) for turn in self.turns if side in turn.replies]
        return [pair for pair in asked if pair[1]]

    def refusal(self, question: str, limit: int) -> str:
        """Why the question is not sent: more than ``limit`` characters with what came before; else empty."""
        size = len(question) + max(sum(map(len, sum(self.history(side), ()))) for side in ("tuned", "base"))
        return TEXTS[self.language]["too_long"].format(n=size, limit=limit) if size > limit else ""

    def bubbles(self, side: str) -> list[dict]:
        """Gradio's messages: escaped HTML; a thought is a fold, its title says for how long."""
        words, shown = TEXTS[self.language], []
        for turn in self.turns:
            shown.append({"role": "user", "content": html.escape(turn.question)})
            reply = turn.replies.get(side) or Reply(note="skipped", done=True)
            thought, answer, closed = reply.parts()
            if thought or not closed:
                key = "thought" if closed else "unfinished" if reply.done else "thinking"
                # Gradio opens a fold whose status is not "done".
                title = {"title": words[key].format(s=reply.seconds()), "status": "done"}
                shown.append({"role": "assistant", "content": html.escape(thought) or "…", "metadata": title})
            key = reply.note or ("" if answer else "empty" if reply.done else "" if reply.text else "waiting")
            note = f"<p><em>{words[key].format(s=reply.seconds())}</em></p>" if key else ""
            if answer or note:
                shown.append({"role": "assistant", "content": as_html(answer) + note})
        return shown

    def alarm(self) -> str:
        """HTML of what to do first where the last question describes an emergency, in its language and the page's."""
        question = self.turns[-1].question if self.turns else ""
        languages = dict.fromkeys((self.language, "zh" if re.search(r"[\u3400-\u9fff]", question) else "en"))
        told = "<hr>".join(TEXTS[language]["emergency"] for language in languages)
        return f'<div role="alert">{told}</div>' if is_emergency(question) else ""

    def as_file(self, models: dict[str, str]) -> str:
        """Everything said, as JSON for the browser to save."""
        turns = [
            {"question": turn.question}
            | {side: {**reply.parts()._asdict(), "note": reply.note} for side, reply in turn.replies.items()}
            for turn in self.turns
        ]
        return json.dumps({"notice": NOTICE, "models": models, "turns": turns}, ensure_ascii=False, indent=1)


def is_emergency(question: str) -> bool:
    """Whether a sign of an emergency is named, in no textbook question about nobody: word rules, they can miss one."""
    return bool(SIGNS.search(question) and (PERSON.search(question) or not TEXTBOOK.search(question)))


@lru_cache(256)
def as_html(text: str) -> str:
    """Markdown's structure as HTML. Tags in the text are escaped, links and images stay text: nothing acts or loads."""
    from markdown_it import MarkdownIt

    rules = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table")
    return rules.disable(["link", "image", "autolink", "reference"]).render(text)
