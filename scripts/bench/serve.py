"""Many people at once at the api server: is each answered, with the answer to their own question, in steady memory?

Each question is first asked alone, greedily: every later answer to it must be that one, word for word. Then the clients
stream, each going through all questions from a place of its own, until the time is over.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.common import ROOT, UserError, provenance, read_jsonl, run_main, write_json

# A small model's greedy answers would be one word for ever.
GREEDY = {"temperature": 0, "extra_body": {"repetition_penalty": 1.3}}


@contextmanager
def api_server(recipe: str) -> Iterator[Any]:
    """`make api` on a free port for the length of the block; yields an asynchronous client of it."""
    import openai

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    child = subprocess.Popen([sys.executable, "-m", "scripts.chat", "api", recipe, "--port", str(port)])
    try:
        while not is_listening(port):
            if child.poll() is not None:
                raise UserError("the server ended before it answered; its words stand above")
            time.sleep(0.5)
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        address = f"http://127.0.0.1:{port}/v1"
        yield openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0, http_client=http)
    finally:
        child.terminate()
        child.wait()


def is_listening(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def questions(count: int) -> list[str]:
    """The first ``count`` bundled benchmark questions, English and Chinese in turn."""
    files = [read_jsonl(ROOT / f"data/benchmarks/medcot_{lang}.jsonl") for lang in ("en", "zh")]
    mixed = [row["question"] for pair in zip(*files, strict=False) for _, row in pair]
    if count > len(mixed):
        raise UserError(f"--clients {count}: expected at most {len(mixed)}, the number of bundled questions")
    return mixed[:count]


async def ask(client: Any, question: str, tokens: int) -> dict[str, Any]:
    """One streamed answer: its text, seconds to the first piece and to the end, and the error if there was one."""
    began, first, text = time.perf_counter(), None, ""
    request = {"model": "medcot", "messages": [{"role": "user", "content": question}], "max_tokens": tokens}
    try:
        async for part in await client.chat.completions.create(stream=True, **request, **GREEDY):
            delta = part.choices[0].delta
            if piece := getattr(delta, "reasoning_content", None) or delta.content:
                first, text = first or time.perf_counter() - began, text + piece
    except Exception as error:  # any failure at all is a result here
        return {"error": f"{type(error).__name__}: {error}"}
    return {"question": question, "text": text, "first_s": first, "all_s": time.perf_counter() - began}


async def measure(client: Any, asked: list[str], seconds: float, tokens: int) -> dict[str, Any]:
    """Counts of what went wrong, 5th, 50th and 95th percentiles of times (s), the server's memory at each end (MiB)."""
    import psutil

    alone = {question: (await ask(client, question, tokens)).get("text") for question in asked}
    if len(set(alone.values())) < len(asked):
        raise UserError(f"{len(set(alone.values()))} answers to {len(asked)} questions differ: mixing would not show")
    process = psutil.Process().children()[-1]
    memory = [process.memory_info().rss]
    began, answers = time.perf_counter(), []

    async def keep_asking(number: int) -> None:
        while time.perf_counter() < began + seconds:
            answers.append(await ask(client, asked[number % len(asked)], tokens))
            number += 1

    await asyncio.gather(*(keep_asking(number) for number in range(len(asked))))
    took, good = time.perf_counter() - began, [answer for answer in answers if "error" not in answer]
    memory.append(process.memory_info().rss)
    cuts = {name: statistics.quantiles([answer[name] for answer in good], n=20) for name in ("first_s", "all_s")}
    return {
        "answers": len(good),
        "errors": [answer["error"] for answer in answers if "error" in answer],
        "unlike_the_answer_given_alone": sum(answer["text"] != alone[answer["question"]] for answer in good),
        "answers_per_s": round(len(good) / took, 2),
        "first_piece_s": [round(cuts["first_s"][place], 2) for place in (0, 9, 18)],
        "whole_answer_s": [round(cuts["all_s"][place], 2) for place in (0, 9, 18)],
        "server_mib": [round(size / 2**20) for size in memory],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench.serve",
        description=__doc__,
        epilog="example: python -m scripts.bench.serve --recipe yamls/webchat.yaml --places 4 8 --out serve.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", default="examples/webchat_cpu.yaml")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=48, help="length of an answer")
    parser.add_argument("--places", type=int, nargs="+", default=[1, 2, 4], help="values of MAX_CONCURRENT")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/bench_serve.json")
    args = parser.parse_args()
    asked, runs = questions(args.clients), {}
    for places in args.places:
        os.environ["MAX_CONCURRENT"] = str(places)
        with api_server(args.recipe) as client:
            runs[f"max_concurrent_{places}"] = run = asyncio.run(measure(client, asked, args.seconds, args.tokens))
        print(f"MAX_CONCURRENT={places}: {run}", flush=True)
    settings = {name: getattr(args, name) for name in ("recipe", "clients", "seconds", "tokens")}
    write_json(args.out, provenance() | settings | runs)
    return int(any(run["errors"] or run["unlike_the_answer_given_alone"] for run in runs.values()))


if __name__ == "__main__":
    run_main(main)
