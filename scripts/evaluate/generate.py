"""Let a model think up to a budget, then answer, and keep what it said.

Thinking: the prompt opens the thought; at a budget an open thought is closed with the template's words and the answer
asked for (budget forcing, as in s1 and m1); the thought itself goes on where a larger budget is asked for too. A base
model may instead be asked in its own chat template and answer at once ("direct"), which no budget touches.
A choice whose answer names no letter is put to the model once more with the answer's beginning, choosing by likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.evaluate.engines import in_parallel
from scripts.evaluate.read import read_choice, split_reasoning
from scripts.evaluate.store import Store
from scripts.evaluate.subject import key_of


@dataclass(frozen=True)
class Item:
    """One thing to ask. ``letters``: those of a choice's options; ``cue``: how its answer begins when asked again.

    ``about``: what its row says besides; it does not determine the answer.
    """

    id: str
    question: str
    letters: str = ""
    cue: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def blank(self) -> str:
        """What a model writes after the cue: "Answer: C", but "答案：C"."""
        return "" if self.cue.endswith("：") else " "


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
    """One item on its way: ``text`` so far, ``stopped`` by the model itself, ``final`` once no budget touches it."""

    item: Item
    prompt: str
    seed: int
    text: str = ""
    stopped: bool = False
    final: dict[str, Any] | None = None
    outputs: dict[str, dict] = field(default_factory=dict)


def ask(engine: Any, form: Form, limits: Limits, items: Iterable[Item], task: str, store: Store) -> list[dict]:
    """One row per item, in order, with what is ``about`` it; finished ones are read from ``store``, never asked again.

    ``outputs``: budget (as text) → text, whether it continues an opened thought (``opened``), the thought was closed
    for the model (``forced``), the answer ran into its limit (``cut``), tokens, and of a choice ``letter`` and
    ``status`` (read, asked, several or unparsed).
    """
    from tqdm import tqdm

    items = list(items)
    prompts = [form.prompt(item.question) for item in items]
    settings = [engine.identity, form.name, asdict(limits)]
    asked = [{name: value for name, value in vars(item).items() if name != "about"} for item in items]
    keys = [key_of(*settings, prompt, item) for prompt, item in zip(prompts, asked, strict=True)]
    missing = [i for i, key in enumerate(keys) if key not in store.rows]
    longest = limits.budgets[-1] + limits.answer_tokens
    places = engine.batches([prompts[i] for i in missing], longest)
    batches = [[missing[place] for place in batch] for batch in places]

    def finish(batch: list[int]) -> int:
        talks = [Talk(items[i], prompts[i], int(keys[i][:12], 16)) for i in batch]
        run = think if form.thinks else answer_at_once
        run(engine, form, limits, talks)
        about = {"task": task, "model": engine.side, "seed": limits.seed, "form": form.name}
        store.add({"key": keys[i], **about, "outputs": talk.outputs} for i, talk in zip(batch, talks, strict=True))
        return len(batch)

    with tqdm(total=len(missing), desc=f"{task}: {engine.side}", unit="item", disable=not missing) as bar:
        for finished in in_parallel(finish, batches, engine.workers):
            bar.update(finished)
    found = {"task": task, "model": engine.side}  # whatever it was asked for first
    return [item.about | store.rows[key] | {"id": item.id} | found for key, item in zip(keys, items, strict=True)]


def answer_at_once(engine: Any, form: Form, limits: Limits, talks: list[Talk]) -> None:
    """One continuation of each prompt, with all the room that thought and answer have at the largest budget."""
    extend(engine, limits, talks, limits.budgets[-1] + limits.answer_tokens)
    for talk in talks:
        talk.final = output(engine, form, talk)
        talk.outputs = dict.fromkeys(map(str, limits.budgets), talk.final)
    read_letters(engine, form, talks, [talk.final for talk in talks])


def think(engine: Any, form: Form, limits: Limits, talks: list[Talk]) -> None:
    """Think up to each budget in turn; close what is open there, let it answer, and think on."""
    used = 0
    for budget in limits.budgets:
        thinking = [talk for talk in talks if not talk.final]
        extend(engine, limits, thinking, budget - used)
        used = budget
        done = [talk for talk in thinking if split_reasoning(talk.text, True, form.marks).closed]
        extend(engine, limits, done, limits.answer_tokens)
        for talk in done:
            talk.final = output(engine, form, talk)
        cut_short = [talk for talk in thinking if not talk.final]
        forced = [closed_for(talk, form) for talk in cut_short]
        extend(engine, limits, forced, limits.answer_tokens)
        for talk in talks:
            talk.outputs[str(budget)] = talk.final
        for talk, closed in zip(cut_short, forced, strict=True):
            talk.outputs[str(budget)] = output(engine, form, closed, forced=True)
        read_letters(engine, form, talks, [talk.outputs[str(budget)] for talk in talks])


def closed_for(talk: Talk, form: Form) -> Talk:
    """A copy with the thought closed; the talk itself stays open for larger budgets."""
    thought = without_half_mark(talk.text, form.marks[1]).rstrip()
    return Talk(talk.item, talk.prompt, talk.seed, thought + form.close)


def without_half_mark(text: str, mark: str) -> str:
    """``text`` less the beginning of ``mark`` at its end: a budget can cut inside a mark that is plain text."""
    for size in range(len(mark) - 1, 1, -1):
        if text.endswith(mark[:size]):
            return text[:-size]
    return text


def extend(engine: Any, limits: Limits, talks: list[Talk], room: int) -> None:
    """Continue each talk that has not stopped by at most ``room`` tokens."""
    going = [talk for talk in talks if not talk.stopped]
    if not going:
        return
    # Another number for each place in a talk: a continuation must not repeat its beginning's draws.
    seeds = [int(key_of(talk.seed, limits.seed, talk.text)[:12], 16) for talk in going]
    pieces = engine.generate([talk.prompt + talk.text for talk in going], room, limits.sampling, seeds)
    for talk, piece in zip(going, pieces, strict=True):
        talk.text += piece.text
        talk.stopped = piece.ended


def output(engine: Any, form: Form, talk: Talk, forced: bool = False) -> dict[str, Any]:
    """What is kept of one text. ``closed``: the model closed its thought itself, or never opened one."""
    parts = split_reasoning(talk.text, form.thinks, form.marks)
    return {
        "text": talk.text,
        "opened": form.thinks,
        "forced": forced,
        "cut": not talk.stopped,
        "closed": parts.closed and not forced,
        "thought_tokens": engine.count(parts.thought),
        "answer_tokens": engine.count(parts.answer),
    }


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
    prompts = [f"{talk.prompt}{found['text'].rstrip()}\n\n{talk.item.cue}" for talk, found in again]
    choices = [[talk.item.blank + letter for letter in talk.item.letters] for talk, _ in again]
    for (_, found), letter in zip(again, engine.choose(prompts, choices), strict=True):
        if letter:
            found |= {"letter": letter.strip(), "status": "asked"}
