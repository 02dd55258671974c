"""A headless Chromium, and LLaMA-Factory's api server on the demo model (a tiny random one where no demo was run)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scripts.common import ROOT

CLI = str(Path(sys.executable).with_name("llamafactory-cli"))
OFFLINE = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


class Api(NamedTuple):
    """A running server: ``url`` ends in /v1, ``key`` is the bearer token it wants."""

    url: str
    key: str


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command: list[str], port: int, log: Path, seconds: float = 180, **env: str) -> Iterator[subprocess.Popen]:
    """Run a server until the block ends; enters once ``port`` answers, fails with the log's end if it never does."""
    with log.open("w") as file:
        options = {"cwd": ROOT, "stdout": file, "stderr": subprocess.STDOUT, "start_new_session": True}
        process = subprocess.Popen(command, env=os.environ | OFFLINE | env, **options)
    try:
        deadline = time.monotonic() + seconds
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command} does not listen on {port}:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def demo_recipe(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    """examples/webchat_cpu.yaml where `make demo` was run; else the same settings on a tiny model without adapter."""
    if all((ROOT / "saves" / name).exists() for name in ("pretrain_cpu/config.json", "qlora_cpu/adapter_config.json")):
        return "examples/webchat_cpu.yaml"
    text = (
        (ROOT / "examples/webchat_cpu.yaml")
        .read_text()
        .replace("saves/pretrain_cpu", str(request.getfixturevalue("tiny_model")))
    )
    path = tmp_path_factory.mktemp("recipe") / "webchat.yaml"
    path.write_text("".join(line for line in text.splitlines(True) if "adapter_name_or_path" not in line))
    return str(path)


@pytest.fixture(scope="session")
def api_server(demo_recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """LLaMA-Factory's OpenAI-compatible server on the demo model, started once."""
    port, key = free_port(), "test-key"
    env = {"API_HOST": "127.0.0.1", "API_PORT": str(port), "API_KEY": key, "API_VERBOSE": "0", "MAX_CONCURRENT": "4"}
    with running([CLI, "api", demo_recipe], port, tmp_path_factory.mktemp("api") / "log", **env):
        yield Api(f"http://127.0.0.1:{port}/v1", key)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """A playwright browser; ends with this package, since other tests start loops of their own."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on the PATH (apt-get install chromium fonts-noto-cjk)")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
