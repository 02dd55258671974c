"""A scripted OpenAI-compatible server that streams over real HTTP: exact pieces, pauses, and a death in the middle."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Pieces = list[str | dict]  # a dict is a delta as it is


@dataclass
class Stream:
    """``reply(request) -> pieces``; the piece ``DIE`` ends the connection, without an end of the stream.

    ``pause``: seconds before each piece; ``finish``: the reason given at the end; ``broken``: clients that hung up.
    """

    reply: Callable[[dict], Pieces]
    pause: float = 0.0
    finish: Callable[[dict], str] = lambda request: "stop"
    owner: str = "someone"
    models: tuple[str, ...] = ("scripted",)
    requests: list[dict] = field(default_factory=list)
    broken: int = 0


DIE = "\0die"


@contextmanager
def serve(script: Stream, port: int = 0) -> Iterator[str]:
    """Serve ``script`` on 127.0.0.1; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            cards = [{"id": name, "object": "model", "owned_by": script.owner} for name in script.models]
            data = json.dumps({"object": "list", "data": cards}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.requests.append({**request, "path": self.path})
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                for piece in script.reply(request):
                    time.sleep(script.pause)
                    if piece == DIE:
                        return
                    self._event(piece, None)
                self._event("", script.finish(request))
                self.wfile.write(b"data: [DONE]\n\n")
            except (BrokenPipeError, ConnectionResetError):
                script.broken += 1

        def _event(self, text: str | dict, finish: str | None) -> None:
            delta = text if isinstance(text, dict) else {"content": text}
            said = {"text": text} if self.path == "/v1/completions" else {"delta": delta}
            body = {"id": "x", "object": "chunk", "created": 0, "model": "scripted"}
            event = json.dumps(body | {"choices": [{"index": 0, "finish_reason": finish, **said}]})
            self.wfile.write(f"data: {event}\n\n".encode())
            self.wfile.flush()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
