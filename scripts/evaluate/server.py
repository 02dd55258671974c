"""A model behind a server with /v1/completions (vLLM's): found, told from others of its name, and asked.

A server's model is known by its id, its root and a fingerprint: the same name may serve another model tomorrow.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scripts.chat.hosting import LOOPBACK
from scripts.common import UserError, read_json, write_json
from scripts.evaluate.engines import Continuation
from scripts.train.template import PromptFormat

AT_ONCE = 256  # requests; vLLM makes its own batches of them
TOP_LOGPROBS = 20  # what vLLM gives at most by default
PROBES = (  # continued by one token each, to tell models behind a server apart
    "The most common cause of community-acquired pneumonia is",
    "Question: What is the first-line treatment of type 2 diabetes?\nAnswer:",
    "高血压患者首选的",
    "<think>\nOkay, let's",
    "1 + 1 =",
    "急性心肌梗死的典型症状包括",
)
NONSENSE = 4  # times that an answer without a text is asked again
SAME_MODEL = 0.1  # nats: first tokens' log-probabilities of one model differ by less, whatever else a server does


class ServerEngine:
    """One side of a subject, served as ``model``; ``form``: the run's tokenizer and template."""

    def __init__(self, base_url: str, model: str, side: str, precision: str, form: PromptFormat) -> None:
        self.base_url, self.model, self.side, self.form = base_url.rstrip("/"), model, side, form
        self.faults: Counter[str] = Counter()
        self.client = make_client(self.base_url, self.faults)
        self.root, owner = self._served()
        self.workers = AT_ONCE if owner == "vllm" else 8
        self.about = {"engine": owner, "precision": precision}
        # A base model's own end token is not the template's. The prompt holds the begin mark already.
        self.more = {"add_special_tokens": False, "stop_token_ids": form.stop_ids()}
        self.identity: dict[str, Any] = {}  # set by `identify`

    def count(self, text: str) -> int:
        """Tokens in a text."""
        return len(self.form.tokenizer(text, add_special_tokens=False)["input_ids"])

    def batches(self, prompts: Sequence[str], new_tokens: int) -> list[list[int]]:
        """One prompt each, longest first: the server makes its own batches of what is asked at once."""
        return [[i] for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))]

    def generate(
        self, prompts: Sequence[str], limit: int, sampling: dict[str, float], seeds: Sequence[int]
    ) -> list[Continuation]:
        """Continue every prompt by at most ``limit`` tokens."""
        found = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            settings = {"max_tokens": limit, "seed": seed % 2**31, **(sampling or {"temperature": 0})}
            choice = self._ask(prompt, settings)
            found.append(Continuation(choice.text, self.count(choice.text), choice.finish_reason != "length"))
        return found

    def choose(self, prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str | None]:
        """The likeliest choice among the server's likeliest tokens, or None where none of them is a choice."""
        found = []
        for prompt, options in zip(prompts, choices, strict=True):
            likely = self.first_tokens(prompt)
            known = {option: likely[option] for option in options if option in likely}
            found.append(max(known, key=known.__getitem__) if known else None)
        return found

    def first_tokens(self, prompt: str) -> dict[str, float]:
        """Log-probabilities (nats) of the likeliest next tokens."""
        choice = self._ask(prompt, {"max_tokens": 1, "temperature": 0, "logprobs": TOP_LOGPROBS})
        tops = choice.logprobs and choice.logprobs.top_logprobs
        if not tops:
            raise UserError(f"{self.base_url}: no log-probabilities, which a model is told by; serve it by vLLM")
        return dict(tops[0])

    def fingerprint(self) -> list[dict[str, float]]:
        """What tells this model from another of the same name: next tokens of a few prompts, asked one by one."""
        return [self.first_tokens(probe) for probe in PROBES]

    def _ask(self, prompt: str, settings: dict[str, Any]) -> Any:
        """One continuation; an answer that is none is asked for again, and counted."""
        import openai

        for _ in range(NONSENSE):
            try:
                said = self.client.completions.create(model=self.model, prompt=prompt, **settings, extra_body=self.more)
                if isinstance(said.choices[0].text, str):
                    return said.choices[0]
            except (AttributeError, IndexError, TypeError, ValueError):
                pass
            except openai.OpenAIError as error:
                raise self._gave_up(error) from error
            self.faults["nonsense"] += 1
        raise self._gave_up("its answers are no completions")

    def _gave_up(self, why: object) -> UserError:
        return UserError(
            f"{self.base_url}: gave up ({why}; faults so far {dict(self.faults)}); nothing was scored wrong: "
            "mend the server and run the command again"
        )

    def _served(self) -> tuple[str, str]:
        """(root, owner) of the served model; UserError where the server does not answer or has no such model."""
        import openai

        try:
            cards = {card.id: card for card in self.client.models.list().data}
        except openai.OpenAIError as error:
            raise UserError(f"{self.base_url}: no answer ({error}); start the server first") from error
        if self.model not in cards:
            raise UserError(f"{self.base_url} serves {', '.join(cards) or 'nothing'}; expected {self.model}")
        card = cards[self.model]
        return str(getattr(card, "root", None) or self.model), card.owned_by or "server"


def make_client(base_url: str, faults: Counter[str]) -> Any:
    """The openai package's client, whose retries are counted in ``faults``; no proxy on the way to this machine."""
    import openai

    def count(request: Any) -> None:
        if request.headers.get("x-stainless-retry-count", "0") != "0":
            faults["retries"] += 1

    def note(response: Any) -> None:
        if response.status_code >= 400:
            faults[f"status {response.status_code}"] += 1

    here = urlsplit(base_url).hostname in LOOPBACK
    hooks = {"request": [count], "response": [note]}
    http = openai.DefaultHttpxClient(trust_env=not here, event_hooks=hooks, timeout=600)
    key = os.environ.get("OPENAI_API_KEY") or "none"
    return openai.OpenAI(base_url=base_url, api_key=key, max_retries=8, http_client=http)


def same_model(first: list[dict[str, float]], second: list[dict[str, float]]) -> bool:
    """Whether two fingerprints are one model's: the likely tokens' log-probabilities are close."""
    for one, other in zip(first, second, strict=True):
        likely = sorted(one, key=one.__getitem__, reverse=True)[:3]
        if any(abs(one[token] - other.get(token, -math.inf)) > SAME_MODEL for token in likely):
            return False
    return True


def identify(engine: ServerEngine, folder: Path) -> None:
    """Set a server engine's identity: that of an earlier model in ``folder`` that its fingerprint fits, or a new one.

    ``servers.json`` keeps the fingerprints; answers of a model that was retrained under its old name never come back.
    """
    path = folder / "servers.json"
    known = read_json(path) if path.is_file() else []
    told = {"id": engine.model, "root": engine.root, **engine.about}
    fingerprint = engine.fingerprint()
    for entry in known:
        if entry["told"] == told and same_model(entry["fingerprint"], fingerprint):
            engine.identity = {**told, "number": entry["number"]}
            return
    engine.identity = {**told, "number": len(known) + 1}
    write_json(path, [*known, {"told": told, "number": len(known) + 1, "fingerprint": fingerprint}])
