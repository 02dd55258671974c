"""SIGKILL at random moments: the previous outputs stay whole, and a rerun gives the same bytes as one never killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.common import ROOT
from tests.prepare.conftest import write
from tests.prepare.test_pipeline import DATA, many


def state(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in DATA}


def without_paths(files: dict[str, bytes], out: Path) -> dict[str, bytes]:
    return {name: content.replace(str(out).encode(), b"OUT") for name, content in files.items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_leave_the_previous_outputs_whole(tmp_path: Path, tokenizer: Path, items: Path) -> None:
    def command(source: Path, out: Path) -> list[str]:
        flags = {"--out": out, "--name": "t", "--tokenizer": tokenizer, "--benchmarks": items, "--num-proc": 2}
        return [
            sys.executable,
            "-m",
            "scripts.prepare",
            str(source),
            *(str(part) for pair in flags.items() for part in pair),
        ]

    def finish(source: Path, out: Path) -> float:
        begin = time.monotonic()
        subprocess.run(command(source, out), cwd=ROOT, check=True, capture_output=True)
        return time.monotonic() - begin

    out, expected, source = tmp_path / "out", tmp_path / "expected", tmp_path / "raw.jsonl"
    write(source, many(300))
    finish(source, out)
    old = state(out)
    write(source, many(300) + many(300, 300))
    usual = finish(source, expected)
    new = without_paths(state(expected), expected)
    rng, killed = random.Random(7), 0
    for _ in range(10):
        process = subprocess.Popen(
            command(source, out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(rng.uniform(0.05, 0.95) * usual)
        killed += process.poll() is None
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = state(out)
        assert found == old or without_paths(found, out) == new
        if found != old:  # it was done before the kill: start over from the previous outputs
            for name, content in old.items():
                (out / name).write_bytes(content)
    assert killed >= 5
    finish(source, out)
    assert without_paths(state(out), out) == new
    assert not list(out.glob(".*"))
