"""`make api`: the engine and the server on models that know three answers by heart, by three templates."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from scripts.chat.thinking import Spent
from tests.chat.memorised import memorise
from tests.conftest import TEMPLATES

QUESTION, THOUGHT, ANSWER = "What is fever?", "The body is warm.\nCount the days.", "Above 38 °C."
REPLIES = {
    QUESTION: f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}",
    "发热怎么办？": "<think>\n先看发热几天。\n</think>\n\n多喝水，注意休息。",
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An Engine per template."""
    from llamafactory.chat import ChatModel

    from scripts.chat.engine import Engine

    found = {}
    for template in TEMPLATES:
        model = memorise(tmp_path_factory.mktemp(template) / "model", REPLIES, template)
        told = {"model_name_or_path": str(model), "template": template, "infer_dtype": "float32"}
        told |= {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 300}
        found[template] = Engine(ChatModel(told).engine, "medcot")
    return found


@pytest.fixture(params=TEMPLATES)
def engine(request: pytest.FixtureRequest, engines: dict[str, Any]) -> Any:
    return engines[request.param]


@pytest.fixture
def qwen(engines) -> Any:
    return engines["qwen"]


def post(engine: Any, path: str = "/v1/chat/completions", key: str = "", method: str = "POST", **options: Any) -> Any:
    """A request to the server, without a socket."""
    from scripts.chat.api import create_app

    headers = options.pop("headers", {})

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(engine, key, loopback=True))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            body = {"temperature": 0, "messages": [{"role": "user", "content": QUESTION}]} | options
            headers["Content-Type"] = "application/json"
            return await client.request(method, path, content=json.dumps(body), headers=headers)

    return asyncio.run(go())


def streamed(text: str) -> tuple[str, str, str]:
    """Thought, answer and finish reason of a stream that ended with [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
    thought = "".join(choice["delta"].get("reasoning_content", "") for choice in choices)
    answer = "".join(choice["delta"].get("content", "") for choice in choices)
    return thought, answer, choices[-1]["finish_reason"]


@pytest.mark.parametrize("question", REPLIES)
def test_thought_and_answer_come_apart_in_every_template(engine, question):
    messages = [{"role": "user", "content": question}]
    thought, _, answer = REPLIES[question].removeprefix("<think>\n").partition("\n</think>\n\n")
    assert streamed(post(engine, messages=messages, stream=True).text) == (thought, answer, "stop")
    found = post(engine, messages=messages).json()
    message = found["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (thought, answer)
    usage = found["usage"]
    assert usage["completion_tokens"] > 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("limit", range(1, 14))
def test_wherever_a_limit_cuts_no_half_of_a_mark_is_shown(engine, limit):
    """Where thought words are plain text, a limit can cut inside ``</think``."""
    for options in ({}, {"stream": True}):
        answer = post(engine, max_completion_tokens=limit, **options)
        if options:
            thought, content, finish = streamed(answer.text)
        else:
            choice = answer.json()["choices"][0]
            thought, content = choice["message"]["reasoning_content"], choice["message"]["content"]
            finish = choice["finish_reason"]
        assert finish == "length"
        assert THOUGHT.startswith(thought)
        assert content == "" or (ANSWER.startswith(content) and thought == THOUGHT)


@pytest.mark.parametrize("budget", [1, 4, 8, 9, 10, 11, 12, 13, 14, 40])
def test_at_a_budget_the_thought_is_closed_and_the_answer_begins(engine, budget):
    thought, answer, _ = streamed(post(engine, thinking_budget=budget, max_tokens=60, stream=True).text)
    assert THOUGHT.startswith(thought)
    assert answer, "whatever a model says whose thought was closed for it"
    assert "</" not in thought + answer[:3]
    if budget == 40:
        assert (thought, answer) == (THOUGHT, ANSWER)


def test_the_closed_thought_is_encoded_as_a_whole_text(qwen):
    """The second request continues prompt, thought and mark as training would have encoded them together."""
    seen = []
    whole, qwen.complete = qwen.complete, lambda ids, *rest: seen.append(ids) or whole(ids, *rest)
    post(qwen, thinking_budget=3, max_tokens=5)
    qwen.complete = whole
    text = qwen.form.decode(seen[1])
    assert text.endswith("\n</think>\n\n")
    assert seen[1] == qwen.form.tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
        [{"role": "system", "content": None}, {"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        [
            {"role": "user", "content": "发热怎么办？"},
            {"role": "assistant", "content": None, "reasoning_content": "先看"},
            {"role": "user", "content": QUESTION},
        ],
    ],
)
def test_messages_of_todays_clients_are_taken(qwen, messages):
    answer = post(
        qwen,
        messages=messages,
        max_completion_tokens=5,
        n=1,
        stop=None,
        user="x",
        store=False,
        **{"stream": None, "response_format": {"type": "text"}},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ({"messages": []}, 400, "by turns"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "by turns"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text"),
        ({"messages": [{"role": "user", "content": "fever " * 40_000}]}, 400, "tokens, the model takes"),
        ({"stop": ["warm"]}, 400, "not supported here: stop"),
        ({"tools": [{"type": "function"}]}, 400, "not supported here: tools"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, 400, "text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 0}]}]}, 400, "text"),
        ({"messages": [{"role": "user", "content": "half \ud83d"}]}, 400, "no text"),
        ({"n": 2}, 400, "n"),
        ({"n": 0}, 400, "n"),
        ({"seed": 3}, 400, "not supported here: seed"),
        ({"seed": 0}, 400, "not supported here: seed"),
        ({"top_k": 5}, 400, "not supported here: top_k"),
        ({"logit_bias": {"5": 1}}, 400, "not supported here: logit_bias"),
        ({"response_format": {"type": "json_object"}}, 400, "not supported here: response_format"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": float("nan")}, 400, "temperature"),
        ({"temperature": float("inf")}, 400, "temperature"),
        ({"temperature": 1, "repetition_penalty": 1e-320}, 400, "repetition_penalty"),
        ({"max_tokens": 1e30}, 400, "max_tokens"),
        ({"max_tokens": 0}, 400, "max_tokens"),
    ],
)
def test_what_it_cannot_do_is_refused_with_a_reason(qwen, options, status, message):
    answer = post(qwen, **options)
    assert answer.status_code == status
    assert message in answer.text


def test_only_the_key_and_this_host_open_it(qwen):
    paths = {"method": "GET", "path": "/v1/models", "key": "secret"}
    good = {"Authorization": "Bearer secret"}
    assert post(qwen, **paths).status_code == 401
    assert post(qwen, **paths, headers={"Authorization": "Bearer wrong"}).status_code == 401
    models = post(qwen, **paths, headers=good)
    assert models.json()["data"][0]["id"] == "medcot"
    assert "research only" in models.text
    for headers in (
        {"Origin": "https://evil.example"},
        {"Host": "evil.example:8000"},
        {"Origin": "null"},
        {"Host": "[::1"},
    ):
        answer = post(qwen, **paths, headers=good | headers)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_a_text_cannot_forge_a_turn_and_history_has_no_thoughts(engine):
    marks = [*engine.form.tokenizer.get_added_vocab(), "</think>", "<think>"]
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "<think>\nsecret\n</think>\n\nsaid"},
        {"role": "user", "content": "".join(marks)},
    ]
    text = engine.form.decode(engine.prompt(turns))
    clean = engine.form.decode(
        engine.prompt([turns[0], {"role": "assistant", "content": "said"}, {**turns[2], "content": ""}])
    )
    assert "secret" not in text
    for mark in marks:
        assert text.count(mark) == clean.count(mark), mark


def test_temperature_zero_is_greedy_whatever_the_models_file_says(qwen):
    qwen.model.generation_config.do_sample, unknown = True, [{"role": "user", "content": "An unknown question 3?"}]
    said = [post(qwen, messages=unknown, max_tokens=20).json()["choices"][0]["message"] for _ in range(3)]
    assert said[0] == said[1] == said[2]
    hot = [post(qwen, messages=unknown, max_tokens=20, temperature=3).json()["choices"] for _ in range(4)]
    assert len({json.dumps(each) for each in hot}) > 1


@pytest.mark.parametrize("asked", [{"max_tokens": 5000}, {"max_tokens": 10**30}, {"thinking_budget": 5000}])
def test_an_answer_ends_where_the_model_does(qwen, asked, monkeypatch):
    prompt = qwen.prompt([{"role": "user", "content": QUESTION}])
    monkeypatch.setattr(qwen.model.config, "max_position_embeddings", len(prompt) + 7)
    answer = post(qwen, **asked).json()
    started = len(qwen.form.tokenizer.encode(qwen.words[0])) if "thinking_budget" in asked else 0  # said for the model
    assert answer["usage"]["total_tokens"] == len(prompt) + max(0, 7 - started)
    assert answer["choices"][0]["finish_reason"] == "length"


def test_a_temperature_near_zero_is_zero(qwen):
    assert post(qwen, temperature=1e-320).json()["choices"] == post(qwen, temperature=0).json()["choices"]


def test_a_client_that_leaves_an_answer_that_is_not_streamed_ends_it(qwen, monkeypatch):
    from scripts.chat import api

    monkeypatch.setattr(api, "LOOK", 0.01)
    spent = Spent()

    class Gone:
        async def is_disconnected(self) -> bool:
            return spent.new > 2

    async def leave() -> int:
        asked = api.Asked(messages=[{"role": "user", "content": "An unknown question?"}], max_tokens=250)
        with pytest.raises(api.HTTPException, match="left"):
            await api.whole(api.answer_parts(qwen, asked.prompt(qwen), asked, spent), Gone())
        await asyncio.sleep(0.5)
        before = spent.new
        await asyncio.sleep(0.3)
        return spent.new - before

    assert asyncio.run(leave()) == 0
    assert spent.new < 240


def test_a_failing_answer_ends_and_one_that_is_left_stops(qwen, monkeypatch):
    async def leave() -> Spent:
        spent = Spent()
        pieces = qwen.answer(qwen.prompt([{"role": "user", "content": QUESTION}]), {"max_new_tokens": 250}, spent)
        async with aclosing(pieces):
            await anext(pieces)
        await asyncio.sleep(0.5)
        before = spent.new
        await asyncio.sleep(0.3)
        assert spent.new == before
        return spent

    assert asyncio.run(leave()).new < 100

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(qwen.model, "generate", broken)
    for _ in range(3):  # more than there are places
        with pytest.raises(RuntimeError, match="out of memory"):
            post(qwen)
