"""An OpenAI-compatible server as seen by the evaluation: every fault is retried with backoff and counted."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

from scripts.common import UserError

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}


class Fault(Exception):
    """A failure that may pass: refused, dropped, slow, rate-limited, or an answer that is no answer."""

    def __init__(self, kind: str, wait: float | None = None) -> None:
        super().__init__(kind)
        self.wait = wait


class Client:
    """One model behind ``base_url`` (ends in /v1). ``faults``: how often what went wrong, retries included.

    The API key, where one is needed, is read from OPENAI_API_KEY unless given, and sent to ``base_url`` only.
    """

    def __init__(
        self, base_url: str, model: str, api_key: str = "", attempts: int = 8, timeout: float = 300, pause: float = 1.0
    ) -> None:
        self.base_url, self.model = base_url.rstrip("/"), model
        api_key = api_key or os.environ.get("OPENAI_API_KEY", "")
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.attempts, self.timeout, self.pause = attempts, timeout, pause
        self.faults: Counter[str] = Counter()

    def chat(self, prompt: str, max_tokens: int, **settings: Any) -> dict[str, Any]:
        """Answer to one user message: text, tokens, finish_reason. Raises Fault when every attempt failed."""
        messages = [{"role": "user", "content": prompt}]
        return self._ask("/chat/completions", messages=messages, max_tokens=max_tokens, **settings)

    def complete(self, prompt: str, max_tokens: int, **settings: Any) -> dict[str, Any]:
        """Continuation of a prompt: text, tokens, finish_reason. Raises Fault when every attempt failed."""
        # The prompt holds the begin mark already; vLLM would put a second one before it.
        return self._ask("/completions", prompt=prompt, max_tokens=max_tokens, add_special_tokens=False, **settings)

    def can_complete(self) -> bool:
        """Whether the server continues a given text, which closing the thinking at a budget needs."""
        try:
            self.complete("1 + 1 =", 1, temperature=0)
        except UserError:  # refused: 400, 404, 405
            return False
        except Fault as fault:
            raise UserError(f"{self.base_url}: gave up after {self.attempts} attempts ({fault}); mend it") from fault
        return True

    def check(self) -> None:
        """Raise UserError unless the server answers at all."""
        import requests

        try:
            requests.get(f"{self.base_url}/models", headers=self.headers, timeout=min(30, self.timeout))
        except requests.RequestException as error:
            raise UserError(f"{self.base_url}: no answer ({type(error).__name__}); start the server first") from error

    def _ask(self, path: str, **payload: Any) -> dict[str, Any]:
        for attempt in range(1, self.attempts + 1):
            try:
                return self._once(path, payload)
            except Fault as fault:
                self.faults[str(fault)] += 1
                if attempt == self.attempts:
                    raise
                time.sleep(min(self.pause * 2 ** (attempt - 1), 60) if fault.wait is None else min(fault.wait, 120))
        raise ValueError(f"attempts is {self.attempts}, expected at least 1")

    def _once(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        import requests

        asked = {"json": {"model": self.model, **payload}, "headers": self.headers, "timeout": self.timeout}
        try:
            response = requests.post(self.base_url + path, **asked)
        except requests.RequestException as error:
            raise Fault("timeout" if isinstance(error, requests.Timeout) else "connection") from error
        if response.status_code in RETRIED:
            after = response.headers.get("Retry-After", "")
            raise Fault(f"status {response.status_code}", float(after) if after.isdigit() else None)
        if response.status_code != 200:
            raise UserError(f"{self.base_url}{path}: status {response.status_code}: {response.text[:300]}")
        try:
            body = response.json()
            choice = body["choices"][0]
            text = choice["text"] if "prompt" in payload else _read_message(choice["message"])
            usage = body.get("usage") or {}
            said = {"tokens": usage.get("completion_tokens"), "finish": choice.get("finish_reason")}
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise Fault("nonsense") from error
        if not isinstance(text, str):
            raise Fault("nonsense")
        return {"text": text, **said}


def _read_message(message: dict[str, Any]) -> str:
    """The message's text; a thought that the server took out (vLLM's reasoning parser) is put back."""
    thought = message.get("reasoning_content") or message.get("reasoning")
    text = message.get("content") or ("" if thought else message["content"])
    return f"<think>\n{thought}\n</think>\n\n{text}" if thought else text
