"""On an NVIDIA GPU: Unsloth trains, its adapter is a plain one, and a killed run goes on.

pytest -m slow tests/gpu --junitxml=FILE keeps the figures as properties of each test.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.gpu.conftest import ROOT, SAVE, STEPS, mean_loss

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def losses(model, folder, *flags: str) -> float:
    """Mean loss of the first 16 records (nats/token), by tests/gpu/loss.py in a process of its own."""
    command = [sys.executable, "-m", "tests.gpu.loss", str(model), str(folder / "whole"), str(folder), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])["loss"]


def test_unsloth_patched_every_layer_and_the_loss_fell(trained, record_property):
    log, curve = (trained.folder / "whole.log").read_text(), trained.losses("whole")
    patched = re.search(r"patched (\d+) layers with (\d+) QKV layers, (\d+) O layers and (\d+) MLP layers", log)
    assert patched, log[-2000:]
    assert set(patched.groups()) == {"4"}
    assert sorted(curve) == list(range(1, STEPS + 1))
    first, last = mean_loss(curve, first=10), mean_loss(curve, last=10)
    record_property("loss_of_first_and_last_10_steps", [round(first, 4), round(last, 4)])
    assert last < first - 0.15


def test_the_adapter_gives_the_same_loss_in_plain_transformers_and_peft(trained, record_property):
    plain, unsloth = (losses(trained.model, trained.folder, *flags) for flags in ([], ["--unsloth"]))
    base = losses(trained.model, trained.folder, "--base")
    record_property("loss_plain_unsloth_base", [plain, unsloth, base])
    assert plain == pytest.approx(unsloth, rel=0.01)
    assert base > plain * 1.02, "without the adapter the loss is another one, so the comparison can fail"


def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(trained, record_property):
    road, checkpoint = trained, trained.folder / "killed" / f"checkpoint-{SAVE}"
    child = road.start("killed")
    while not (checkpoint / "trainer_state.json").exists():
        assert child.poll() is None, (road.folder / "killed.log").read_text()[-3000:]
        time.sleep(0.02)
    time.sleep(0.2)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert not (road.folder / "killed/train_results.json").exists(), "it was killed too late"
    before = len((road.folder / "killed.log").read_text())
    assert road.start("killed").wait() == 0
    log = (road.folder / "killed.log").read_text()[before:]
    resumed_from = re.search(r"[Rr]esum.*checkpoint-(\d+)", log)
    assert resumed_from, log[-3000:]
    whole, resumed = road.losses("whole"), road.losses("killed")
    differences = [
        abs(whole[step] - resumed[step]) / whole[step] for step in range(int(resumed_from[1]) + 1, STEPS + 1)
    ]
    record_property("resumed_from_step", resumed_from[1])
    record_property("largest_relative_difference_after_resuming", max(differences))
    assert max(differences) < 0.01
