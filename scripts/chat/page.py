"""A chat page for the tuned model: ``python -m scripts.chat`` (``make chat``); ``--server URL`` for one that runs.

It shows the reasoning folded apart from the answer, in Chinese and English, the base model beside it if wanted. What
is typed stays in memory; model text is escaped (conversation.py), the models answer behind servers (upstream.py).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import warnings
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

from scripts.chat.conversation import TEXTS, Reply, Talk, Turn
from scripts.chat.same_site import LOOPBACK, SameSite
from scripts.chat.upstream import Server, answer, connect, own_server
from scripts.common import NOTICE, UserError, load_recipe
from scripts.evaluate.plan import is_small

FILES = Path(__file__).parent
MAX_ANSWERS = 32  # at once; a server queues what is beyond its own limit
FONTS = ["-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "PingFang SC", "Microsoft YaHei"]
FONTS += ["Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Micro Hei", "sans-serif"]  # the system's, none is fetched


async def listen(reply: Reply, server: Server, stream: AsyncIterator[str]) -> None:
    """Fill a reply from a stream; whatever the server does ends in a note, never in an exception."""
    from openai import APIStatusError, OpenAIError

    note = ""
    try:
        async for piece in stream:
            reply.add(piece)
    except EOFError:
        note = "cut"
    except APIStatusError:
        note = "refused"
    except (OpenAIError, OSError, ValueError):
        note = "lost"
    finally:
        reply.finish(note)
    if "</think>" in reply.text:  # what comes shows whether this server's prompts open the thought
        server.opened = "<think>" not in reply.text


async def ask(servers: dict[str, Server], talk: Talk, question: str, budget: int) -> AsyncIterator[None]:
    """Put a question to every server at once; yields whenever there may be something new, until all have answered."""
    streams = {side: answer(server, talk.history(side), question, budget) for side, server in servers.items()}
    turn = Turn(question, {side: Reply(server.opened) for side, server in servers.items()})
    talk.turns.append(turn)
    tasks = [asyncio.create_task(listen(turn.replies[side], servers[side], streams[side])) for side in servers]
    try:
        while not turn.stopped and not all(task.done() for task in tasks):
            yield
            await asyncio.wait(tasks, timeout=0.15)
    finally:
        for reply in turn.replies.values():
            reply.note = reply.note if reply.done else "stopped"
        for task in tasks:
            task.cancel()  # closes the connection, which tells the server
        await asyncio.gather(*tasks, return_exceptions=True)
    yield


class Page:
    """The Gradio page. Its events have no names, so that it offers no API of its own; ``limit``: see Talk.refusal.

    ``tiny``: the model is the demo's, and the notice says so.
    """

    def __init__(self, servers: dict[str, Server], limit: int, tiny: bool = False) -> None:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
        import gradio as gr

        warnings.filterwarnings("ignore", message=".*Gradio 6")  # 5 is pinned
        self.servers, self.limit, self.tiny = servers, limit, tiny
        theme = gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=["monospace"])
        # Not css=: Gradio would put its own prefix before each selector.
        style, code = (FILES / "page.css").read_text(), (FILES / "page.js").read_text()
        head = f"<style>{style}</style><script>{code}</script>"
        self.blocks = gr.Blocks(title="MedCoT", theme=theme, head=head, analytics_enabled=False, fill_height=True)
        with self.blocks:
            self.layout(gr)
            for part, words in self.words("en").items():  # what is seen until the browser's language is known
                vars(part).update(words)
            self.wire(gr)

    def layout(self, gr: Any) -> None:
        """The page's parts from top to bottom, without words."""
        self.talk, self.saved = gr.State(Talk()), gr.Textbox(visible=False)
        with gr.Row(elem_id="top"):
            self.brand = gr.HTML(elem_id="brand")
            languages = [("中文", "zh"), ("English", "en")]
            self.language = gr.Radio(languages, label="Language · 语言", container=False, elem_id="language")
            self.shade = gr.Button(size="sm", elem_id="shade")
        self.notice = gr.HTML(elem_id="notice")
        self.warning = gr.HTML(elem_id="alarm")
        with gr.Row(elem_id="panes"):
            plain = {"render_markdown": False, "latex_delimiters": [], "feedback_options": None, "type": "messages"}
            self.panes = {side: gr.Chatbot(elem_id=side, min_width=300, **plain) for side in self.servers}
        with gr.Row(elem_id="examples"):
            self.examples = [gr.Button(size="sm", min_width=240) for _ in TEXTS["en"]["examples"]]
        with gr.Row(elem_id="composer"):
            self.question = gr.Textbox(container=False, max_lines=8, autofocus=True, scale=9, elem_id="question")
            self.send = gr.Button(variant="primary", elem_id="send")
            self.stop = gr.Button(variant="stop", visible=False, elem_id="stop")
        with gr.Row(elem_id="tools"):
            self.compare = gr.Checkbox(True, visible="base" in self.servers, container=False, elem_id="compare")
            budgets = all(server.budgets for server in self.servers.values())
            self.budget = gr.Slider(0, 4096, 0, step=128, visible=budgets, show_reset_button=False, elem_id="budget")
            self.new, self.save = gr.Button(size="sm", elem_id="new"), gr.Button(size="sm", elem_id="save")

    def words(self, language: str) -> dict:
        """Updates that put every label into a language."""
        words = TEXTS[language]
        values, labels = ("shade", "send", "stop", "new", "save"), ("question", "compare", "budget")
        shown = {getattr(self, key): {"value": words[key]} for key in values}
        shown[self.notice] = {"value": words["notice"] + (f" <b>{words['tiny']}</b>" if self.tiny else "")}
        shown |= {getattr(self, key): {"label": words[key]} for key in labels}
        for side, pane in self.panes.items():
            shown[pane] = {"label": f"{words[side]} · {self.servers[side].model}", "placeholder": words["welcome"]}
        shown |= {button: {"value": text} for button, text in zip(self.examples, words["examples"], strict=True)}
        shown[self.question]["placeholder"] = words["hint"]
        return shown | {self.brand: {"value": f"<h1>MedCoT</h1><p>{words['tagline']}</p>"}}

    def show(self, talk: Talk, words: dict | None = None) -> dict:
        """Updates that show the conversation as it is now, merged with those of ``words``."""
        import gradio as gr

        shown = {pane: {"value": talk.bubbles(side)} for side, pane in self.panes.items()}
        shown |= {button: {"visible": not talk.turns} for button in self.examples}
        shown |= {self.send: {"visible": not talk.busy()}, self.stop: {"visible": talk.busy()}}
        shown[self.warning], words = {"value": talk.alarm()}, words or {}
        return {part: gr.update(**shown.get(part, {}), **words.get(part, {})) for part in shown | words}

    def wire(self, gr: Any) -> None:
        """What happens when."""

        async def respond(question: str, talk: Talk, both: bool, budget: int) -> AsyncIterator[dict]:
            question = question.strip()
            if refusal := talk.refusal(question, self.limit):
                gr.Warning(refusal, title="", duration=None)
            if refusal or talk.busy() or not question:
                yield self.show(talk)  # a generator that yields nothing would empty every output
                return
            asked = {side: server for side, server in self.servers.items() if both or side == "tuned"}
            async with aclosing(ask(asked, talk, question, budget)) as looks:
                yield {self.question: ""}
                async for _ in looks:
                    yield self.show(talk)

        def halt(talk: Talk) -> None:
            for turn in talk.turns[-1:]:
                turn.stopped = True

        def forget(talk: Talk) -> dict:
            halt(talk)
            talk.turns = []
            return self.show(talk)

        def translate(language: str, talk: Talk) -> dict:
            talk.language = language
            return {self.language: language} | self.show(talk, self.words(language))

        def saved(talk: Talk) -> str:
            return talk.as_file({side: server.model for side, server in self.servers.items()})

        quiet = {"api_name": False, "show_api": False, "show_progress": "hidden"}
        moving = [*self.panes.values(), self.warning, *self.examples, self.send, self.stop]
        fixed = [self.brand, self.language, self.shade, self.notice, self.compare, self.budget, self.new, self.save]
        both = ([self.language, self.talk], [self.question, *fixed, *moving])
        buttons = [(button.click, button) for button in self.examples]
        for trigger, source in ((self.question.submit, self.question), (self.send.click, self.question), *buttons):
            inputs = [source, self.talk, self.compare, self.budget]
            trigger(respond, inputs, [self.question, *moving], concurrency_limit=MAX_ANSWERS, **quiet)
        self.stop.click(halt, self.talk, queue=False, **quiet)
        self.new.click(forget, self.talk, moving, queue=False, **quiet)
        self.language.input(translate, *both, queue=False, **quiet)
        browsers = "(_, talk) => [navigator.language.startsWith('zh') ? 'zh' : 'en', talk]"
        self.blocks.load(translate, *both, js=browsers, queue=False, **quiet)
        self.shade.click(None, js="() => document.body.classList.toggle('dark')")
        written = self.save.click(saved, self.talk, self.saved, queue=False, **quiet)
        written.then(None, self.saved, js="saveConversation")


def models_of(recipe: str) -> tuple[str, str]:
    """A recipe's base model and its adapter, the model again where it has none."""
    settings = load_recipe(recipe, [], ("model_name_or_path",))
    base = str(settings["model_name_or_path"])
    return base, str(settings.get("adapter_name_or_path") or base)


def find_servers(args: argparse.Namespace, stack: ExitStack) -> dict[str, Server]:
    """The servers that were named, or are started here, by side; the latter end with ``stack``."""
    if args.server:
        servers = {"tuned": connect(args.server, args.model)}
        if args.base_server or args.base_model:
            servers["base"] = connect(args.base_server or args.server, args.base_model)
        return servers
    base, tuned = models_of(args.recipe)
    started = {"tuned": stack.enter_context(own_server(args.recipe, [], tuned))}
    if args.compare:
        started["base"] = stack.enter_context(own_server(args.recipe, ["adapter_name_or_path=null"], base))
    return {side: loaded() for side, loaded in started.items()}


def main() -> None:
    examples = """examples:
  python -m scripts.chat                                                 the recipe's model, served from here
  python -m scripts.chat --recipe examples/webchat_cpu.yaml --compare    the demo's, tuned and base side by side
  python -m scripts.chat --server http://127.0.0.1:8000 --model medcot --base-model qwen    vLLM with both
"""
    style = {"epilog": examples + NOTICE, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m scripts.chat", description=__doc__, **style)
    parser.add_argument("--server", help="an OpenAI-compatible server (key: MEDCOT_API_KEY); default: one is started")
    parser.add_argument("--model", default="", help="the model's name there; default: the first one")
    parser.add_argument("--base-server", help="where the base model is; default: --server")
    parser.add_argument("--base-model", default="", help="the base model's name there")
    parser.add_argument("--recipe", default="yamls/webchat.yaml", help="of the server to start (%(default)s)")
    parser.add_argument("--compare", action="store_true", help="start the recipe's base model too")
    parser.add_argument("--host", default="127.0.0.1", help="a wider bind needs MEDCOT_CHAT_PASSWORD (user: medcot)")
    parser.add_argument("--port", type=int, default=7863)
    parser.add_argument("--max-chars", type=int, default=8000, help="of a question and its conversation (%(default)s)")
    args = parser.parse_args()
    password, loopback = os.environ.get("MEDCOT_CHAT_PASSWORD"), args.host in LOOPBACK
    if not loopback and not password:
        raise UserError(f"--host {args.host} lets other machines in: set MEDCOT_CHAT_PASSWORD first")
    with socket.socket() as probe:
        if probe.connect_ex((args.host, args.port)) == 0:
            raise UserError(f"port {args.port} is in use; choose another one with --port")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the servers started here end too
    with ExitStack() as stack:
        tiny = not args.server and is_small(models_of(args.recipe)[0])
        page = Page(find_servers(args, stack), args.max_chars, tiny)
        launch(page.blocks, args.host, args.port, password)


def launch(blocks: Any, host: str, port: int, password: str | None) -> None:
    """Serve the page until interrupted; ``password`` (user medcot) where others may come in."""
    from starlette.middleware import Middleware

    print(f"{NOTICE}\nopen http://{host}:{port}", flush=True)
    app = {"middleware": [Middleware(SameSite, loopback=host in LOOPBACK)]}
    where = {"server_name": host, "server_port": port, "auth": ("medcot", password) if password else None}
    blocks.queue(api_open=False).launch(share=False, show_api=False, quiet=True, app_kwargs=app, **where)
