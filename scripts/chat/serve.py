"""Serve the tuned model on this machine: ``python -m scripts.chat.serve webchat|api [RECIPE] [KEY=VALUE...]``.

The models and the pages are LLaMA-Factory's. This file starts them with what `llamafactory-cli webchat` and
`llamafactory-cli api` leave open: loopback only, a password for any wider bind, no log of what people type, nothing
loaded from elsewhere, labels in the page's own language. docs/serving.md says why.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Literal

from scripts.chat.same_site import LOOPBACK, SameSite
from scripts.common import NOTICE, UserError, load_recipe, run_main

Kind = Literal["webchat", "api"]
PORTS = {"webchat": 7860, "api": 8000}
CUT: ContextVar[list[bool]] = ContextVar("CUT")  # of a request: filled where its answer reached the length limit


def environment(kind: Kind, host: str, port: int, key: str = "") -> dict[str, str]:
    """Variables to start LLaMA-Factory's server with; UserError for a host other than loopback without a key.

    Also right for a plain ``llamafactory-cli api RECIPE`` in a process of its own: ``os.environ | environment(...)``.
    """
    if host not in LOOPBACK and not key:
        raise UserError(
            f"--host {host} lets other machines in and needs a password: set API_KEY, for example "
            f"API_KEY=$(openssl rand -hex 16) python -m scripts.chat.serve {kind} --host {host}"
        )
    env = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    env["LLAMAFACTORY_VERBOSITY"] = os.environ.get("LLAMAFACTORY_VERBOSITY", "WARN")  # so that the address is seen
    # Answers beyond it wait. Each is a thread with its own KV cache and none are batched: 2 cost no speed in all
    # (docs/bench_serve.json), and a long answer does not block everyone else; 4 cost a third.
    env["MAX_CONCURRENT"] = os.environ.get("MAX_CONCURRENT", "2")
    if kind == "webchat":
        return env | {"GRADIO_SERVER_NAME": host, "GRADIO_SERVER_PORT": str(port), "GRADIO_SHARE": "False"}
    env["API_MODEL_NAME"] = os.environ.get("API_MODEL_NAME", "medcot")
    return env | {"API_HOST": host, "API_PORT": str(port), "API_KEY": key, "API_VERBOSE": "0"}


def check_models(path: str, overrides: list[str]) -> None:
    """Raise UserError, before a minute of imports, where the recipe or a local model or adapter of it is missing."""
    recipe = load_recipe(path, overrides, ("model_name_or_path",))
    for key, file in (("model_name_or_path", "config.json"), ("adapter_name_or_path", "adapter_config.json")):
        for name in str(recipe.get(key) or "").split(","):
            hub_id = name.count("/") == 1 and not name.startswith(("saves/", ".", "/"))
            if name and not hub_id and not Path(name, file).is_file():
                raise UserError(
                    f"{path}: {key} is {name}, which has no {file}. Run `make train` first; or `make demo`, and then "
                    "choose RECIPE=examples/webchat_cpu.yaml"
                )


def mend_streams(engine: Any) -> None:
    """Faults of LLaMA-Factory 0.9.5's transformers engine: greedy answers; failing, abandoned and cut-off streams."""
    from llamafactory.chat import hf_engine

    class Streamer(hf_engine.TextIteratorStreamer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.room, self.ends, self.cut = -1, [], CUT.get([])

        def put(self, value: Any) -> None:
            if not self.next_tokens_are_prompt:
                self.room -= 1
                if self.room == 0 and value.item() not in self.ends:
                    self.cut.append(True)
            super().put(value)

        def __next__(self) -> str:
            piece = super().__next__()
            if isinstance(piece, Exception):
                raise piece
            return piece

    class Generation(threading.Thread):
        def __init__(self, target: Any, kwargs: dict[str, Any], daemon: bool) -> None:
            config = kwargs["generation_config"]
            kwargs["streamer"].room, kwargs["streamer"].ends = config.max_new_tokens, config.eos_token_id
            self.reader = weakref.ref(kwargs["streamer"])
            kwargs["streamer"] = weakref.proxy(kwargs["streamer"])
            super().__init__(target=target, kwargs=kwargs, daemon=daemon)

        def run(self) -> None:
            try:
                super().run()
            except Exception as error:  # without this the reader waits for ever, and a place of MAX_CONCURRENT is lost
                if reader := self.reader():  # else the client went away, and generating ends here
                    reader.text_queue.put(error)

    if engine.name == "huggingface":
        hf_engine.TextIteratorStreamer, hf_engine.Thread = Streamer, Generation
        # transformers reads "do not sample" as "not said", and then does what the model's own file says.
        engine.model.generation_config.do_sample = False


def serve_webchat(host: str, port: int, key: str) -> None:
    """LLaMA-Factory's WebChat with labels, the recipe's settings and our notice; with a key, user medcot logs in."""
    import gradio
    from llamafactory.webui import interface
    from llamafactory.webui.common import load_config
    from starlette.middleware import Middleware

    from scripts.evaluate.report import NOTICE_ZH

    class Engine(interface.Engine):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            mend_streams(self.chatter.engine)

        def resume(self) -> Any:
            yield from super().resume()
            # Labels come with the language's change event, which Gradio 5 does not fire when "en" stays "en".
            yield self.change_lang((load_config() or {}).get("lang") or "en")
            settings = self.chatter.engine.generating_args
            values = {f"infer.{name}": {"value": settings[name]} for name in ("max_new_tokens", "top_p", "temperature")}
            yield self._update_component(values | {"infer.mm_box": {"visible": False}})  # a model of text alone

    interface.Engine = Engine
    page = interface.create_web_demo().queue()
    next(block for block in page.blocks.values() if isinstance(block, gradio.Chatbot)).label = "MedCoT"
    with page:
        gradio.Markdown(f"**{NOTICE}** **{NOTICE_ZH}**")
    page.children.insert(0, page.children.pop())
    print(f"{NOTICE}\nopen http://{host}:{port}", flush=True)
    rules = {"middleware": [Middleware(SameSite, loopback=host in LOOPBACK)]}
    login = ("medcot", key) if key else None
    page.launch(
        server_name=host, server_port=port, auth=login, share=False, show_api=False, quiet=True, app_kwargs=rules
    )


async def with_finish_reason(create: Callable[..., AsyncGenerator[str]], *request: Any) -> AsyncGenerator[str]:
    """A stream of the API, whose end says "length" and not "stop" where the answer was cut off."""
    cut: list[bool] = []
    CUT.set(cut)
    async with aclosing(create(*request)) as stream:
        async for piece in stream:
            yield re.sub('("finish_reason": ?)"stop"', r'\1"length"', piece) if cut else piece


def serve_api(host: str, port: int) -> None:
    """LLaMA-Factory's OpenAI-compatible server, closed to pages of other origins."""
    import uvicorn
    from llamafactory.api import app as api
    from llamafactory.chat import ChatModel

    model = ChatModel()
    mend_streams(model.engine)
    api.create_stream_chat_completion_response = partial(with_finish_reason, api.create_stream_chat_completion_response)
    app = api.create_app(model)
    app.add_middleware(SameSite, loopback=host in LOOPBACK)  # its own CORS rule lets any site's page use the model
    print(f"{NOTICE}\nhttp://{host}:{port}/v1", flush=True)
    uvicorn.run(app, host=host, port=port, access_log=False)


def main() -> None:
    example = "examples:\n  python -m scripts.chat.serve webchat examples/webchat_cpu.yaml\n" + (
        "  API_KEY=secret python -m scripts.chat.serve api yamls/webchat.yaml temperature=0.7 --host 0.0.0.0\n\n"
        + NOTICE
    )
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": example}
    parser = argparse.ArgumentParser(prog="python -m scripts.chat.serve", description=__doc__, **style)
    parser.add_argument("kind", choices=PORTS)
    parser.add_argument("recipe", nargs="?", default="yamls/webchat.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--host", default="127.0.0.1", help="another one needs API_KEY in the environment")
    parser.add_argument("--port", type=int, help="default: 7860 for webchat, 8000 for api")
    args = parser.parse_intermixed_args()
    port, key = args.port or PORTS[args.kind], os.environ.get("API_KEY", "")
    os.environ |= environment(args.kind, args.host, port, key)
    check_models(args.recipe, args.overrides)
    with socket.socket() as probe:
        if probe.connect_ex((args.host, port)) == 0:
            raise UserError(f"port {port} is in use; choose another one with --port, or stop the server there")
    sys.argv = ["llamafactory-cli", args.recipe, *args.overrides]  # LLaMA-Factory reads its arguments from there
    serve_webchat(args.host, port, key) if args.kind == "webchat" else serve_api(args.host, port)


if __name__ == "__main__":
    run_main(main)
