"""`make api` over HTTP: curl and the openai client get streamed answers; the limits that docs/serving.md lists."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.browser.conftest import Api, free_port, running
from tests.train.memorised import memorise

pytestmark = pytest.mark.slow

REPLIES = {
    "What is fever?": "<think>\nThe body is warm.\n</think>\n\nAbove 38 °C.",
    "发热怎么办？": "<think>\n先看发热几天。\n</think>\n\n多喝水，注意休息。",
    "What is cough?": "<think>\nAir is pushed out.\n</think>\n\nA reflex.",
}
RECIPE = """model_name_or_path: {model}
template: deepseekr1
infer_dtype: float32
do_sample: true
temperature: 0.6
top_p: 0.95
max_new_tokens: 3000
"""
LOG: list[Path] = []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, psutil.Process]]:
    """`python -m scripts.chat.serve api` with two places and a key."""
    folder, port = tmp_path_factory.mktemp("api"), free_port()
    (folder / "api.yaml").write_text(RECIPE.format(model=memorise(folder / "model", REPLIES)))
    LOG.append(folder / "log")
    command = [sys.executable, "-m", "scripts.chat.serve", "api", str(folder / "api.yaml"), "--port", str(port)]
    with running(command, port, folder / "log", API_KEY="test-key", MAX_CONCURRENT="2") as process:
        yield Api(f"http://127.0.0.1:{port}/v1", "test-key"), psutil.Process(process.pid)


@pytest.fixture
def api(server: tuple[Api, psutil.Process]) -> Api:
    return server[0]


def ask(api: Api, question: str = "What is fever?", **options: Any) -> httpx.Response:
    body = {"model": "medcot", "messages": [{"role": "user", "content": question}], "temperature": 0} | options
    headers = {"Authorization": f"Bearer {api.key}"}
    return httpx.post(f"{api.url}/chat/completions", json=body, headers=headers, timeout=60, trust_env=False)


def choice(api: Api, *args: Any, **options: Any) -> tuple[str, str]:
    found = ask(api, *args, **options).json()["choices"][0]
    return found["message"]["content"], found["finish_reason"]


def streamed(text: str) -> tuple[str, str]:
    """The text and the finish reason of a server-sent stream that ended with [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    choices = [json.loads(line)["choices"][0] for line in lines[:-1]]
    return "".join(part["delta"].get("content") or "" for part in choices), choices[-1]["finish_reason"]


def test_curl_gets_a_streamed_answer(api):
    body = {"model": "x", "stream": True, "messages": [{"role": "user", "content": "发热怎么办？"}]}
    command = ["curl", "-sN", "--noproxy", "*", f"{api.url}/chat/completions", "-H", "Content-Type: application/json"]
    command += ["-H", f"Authorization: Bearer {api.key}", "-d", json.dumps(body)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert streamed(output) == (REPLIES["发热怎么办？"], "stop")


@pytest.mark.parametrize("question", REPLIES)
def test_the_openai_client_gets_streamed_answers(api, question):
    openai = pytest.importorskip("openai")
    direct = openai.DefaultHttpxClient(trust_env=False)
    client = openai.OpenAI(base_url=api.url, api_key=api.key, max_retries=0, http_client=direct)
    messages = [{"role": "user", "content": question}]
    pieces = [
        part.choices[0].delta.content or ""
        for part in client.chat.completions.create(model="any", messages=messages, stream=True)
    ]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == REPLIES[question]
    whole = client.chat.completions.create(model="any", messages=messages)
    assert whole.choices[0].message.content == REPLIES[question]
    assert whole.usage.completion_tokens > 5


def test_only_the_key_and_this_host_open_it(api):
    port = api.url.split(":")[2].split("/")[0]
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert httpx.get(f"{api.url}/models", headers=headers, trust_env=False).status_code == 401
    good = {"Authorization": f"Bearer {api.key}"}
    assert httpx.get(f"{api.url}/models", headers=good, trust_env=False).status_code == 200
    foreign = good | {"Origin": "https://evil.example"}
    rebound = good | {"Host": f"evil.example:{port}"}
    ask_first = foreign | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for method, headers in (("GET", foreign), ("GET", rebound), ("OPTIONS", ask_first)):
        answer = httpx.request(method, f"{api.url}/models", headers=headers, trust_env=False)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


# docs/serving.md's table: what LLaMA-Factory's API refuses, ignores or gets wrong.
TURNS = [{"role": "user", "content": "What is fever?"}]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"messages": [*TURNS, {"role": "assistant", "content": "<think>\n"}]}, 400),  # no prefill
        ({"messages": []}, 400),
        ({"presence_penalty": 0}, 500),  # taken for a repetition penalty, which must be above 0
        ({"model": "no-such-model"}, 200),
        ({"stop": ["warm"]}, 200),
        ({"seed": 1, "logprobs": True}, 200),
    ],
)
def test_limits(api, options, status):
    answer = ask(api, **options)
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["choices"][0]["message"]["content"] == REPLIES["What is fever?"]


def test_no_completions_and_a_cut_off_answer_says_so(api):
    headers = {"Authorization": f"Bearer {api.key}"}
    body = {"model": "x", "prompt": "Fever"}
    assert httpx.post(f"{api.url}/completions", json=body, headers=headers, trust_env=False).status_code == 404
    assert choice(api, max_tokens=4)[1] == "length"
    assert streamed(ask(api, max_tokens=4, stream=True).text)[1] == "length"


def test_temperature_zero_is_greedy(api):
    unknown = "An unknown question 3?"  # not learned: sampled answers would differ
    assert len({choice(api, unknown, max_tokens=30)[0] for _ in range(4)}) == 1
    assert len({choice(api, unknown, max_tokens=30, temperature=1.5)[0] for _ in range(4)}) > 1


def test_failing_streams_end_and_leave_their_place(api):
    for _ in range(3):  # more than there are places
        with pytest.raises(httpx.RemoteProtocolError):
            ask(api, stream=True, presence_penalty=0)
    assert streamed(ask(api, stream=True).text)[0] == REPLIES["What is fever?"]


def test_a_client_that_leaves_stops_the_generating(api, server):
    endless = {"presence_penalty": 0.01}  # what was said is said again, and again
    assert choice(api, max_tokens=500, **endless)[1] == "length"
    body = {"model": "x", "messages": TURNS, "stream": True, "max_tokens": 4000, "temperature": 0} | endless
    headers = {"Authorization": f"Bearer {api.key}"}
    used = [sum(server[1].cpu_times()[:2])]
    with httpx.stream("POST", f"{api.url}/chat/completions", json=body, headers=headers, trust_env=False) as answer:
        for count, _ in enumerate(answer.iter_lines()):
            if count > 20:
                break
    for _ in range(3):
        time.sleep(1)
        used.append(sum(server[1].cpu_times()[:2]))
    assert used[3] - used[2] < 0.3, f"processor seconds after it left: {[now - used[0] for now in used]}"


def test_answers_at_once_are_queued_and_do_not_mix(api):
    found: list[tuple[str, str]] = []
    questions = list(REPLIES) * 5
    threads = [
        threading.Thread(target=lambda q=q: found.append((q, streamed(ask(api, q, stream=True).text)[0])))
        for q in questions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == len(questions)
    assert [(question, answer) for question, answer in found if answer != REPLIES[question]] == []


def test_nothing_that_was_typed_is_logged(api):
    ask(api, "a secret of mine 8613")
    ask(api, "a secret of mine 8613", stream=True)
    assert "8613" not in LOG[0].read_text()
    assert "evil.example" not in LOG[0].read_text()
