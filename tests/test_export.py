"""Exporting: what may be merged, what the check finds, what the folder holds, and the prompt that Ollama will make."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts import export
from scripts.common import ASSISTANT, BOS, EOS, NOTICE, ROOT, USER, UserError
from scripts.evaluate.subject import Subject, load_tokenizer
from tests.evaluate.tiny import build_tiny, write_records

PLAIN = {"bits": None, "dtype": "float32"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict:
    """A tiny base, an adapter, held-out records and a recipe in one folder."""
    folder = tmp_path_factory.mktemp("export")
    base, adapter = build_tiny(folder)
    data = write_records(folder / "own_test.jsonl")
    recipe = yaml.safe_load((ROOT / "examples/merge_cpu.yaml").read_text())
    recipe |= {"model_name_or_path": base, "adapter_name_or_path": adapter, "export_dir": str(folder / "merged")}
    return {"folder": folder, "recipe": recipe, "data": data, "trained": Subject(base, adapter, precision=PLAIN)}


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
    assert [path for path in exported["folder"].iterdir() if path.name.startswith(".tmp-")] == []
    assert not (target / "adapter_config.json").exists()
    card = (target / "README.md").read_text()
    assert NOTICE in card
    assert export.summary(found) in card
    assert yaml.safe_load(card.split("---")[1])["base_model"] == exported["trained"].model
    kept = json.loads((exported["folder"] / "results/merged/merge.json").read_text())
    assert kept["perplexity"] == found["perplexity"]


def test_merging_changes_nothing_that_it_should_not(exported):
    found = exported["found"]
    assert found["greedy_float32"]["identical"] == found["greedy_float32"]["prompts"] == 6
    ppl = found["perplexity"]
    assert ppl["merged"]["n"] == 6
    low, high = ppl["merged - unquantised"]["ci95"]
    assert low <= ppl["merged - unquantised"]["ppl"] <= high
    assert 0 < ppl["share"] < 0.1
    assert ppl["merged - trained"]["ppl"] == pytest.approx(ppl["merged"]["ppl"] - ppl["trained"]["ppl"])


def wrong_scale(made: dict, folder: Path) -> Subject:
    """The same adapter at twice its scale: what a merge that gets alpha / rank wrong would hold."""
    shutil.copytree(made["trained"].adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 2 * config["lora_alpha"]}))
    return Subject(made["trained"].model, str(folder), precision=PLAIN)


def test_a_wrong_scale_or_no_adapter_is_found(exported, tmp_path):
    other = wrong_scale(exported, tmp_path / "twice")
    records = export.read_records(exported["data"])
    with pytest.raises(UserError, match="of 6 greedy answers"):
        export.check_tokens(other, records, 2048, exported["target"])
    store, nothing = export.Store(tmp_path / "rows.jsonl"), Path(exported["trained"].model)
    how = (exported["data"], 2048, store, None)
    with pytest.raises(UserError, match="losses are off by"):
        export.check_perplexity(other, exported["target"], *how)
    with pytest.raises(UserError, match="losses are off by"):
        export.check_perplexity(exported["trained"], nothing, *how)
    assert export.check_perplexity(exported["trained"], exported["target"], *how)["share"] < 0.1


def test_a_failed_check_keeps_the_folder_before_and_leaves_nothing(exported, monkeypatch):
    monkeypatch.chdir(exported["folder"])
    before = (exported["target"] / export.MARK).read_bytes()

    def fail(*_):
        raise UserError("wrong merge")

    monkeypatch.setattr(export, "check_tokens", fail)
    with pytest.raises(UserError, match="wrong merge"):
        export.export(exported["recipe"] | {"temperature": 0.1}, exported["trained"], exported["data"])
    assert (exported["target"] / export.MARK).read_bytes() == before
    assert [path for path in exported["folder"].iterdir() if path.name.startswith(".tmp-")] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_bit": 4}, "quantization_bit is 4.*remove it"),
        ({"export_quantization_bit": 8}, "export_quantization_bit is 8"),
        ({"adapter_name_or_path": None}, "missing: adapter_name_or_path"),
        ({"model_name_or_path": "saves/none"}, "saves/none.*config.json"),
        ({"export_dir": "foreign"}, "foreign is there and not from `make export`"),
    ],
)
def test_what_cannot_be_merged_is_said_before_the_work(made, change, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(made["recipe"] | change))
    with pytest.raises(UserError, match=message):
        export.read_recipe("recipe.yaml", [])


def test_held_out_records_are_those_of_the_adapters_data(made, tmp_path):
    with pytest.raises(UserError, match=r"medcot\.json.*--data"):
        export.held_out(str(tmp_path))
    (tmp_path / "medcot.json").write_text(json.dumps({"dataset": "own_train", "dataset_dir": str(tmp_path)}))
    with pytest.raises(UserError, match=r"no held-out records.*--data"):
        export.held_out(str(tmp_path))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"own_test": {"file_name": "data/own_test.jsonl"}}))
    (tmp_path / "data").mkdir()
    shutil.copy(made["data"], tmp_path / "data/own_test.jsonl")
    assert export.held_out(str(tmp_path)) == tmp_path / "data/own_test.jsonl"


def test_a_missing_adapter_stops_the_command(tmp_path):
    command = [sys.executable, "-m", "scripts.export", "examples/merge_cpu.yaml", f"model_name_or_path={tmp_path}"]
    (tmp_path / "config.json").write_text("{}")
    overrides = [f"adapter_name_or_path={tmp_path}/none", f"export_dir={tmp_path}/out"]
    done = subprocess.run([*command, *overrides], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "adapter_config.json" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine_adds_bos", [False, True])
def test_ollama_gets_the_trained_prompt(exported, engine_adds_bos):
    from llamafactory.hparams import get_infer_args

    tokenizer, template = load_tokenizer(Subject(str(exported["target"]), None))
    tokenizer.add_bos_token = engine_adds_bos
    text = export.modelfile(template, tokenizer, get_infer_args(exported["recipe"])[3], 3072)
    prompt = text.split('TEMPLATE """')[1].split('"""')[0]
    assert prompt.startswith("{{ if .System }}" if engine_adds_bos else BOS + "{{ if .System }}")
    assert f"{USER}{{{{ .Content }}}}{ASSISTANT}" in prompt
    assert "<think>\n{{ .Thinking }}\n</think>\n\n" in prompt, "Ollama reads the tags from here"
    assert prompt.count("{{ end }}") == prompt.count("{{ if ") + prompt.count("{{ range ")
    lines = text.splitlines()
    for line in (f'stop "{EOS}"', f'stop "{USER}"', "temperature 0.6", "top_p 0.95", "num_ctx 3072"):
        assert f"PARAMETER {line}" in lines
    assert "SYSTEM" not in text, "a system prompt would change the trained prompt"


@pytest.mark.slow
def test_the_bare_command_merges_the_same_weights(exported, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(exported["recipe"] | {"export_dir": str(tmp_path / "bare")}))
    command = [sys.executable, "-m", "llamafactory.cli", "export", str(recipe)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (exported["target"], tmp_path / "bare")]
    assert weights[0] == weights[1]
