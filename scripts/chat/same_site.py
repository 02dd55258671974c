"""What keeps other sites' pages away from a page or an API that runs on this machine."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from scripts.evaluate.review import OfflinePolicy

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_foreign(host: str, origin: str | None, loopback: bool) -> bool:
    """Whether another site's page asks: its Origin is not ours, or its name was re-bound to this machine."""
    rebound = loopback and urlsplit(f"//{host}").hostname not in LOOPBACK
    return rebound or (origin is not None and urlsplit(origin).netloc != host)


class SameSite(OfflinePolicy):
    """ASGI middleware: nothing is loaded from elsewhere, and no other site's page may ask or frame this one."""

    RULE = OfflinePolicy.RULE + b"; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"

    def __init__(self, app: Any, loopback: bool) -> None:
        super().__init__(app)
        self.loopback = loopback

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        headers = {name: value.decode("latin-1") for name, value in scope.get("headers", ())}
        if headers and is_foreign(headers.get(b"host", ""), headers.get(b"origin"), self.loopback):
            return await PlainTextResponse("refused: another site's page", 403)(scope, receive, send)
        return await super().__call__(scope, receive, send)
