"""LLaMA-Factory's WebChat with labels in the browser's language, the recipe's settings and our notice."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import gradio
from llamafactory.chat import ChatModel
from llamafactory.webui import interface
from llamafactory.webui.locales import LOCALES

from scripts.chat.engine import Engine
from scripts.chat.hosting import preferred
from scripts.chat.thinking import Spent
from scripts.common import NOTICE, NOTICE_ZH

LANGUAGES = tuple(LOCALES["lang"])


def create_page(settings: dict[str, Any]) -> gradio.Blocks:
    """The page with the model loaded. It writes no files: LLaMA-Factory's keeps the last visitor's language."""

    class Web(interface.Engine):
        def __init__(self, **_: Any) -> None:
            super().__init__(demo_mode=True)  # nothing is written, and no model is loaded yet
            ChatModel.__init__(self.chatter, settings)
            engine = Engine(self.chatter.engine, "MedCoT")

            async def stream_chat(
                messages: list[dict], system: str | None, *_: Any, **asked: Any
            ) -> AsyncIterator[str]:
                with suppress(EOFError):
                    async for piece in engine.answer(engine.prompt(messages, system), asked, Spent()):
                        yield piece

            self.chatter.engine.stream_chat = stream_chat

        def resume(self, request: gradio.Request) -> Any:
            language = preferred(request.headers, LANGUAGES)
            shown = {"top.lang": {"value": language}, "infer.chat_box": {"visible": True}}
            shown["infer.mm_box"] = {"visible": False}  # a model of text alone
            yield self._update_component(shown)
            # Labels come with the menu's change event, which Gradio 5 does not fire when "en" stays "en".
            yield self.change_lang(language)
            values = self.chatter.engine.generating_args
            named = ("max_new_tokens", "top_p", "temperature")
            yield self._update_component({f"infer.{name}": {"value": values[name]} for name in named})

    interface.Engine, interface.save_config = Web, lambda *_: None
    page = interface.create_web_demo()
    page.title = "MedCoT WebChat"
    next(block for block in page.blocks.values() if isinstance(block, gradio.Chatbot)).label = "MedCoT"
    with page:
        gradio.Markdown(f"**{NOTICE}** **{NOTICE_ZH}**")
    page.children.insert(0, page.children.pop())
    return page
