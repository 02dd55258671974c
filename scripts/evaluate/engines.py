"""Let a model think up to a budget, then answer: on this machine (lm-eval's ``hf`` model) or behind a server.

Every prompt ends with ``<｜Assistant｜><think>\\n`` for base and tuned alike: DeepSeek's own chat template opens the
thought, LLaMA-Factory's leaves it to the model, and a base model that may skip thinking would not be comparable.
At a budget an open thought is closed with ``</think>`` and the answer asked for (budget forcing, as in s1 and m1).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.common import ASSISTANT, BOS, EOS, THINK_CLOSE, THINK_OPEN, USER, UserError
from scripts.evaluate.client import Client, Fault
from scripts.evaluate.subject import Store, Subject, as_model, key_of

R1_SAMPLING = {"temperature": 0.6, "top_p": 0.95}  # DeepSeek-R1's recommended settings


@dataclass(frozen=True)
class Item:
    """One thing to ask. ``cue``: how a forced answer begins; ``choices``: what may follow it (one is chosen)."""

    id: str
    text: str
    cue: str = ""
    choices: tuple[str, ...] = ()


@dataclass
class Piece:
    """Generated text, its number of tokens, and whether the model ended it by itself."""

    text: str
    tokens: int
    ended: bool


class LocalEngine:
    """A model in this process, through lm-eval's HFLM: left-padded batches, greedy or sampled."""

    prefill, workers = True, 1

    def __init__(self, subject: Subject, name: str, batch_size: int = 16) -> None:
        self.subject, self.name, self.batch_size = subject, name, batch_size
        self.identity = subject.identity(name)

    def prompt(self, text: str) -> str:
        """The prompt with an opened thought, as text that gives exactly the template's tokens."""
        _, tokenizer, template = self.subject.loaded()
        ids, _ = template.encode_oneturn(
            tokenizer, [{"role": "user", "content": text}, {"role": "assistant", "content": THINK_OPEN}]
        )
        prompt = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if tokenizer(prompt, add_special_tokens=False)["input_ids"] != ids:
            raise UserError(f"the tokenizer does not round-trip {text[:60]!r}; is transformers older than 5?")
        return prompt + THINK_OPEN

    def count(self, text: str) -> int:
        """Tokens in a text."""
        return len(self.subject.loaded()[1](text, add_special_tokens=False)["input_ids"])

    def generate(self, prompts: Sequence[str], limit: int, sampling: dict[str, Any], seed: int) -> list[Piece]:
        """Continue every prompt by at most ``limit`` tokens."""
        import torch

        tokenizer = self.subject.loaded()[1]
        lm = self.subject.hflm
        ids, mask = (part.to(lm.device) for part in lm.tok_batch_encode(list(prompts)))
        torch.manual_seed(seed)
        options = {"attention_mask": mask, "eos_token_id": tokenizer.eos_token_id, **sampling}
        options |= {"do_sample": True} if sampling else {}
        with as_model(lm.model, self.name), torch.inference_mode():
            rows = lm._model_generate(ids, max_length=ids.shape[1] + limit, stop=[], **options)[:, ids.shape[1] :]
        pieces = []
        for row in rows.tolist():
            ended = tokenizer.eos_token_id in row
            row = row[: row.index(tokenizer.eos_token_id)] if ended else row
            text = tokenizer.decode(row, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            pieces.append(Piece(text.rstrip("\ufffd"), len(row) + ended, ended))
        return pieces

    def choose(self, prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str]:
        """The likeliest of each prompt's choices, by the first token in which they differ."""
        import torch

        tokenizer = self.subject.loaded()[1]
        lm = self.subject.hflm
        ids, mask = (part.to(lm.device) for part in lm.tok_batch_encode(list(prompts)))
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        with as_model(lm.model, self.name), torch.inference_mode():
            output = lm.model(ids, attention_mask=mask, position_ids=positions, logits_to_keep=1)
        chosen = []
        for row, options in zip(output.logits[:, -1].float().cpu(), choices, strict=True):
            first = [tokenizer(option, add_special_tokens=False)["input_ids"][0] for option in options]
            if len(set(first)) < len(first):
                raise UserError(f"choices {options} share their first token; give them other letters")
            chosen.append(options[int(row[first].argmax())])
        return chosen


class ServerEngine:
    """A model behind an OpenAI-compatible server. Without /v1/completions (LLaMA-Factory's) no budget can be set."""

    def __init__(self, client: Client, name: str, concurrency: int = 8) -> None:
        self.client, self.name, self.batch_size, self.workers = client, name, 1, concurrency
        self.prefill = client.can_complete()
        self.identity = {"server": client.base_url, "model": client.model, "prefill": self.prefill}

    def prompt(self, text: str) -> str:
        """The prompt with an opened thought; for a chat server the message (its own template applies)."""
        return f"{BOS}{USER}{text}{ASSISTANT}{THINK_OPEN}" if self.prefill else text

    def count(self, text: str) -> int:
        """Words and Chinese characters: the server's tokenizer is not at hand."""
        return len(re.findall(r"[\u4e00-\u9fff]|[^\s\u4e00-\u9fff]+", text))

    def generate(self, prompts: Sequence[str], limit: int, sampling: dict[str, Any], seed: int) -> list[Piece]:
        """Ask; a server that fails for good stops the run, finished items stay finished."""
        call = self.client.complete if self.prefill else self.client.chat
        pieces = []
        for prompt in prompts:
            try:
                got = call(prompt, limit, seed=seed, **(sampling or {"temperature": 0}))
            except Fault as fault:
                raise UserError(
                    f"{self.client.base_url}: gave up after {self.client.attempts} attempts ({fault}; faults so far "
                    f"{dict(self.client.faults)}); nothing was scored wrong: mend the server and run the command again"
                ) from fault
            text = got["text"].removesuffix(EOS)
            pieces.append(Piece(text, got["tokens"] or self.count(text), got["finish"] != "length"))
        return pieces

    def choose(self, prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str]:
        """A few tokens after the cue; what they say is left to answers.py."""
        return [piece.text for piece in self.generate(prompts, 8, {}, 0)]


def in_parallel(work: Callable[[Any], Any], jobs: list[Any], workers: int) -> Iterator[Any]:
    """The jobs' results in order, several at once where ``workers`` allows; once closed, those not begun are left."""
    from concurrent.futures import ThreadPoolExecutor

    if workers == 1:  # in this very thread: torch's number of threads is a setting of the thread
        yield from map(work, jobs)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(work, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass
class State:
    """One item on its way: ``text`` so far after the opened thought, ``final`` once the model closed the thought."""

    item: Item
    prompt: str
    text: str = ""
    tokens: int = 0
    stopped: bool = False  # the model ended its turn inside the thought
    final: dict[str, Any] | None = None
    outputs: dict[str, dict] = field(default_factory=dict)


@dataclass
class Thinker:
    """Asks items in a fixed order of batches, keeps finished ones in ``store`` and never asks them again.

    A batch is formed from all items, finished or not, so that padding (and with it rounding) is the same in a rerun.
    """

    engine: LocalEngine | ServerEngine
    store: Store
    budgets: tuple[int, ...]
    answer_tokens: int
    sampling: dict[str, Any] = field(default_factory=dict)
    seed: int = 42

    def answer(self, items: Iterable[Item], task: str) -> list[dict]:
        """One row per item, with ``outputs``: budget (as text) → text and what is known about it.

        ``opened``: the text continues an opened thought; ``forced``: the thought was closed for the model;
        ``cut``: the thought was still open at the budget, or the answer at its own limit.
        """
        from tqdm import tqdm

        items = list(items)
        prompts = [self.engine.prompt(item.text) for item in items]
        settings = [self.engine.identity, self.budgets, self.answer_tokens, self.sampling, self.seed]
        keys = [key_of(*settings, item.__dict__) for item in items]
        order = sorted(range(len(items)), key=lambda i: (-len(prompts[i]), i))
        size = self.engine.batch_size
        batches = [order[begin : begin + size] for begin in range(0, len(order), size)]
        todo = [batch for batch in batches if not all(keys[i] in self.store.rows for i in batch)]

        def finish(batch: list[int]) -> None:
            began = time.perf_counter()
            states = [State(items[i], prompts[i]) for i in batch]
            self._run(states, int(key_of(self.seed, keys[batch[0]])[:7], 16))
            about = {"task": task, "model": self.engine.name, "seed": self.seed}
            about["seconds"] = round((time.perf_counter() - began) / len(batch), 4)
            rows = [{"key": keys[i], **about, "outputs": state.outputs} for i, state in zip(batch, states, strict=True)]
            self.store.add([row for row in rows if row["key"] not in self.store.rows])

        with tqdm(total=len(todo), desc=f"{task}: {self.engine.name}", unit="batch") as bar:
            for _ in in_parallel(finish, todo, self.engine.workers):
                bar.update()
        return [self.store.rows[key] | {"id": item.id} for key, item in zip(keys, items, strict=True)]

    def _run(self, states: list[State], seed: int) -> None:
        if not self.engine.prefill:
            limit = self.budgets[-1] + self.answer_tokens
            for state, piece in self._continue(states, limit, seed):
                # Cut and without any tag it may be an open thought, which must not pass for an answer.
                opened = "<think>" not in piece.text and not piece.ended
                state.outputs[str(self.budgets[-1])] = self._output(piece.text, opened, False, not piece.ended)
            return
        used = 0
        for budget in self.budgets:
            closing = []
            going = [state for state in states if not state.final and not state.stopped]
            for state, piece in self._continue(going, budget - used, seed):
                state.text, state.tokens = state.text + piece.text, state.tokens + piece.tokens
                if "</think>" not in state.text:
                    state.stopped = piece.ended
                    continue
                state.final = self._output(state.text, True, False, not piece.ended)
                if not piece.ended:
                    closing.append(state)
            for state, piece in self._continue(closing, self.answer_tokens, seed):
                state.final = self._output(state.text + piece.text, True, False, not piece.ended)
            for choosing in (True, False):
                group = [state for state in states if not state.final and bool(state.item.choices) == choosing]
                self._force(group, choosing, str(budget), seed)
            for state in states:
                state.outputs.setdefault(str(budget), state.final)
            used = budget

    def _continue(self, states: list[State], limit: int, seed: int) -> Iterable[tuple[State, Piece]]:
        prompts = [state.prompt + state.text for state in states]
        pieces = self.engine.generate(prompts, limit, self.sampling, seed) if prompts else []
        return zip(states, pieces, strict=True)

    def _force(self, states: list[State], choosing: bool, budget: str, seed: int) -> None:
        """Close each open thought and ask for the answer; the thought itself stays open for larger budgets."""
        if not states:
            return
        closed = [state.text.rstrip() + THINK_CLOSE + state.item.cue for state in states]
        prompts = [state.prompt + text for state, text in zip(states, closed, strict=True)]
        if choosing:
            tails = self.engine.choose(prompts, [state.item.choices for state in states])
        else:
            tails = [p.text for p in self.engine.generate(prompts, self.answer_tokens, self.sampling, seed)]
        for state, text, tail in zip(states, closed, tails, strict=True):
            output = self._output(text + tail, True, True, not state.stopped)
            state.outputs[budget] = output | {"thought_tokens": state.tokens}

    def _output(self, text: str, opened: bool, forced: bool, cut: bool) -> dict[str, Any]:
        thought, closed, answer = text.partition("</think>")
        if not closed and not opened and "<think>" not in text:
            thought, answer = "", text
        counts = {"thought_tokens": self.engine.count(thought), "answer_tokens": self.engine.count(answer)}
        return {"text": text, "opened": opened, "forced": forced, "cut": cut, **counts}
