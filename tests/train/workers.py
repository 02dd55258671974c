"""Kill one of the processes of a training run that has several."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil


def kill_a_worker(child: subprocess.Popen, after: Path) -> int:
    """SIGKILL the last of the launcher's worker processes once the file ``after`` exists; returns its process ID."""
    while not after.exists():
        assert child.poll() is None, f"the run ended before {after} was there"
        time.sleep(0.05)
    family = psutil.Process(child.pid).children(recursive=True)
    workers = [process for process in family if "LOCAL_RANK" in process.environ() and process.ppid() != child.pid]
    # reversed, so that a worker's own entry stays, not one of its children's
    ranks = {process.environ()["LOCAL_RANK"]: process.pid for process in reversed(workers)}
    assert set(ranks) == {"0", "1"}, ranks
    os.kill(ranks["1"], signal.SIGKILL)
    return ranks["1"]
