"""Let a model think up to a budget, then answer, and keep what it said.

Thinking: the prompt opens the thought; at a budget an open thought is closed with the template's words and the answer
asked for (budget forcing, as in s1 and m1); the thought itself goes on where a larger budget is asked for too. A base
model may instead be asked in its own chat template and answer at once ("direct"), which no budget touches.
A choice whose answer names no letter is put to the model once more with the answer's beginning, choosing by likelihood.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.evaluate.engines import Continuation, in_parallel
from scripts.evaluate.read import read_choice, split_reasoning
from scripts.evaluate.store import Store
from scripts.evaluate.subject import key_of


@dataclass(frozen=True)
class Item:
    """One thing to ask. ``letters``: those of a choice's options; ``cue``: how its answer begins when asked again."""

    id: str
    question: str
    letters: str = ""
    cue: str = ""


@dataclass(frozen=True)
class Form:
    """How one side is asked. ``prompt``: question → text; ``thinks``: that text opens a thought.

    ``marks``: the words around a thought; ``close``: what closes one.
    """

    name: str
    prompt: Callable[[str], str]
    thinks: bool
    marks: tuple[str, str]
    close: str


@dataclass(frozen=True)
class Limits:
    """Tokens of thought (ascending), tokens of the answer after it, and how tokens are chosen."""

    budgets: tuple[int, ...]
    answer_tokens: int
    sampling: dict[str, float] = field(default_factory=dict)
    seed: int = 42


@dataclass
class Talk:
    """One item on its way: ``text`` so far, ``final`` once the model itself has closed the thought or ended."""

    item: Item
    prompt: str
    seed: int
    text: str = ""
    stopped: bool = False
    final: dict[str, Any] | None = None
    outputs: dict[str, dict] = field(default_factory=dict)


def ask(engine: Any, form: Form, limits: Limits, items: Iterable[Item], task: str, store: Store) -> list[dict]:
    """One row per item, in order; finished ones are read from ``store`` and never asked again.

    ``outputs``: budget (as text) → text, whether it continues an opened thought (``opened``), the thought was closed
    for the model (``forced``), the answer ran into its limit (``cut``), tokens, and of a choice ``letter`` and
    ``status`` (read, asked, several or unparsed).
    """
    from tqdm import tqdm

    items = list(items)
    prompts = [form.prompt(item.question) for item in items]
    settings = [engine.identity, form.name, asdict(limits)]
    keys = [key_of(*settings, prompt, asdict(item)) for prompt, item in zip(prompts, items, strict=True)]
    missing = [i for i, key in enumerate(keys) if key not in store.rows]
    longest = limits.budgets[-1] + limits.answer_tokens
    places = engine.batches([prompts[i] for i in missing], longest)
    batches = [[missing[place] for place in batch] for batch in places]

    def finish(batch: list[int]) -> int:
        began = time.perf_counter()
        talks = [Talk(items[i], prompts[i], int(keys[i][:12], 16)) for i in batch]
        run = think if form.thinks else answer_at_once
        run(engine, form, limits, talks)
        seconds = round((time.perf_counter() - began) / len(batch), 4)
        about = {"task": task, "model": engine.side, "seed": limits.seed, "form": form.name, "seconds": seconds}
        store.add({"key": keys[i], **about, "outputs": talk.outputs} for i, talk in zip(batch, talks, strict=True))
        return len(batch)

    with tqdm(total=len(missing), desc=f"{task}: {engine.side}", unit="item", disable=not missing) as bar:
        for finished in in_parallel(finish, batches, engine.workers):
            bar.update(finished)
    return [store.rows[key] | {"id": item.id} for key, item in zip(keys, items, strict=True)]


def answer_at_once(engine: Any, form: Form, limits: Limits, talks: list[Talk]) -> None:
    """One continuation of each prompt, with all the room that thought and answer have at the largest budget."""
    room = limits.budgets[-1] + limits.answer_tokens
    for talk, piece in continue_all(engine, limits, talks, room):
        talk.text = piece.text
        talk.final = output(engine, form, talk, piece.text, forced=False, cut=not piece.ended)
    read_letters(engine, form, talks, [talk.final for talk in talks])
    for talk in talks:
        talk.outputs = {str(budget): talk.final for budget in limits.budgets}


def think(engine: Any, form: Form, limits: Limits, talks: list[Talk]) -> None:
    """Think up to each budget in turn; close what is open there, let it answer, and think on."""
    used = 0
    for budget in limits.budgets:
        going = [talk for talk in talks if not talk.final and not talk.stopped]
        closed_by_itself = []
        for talk, piece in continue_all(engine, limits, going, budget - used):
            talk.text += piece.text
            talk.stopped = piece.ended
            if split_reasoning(talk.text, True, form.marks).closed:
                talk.final = output(engine, form, talk, talk.text, forced=False, cut=not piece.ended)
                if not piece.ended:
                    closed_by_itself.append(talk)
        for talk, piece in continue_all(engine, limits, closed_by_itself, limits.answer_tokens):
            talk.final = output(engine, form, talk, talk.text + piece.text, forced=False, cut=not piece.ended)
        now = {id(talk): talk.final for talk in talks}
        now |= {id(talk): found for talk, found in force(engine, form, limits, [t for t in talks if not t.final])}
        read_letters(engine, form, talks, [now[id(talk)] for talk in talks])
        for talk in talks:
            talk.outputs[str(budget)] = now[id(talk)]
        used = budget


def force(engine: Any, form: Form, limits: Limits, talks: list[Talk]) -> list[tuple[Talk, dict]]:
    """Close each open thought and let the model answer; the talk itself stays open for larger budgets."""
    closed = []
    for talk in talks:
        thought = without_half_mark(talk.text, form.marks[1].strip()).rstrip()
        closed.append(Talk(talk.item, talk.prompt, talk.seed, text=thought + form.close, stopped=talk.stopped))
    found = []
    pieces = continue_all(engine, limits, closed, limits.answer_tokens)
    for talk, (closing, piece) in zip(talks, pieces, strict=True):
        cut = not piece.ended
        found.append((talk, output(engine, form, closing, closing.text + piece.text, forced=True, cut=cut)))
    return found


def without_half_mark(text: str, mark: str) -> str:
    """``text`` less the beginning of ``mark`` at its end: a budget can cut inside a mark that is plain text."""
    for size in range(len(mark) - 1, 1, -1):
        if text.endswith(mark[:size]):
            return text[:-size]
    return text


def continue_all(engine: Any, limits: Limits, talks: list[Talk], room: int) -> list[tuple[Talk, Continuation]]:
    """Each talk with its continuation by at most ``room`` tokens."""
    if not talks:
        return []
    # Another number for each place in a talk: a continuation must not repeat its beginning's draws.
    seeds = [int(key_of(talk.seed, limits.seed, talk.text)[:12], 16) for talk in talks]
    pieces = engine.generate([talk.prompt + talk.text for talk in talks], room, limits.sampling, seeds)
    return list(zip(talks, pieces, strict=True))


def output(engine: Any, form: Form, talk: Talk, text: str, forced: bool, cut: bool) -> dict[str, Any]:
    """What is kept of one text. ``closed``: the model closed its thought itself, or never opened one."""
    parts = split_reasoning(text, form.thinks, form.marks)
    counts = {"thought_tokens": engine.count(parts.thought), "answer_tokens": engine.count(parts.answer)}
    about = {"opened": form.thinks, "forced": forced, "cut": cut, "closed": parts.closed and not forced}
    return {"text": text, **about, **counts}


def read_letters(engine: Any, form: Form, talks: list[Talk], outputs: list[dict[str, Any]]) -> None:
    """Read each choice's letter; ask once more, by likelihood, where none is named and the engine can."""
    again = []
    for talk, found in zip(talks, outputs, strict=True):
        if not talk.item.letters or "status" in found:
            continue
        parts = split_reasoning(found["text"], form.thinks, form.marks)
        choice = read_choice(parts.answer if parts.closed else "", talk.item.letters)
        found |= {"letter": choice.letter, "status": "unparsed" if choice.status == "none" else choice.status}
        if choice.status == "none" and parts.closed:
            again.append((talk, found))
    if not again:
        return
    prompts = [talk.prompt + found["text"].rstrip() + "\n\n" + talk.item.cue for talk, found in again]
    # After "Answer:" a model goes on with a blank, after "答案：" without one.
    blank = ["" if talk.item.cue.endswith("：") else " " for talk, _ in again]
    choices = [[space + letter for letter in talk.item.letters] for (talk, _), space in zip(again, blank, strict=True)]
    for (_, found), letter in zip(again, engine.choose(prompts, choices), strict=True):
        if letter:
            found |= {"letter": letter.strip(), "status": "asked"}
