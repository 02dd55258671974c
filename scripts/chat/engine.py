"""One model in this process, loaded by LLaMA-Factory, that answers piece by piece.

In the place of LLaMA-Factory 0.9.5's own generation, which samples at temperature 0 where the model's file says so,
never ends a stream that fails, goes on when the client has left, and says "stop" where an answer was cut off.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import torch
from transformers import AsyncTextIteratorStreamer, GenerationConfig

from scripts.chat.settings import places
from scripts.chat.thinking import Spent, split, think_then_answer
from scripts.common import UserError
from scripts.train.template import PromptFormat

SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens")
COLD = 0.001  # a temperature that is as good as 0, and would make numbers too large


class Engine:
    """``loaded``: LLaMA-Factory's engine "huggingface"; ``words``: the template's thought words."""

    def __init__(self, loaded: Any, name: str) -> None:
        if loaded.name != "huggingface":
            raise UserError(f"infer_backend {loaded.name}: expected huggingface; for vLLM see docs/serving.md")
        self.model, self.defaults, self.name = loaded.model, loaded.generating_args, name
        self.form = PromptFormat(name, loaded.tokenizer, loaded.template, loaded.template.default_system or "")
        self.words = loaded.template.thought_words
        self.places = asyncio.Semaphore(places())

    def prompt(self, turns: list[dict[str, str]], system: str | None = None) -> list[int]:
        """Tokens of a conversation that ends with a question, as in training; ValueError where it is too long.

        No text can forge a turn or a thought, and thoughts of earlier answers are left out.
        """
        tokenizer = self.form.tokenizer
        marks = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab(), *(word.strip() for word in self.words)}
        told = []
        for turn in turns:
            text = turn["content"]
            if turn["role"] == "assistant":
                text = split(text, self.words).answer
            for mark in (mark for mark in marks if mark[0] in "<["):
                text = text.replace(mark, f"{mark[0]} {mark[1:]}")
            told.append({"role": turn["role"], "content": text})
        told.append({"role": "assistant", "content": ""})
        ids = self.form.template.encode_oneturn(tokenizer, told, system or None)[0]
        if len(ids) >= self.longest:
            raise ValueError(f"the conversation has {len(ids)} tokens, the model takes {self.longest}")
        return ids

    @property
    def longest(self) -> int:
        """Tokens of a conversation and its answer that the model takes."""
        return getattr(self.model.config, "max_position_embeddings", sys.maxsize)

    def answer(self, prompt: list[int], asked: dict[str, Any], spent: Spent) -> AsyncIterator[str]:
        """The text of an answer in pieces, thought words included; EOFError where a limit cuts it off.

        ``asked``: sampling settings and ``thinking_budget``; the recipe's where they are None or missing.
        """
        spent.prompt, text, budget = len(prompt), self.form.decode(prompt), asked.get("thinking_budget")
        if not budget or text.endswith(self.words[1]):  # a recipe with enable_thinking: false
            return self.complete(prompt, asked, spent)

        def complete(text: str, limit: int) -> AsyncIterator[str]:
            ids = self.form.tokenizer.encode(text, add_special_tokens=False)
            return self.complete(ids, {**asked, "max_new_tokens": limit}, spent)

        limit = asked.get("max_new_tokens") or self.defaults["max_new_tokens"]
        return think_then_answer(complete, text, self.words, budget, limit)

    async def complete(self, ids: list[int], asked: dict[str, Any], spent: Spent) -> AsyncIterator[str]:
        """Continue a prompt piece by piece; EOFError where the limit, or the model's, cuts it off."""
        room = self.longest - len(ids)
        if room < 1:
            raise EOFError
        async with self.places:
            streamer = AsyncTextIteratorStreamer(self.form.tokenizer, skip_prompt=True, skip_special_tokens=True)
            config = self.settings(asked)
            config.max_new_tokens = min(config.max_new_tokens, room)
            threading.Thread(target=self._generate, args=(ids, config, streamer, spent), daemon=True).start()
            try:
                async for piece in streamer:
                    if isinstance(piece, Exception):
                        raise piece
                    if piece:
                        yield piece
            except (asyncio.CancelledError, GeneratorExit):
                spent.left = True
                raise
        if spent.last not in config.eos_token_id:
            raise EOFError

    def settings(self, asked: dict[str, Any]) -> GenerationConfig:
        """The recipe's settings with those that were asked for; temperature 0 is greedy."""
        told = {name: asked.get(name) for name in SAMPLING}
        values = {name: self.defaults.get(name) if value is None else value for name, value in told.items()}
        if values["temperature"] > COLD and self.defaults["do_sample"]:
            values["do_sample"] = True
        else:
            values = {name: values[name] for name in ("max_new_tokens", "repetition_penalty")} | {"do_sample": False}
        ends = {"eos_token_id": self.form.stop_ids(), "pad_token_id": self.form.tokenizer.pad_token_id}
        return GenerationConfig(**values, **ends)

    def _generate(self, ids: list[int], config: Any, streamer: Any, spent: Spent) -> None:
        """In a thread. What fails is told to the reader, who would wait for ever."""
        inputs = torch.tensor([ids], device=self.model.device)

        def count(so_far: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            spent.new, spent.last = spent.new + 1, int(so_far[0, -1])
            return torch.full((1,), spent.left, device=so_far.device)

        options = {"generation_config": config, "streamer": streamer, "stopping_criteria": [count]}
        try:  # the model's own file may say do_sample
            self.model.generate(inputs, attention_mask=torch.ones_like(inputs), use_model_defaults=False, **options)
        except Exception as error:
            streamer.loop.call_soon_threadsafe(streamer.text_queue.put_nowait, error)
