"""The main job by the real trainer: it trains what the recipe says, and a killed walk goes on where it was."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import demo
from scripts.common import ROOT, UserError, load_recipe
from scripts.train import preflight
from scripts.train import run as run_dir
from tests.train.workers import kill_a_worker

RECIPE = "examples/qlora_cpu.yaml"
KILLS = int(os.environ.get("MEDCOT_KILLS", "3"))


@pytest.fixture
def overrides(tmp_path, tiny_model) -> list[str]:
    """examples/qlora_cpu.yaml pointed at eight records and a tiny model in a folder of its own."""
    rows = [
        {"input": f"患者发热{n}天？", "output": f"<think>\nFever {n} days.\n</think>\n\nRest {n}.", "lang": "zh"}
        for n in range(8)
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "input", "response": "output"}
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"demo_train": {"file_name": "train.jsonl", "columns": columns}})
    )
    paths = [f"model_name_or_path={tiny_model}", f"dataset_dir={tmp_path}", f"output_dir={tmp_path / 'run'}"]
    return [*paths, "cutoff_len=256", "num_train_epochs=2", "logging_steps=1", "plot_loss=false"]


def train(overrides: list[str], recipe: str = RECIPE, **more: str) -> str:
    """Run the real trainer on a CPU recipe; returns what it printed."""
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "LLAMAFACTORY_VERBOSITY": "INFO"} | more
    done = subprocess.run([*demo.TRAIN, recipe, *overrides], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr + done.stdout


TWO = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
TWO["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.mark.slow
def test_two_processes_train_one_adapter(tmp_path, overrides):
    """DDP over gloo, as a host with several GPUs starts it: half the steps, since the batch doubles."""
    printed = train([*overrides, "packing=false", "neat_packing=false"], "examples/qlora_tiny.yaml", **TWO)
    assert "Total train batch size (w. parallel, distributed & accumulation) = 2" in printed
    assert (tmp_path / "run/adapter_model.safetensors").exists()


@pytest.mark.slow
def test_a_killed_process_of_two_ends_the_run_and_the_run_goes_on(tmp_path, overrides):
    """The other process must not wait for ever, and the checkpoint is not lost: one process goes on from it.

    Two processes go on from it on GPUs only (tests/gpu): torch does not load an optimiser to "cpu:0", as gloo has it.
    """
    overrides += ["packing=false", "neat_packing=false", "num_train_epochs=400", "save_steps=10"]
    command = [*demo.TRAIN, "examples/qlora_tiny.yaml", *overrides]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"} | TWO
    with (tmp_path / "log.txt").open("w") as log:
        child = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
    killed = kill_a_worker(child, tmp_path / "run/checkpoint-10/trainer_state.json")
    assert child.wait(timeout=60) != 0
    assert f"Signal 9 (SIGKILL) received by PID {killed}" in (tmp_path / "log.txt").read_text()
    last = run_dir.checkpoints(tmp_path / "run")[-1]
    steps = int(last.name.split("-")[1])
    printed = train([*overrides, f"max_steps={steps + 5}"], "examples/qlora_tiny.yaml")
    assert re.search(rf"[Rr]esum.*checkpoint-{steps}\b", printed)
    assert json.loads((tmp_path / "run/trainer_state.json").read_text())["global_step"] == steps + 5


def test_the_real_trainer_makes_a_4_bit_lora_of_all_linear_layers(tmp_path, overrides):
    recipe, output = RECIPE, tmp_path / "run"
    assert [row for row in preflight.examine(recipe, overrides) if row.status == "FAIL"] == []
    assert "Quantizing model to 4 bit with bitsandbytes" in train(overrides)
    adapter = json.loads((output / "adapter_config.json").read_text())
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert (adapter["r"], adapter["lora_alpha"], set(adapter["target_modules"])) == (8, 16, linear)
    losses = [json.loads(line).get("loss") for line in (output / "trainer_log.jsonl").read_text().splitlines()]
    assert all(0 < loss < 20 for loss in losses if loss is not None)
    assert losses
    wanted = run_dir.identity(recipe, load_recipe(recipe, overrides))
    assert run_dir.state(output, wanted) == "finished"


def test_an_unreadable_source_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["demo", "--source", str(tmp_path / "none.json")])
    with pytest.raises(UserError, match="no such file"):
        demo.main()
    assert not list(tmp_path.iterdir())


def test_too_few_records_are_refused_before_training(tmp_path, monkeypatch, tiny_model):
    """LLaMA-Factory would stop with a traceback; own column names go through to preparing."""
    line = json.loads((ROOT / "data/sample.jsonl").read_text().splitlines()[0])
    row = {"q": line["Question"], "Complex_CoT": line["Complex_CoT"], "Response": line["Response"]}
    (tmp_path / "few.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    walk = demo.Demo([str(tmp_path / "few.jsonl")], [], demo.CPU, ["Question=q"])
    walk.tiny = tiny_model
    monkeypatch.setattr(demo, "BENCHMARKS", [str(ROOT / path) for path in demo.BENCHMARKS])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(UserError, match="the demo needs 8,192"):
        walk.prepare()
    assert json.loads((walk.data / "report.json").read_text())["kept"] == 1


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the project, so that the walk touches nobody's runs; walked once."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("scripts", "examples", "yamls", "data/benchmarks"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "data/sample.jsonl", folder / "data")
    done = walk(folder).wait()
    assert done == 0
    return folder


def walk(folder: Path) -> subprocess.Popen:
    log = (folder / "walk.log").open("w")
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.demo"], cwd=folder, stdout=log, stderr=log, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_ends_with_a_lower_held_out_perplexity(copy):
    result = json.loads((copy / "results/demo/perplexity.json").read_text())
    assert result["base"]["n"] == result["tuned"]["n"] >= 20
    assert result["tuned"]["ppl"] < result["base"]["ppl"]
    assert result["difference"]["ci95"][1] < 0, "the gain's interval excludes zero"
    for name in ("report.md", "report.html"):
        assert (copy / "results/demo" / name).stat().st_size > 1000
    steps = json.loads((copy / "results/demo/steps.json").read_text())
    assert len(steps) == 7
    assert all(step["seconds"] > 0 and step["peak_mib"] > 10 for step in steps)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_walk_resumes_and_finishes(copy, seed):
    """SIGKILL to the whole process group at a random moment of the QLoRA step, then the same command again."""
    run = copy / "saves/qlora_cpu"
    shutil.rmtree(run)
    (copy / "results/demo/report.html").unlink()
    child = walk(copy)
    while not (run / "trainer_log.jsonl").exists():
        assert child.poll() is None, (copy / "walk.log").read_text()
        time.sleep(0.1)
    time.sleep(random.Random(seed).uniform(0, 25))
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    whole = [path.name for path in run_dir.checkpoints(run) if run_dir.is_whole(path)]
    finished = (run / "train_results.json").exists()
    assert walk(copy).wait() == 0, (copy / "walk.log").read_text()
    said = (copy / "walk.log").read_text()
    if finished:
        assert "kept" in said
    else:
        assert (f"resuming from {whole[-1]}" if whole else "training from the start") in said
    assert (copy / "results/demo/report.html").exists()
    steps = [json.loads(line)["current_steps"] for line in (run / "trainer_log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps), "a resumed run's log has each step once, in order"
