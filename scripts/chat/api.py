"""An OpenAI-compatible server for one model: ``make api``. The thought comes as ``reasoning_content``.

Beyond OpenAI's fields it takes ``thinking_budget`` (tokens, after which the thought is closed and the answer begins)
and ``repetition_penalty``. What it cannot do it refuses with a reason. It logs nothing that is typed.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from scripts.chat.engine import Engine
from scripts.chat.hosting import SameSite
from scripts.chat.thinking import Spent, split
from scripts.common import NOTICE

UNSUPPORTED = ("tools", "functions", "stop", "logprobs", "top_logprobs", "logit_bias", "seed", "response_format")
UNSUPPORTED += ("presence_penalty", "frequency_penalty", "top_k", "min_p")
NOTHING = (None, False, 0, "", [], {}, {"type": "text"})  # values that ask for nothing
RULES = ("system", "developer")
LOOK = 0.5  # seconds between two looks whether the client is still there


class Message(BaseModel):
    """One message; ``content`` may be missing, or in parts."""

    role: str
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """Its text; 400 for pictures and sounds, and for what no text can be."""
        parts = self.content if isinstance(self.content, list) else [{"type": "text", "text": self.content}]
        texts = ["" if part.get("text") is None else part["text"] for part in parts]
        if any(part.get("type") != "text" for part in parts) or not all(isinstance(text, str) for text in texts):
            raise HTTPException(400, "this model reads text only")
        try:
            return "".join(texts).encode().decode()
        except UnicodeEncodeError as error:
            raise HTTPException(400, f"content is no text: {error.reason}") from error


class Asked(BaseModel, extra="allow"):
    """The body of a request."""

    messages: list[Message]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: int | None = Field(None, ge=1, le=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    thinking_budget: int | None = Field(None, ge=0)

    def prompt(self, engine: Engine) -> list[int]:
        """Tokens; 400 unless user and assistant take turns, the user last, and for what the engine cannot do."""
        asked = {name for name, value in self.model_extra.items() if value not in NOTHING}
        asked |= {"seed"} if self.model_extra.get("seed") is not None else set()  # 0 is a seed
        if refused := [name for name in UNSUPPORTED if name in asked]:
            raise HTTPException(400, f"not supported here: {', '.join(refused)}")
        system = "\n\n".join(message.text() for message in self.messages if message.role in RULES)
        turns = [message for message in self.messages if message.role not in RULES]
        expected = [("user", "assistant")[number % 2] for number in range(len(turns))]
        if [turn.role for turn in turns] != expected or len(turns) % 2 == 0:
            raise HTTPException(400, "expected messages of user and assistant by turns, the last one the user's")
        try:
            return engine.prompt([{"role": turn.role, "content": turn.text()} for turn in turns], system)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error


async def answer_parts(engine: Engine, prompt: list[int], asked: Asked, spent: Spent) -> AsyncIterator[dict[str, str]]:
    """An answer as deltas of ``reasoning_content`` and ``content``, then {"finish_reason": …}."""
    text, finish, sent = "", None, {"reasoning_content": "", "content": ""}
    settings = asked.model_dump(include={"temperature", "top_p", "repetition_penalty", "thinking_budget"})
    settings["max_new_tokens"] = asked.max_completion_tokens or asked.max_tokens
    pieces = engine.answer(prompt, settings, spent)
    while finish is None:
        try:
            text += await anext(pieces)
        except StopAsyncIteration:
            finish = "stop"
        except EOFError:
            finish = "length"
        thought, answer, _ = split(text, engine.words)
        for field, value in (("reasoning_content", thought), ("content", answer)):
            if value != sent[field]:
                yield {field: value.removeprefix(sent[field])}
                sent[field] = value
    yield {"finish_reason": finish}


async def whole(parts: AsyncIterator[dict[str, str]], request: HttpRequest) -> dict[str, str]:
    """An answer's fields, once it is whole; a client that leaves before ends it."""

    async def collect() -> dict[str, str]:
        said = {"reasoning_content": "", "content": "", "finish_reason": ""}
        async for part in parts:
            for field, piece in part.items():
                said[field] += piece
        return said

    collecting = asyncio.create_task(collect())
    while not collecting.done():
        await asyncio.wait([collecting], timeout=LOOK)
        if not collecting.done() and await request.is_disconnected():
            collecting.cancel()
            raise HTTPException(499, "the client has left")
    return collecting.result()


def usage(spent: Spent) -> dict[str, int]:
    """Tokens, as OpenAI's API counts them."""
    counts = {"prompt_tokens": spent.prompt, "completion_tokens": spent.new}
    return counts | {"total_tokens": spent.prompt + spent.new}


async def events(
    parts: AsyncIterator[dict[str, str]], about: dict[str, Any], spent: Spent | None
) -> AsyncIterator[str]:
    """The server-sent events of a stream; ``spent``: where the client wants to know the tokens."""

    def event(delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return f"data: {json.dumps(about | {'choices': [choice]}, ensure_ascii=False)}\n\n"

    yield event({"role": "assistant", "content": ""})
    async for part in parts:
        finish = part.pop("finish_reason", None)
        yield event(part, finish)
    if spent:
        yield f"data: {json.dumps(about | {'choices': [], 'usage': usage(spent)})}\n\n"
    yield "data: [DONE]\n\n"


def create_app(engine: Engine, key: str, loopback: bool) -> FastAPI:
    """The server; with ``key`` only for those who send it. Pages of other sites are refused."""

    def check_key(request: HttpRequest) -> None:
        if key and request.headers.get("authorization") != f"Bearer {key}":
            raise HTTPException(401, "wrong key")

    app = FastAPI(openapi_url=None, dependencies=[Depends(check_key)])
    app.add_middleware(SameSite, loopback=loopback)

    @app.exception_handler(RequestValidationError)
    async def refuse(request: HttpRequest, error: RequestValidationError) -> JSONResponse:
        """FastAPI's own repeats what was sent, and fails where that has no form in JSON, such as NaN."""
        said = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()]
        return JSONResponse({"detail": "; ".join(said)}, 400)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        card = {"id": engine.name, "object": "model", "created": 0, "owned_by": "medcot", "notice": NOTICE}
        return {"object": "list", "data": [card]}

    @app.post("/v1/chat/completions")
    async def chat(asked: Asked, request: HttpRequest) -> Any:
        spent = Spent()
        parts = answer_parts(engine, asked.prompt(engine), asked, spent)
        about = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": engine.name}
        if asked.stream:
            counted = spent if (asked.stream_options or {}).get("include_usage") else None
            stream = events(parts, about | {"object": "chat.completion.chunk"}, counted)
            return StreamingResponse(stream, media_type="text/event-stream")
        said = await whole(parts, request)
        choice = {"index": 0, "finish_reason": said.pop("finish_reason"), "message": {"role": "assistant"} | said}
        return about | {"object": "chat.completion", "choices": [choice], "usage": usage(spent)}

    return app
