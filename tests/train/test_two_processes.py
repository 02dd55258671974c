"""DDP over gloo, as a host with several GPUs shares the work (on GPUs: tests/gpu/test_two_gpus.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from scripts.common import read_json
from scripts.train import resume
from tests.conftest import write_records, write_registry
from tests.processes import Program, start
from tests.train.workers import kill_a_worker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TWO = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture
def overrides(tmp_path, tiny_model) -> list[str]:
    """examples/qlora_tiny.yaml pointed at eight records and a tiny model, in a folder of its own."""
    write_records(tmp_path / "train.jsonl", 8)
    write_registry(tmp_path, demo_train="train.jsonl")
    paths = [f"model_name_or_path={tiny_model}", f"dataset_dir={tmp_path}", f"output_dir={tmp_path / 'run'}"]
    return [*paths, "cutoff_len=256", "packing=false", "neat_packing=false", "logging_steps=1", "plot_loss=false"]


def train(overrides: list[str], log: Path, **env: str) -> Program:
    command = [sys.executable, "-m", "llamafactory.cli", "train", "examples/qlora_tiny.yaml", *overrides]
    return start(command, log, LLAMAFACTORY_VERBOSITY="INFO", **env)


def test_a_killed_process_of_two_ends_the_run_and_one_process_goes_on(tmp_path, overrides) -> None:
    """The other one must not wait for ever. Two go on on GPUs only: torch loads no optimiser to gloo's "cpu:0"."""
    long = [*overrides, "num_train_epochs=400", "save_steps=10"]
    program = train(long, tmp_path / "log", **TWO)
    program.wait_for_line("Total train batch size .w. parallel, distributed & accumulation. = 2")
    killed = kill_a_worker(program.process, tmp_path / "run/checkpoint-10/trainer_state.json")
    assert program.wait(90) != 0
    assert f"Signal 9 (SIGKILL) received by PID {killed}" in program.text()
    last = resume.checkpoints(tmp_path / "run")[-1]
    wanted = int(last.name.split("-")[1]) + 5
    program = train([*long, f"max_steps={wanted}"], tmp_path / "log")
    assert program.wait(300) == 0, program.text()
    assert f"checkpoint-{wanted - 5}" in program.text()
    assert read_json(tmp_path / "run/trainer_state.json")["global_step"] == wanted
