"""The chat page: Gradio's ChatInterface with the thought folded, in two languages, with the base model's answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from scripts.chat.conversation import Reply, message, turns_of
from scripts.chat.hosting import preferred
from scripts.common import NOTICE, NOTICE_ZH, first_line, read_json

TEXTS = read_json(Path(__file__).with_name("texts.json"))
FONTS = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]  # none is fetched
MAX_CHARS = 8000  # of a question and its conversation


async def listen(model: Any, turns: list[dict[str, str]], asked: dict[str, Any], reply: Reply) -> None:
    """Fill a reply; whatever the model does ends in a note, never in an exception."""
    note = ""
    try:
        if sum(len(turn["content"]) for turn in turns) > MAX_CHARS:
            raise ValueError
        async with aclosing(model.answer(model.prompt(turns), asked, reply.spent)) as pieces:
            async for piece in pieces:
                reply.add(piece)
    except EOFError:
        note = "cut"
    except ValueError:
        note = "too_long"
    except Exception as error:  # torch raises many kinds
        logging.getLogger(__name__).warning("%s: %s", type(error).__name__, first_line(error))
        note = "lost"
    reply.finish(note)


async def ask(
    models: dict[str, Any], history: list[dict], question: str, asked: dict[str, Any], texts: dict[str, str]
) -> AsyncIterator[list[dict]]:
    """Put a question to every model at once; yields what is to be shown until all have answered."""
    replies = {side: Reply(model.words) for side, model in models.items()}

    def shown() -> list[dict]:
        found = []
        for side, reply in replies.items():
            if len(models) > 1:
                found.append(message(f"**{texts[side]}** · {models[side].name}", "heading"))
            found += reply.shown(side, texts)
        return found

    listening = [
        listen(model, turns_of(history, question, side), asked, replies[side]) for side, model in models.items()
    ]
    tasks = [asyncio.create_task(each) for each in listening]
    try:
        while not all(task.done() for task in tasks):
            yield shown()
            await asyncio.wait(tasks, timeout=0.15)
        yield shown()
    finally:
        for task in tasks:
            task.cancel()  # stopped, or the page was closed: ends the generating


def create_page(models: dict[str, Any]) -> gr.ChatInterface:
    """The page for Engines by side: "tuned" and maybe "base"."""
    defaults, english = models["tuned"].defaults, TEXTS["en"]
    length = defaults["max_new_tokens"]
    sliders = {
        "temperature": gr.Slider(0, 1.5, defaults["temperature"], step=0.05, label=english["temperature"]),
        "length": gr.Slider(16, max(8192, length), length, step=16, label=english["length"]),
        "budget": gr.Slider(0, 4096, 0, step=16, label=english["budget"]),
    }

    def translate(request: gr.Request) -> list[dict]:
        """All words in the browser's language. Gradio's own I18n leaves Chinese ones of zh, zh-HK, … English."""
        texts = TEXTS[preferred(request.headers, TEXTS)]
        examples = [{"text": example} for example in texts["examples"].splitlines()]
        words = [gr.update(placeholder=texts["welcome"], examples=examples), gr.update(placeholder=texts["hint"])]
        return [*words, gr.update(label=texts["settings"]), *(gr.update(label=texts[name]) for name in sliders)]

    async def respond(
        question: str, history: list, heat: float, length: int, budget: int, request: gr.Request
    ) -> AsyncIterator[list[dict]]:
        texts = TEXTS[preferred(request.headers, TEXTS)]
        asked = {"temperature": heat, "max_new_tokens": length, "thinking_budget": budget}
        async with aclosing(ask(models, history, question, asked, texts)) as looks:
            async for shown in looks:
                yield shown

    look = {"latex_delimiters": [], "feedback_options": None, "show_copy_button": True, "show_label": False, "scale": 1}
    page = gr.ChatInterface(
        respond,
        type="messages",
        title="MedCoT",
        description=f"{models['tuned'].name}. {NOTICE} {NOTICE_ZH}",
        chatbot=gr.Chatbot(type="messages", elem_id="talk", **look),
        textbox=gr.Textbox(placeholder=english["hint"], submit_btn=True, stop_btn=True, autofocus=True, max_lines=8),
        editable=True,
        additional_inputs=list(sliders.values()),
        additional_inputs_accordion=gr.Accordion(english["settings"], open=False),
        examples=[[example] for example in english["examples"].splitlines()],
        run_examples_on_click=False,
        cache_examples=False,
        theme=gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=["monospace"]),
        css=Path(__file__).with_name("page.css").read_text("utf-8"),
        analytics_enabled=False,
        concurrency_limit=32,  # the Engine queues what is beyond its own limit
        api_name=False,
        show_api=False,
    )
    fold = next(block for block in page.blocks.values() if isinstance(block, gr.Accordion))  # of the page's own making
    with page:
        shown = [page.chatbot, page.textbox, fold, *sliders.values()]
        page.load(translate, None, shown, show_progress="hidden", api_name=False)
    return page
