"""Exporting: what may be merged, what the check finds, what the folder holds, and the prompt that Ollama will make."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from safetensors import SafetensorError

from scripts import export
from scripts.common import NOTICE, ROOT, STARTING, UserError, read_json, run_main, write_json
from scripts.evaluate.perplexity import read_records
from scripts.evaluate.store import Store
from scripts.train.template import PromptFormat
from tests.conftest import TEMPLATES
from tests.evaluate.conftest import make_run

EXACT = {"bits": None, "dtype": "float32"}


@pytest.fixture(scope="module")
def made(tiny_model, tmp_path_factory) -> dict:
    """A run that ended, its held-out records and a recipe in one folder."""
    folder = tmp_path_factory.mktemp("export")
    adapter = make_run(folder, tiny_model, "deepseekr1")
    recipe = yaml.safe_load((ROOT / "examples/merge_cpu.yaml").read_text())
    recipe |= {"model_name_or_path": str(tiny_model), "adapter_name_or_path": str(adapter), "template": "deepseekr1"}
    recipe["export_dir"] = str(folder / "merged")
    trained = replace(export.trained_subject(recipe), precision=EXACT)
    return {"folder": folder, "recipe": recipe, "data": folder / "own_test.jsonl", "trained": trained}


@pytest.fixture(scope="module")
def exported(made) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made["folder"])
        found = export.export(made["recipe"], made["trained"], made["data"])
    return made | {"found": found, "target": Path(made["recipe"]["export_dir"])}


def test_the_folder_is_whole_and_says_what_it_is(exported):
    target, found = exported["target"], exported["found"]
    wanted = {"model.safetensors", "config.json", "tokenizer.json", "Modelfile", "README.md", export.MARK}
    assert wanted <= {path.name for path in target.iterdir()}
    assert [path for path in exported["folder"].iterdir() if path.name.startswith((".tmp-", ".old-"))] == []
    assert not (target / "adapter_config.json").exists()
    card = (target / "README.md").read_text()
    assert NOTICE in card
    assert export.summary(found) in card
    assert yaml.safe_load(card.split("---")[1])["base_model"] == exported["trained"].model
    assert read_json(exported["folder"] / "results/merged/merge.json")["perplexity"] == found
    assert found["merged"]["n"] == 3
    assert 0 < found["share"] < 0.1
    assert abs(found["merged - unquantised"]["value"]) < 0.01


def test_a_wrong_scale_or_no_adapter_is_found(exported, tmp_path):
    """The same adapter at twice its scale is what a merge that gets alpha / rank wrong would hold."""
    twice = shutil.copytree(exported["trained"].adapter, tmp_path / "twice")
    config = read_json(twice / "adapter_config.json")
    write_json(twice / "adapter_config.json", config | {"lora_alpha": 2 * config["lora_alpha"]})
    records, store = read_records(exported["data"]), Store(tmp_path / "rows.jsonl")
    trained = exported["trained"]
    wrong = [(replace(trained, adapter=str(twice)), exported["target"]), (trained, Path(trained.model))]
    for subject, merged in wrong:
        with pytest.raises(UserError, match="losses are off by"):
            export.check_perplexity(subject, merged, records, 2048, store)


def test_a_failed_check_keeps_the_folder_before_and_leaves_nothing(exported, monkeypatch):
    monkeypatch.chdir(exported["folder"])
    monkeypatch.setattr(export, "SHARE", 0)
    before = (exported["target"] / export.MARK).read_bytes()
    with pytest.raises(UserError, match="losses are off by"):
        export.export(exported["recipe"] | {"temperature": 0.1}, exported["trained"], exported["data"])
    assert (exported["target"] / export.MARK).read_bytes() == before
    assert [path for path in exported["folder"].iterdir() if path.name.startswith((".tmp-", ".old-"))] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_bit": 4}, "quantization_bit is 4.*remove it"),
        ({"export_quantization_bit": 8}, "export_quantization_bit is 8"),
        ({"adapter_name_or_path": None}, "missing: adapter_name_or_path"),
        ({"export_dir": "foreign"}, "foreign is there and not from `make export`"),
        ({"template": "qwen3"}, "this adapter was trained with 'deepseekr1'"),
        ({"adapter_name_or_path": "saves/none"}, "saves/none: found no adapter_config.json"),
    ],
)
def test_what_cannot_be_merged_is_said_before_the_work(made, change, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    recipe = made["recipe"] | {"export_dir": "new"} | change
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match=message):
        export.trained_subject(export.read_recipe(["recipe.yaml"]))


def test_a_kill_between_the_two_renames_is_mended_by_the_next_export(exported, monkeypatch):
    """The old folder was moved away and the new one not yet in its place: neither is lost, and exporting works."""
    monkeypatch.chdir(exported["folder"])
    target = exported["target"]
    target.rename(target.with_name(f".old-{target.name}"))
    export.export(exported["recipe"], exported["trained"], None)
    assert (target / export.MARK).is_file()
    assert not target.with_name(f".old-{target.name}").exists()


def test_without_a_recipe_the_run_that_ended_last_is_merged(made, monkeypatch):
    monkeypatch.setattr(export, "newest_adapter", lambda or_else: Path(made["trained"].adapter))
    recipe = export.read_recipe([])
    assert recipe["adapter_name_or_path"] == made["trained"].adapter
    assert recipe["template"] == "deepseekr1"
    assert recipe["export_dir"].endswith("run_merged")
    monkeypatch.setattr(export, "newest_adapter", None)
    named = export.read_recipe([f"adapter_name_or_path={made['trained'].adapter}", "export_dir=saves/own_merge"])
    assert (named["template"], named["export_dir"]) == ("deepseekr1", "saves/own_merge")


@pytest.mark.parametrize("command", [["export", "no.yaml"], ["evaluate", "--adapter", "saves/none"]])
def test_commands_that_import_for_long_say_so_first(command):
    told = subprocess.run(
        [sys.executable, "-m", f"scripts.{command[0]}", *command[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert told.stdout.startswith(STARTING)
    assert told.stderr.startswith("error: ")


def test_a_full_disk_is_one_line_whatever_library_says_so():
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(SystemExit, match=r"^error: .*No space left on device.*start again$"):
        run_main(Mock(side_effect=full))
    with pytest.raises(SafetensorError, match="another"):
        run_main(Mock(side_effect=SafetensorError("another")))


def prompt_of(form: PromptFormat, made: dict) -> tuple[str, list[str]]:
    """(the Modelfile's prompt, its lines)."""
    from llamafactory.hparams import get_infer_args

    text = export.modelfile(form, get_infer_args(made["recipe"])[3], 3072)
    return text.split('TEMPLATE """')[1].split('"""')[0], text.splitlines()


@pytest.mark.parametrize("name", TEMPLATES)
def test_ollama_gets_the_trained_prompt(tiny_models, made, name):
    form = PromptFormat.load(str(tiny_models[name]), name)
    prompt, lines = prompt_of(form, made)
    between = form.decode(form.encode_prompt("{{ .Content }}")).partition("{{ .Content }}")[2]
    assert "{{ .Content }}" + between in prompt
    assert "<think>\n{{ .Thinking }}\n</think>\n\n" in prompt, "Ollama reads the tags from here"
    assert prompt.count("{{ end }}") == prompt.count("{{ if ") + prompt.count("{{ range ")
    for line in (f'stop "{form.stop_words()[0]}"', "temperature 0.6", "top_p 0.95", "num_ctx 3072"):
        assert f"PARAMETER {line}" in lines
    assert (f'SYSTEM """{form.system}"""' in lines) == bool(form.system), "the system text of training, or none"


@pytest.mark.parametrize("engine_adds_bos", [False, True])
def test_the_begin_mark_is_written_once(tiny_model, made, engine_adds_bos):
    form = PromptFormat.load(str(tiny_model), "deepseekr1")
    form.tokenizer.add_bos_token = engine_adds_bos
    prompt, _ = prompt_of(form, made)
    assert prompt.startswith(form.tokenizer.bos_token) != engine_adds_bos


@pytest.mark.slow
def test_the_bare_command_merges_the_same_weights(exported, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(exported["recipe"] | {"export_dir": str(tmp_path / "bare")}))
    command = [sys.executable, "-m", "llamafactory.cli", "export", str(recipe)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (exported["target"], tmp_path / "bare")]
    assert weights[0] == weights[1]
