"""A scripted OpenAI-compatible server over real HTTP, with faults on demand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Script:
    """``reply(prompt) -> text``; ``faults``: one is taken per request until none is left."""

    def __init__(
        self, reply: Callable[[str], str], faults: tuple = (), completions: bool = False, finish: str = "stop"
    ) -> None:
        self.reply, self.faults, self.completions = reply, list(faults), completions
        self.finish = finish
        self.prompts: list[str] = []
        self.lock = threading.Lock()


@contextmanager
def serve(script: Script) -> Iterator[str]:
    """Serve ``script`` on 127.0.0.1; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"data": []})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/completions" and not script.completions:
                return self._send(404, {"detail": "Not Found"})
            with script.lock:
                fault = script.faults.pop(0) if script.faults else None
            if isinstance(fault, int):
                return self._send(fault, {"error": "busy"}, {"Retry-After": "0"} if fault == 429 else {})
            if fault == "drop":  # the connection ends in the middle of the answer
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [{"mess')
                self.close_connection = True
                return None
            if fault == "slow":
                time.sleep(1.5)
            if fault == "html":
                return self._raw(200, b"<html>gateway</html>")
            if fault == "empty":
                return self._send(200, {"choices": []})
            prompt = body.get("prompt") or body["messages"][0]["content"]
            with script.lock:
                script.prompts.append(prompt)
            text = script.reply(prompt)
            said = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
            words = len(text.split())
            return self._send(
                200, {"choices": [{**said, "finish_reason": script.finish}], "usage": {"completion_tokens": words}}
            )

        def _send(self, status: int, body: dict, headers: dict | None = None) -> None:
            self._raw(status, json.dumps(body).encode(), headers)

        def _raw(self, status: int, data: bytes, headers: dict | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def llamafactory_api(model: str, adapter: str, log: Path) -> Iterator[str]:
    """Serve an adapter by ``llamafactory-cli api`` on 127.0.0.1 with the API key "key"; yields the base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = os.environ | {"API_HOST": "127.0.0.1", "API_PORT": str(port), "API_KEY": "key", "API_VERBOSE": "0"}
    command = [str(Path(sys.executable).with_name("llamafactory-cli")), "api", "--model_name_or_path", model]
    command += ["--adapter_name_or_path", adapter, "--finetuning_type", "lora", "--template", "deepseekr1"]
    with log.open("w") as stream:
        server = subprocess.Popen(
            [*command, "--infer_dtype", "float32"],
            env=env | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(360):
            assert server.poll() is None, log.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)
