"""On two NVIDIA GPUs: a killed worker ends a DDP run with a clear error, and the run goes on from its checkpoint."""

from __future__ import annotations

import json
import re

import pytest

from tests.gpu.conftest import SAVE, STEPS, mean_loss
from tests.train.workers import kill_a_worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_killed_worker_ends_the_run_and_the_run_goes_on(road, record_property):
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    folder = road.folder / "workers"
    child = road.start("workers", gpus=2)
    killed = kill_a_worker(child, folder / f"checkpoint-{SAVE}/trainer_state.json")
    assert child.wait(timeout=90) != 0
    log = (road.folder / "workers.log").read_text()
    assert f"Signal 9 (SIGKILL) received by PID {killed}" in log
    record_property("said", next(line.strip() for line in log.splitlines() if "Signal 9" in line))
    before = road.losses("workers")
    assert road.start("workers", gpus=2).wait() == 0, (road.folder / "workers.log").read_text()[-3000:]
    resumed = (road.folder / "workers.log").read_text()[len(log) :]
    assert re.search(rf"[Rr]esum.*checkpoint-{SAVE}\b", resumed), resumed[-3000:]
    after = road.losses("workers")
    assert sorted(after) == list(range(1, STEPS + 1))
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == STEPS
    again = sorted(set(before) & set(range(SAVE + 1, STEPS + 1)))  # steps that both runs made
    record_property(
        "largest_relative_difference", max((abs(before[k] - after[k]) / before[k] for k in again), default=None)
    )
    assert mean_loss(after, last=10) < mean_loss(after, first=10) - 0.15
