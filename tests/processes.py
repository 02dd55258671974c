"""Programs that a test starts: wait for a port, a line or a file, kill them at a moment, end them with the test."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.common import ROOT

# No hub, no GPU, and no second thread that spins beside other tests.
OFFLINE = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass
class Program:
    """A started program, leader of a process group of its own; stdout and stderr together go to ``log``."""

    process: subprocess.Popen
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        """What it printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_until(self, is_true: Callable[[], bool], what: str, seconds: float = 180) -> None:
        """Return once ``is_true()``; fail with the log's end where the program ends before, or time runs out."""
        deadline = time.monotonic() + seconds
        while not is_true():
            ended = self.process.poll()
            if ended is not None and not is_true():
                pytest.fail(f"exit status {ended} before {what}:\n{self.text()[-3000:]}")
            if time.monotonic() > deadline:
                pytest.fail(f"{seconds} s passed before {what}:\n{self.text()[-3000:]}")
            time.sleep(0.05)

    def wait_for_port(self, port: int, host: str = "127.0.0.1", seconds: float = 180) -> None:
        """Return once something listens there."""
        self.wait_until(lambda: answers(port, host), f"{host} listens on {port}", seconds)

    def wait_for_line(self, pattern: str, seconds: float = 180) -> re.Match[str]:
        """The first match of a regular expression in what it prints."""
        self.wait_until(lambda: bool(re.search(pattern, self.text())), f"it prints {pattern!r}", seconds)
        found = re.search(pattern, self.text())
        assert found
        return found

    def wait_for_file(self, path: Path, seconds: float = 180) -> None:
        """Return once a file is there."""
        self.wait_until(path.exists, f"{path} is there", seconds)

    def wait(self, seconds: float = 180) -> int:
        """Its exit status, once it has ended by itself."""
        return self.process.wait(seconds)

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, as a terminal's Ctrl-C does; nothing where the program has ended."""
        if self.process.poll() is None:
            os.killpg(self.pid, number)

    def kill(self) -> int:
        """SIGKILL to the whole group; returns the exit status."""
        self.signal(signal.SIGKILL)
        return self.process.wait()

    def end(self, seconds: float = 20) -> int:
        """Ask it to end, and kill it where it does not; returns the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return self.kill()


def start(command: list[str], log: Path, cwd: Path = ROOT, **env: str) -> Program:
    """Start a program without hub and GPU (``env`` can give them back); the log is written anew."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=os.environ | OFFLINE | env,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Program(process, log)


@contextmanager
def running(
    command: list[str], log: Path, port: int = 0, seconds: float = 180, cwd: Path = ROOT, **env: str
) -> Iterator[Program]:
    """A program for the length of a block, entered once ``port`` (where one is given) answers on 127.0.0.1."""
    program = start(command, log, cwd, **env)
    try:
        if port:
            program.wait_for_port(port, seconds=seconds)
        yield program
    finally:
        program.end()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on."""
    with socket.create_server((host, 0), family=_family(host)) as probe:
        return probe.getsockname()[1]


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody listens on a port."""
    with socket.socket(_family(host)) as probe:
        return probe.connect_ex((host, port)) == 0


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
