"""Where a page or a server of this project listens, and what keeps others out of it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from scripts.common import UserError, first_line

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


def in_url(host: str) -> str:
    """A host as it stands in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def url(host: str, port: int) -> str:
    """The address to open."""
    return f"http://{in_url(host)}:{port}"


def check_machine(host: str, port: int) -> None:
    """Raise UserError unless this machine can listen on ``host`` and ``port`` now."""
    if not 0 < port < 65536:
        raise UserError(f"port {port}: expected a number from 1 to 65535")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        said = "is in use" if error.errno == errno.EADDRINUSE else f"of {host} cannot be had ({first_line(error)})"
        raise UserError(f"port {port} {said}; choose another --port or --host") from error


def require_password(host: str, variable: str) -> str:
    """The password in an environment variable, or empty; UserError where other machines could come in without one."""
    password = os.environ.get(variable, "")
    if host not in LOOPBACK and not password:
        raise UserError(
            f"--host {host} lets other machines in: set a password first, {variable}=… (`openssl rand -hex 16`)"
        )
    return password


@contextmanager
def without_proxies() -> Iterator[None]:
    """No proxy for the time of the block: Gradio asks its own address through one, and cannot load with socks."""
    names = [name for name in os.environ if name.lower() in PROXIES]
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)


def is_foreign(host: str, origin: str | None, loopback: bool) -> bool:
    """Whether another site's page asks: its Origin is not ours, or its name was re-bound to this machine."""
    try:
        name = urlsplit(f"//{host}").hostname
        return (loopback and name not in LOOPBACK) or (origin is not None and urlsplit(origin).netloc != host)
    except ValueError:  # no address at all
        return True


class SameSite:
    """ASGI middleware: nothing is loaded from elsewhere, and no other site's page may ask or frame this one."""

    RULE = (
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
        b"frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
    )

    def __init__(self, app: Any, loopback: bool = True) -> None:
        self.app, self.loopback = app, loopback

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        async def send_with_rule(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", self.RULE)]
            await send(message)

        headers = {name: value.decode("latin-1") for name, value in scope.get("headers", ())}
        if headers and is_foreign(headers.get(b"host", ""), headers.get(b"origin"), self.loopback):
            return await PlainTextResponse("refused: another site's page", 403)(scope, receive, send)
        return await self.app(scope, receive, send_with_rule)


def preferred(headers: Mapping[str, str], languages: Collection[str]) -> str:
    """The first of a browser's languages (its Accept-Language header) that is among ``languages``; else English."""
    named = [part.strip()[:2].lower() for part in headers.get("accept-language", "").split(",")]
    return next((name for name in named if name in languages), "en")


def run_page(page: Any, host: str, port: int, password: str = "") -> None:
    """Serve a Gradio page until it is interrupted; with ``password``, user medcot logs in.

    Call `check_machine` before, and import gradio in `without_proxies` too.
    """
    from starlette.middleware import Middleware

    os.environ.update(QUIET)
    settings = {"auth": ("medcot", password) if password else None, "share": False, "show_api": False, "quiet": True}
    settings["app_kwargs"] = {"middleware": [Middleware(SameSite, loopback=host in LOOPBACK)]}
    with without_proxies():
        page.queue(api_open=False)
        page.launch(server_name=in_url(host), server_port=port, prevent_thread_lock=True, **settings)
    print(f"ready: {url(host, port)}", flush=True)
    page.block_thread()
