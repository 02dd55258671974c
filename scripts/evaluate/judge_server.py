"""A judge model behind an OpenAI-compatible server: asked with the parameters that it takes, its refusals told apart.

Retries and time-outs are the openai package's own. It is asked asynchronously: Ctrl-C ends all requests at once.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from scripts.chat.hosting import LOOPBACK
from scripts.common import UserError, first_line
from scripts.evaluate.server import message_text

ROOM = 8192  # tokens: a reasoning judge thinks before its verdict
TIMEOUT = 300  # seconds, likewise
# What a judge may take; the next is tried where it refuses one by name. The last two: no judge has so many tokens.
LADDER = ({"max_tokens": ROOM, "temperature": 0}, {"max_completion_tokens": ROOM}, {"temperature": 0}, {})


class Unscored(Exception):
    """A request without a verdict for good: refused, filtered, cut off. Its text: a kind, then ": " and details."""


class GaveUp(Exception):
    """A request that the server did not answer, after the client's own retries."""


@dataclass
class Judge:
    """A judge model; ``url`` ends in /v1, ``rung``: the parameters of `LADDER` that it takes as far as is known."""

    url: str
    model: str
    key: str = ""
    retries: int = 6
    rung: int = 0

    @property
    def identity(self) -> dict[str, str]:
        """What its verdicts belong to."""
        return {"url": self.url, "model": self.model}

    def client(self) -> Any:
        """The openai package's client, with no proxy on the way to this machine."""
        import openai

        here = urlsplit(self.url).hostname in LOOPBACK
        key = self.key or os.environ.get("OPENAI_API_KEY") or "none"
        try:
            http = openai.DefaultAsyncHttpxClient(trust_env=not here, timeout=TIMEOUT)
        except (ImportError, ValueError) as error:
            raise UserError(f"{self.url}: the proxy on the way cannot be used: {first_line(error)}") from error
        return openai.AsyncOpenAI(base_url=self.url, api_key=key, max_retries=self.retries, http_client=http)

    def check(self) -> None:
        """Ask something small, before models are asked for hours. Raises UserError where it cannot be asked."""

        async def once() -> None:
            async with self.client() as client:
                await self.ask(client, "Say [[tie]] and nothing else.")

        try:
            asyncio.run(once())
        except GaveUp as error:
            raise UserError(f"{self.url}: the judge {self.model} does not answer ({error})") from error
        except Unscored:
            pass  # it answers, if only that it will not

    async def ask(self, client: Any, prompt: str) -> str:
        """Its text. Raises Unscored, GaveUp, or UserError where it cannot be asked at all."""
        import openai

        rung = self.rung
        messages = [{"role": "user", "content": prompt}]
        try:
            return text_of(await client.chat.completions.create(model=self.model, messages=messages, **LADDER[rung]))
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if error.code == "content_filter" or not any(name in str(error) for name in LADDER[rung]):
                raise Unscored(f"{error.code or error.status_code}: {first_line(error)[:200]}") from error
            self.rung = max(self.rung, rung + 1)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise UserError(
                f"{self.url}: the judge {self.model} cannot be asked ({first_line(error)[:300]}); "
                "check --judge-url, --judge-model and JUDGE_API_KEY"
            ) from error
        except (openai.OpenAIError, ValueError) as error:
            raise GaveUp(f"no answer: {first_line(error)[:200]}") from error
        return await self.ask(client, prompt)


def text_of(said: Any) -> str:
    """The text of a chat completion, its thought first. Raises Unscored where there is none or it was cut off."""
    choices = getattr(said, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise Unscored("no completion")
    if choices[0].finish_reason in ("content_filter", "length"):
        raise Unscored(choices[0].finish_reason)
    text = message_text(choices[0].message)
    if not isinstance(text, str):
        raise Unscored("no text")
    return text
