"""Talk to a model: ``python -m scripts.chat chat|webchat|api [RECIPE] [KEY=VALUE...]``, by default the last run's.

chat is our own page, webchat LLaMA-Factory's, api an OpenAI-compatible server. They listen on this machine only, want
a password for any wider address, log nothing that is typed and load nothing from elsewhere.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scripts.chat import hosting
from scripts.chat.settings import check_values, places, read_settings
from scripts.common import NOTICE, STARTING, UserError, first_line, quiet_libraries, run_main

PORTS = {"chat": 7863, "webchat": 7860, "api": 8000}
EXAMPLES = """examples:
  python -m scripts.chat chat                                        the run that ended last
  python -m scripts.chat chat examples/webchat_cpu.yaml --compare    the demo's, tuned and base side by side
  python -m scripts.chat webchat yamls/webchat.yaml temperature=0.3
  API_KEY=secret python -m scripts.chat api yamls/webchat.yaml --host 0.0.0.0

"""


@contextmanager
def loading(settings: dict[str, Any]) -> Iterator[None]:
    """Say which adapter, or model without one, is loaded; what cannot be is a UserError in one line."""
    name = settings.get("adapter_name_or_path") or settings["model_name_or_path"]
    print(f"loading {name} …", flush=True)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # LLaMA-Factory, transformers and torch raise many kinds
        raise UserError(f"{name} does not load: {first_line(error)}") from error


def load_engine(settings: dict[str, Any], name: str) -> Any:
    """The model that ``settings`` describe, in this process."""
    with loading(settings):
        from llamafactory.chat import ChatModel

        from scripts.chat.engine import Engine

        return Engine(ChatModel(settings).engine, name)


def serve_chat(settings: dict[str, Any], args: argparse.Namespace) -> None:
    """The chat page until it is interrupted."""
    with hosting.without_proxies():
        from scripts.chat.page import create_page
    base, adapter = settings["model_name_or_path"], settings.get("adapter_name_or_path")
    models = {"tuned": load_engine(settings, adapter or base)}
    if args.compare and adapter:
        models["base"] = load_engine(settings | {"adapter_name_or_path": None}, base)
    hosting.run_page(create_page(models), args.host, args.port, args.key)


def serve_webchat(settings: dict[str, Any], args: argparse.Namespace) -> None:
    """LLaMA-Factory's WebChat until it is interrupted."""
    with hosting.without_proxies():
        from scripts.chat.webchat import create_page
    with loading(settings):
        page = create_page(settings)
    hosting.run_page(page, args.host, args.port, args.key)


def serve_api(settings: dict[str, Any], args: argparse.Namespace) -> None:
    """The OpenAI-compatible server until it is interrupted."""
    engine = load_engine(settings, "medcot")
    import uvicorn

    from scripts.chat.api import create_app

    app = create_app(engine, args.key, args.host in hosting.LOOPBACK)
    address = f"{hosting.url(args.host, args.port)}/v1"
    with_key = '-H "Authorization: Bearer $API_KEY" ' if args.key else ""
    body = '{"stream": true, "messages": [{"role": "user", "content": "What helps against fever?"}]}'
    ask = f"curl -N {address}/chat/completions {with_key}-H 'Content-Type: application/json' -d '{body}'"
    print(f"ready: {address}\ntry: {ask}", flush=True)
    uvicorn.run(app, host=args.host, port=args.port, access_log=False, log_level="warning")


def main() -> None:
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": EXAMPLES + NOTICE}
    parser = argparse.ArgumentParser(prog="python -m scripts.chat", description=__doc__, **style)
    parser.add_argument("kind", choices=PORTS)
    parser.add_argument("arguments", nargs="*", metavar="RECIPE KEY=VALUE", help="a recipe, and keys to override")
    parser.add_argument("--host", default="127.0.0.1", help="one that others can reach needs API_KEY (user: medcot)")
    parser.add_argument("--port", type=int, help=f"default: {PORTS}")
    parser.add_argument("--compare", action="store_true", help="chat: load the recipe's base model too")
    args = parser.parse_intermixed_args()
    args.port = PORTS[args.kind] if args.port is None else args.port
    args.key = hosting.require_password(args.host, "API_KEY")
    quiet_libraries()
    os.environ.update(hosting.QUIET)
    hosting.check_machine(args.host, args.port)
    places()  # LLaMA-Factory reads it too, and fails
    settings = read_settings(args.arguments)
    print(f"{NOTICE}\n{STARTING}\nopens at {hosting.url(args.host, args.port)} once the model is loaded", flush=True)
    check_values(settings)
    {"chat": serve_chat, "webchat": serve_webchat, "api": serve_api}[args.kind](settings, args)


if __name__ == "__main__":
    run_main(main)
