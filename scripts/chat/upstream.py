"""The models behind the chat page: any OpenAI-compatible server, found or started here, and read piece by piece."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scripts.common import ASSISTANT, BOS, EOS, ROOT, THINK_CLOSE, THINK_OPEN, USER, UserError

ROLES = ("user", "assistant")
ANSWER_TOKENS = 2048  # room for the answer after a thinking budget
# Special tokens inside a question would forge a turn or a thought.
MARKS = re.compile(r"<(?=\s*/?\s*think\s*>|[|｜])", re.I)


@dataclass
class Server:
    """A model behind ``url`` (ends in /v1). ``opened``: its prompts end with ``<think>`` (DeepSeek-R1's own template).

    ``budgets``: it continues a given text (vLLM's /v1/completions), so a thought can be closed at a budget.
    """

    url: str
    model: str
    key: str
    budgets: bool = False
    opened: bool = False

    @cached_property
    def client(self) -> Any:
        """Asynchronous and without retries: who asks decides about asking again."""
        import openai

        http = openai.DefaultAsyncHttpxClient(trust_env="//127.0.0.1" not in self.url)  # no proxy to this machine
        options = {"timeout": openai.Timeout(120, connect=5), "max_retries": 0, "http_client": http}
        return openai.AsyncOpenAI(base_url=self.url, api_key=self.key, **options)


def connect(url: str, model: str = "", key: str = "") -> Server:
    """Ask a server what it serves; UserError where it does not answer or has no such model."""
    import requests

    url = url.rstrip("/").removesuffix("/v1") + "/v1"
    key = key or os.environ.get("MEDCOT_API_KEY") or os.environ.get("OPENAI_API_KEY") or "none"
    try:
        with requests.Session() as session:
            session.trust_env = "//127.0.0.1" not in url
            answer = session.get(f"{url}/models", headers={"Authorization": f"Bearer {key}"}, timeout=10)
        answer.raise_for_status()
        owners = {card["id"]: card.get("owned_by") for card in answer.json()["data"]}
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{url}: {error}; is the server up, and MEDCOT_API_KEY its key?") from error
    if not owners or (model and model not in owners):
        raise UserError(f"{url}: serves {list(owners)}, expected {model or 'a model'}; see --model and --base-model")
    vllm = "vllm" in owners.values()
    return Server(url, model or next(iter(owners)), key, budgets=vllm, opened=vllm)


@contextmanager
def own_server(recipe: str, overrides: list[str], name: str) -> Iterator[Callable[[], Server]]:
    """Start LLaMA-Factory's api server on a free loopback port with a key of its own; it ends with the block.

    Yields a function that waits until the model is loaded; UserError with the server's last words if it never is.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "scripts.chat.serve", "api", recipe, *overrides, "--port", str(port)]
    key, log = secrets.token_urlsafe(24), tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
    env = os.environ | {"API_KEY": key, "API_MODEL_NAME": name}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)

    def loaded() -> Server:
        began = time.monotonic()
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    print(file=sys.stderr)
                    return connect(f"http://127.0.0.1:{port}", key=key)
            print(f"\rloading {name}: {time.monotonic() - began:.0f} s", end="", file=sys.stderr, flush=True)
            time.sleep(0.5)
        log.seek(0)
        raise UserError(f"\n{name}: the model's server ended:\n{log.read().decode(errors='replace')[-2000:]}")

    try:
        yield loaded
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


async def answer(server: Server, history: list[tuple[str, str]], question: str, budget: int = 0) -> AsyncIterator[str]:
    """Stream the text of an answer. Raises EOFError at the length limit, OSError where the stream ends too early.

    ``budget``: tokens of thought after which the thought is closed and the answer asked for; 0 for no limit.
    """
    turns = [(MARKS.sub("< ", asked), said) for asked, said in [*history, (question, "")]]
    if not budget:
        roles = [{"role": role, "content": text} for turn in turns for role, text in zip(ROLES, turn, strict=True)]
        async for piece in _read(server.client.chat.completions, model=server.model, messages=roles[:-1]):
            yield piece
        return
    prompt = BOS + "".join(f"{USER}{asked}{ASSISTANT}{said}{EOS if said else THINK_OPEN}" for asked, said in turns)
    text, about = "", {"model": server.model, "extra_body": {"add_special_tokens": False}}
    yield THINK_OPEN
    try:
        async for piece in _read(server.client.completions, prompt=prompt, max_tokens=budget, **about):
            text += piece
            yield piece
        return
    except EOFError:
        text += (closing := "" if "</think>" in text else THINK_CLOSE)
    yield closing
    async for piece in _read(server.client.completions, prompt=prompt + text, max_tokens=ANSWER_TOKENS, **about):
        yield piece


async def _read(endpoint: Any, **request: Any) -> AsyncIterator[str]:
    """Texts of a stream; a thought that the server took out (a reasoning parser) is put back between its tags."""
    thinking, finish = False, None
    async with await endpoint.create(stream=True, **request) as stream:
        async for chunk in stream:
            for choice in chunk.choices[:1]:
                finish = choice.finish_reason or finish
                if hasattr(choice, "text"):
                    yield choice.text
                    continue
                thought = getattr(choice.delta, "reasoning_content", None) or getattr(choice.delta, "reasoning", None)
                if thought:
                    yield thought if thinking else THINK_OPEN + thought
                    thinking = True
                if choice.delta.content:
                    yield THINK_CLOSE + choice.delta.content if thinking else choice.delta.content
                    thinking = False
    if finish is None:
        raise OSError("the stream ended before the answer did")
    if finish == "length":
        raise EOFError
