"""A scripted OpenAI-compatible server over real HTTP: known answers, faults on demand.

It speaks as vLLM does where that matters: base model and LoRA adapter under two names, /v1/completions that continues
a given text, log-probabilities, and chat for a judge.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
WORDS = ("the", "a", "is", "of", "and", "患", "的", "is not")  # what else might have come first
STATUS = {  # faults that are an HTTP status of their own
    "crash": (500, {"message": "internal", "type": "server_error"}),
    "refuse": (400, {"message": "the request is too long", "type": "invalid_request_error"}),
    "filter": (400, {"message": "filtered", "code": "content_filter", "type": "invalid_request_error"}),
}


@dataclass(frozen=True)
class Model:
    """A served name. ``weights``: other weights, other log-probabilities."""

    name: str
    root: str = ""
    weights: str = ""


@dataclass
class Request:
    """One POST. ``prompt``: the prompt, or the last message; ``body``: as it came."""

    body: dict[str, Any]
    prompt: str

    @property
    def model(self) -> str:
        return self.body["model"]


@dataclass
class Script:
    """What a server says and does.

    ``answer(request)``: a text. ``faults``: one is taken per request until none is left (a key of STATUS, an HTTP
    status, or drop, slow, nonsense, html; None: no fault). ``refuses(request)``: a fault that a request's own content
    brings, however many are under way. ``finish``: the reason given at an end that no limit made. ``noise``: nats by
    which log-probabilities shift with load.
    """

    answer: Callable[[Request], str]
    models: tuple[Model, ...] = (Model("scripted"),)
    key: str = ""
    faults: list[str | int | None] = field(default_factory=list)
    refuses: Callable[[Request], str | None] = lambda request: None
    finish: str = "stop"
    slow: float = 1.5
    noise: float = 0.0
    requests: list[Request] = field(default_factory=list)


def tokens(text: str) -> list[str]:
    """A text in pieces as a tokenizer might cut it; joined they are the text."""
    return re.findall(r"[\u3400-\u9fff]|\s?[A-Za-z]+|\s|.", text, re.S)


def continued(reply: str, prompt: str, close: str = "</think>") -> str:
    """What is left of ``reply`` for a model whose prompt holds its beginning, or closed the thought for it."""
    for size in range(len(reply), 0, -1):
        if prompt.endswith(reply[:size]):
            return reply[size:]
    if prompt.rstrip().endswith(close):
        return reply.partition(close)[2].lstrip()
    return reply


def first_logprobs(model: Model, context: str, chosen: str, noise: float) -> dict[str, float]:
    """Log-probabilities in nats of the token that came and of some others, fixed by model, weights and context."""
    draw = random.Random(f"{model.root}|{model.weights}|{context}")
    shift = random.uniform(-noise, noise)
    found = {word: -draw.uniform(1.5, 9.0) + shift for word in WORDS}
    return found | {chosen: -draw.uniform(0.05, 1.0) + shift}


class Handler(BaseHTTPRequestHandler):
    """Speaks for ``script``, which `serve` puts on a subclass."""

    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        about = {"object": "model", "created": 0, "owned_by": "vllm"}
        cards = [{"id": model.name, "root": model.root or model.name, **about} for model in self.script.models]
        self._send(200, {"object": "list", "data": cards})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.script.key and self.headers.get("Authorization") != f"Bearer {self.script.key}":
            return self._send(401, {"error": {"message": "wrong key"}})
        request = Request(body, body["messages"][-1]["content"] if self.path == CHAT else body["prompt"])
        self.script.requests.append(request)
        models = {model.name: model for model in self.script.models}
        if request.model not in models:
            return self._send(404, {"error": {"message": f"The model `{request.model}` does not exist.", "code": 404}})
        fault = self.script.refuses(request) or (self.script.faults.pop(0) if self.script.faults else None)
        if fault == "slow":
            time.sleep(self.script.slow)
        elif fault:
            return self._fail(fault)
        return self._answer(models[request.model], request)

    def _fail(self, fault: str | int) -> None:
        """Act out a fault that takes the answer's place."""
        if fault == "drop":  # the connection ends in the middle of the answer
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"mess')
            self.close_connection = True
        elif fault == "nonsense":
            self._send(200, {"choices": "none"})
        elif fault == "html":
            self._send(200, "<html>gateway</html>")
        else:
            status, error = STATUS.get(fault, (fault, {"message": f"status {fault}"}))
            self._send(status, {"error": error})

    def _answer(self, model: Model, request: Request) -> None:
        pieces = tokens(self.script.answer(request))
        limit = request.body.get("max_completion_tokens") or request.body.get("max_tokens") or len(pieces)
        text, finish = "".join(pieces[:limit]), "length" if len(pieces) > limit else self.script.finish
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        choice |= {"message": {"role": "assistant", "content": text}} if self.path == CHAT else {"text": text}
        if request.body.get("logprobs"):
            row = first_logprobs(model, request.prompt, pieces[0], self.script.noise)
            choice["logprobs"] = {"top_logprobs": [row]}
        kind = "chat.completion" if self.path == CHAT else "text_completion"
        self._send(200, {"id": "scripted", "object": kind, "created": 0, "model": model.name, "choices": [choice]})

    def _send(self, status: int, body: Any) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve(script: Script) -> Iterator[str]:
    """Serve ``script`` for the length of a block; yields the base URL, which ends in /v1."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Scripted", (Handler,), {"script": script}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
