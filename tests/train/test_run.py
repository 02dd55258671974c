"""A run's directory: resuming must never be silent, and a broken checkpoint must not be resumed from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.common import UserError, alone_in, file_hash, read_json, versions, write_json
from scripts.train import __main__ as train
from scripts.train import resume
from scripts.train import run as runs
from scripts.train.planned import PlannedRun
from tests.conftest import write_records


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
    moved = resume.set_aside_broken(tmp_path)
    assert len(moved) == 1
    assert "checkpoint-10" in moved[0]
    assert [c.name for c in resume.checkpoints(tmp_path)] == ["checkpoint-9"]
    assert (tmp_path / "broken-checkpoint-10-1").is_dir()


@pytest.fixture
def run(recipe):
    """What gives the recipe's identity with overrides."""
    return lambda *overrides: PlannedRun(str(recipe), list(overrides)).identity


@pytest.fixture
def finished(tmp_path, run, tiny_adapter):
    """The folder of a run that ended, trained with overrides."""
    output = tmp_path / "run"
    runs.begin(output, run("quantization_bit=null", "template=qwen3", "cutoff_len=600", "default_system=Be brief."))
    for file in tiny_adapter.iterdir():
        shutil.copy(file, output)
    (output / "train_results.json").write_text("{}")
    runs.finish(output)
    return output


def test_an_identity_holds_what_was_parsed_overrides_included(tmp_path, finished):
    found = runs.read_run(finished)
    assert (found["template"], found["precision"]) == ("qwen3", {"bits": None, "dtype": "bfloat16"})
    assert (found["cutoff_len"], found["system"], found["thinking"]) == (600, "Be brief.", True)
    assert found["datasets"][0]["files"][0]["hash"] == file_hash(tmp_path / "train.jsonl")
    assert found["held_out"] == {"path": str(tmp_path / "test.jsonl"), "hash": file_hash(tmp_path / "test.jsonl")}
    assert not found["assumed"]
    assert found["provenance"]["versions"]["llamafactory"]


def test_the_state_of_a_run(tmp_path, run):
    output, wanted = tmp_path / "run", run()
    assert resume.state(output, wanted) == "new"
    make_checkpoint(output / "checkpoint-5")
    assert resume.state(output, wanted) == "foreign", "a checkpoint of unknown origin is never resumed"
    runs.begin(output, wanted)
    assert resume.state(output, wanted) == "unfinished"
    assert resume.state(output, run("report_to=wandb", "save_steps=7")) == "unfinished", "it learns the same"
    assert resume.state(output, run("learning_rate=2e-4")) == "foreign"
    (output / "train_results.json").write_text("{}")
    (output / "adapter_model.safetensors").write_bytes(b"w")
    assert resume.state(output, wanted) == "finished"
    write_records(tmp_path / "train.jsonl", 3)
    assert resume.state(output, run()) == "foreign"


def change(path: Path, **values) -> None:
    write_json(path, read_json(path) | values)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: (d / "adapter_model.safetensors").write_bytes(b"other"), "trained again without `make train`"),
        (lambda d: change(d / runs.IDENTITY, adapter_hash=None), "did not end"),
        (lambda d: change(d / runs.IDENTITY, format=1), "older MedCoT"),
        (lambda d: (d / runs.IDENTITY).write_text("[]"), "or damaged"),
        (lambda d: (d / runs.IDENTITY).write_text('{"format": 2}'), "or damaged"),
        (lambda d: (d / "adapter_config.json").unlink(), "no adapter_config.json"),
        (lambda d: (d / runs.IDENTITY).unlink(), "no recipe of yamls/ or examples/"),
    ],
)
def test_a_folder_that_contradicts_its_identity_is_refused(finished, damage, says):
    damage(finished)
    with pytest.raises(UserError, match=says):
        runs.read_run(finished)


def test_a_bare_run_is_assumed_to_be_its_recipes_and_what_the_folder_contradicts_is_refused(
    tmp_path, run, finished, monkeypatch
):
    """A bare `llamafactory-cli train` leaves no identity: the recipe with this output_dir is used, and said to be."""
    (tmp_path / "examples").mkdir()
    shutil.copy(tmp_path / "recipe.yaml", tmp_path / "examples/x.yaml")
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    (finished / runs.IDENTITY).unlink()
    found = runs.read_run(finished)
    assert found["assumed"]
    assert found["recipe"] == "examples/x.yaml"
    state = {"num_train_epochs": 9, "log_history": [{"learning_rate": 5e-4}]}
    write_json(finished / "trainer_state.json", state)
    (finished / "README.md").write_text("fine-tuned on the other_train dataset.")
    said = r"epochs is 9, the run's 1; .*rate is 0.0005, .*README is other_train, the run's demo_train"
    with pytest.raises(UserError, match=said):
        runs.read_run(finished)


def test_a_checkpoint_belongs_to_its_run(finished):
    shutil.copytree(finished, finished / "checkpoint-5", ignore=shutil.ignore_patterns("medcot.json"))
    assert runs.read_run(finished / "checkpoint-5")["template"] == "qwen3"
    change(finished / "checkpoint-5/adapter_config.json", r=64)
    with pytest.raises(UserError, match="the adapter's r is 64"):
        runs.read_run(finished / "checkpoint-5")


def test_a_hub_dataset_and_a_missing_test_split_are_no_error(tmp_path, run):
    write_json(tmp_path / "dataset_info.json", {"demo_train": {"hf_hub_url": "owner/name"}})
    found = run()
    assert found["datasets"] == [{"name": "demo_train", "files": None}]
    assert found["held_out"] is None


def test_the_newest_run_is_the_one_that_was_confirmed_last(tmp_path, monkeypatch, finished):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    for name, moment in (("old", 1), ("kept", 2)):
        shutil.copytree(finished, tmp_path / "saves" / name)
        for file in (tmp_path / "saves" / name).iterdir():
            os.utime(file, (moment, moment))
    assert runs.newest_adapter("name one") == Path("saves/kept")
    runs.finish(tmp_path / "saves/old")
    assert runs.newest_adapter("name one") == Path("saves/old")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "dataset_info.json").unlink(), "no such file"),
        (lambda d: (d / "dataset_info.json").write_text("{"), "dataset_info.json:1: not valid JSON"),
        (lambda d: (d / "dataset_info.json").write_text("{}"), "no dataset named 'demo_train'"),
        (lambda d: (d / "train.jsonl").unlink(), "does not exist"),
        (lambda d: (d / "train.jsonl").write_text(""), "empty"),
    ],
)
def test_unregistered_missing_or_empty_datasets_are_named(tmp_path, run, damage, message):
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        run()


def test_the_log_is_cut_back_to_the_checkpoint_that_is_resumed(tmp_path):
    make_checkpoint(tmp_path / "checkpoint-2")
    log = tmp_path / "trainer_log.jsonl"
    log.write_text('{"current_steps": 1}\n{"current_steps": 2}\n{"current_steps": 3}\n{"curr')
    resume.trim_log(tmp_path)
    assert log.read_text() == '{"current_steps": 1}\n{"current_steps": 2}\n'


def test_a_finished_run_is_kept_and_its_end_confirmed(tmp_path, recipe, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train", str(recipe)])
    make_checkpoint(tmp_path / "run")
    (tmp_path / "run/train_results.json").write_text("{}")
    (tmp_path / "run/adapter_config.json").write_text("{}")
    runs.begin(tmp_path / "run", PlannedRun(str(recipe), []).identity)
    for _ in range(2):  # stopped before its end was noted; noted
        assert train.main() == 0
        assert "trained already" in capsys.readouterr().out
    kept = read_json(tmp_path / "run/medcot.json")["adapter_hash"]
    (tmp_path / "run/adapter_model.safetensors").write_bytes(b"trained again without make train")
    train.main()
    assert read_json(tmp_path / "run/medcot.json")["adapter_hash"] == kept


def test_of_a_package_that_lies_twice_on_the_path_the_imported_one_s_version_is_noted(tmp_path, monkeypatch):
    for folder, version in (("second", "2.0"), ("first", "1.0")):
        info = tmp_path / folder / f"medcot_probe-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: medcot_probe\nVersion: {version}\n")
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    assert versions("medcot_probe", "not_installed") == {"medcot_probe": "1.0"}


def test_two_processes_do_not_train_into_one_folder(tmp_path):
    """The lock ends with its process, also by a kill, so the same command can go on."""
    held = "import sys, time; from pathlib import Path; from scripts.common import alone_in\n"
    held += "with alone_in(Path(sys.argv[1])):\n    print('in', flush=True); time.sleep(60)"
    folder = tmp_path / "saves/run"
    other = subprocess.Popen([sys.executable, "-c", held, str(folder)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"in\n"
        with (
            pytest.raises(UserError, match="saves/run: another process is writing there"),
            alone_in(folder),
        ):
            pass
        with alone_in(tmp_path / "saves/another"):
            pass
    finally:
        other.kill()
        other.wait()
    with alone_in(folder):
        pass
