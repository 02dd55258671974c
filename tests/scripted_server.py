"""A scripted OpenAI-compatible server over real HTTP: known answers, faults on demand.

It speaks as vLLM does where that matters: base model and LoRA adapter under two names, /v1/completions that continues
a given text, log-probabilities, token counts, and chat for a judge.
"""

from __future__ import annotations

import hashlib
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
    "busy": (429, {"error": {"message": "slow down", "type": "rate_limit"}}, {"Retry-After": "0"}),
    "crash": (500, {"error": {"message": "internal", "type": "server_error"}}, {}),
    "refuse": (400, {"error": {"message": "the request is too long", "type": "invalid_request_error"}}, {}),
    "filter": (400, {"error": {"message": "filtered", "code": "content_filter", "type": "invalid_request_error"}}, {}),
}


@dataclass(frozen=True)
class Model:
    """A served name. ``parent``: of a LoRA adapter, the base's name; ``weights``: other weights, other logprobs."""

    name: str
    root: str = ""
    parent: str | None = None
    weights: str = ""


@dataclass
class Request:
    """One POST. ``prompt``: the prompt, or the last message; ``body``: as it came."""

    path: str
    body: dict[str, Any]
    prompt: str

    @property
    def model(self) -> str:
        return self.body.get("model", "")


@dataclass
class Script:
    """What a server says and does.

    ``answer(request)``: a text. ``faults``: one is taken per request until none is left (a key of STATUS, an HTTP
    status, or drop, slow, nonsense, html, empty; None: no fault). ``refuses(request)``: a fault that a request's own
    content brings, however many are under way.
    ``finish(request)``: the reason given at an end that no limit made. ``noise``: nats by which log-probabilities
    shift with load.
    """

    answer: Callable[[Request], str]
    models: tuple[Model, ...] = (Model("scripted"),)
    owner: str = "vllm"
    key: str = ""
    faults: list[str | int | None] = field(default_factory=list)
    refuses: Callable[[Request], str | None] = lambda request: None
    finish: Callable[[Request], str] = lambda request: "stop"
    slow: float = 1.5
    noise: float = 0.0
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take_fault(self) -> str | int | None:
        with self.lock:
            return self.faults.pop(0) if self.faults else None

    def named(self, name: str) -> Model | None:
        return next((model for model in self.models if model.name == name), None)


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


def first_logprobs(model: Model, context: str, chosen: str, noise: float = 0.0) -> dict[str, float]:
    """Log-probabilities in nats of the token that came and of some others, fixed by model, weights and context."""
    seed = hashlib.sha256(f"{model.root or model.name}|{model.weights}|{context}".encode()).digest()
    draw = random.Random(seed)
    shift = random.uniform(-noise, noise) if noise else 0.0
    found = {chosen: -draw.uniform(0.05, 1.0) + shift}
    for word in WORDS:
        if word != chosen:
            found[word] = -draw.uniform(1.5, 9.0) + shift
    return found


def with_limits(text: str, body: dict[str, Any], finish: str) -> tuple[str, str]:
    """A text after ``stop`` and ``max_tokens``, and the reason for its end."""
    stops = body.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.partition(stop)[0]
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    pieces = tokens(text)
    if limit and len(pieces) > limit:
        return "".join(pieces[:limit]), "length"
    return text, finish


class Handler(BaseHTTPRequestHandler):
    """Speaks for ``script``, which `serve` puts on a subclass."""

    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        if not self._is_let_in():
            return
        if self.path != "/v1/models":
            self._send(404, {"detail": "Not Found"})
            return
        cards = [
            {
                "id": model.name,
                "object": "model",
                "created": 0,
                "owned_by": self.script.owner,
                "root": model.root or model.name,
                "parent": model.parent,
            }
            for model in self.script.models
        ]
        self._send(200, {"object": "list", "data": cards})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._is_let_in():
            return
        if self.path not in (CHAT, COMPLETIONS):
            self._send(404, {"detail": "Not Found"})
            return
        request = Request(self.path, body, body["messages"][-1]["content"] if self.path == CHAT else body["prompt"])
        with self.script.lock:
            self.script.requests.append(request)
        model = self.script.named(body.get("model", ""))
        if model is None:
            self._send(404, {"error": {"message": f"The model `{body.get('model')}` does not exist.", "code": 404}})
            return
        fault = self.script.refuses(request) or self.script.take_fault()
        if not self._failed(fault):
            self._answer(model, request)

    def _is_let_in(self) -> bool:
        if self.script.key and self.headers.get("Authorization") != f"Bearer {self.script.key}":
            self._send(401, {"error": {"message": "wrong key"}})
            return False
        return True

    def _failed(self, fault: str | int | None) -> bool:
        """Act out a fault that takes the answer's place; others only change it."""
        if isinstance(fault, int):
            self._send(fault, {"error": {"message": f"status {fault}"}}, {"Retry-After": "0"} if fault == 429 else {})
        elif fault in STATUS:
            self._send(*STATUS[fault])
        elif fault == "drop":  # the connection ends in the middle of the answer
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"mess')
            self.close_connection = True
        elif fault == "nonsense":
            self._send(200, {"choices": "none"})
        elif fault == "empty":
            self._send(200, {"choices": []})
        elif fault == "html":
            self._raw(200, b"<html>gateway</html>")
        else:
            if fault == "slow":
                time.sleep(self.script.slow)
            return False
        return True

    def _answer(self, model: Model, request: Request) -> None:
        text, finish = with_limits(self.script.answer(request), request.body, self.script.finish(request))
        choice = {"index": 0, "finish_reason": finish, "logprobs": self._logprobs(model, request, text)}
        choice |= {"message": {"role": "assistant", "content": text}} if self.path == CHAT else {"text": text}
        kind = "chat.completion" if self.path == CHAT else "text_completion"
        about = {"id": "scripted", "object": kind, "created": 0, "model": model.name}
        used = {"prompt_tokens": len(tokens(request.prompt)), "completion_tokens": len(tokens(text))}
        self._send(200, {**about, "choices": [choice], "usage": used | {"total_tokens": sum(used.values())}})

    def _logprobs(self, model: Model, request: Request, text: str) -> dict[str, Any] | None:
        """Of every token that came, what was likely in its place."""
        if not (wanted := request.body.get("logprobs")):
            return None
        rows, context = [], request.prompt
        for piece in tokens(text):
            row = first_logprobs(model, context, piece, self.script.noise)
            rows.append(dict(sorted(row.items(), key=lambda pair: -pair[1])[:wanted]))
            context += piece
        return {"top_logprobs": rows}

    def _send(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._raw(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _raw(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
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
