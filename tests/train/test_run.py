"""A run's directory: resuming must never be silent, and a broken checkpoint must not be resumed from."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from scripts.common import UserError
from scripts.train import run as run_dir


def make_checkpoint(folder: Path, weights: str = "adapter_model.safetensors") -> Path:
    folder.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / weights).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    for name in ("optimizer.pt", "scheduler.pt"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("data", "x" * 100)
    (folder / "trainer_state.json").write_text('{"global_step": 1}')
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: (c / "trainer_state.json").unlink(),
        lambda c: cut(c / "trainer_state.json"),
        lambda c: (c / "adapter_model.safetensors").unlink(),
        lambda c: cut(c / "adapter_model.safetensors"),
        lambda c: cut(c / "optimizer.pt"),
        lambda c: (c / "scheduler.pt").write_bytes(b""),
    ],
    ids=["no state", "state cut", "no weights", "weights cut", "optimiser cut", "schedule empty"],
)
def test_a_broken_last_checkpoint_is_set_aside_and_the_whole_one_before_it_kept(tmp_path, damage):
    make_checkpoint(tmp_path / "checkpoint-9")
    damage(make_checkpoint(tmp_path / "checkpoint-10"))
    moved = run_dir.set_aside_broken(tmp_path)
    assert len(moved) == 1
    assert "checkpoint-10" in moved[0]
    assert [c.name for c in run_dir.checkpoints(tmp_path)] == ["checkpoint-9"]
    assert (tmp_path / "broken-checkpoint-10").is_dir()


def test_whole_checkpoints_stay(tmp_path):
    make_checkpoint(tmp_path / "checkpoint-10")
    assert run_dir.set_aside_broken(tmp_path) == []
    assert run_dir.is_whole(tmp_path / "checkpoint-10")


@pytest.fixture
def recipe(tmp_path) -> dict:
    (tmp_path / "train.jsonl").write_text('{"input": "q", "output": "a"}\n')
    (tmp_path / "dataset_info.json").write_text(json.dumps({"d": {"file_name": "train.jsonl"}}))
    return {
        "model_name_or_path": "some/model",
        "dataset_dir": str(tmp_path),
        "dataset": "d",
        "output_dir": str(tmp_path / "run"),
        "learning_rate": 1e-4,
    }


def test_state_of_a_run(tmp_path, recipe):
    output = tmp_path / "run"
    wanted = run_dir.identity("r.yaml", recipe)
    assert run_dir.state(output, wanted) == "new"
    make_checkpoint(output / "checkpoint-5")
    assert run_dir.state(output, wanted) == "foreign", "a checkpoint of unknown origin is never resumed"
    (output / run_dir.IDENTITY).write_text(json.dumps(wanted))
    assert run_dir.state(output, wanted) == "unfinished"
    (output / "train_results.json").write_text("{}")
    (output / "adapter_model.safetensors").write_bytes(b"w")
    assert run_dir.state(output, wanted) == "finished"


@pytest.mark.parametrize("change", ["learning_rate", "data", "model"])
def test_another_recipe_dataset_or_model_is_foreign(tmp_path, recipe, change):
    output = tmp_path / "run"
    make_checkpoint(output / "checkpoint-5")
    (output / run_dir.IDENTITY).write_text(json.dumps(run_dir.identity("r.yaml", recipe)))
    if change == "data":
        (tmp_path / "train.jsonl").write_text('{"input": "other", "output": "a"}\n')
    else:
        recipe |= {"learning_rate": 2e-4} if change == "learning_rate" else {"model_name_or_path": "other/model"}
    assert run_dir.state(output, run_dir.identity("r.yaml", recipe)) == "foreign"


def test_where_it_logs_does_not_make_it_another_run(tmp_path, recipe):
    first = run_dir.identity("r.yaml", recipe)
    assert run_dir.identity("r.yaml", recipe | {"report_to": "wandb"})["recipe_hash"] == first["recipe_hash"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "dataset_info.json").unlink(), "no such file"),
        (lambda d: (d / "dataset_info.json").write_text("{"), "dataset_info.json:1: not valid JSON"),
        (lambda d: (d / "dataset_info.json").write_text("{}"), "no dataset named 'd'"),
        (lambda d: (d / "train.jsonl").unlink(), "does not exist"),
        (lambda d: (d / "train.jsonl").write_text(""), "empty"),
    ],
)
def test_unregistered_missing_or_empty_datasets_are_named(tmp_path, recipe, damage, message):
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        run_dir.dataset_files(recipe)


def test_the_log_is_cut_back_to_the_checkpoint_that_is_resumed(tmp_path):
    make_checkpoint(tmp_path / "checkpoint-2")
    log = tmp_path / "trainer_log.jsonl"
    log.write_text('{"current_steps": 1}\n{"current_steps": 2}\n{"current_steps": 3}\n{"curr')
    run_dir.trim_log(tmp_path)
    assert log.read_text() == '{"current_steps": 1}\n{"current_steps": 2}\n'
