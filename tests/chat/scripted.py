"""The chat page on scripted models, as a program: ``python -m tests.chat.scripted PORT [--base]``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

from scripts.chat import hosting
from scripts.chat.thinking import Spent

ANSWERS = {
    "en": (
        "A fever of three days may be an infection. I ask about cough, rash and travel first.",
        "**Rest and fluids** come first.\n\n1. Measure twice a day.\n2. See a doctor above 39 °C.\n\n"
        "| Sign | Meaning |\n|---|---|\n| stiff neck | go at once |\n| cough | may wait |",
    ),
    "zh": (
        "发热三天可能是感染。先问有没有咳嗽、皮疹、旅行史，再看精神和饮水情况。",
        "**多喝水，注意休息。**\n\n1. 每天测两次体温。\n2. 超过 39 ℃ 请就医。\n\n"
        "| 症状 | 处理 |\n|---|---|\n| 颈部僵硬 | 立即就医 |\n| 咳嗽 | 可以观察 |",
    ),
}


class ScriptedModel:
    """Answers in pieces. Words of a question say how: long, fail, cut; `< ` or `[`: the question comes back."""

    words = ("<think>\n", "\n</think>\n\n")

    def __init__(self, name: str) -> None:
        self.name, self.defaults = name, {"temperature": 0.6, "max_new_tokens": 768}

    def prompt(self, turns: list[dict[str, str]]) -> list[dict[str, str]]:
        return turns

    async def answer(self, turns: list[dict[str, str]], asked: dict[str, Any], spent: Spent) -> AsyncIterator[str]:
        question = turns[-1]["content"]
        thought, said = ANSWERS["zh" if question > "一" else "en"]
        said = question if "<" in question or "[" in question else said
        if "long" in question:
            thought, said = "a long thought " * 60, "a long answer " * 300
        said += f"\n\n{self.name}: turn {len(turns) // 2 + 1}, {asked['temperature']}, {asked['thinking_budget']}"
        text = f"{self.words[0]}{thought}{self.words[1]}{said}"
        try:
            for begin in range(0, len(text), 6):
                await asyncio.sleep(0.02)
                spent.new += 2
                yield text[begin : begin + 6]
                if "fail" in question and begin > 60:
                    raise RuntimeError("out of memory")
        except (asyncio.CancelledError, GeneratorExit):
            print("the reader has gone", flush=True)
            raise
        if "cut" in question:
            raise EOFError


def main() -> None:
    with hosting.without_proxies():
        from scripts.chat.page import create_page
    models = {"tuned": ScriptedModel("saves/demo")}
    if "--base" in sys.argv:
        models["base"] = ScriptedModel("saves/base")
    hosting.run_page(create_page(models), "127.0.0.1", int(sys.argv[1]))


if __name__ == "__main__":
    main()
