"""What is decided before a model is loaded: which one, its settings, where to listen; errors in one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from scripts.chat import settings as chat_settings
from scripts.chat.hosting import preferred
from scripts.chat.settings import check_values, read_settings
from scripts.common import ROOT, UserError, write_json
from scripts.train import run as runs
from tests.processes import free_port

RECIPE = {"model_name_or_path": "org/name", "template": "qwen", "temperature": 0.6}


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    """A hub that answers."""
    monkeypatch.setattr(chat_settings, "look_for_hub", lambda model: None)


def written(tmp_path: Path, **more: object) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | more))
    return str(path)


@pytest.mark.parametrize(
    ("more", "overrides", "message"),
    [
        ({"model_name_or_path": "saves/none"}, [], "model_name_or_path is saves/none.*config.json.*`make train`"),
        ({"adapter_name_or_path": "saves/own"}, [], "saves/own, which has no adapter_config.json: run `make train`"),
        ({"adapter_name_or_path": "saves/demo-x"}, [], "`make demo`"),
        ({"model_name_or_path": "saves/qwen_coder_x"}, [], "`make demo`"),
        ({}, ["adapter_name_or_path=saves/a,saves/b"], "saves/a"),
        ({"model_name_or_path": "./here"}, [], "here"),
        ({"template": None}, [], "missing: template"),
        ({"temperature": "0.7"}, [], "temperature is '0.7', expected a valid number: write it without quotes"),
        ({"quantization_bit": "4"}, [], "quantization_bit is '4', expected a valid integer"),
        ({}, ["default_system=Answer in X: briefly"], "default_system is {.*quote a text"),
        ({"temperature": -1}, [], "temperature is -1, expected 0 to"),
        ({"top_k": -1}, [], "top_k is -1, expected 0 to"),
        ({"do_train": True}, [], "is a recipe for training; name one for chatting"),
        ({"output_dir": "saves/x"}, [], "yamls/webchat.yaml.* adapter_name_or_path=saves/x"),
        ({}, ["template=["], "template=.: not a YAML mapping"),
        ({}, ["temperatur"], "found 'temperatur', expected a recipe .* or KEY=VALUE"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_loaded(more, overrides, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        check_values(read_settings([written(tmp_path, **more), *overrides]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("trained", "loaded", "message"),
    [
        ({"template": "qwen3", "model": "org/name"}, {}, "template qwen3, found qwen"),
        ({"template": "qwen", "model": "org/other"}, {}, "model_name_or_path org/other, found org/name"),
        ({"template": "qwen", "model": "/models/name"}, {}, None),
        ({"template": "qwen", "model": "/gone/here"}, {"model": "moved"}, None),
        ({"template": "qwen", "model": "/gone/other"}, {"model": "other"}, "found .*other"),
        ({"template": "qwen3", "model": "/gone/here"}, {"model": "other"}, "qwen; .*give template=qwen3 model"),
        ({"model": "org/other"}, {}, "model_name_or_path org/other, found org/name"),
        ({"model": "org/Name-bnb-4bit"}, {}, None),
        ({"model": "/c/models--org--name/snapshots/0a1b"}, {}, None),
        ({"model": "/gone/here"}, {"model": "other"}, None),
        ({"model": "here"}, {"model": "moved"}, None),
        ({"model": "here"}, {"model": "other"}, "found .*other"),
        ({"template": "qwen", "model": "org/other"}, {"folder": "checkpoint-2"}, "org/other, found org/name"),
    ],
)
def test_an_adapter_of_another_base_or_template_is_refused(trained, loaded, message, tmp_path):
    """By its run's identity, or by its own file. A folder that has moved is known by its files."""
    for folder, content in (("here", "{}"), ("moved", "{}"), ("other", "[]")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(content)

    def placed(name: str) -> str:
        return str(tmp_path / name) if (tmp_path / name).is_dir() else name

    adapter = tmp_path / "run" / loaded.get("folder", "")
    adapter.mkdir(parents=True)
    write_json(adapter / "adapter_config.json", {"base_model_name_or_path": placed(trained["model"])})
    if "template" in trained:
        model = {"name": trained["model"], "hash": runs.folder_hash(tmp_path / "here")}
        write_json(tmp_path / "run" / runs.IDENTITY, trained | {"model": model})
    base = placed(loaded.get("model", "org/name"))
    recipe = [written(tmp_path, model_name_or_path=base), f"adapter_name_or_path={adapter}"]
    if message is None:
        assert read_settings(recipe)["adapter_name_or_path"] == str(adapter)
        return
    with pytest.raises(UserError, match=message) as caught:
        read_settings(recipe)
    assert "\n" not in str(caught.value)


def test_overrides_count_and_a_hub_id_is_taken(tmp_path):
    told = read_settings([written(tmp_path), "temperature=0.1", 'default_system="Answer in X: briefly"'])
    assert told == RECIPE | {"temperature": 0.1, "default_system": "Answer in X: briefly"}


@pytest.mark.parametrize("template", ["deepseekr1", "qwen3", "qwen"])
@pytest.mark.parametrize("bits", [None, 4])
def test_without_a_recipe_the_last_run_is_talked_to_as_it_was_trained(template, bits, tmp_path, monkeypatch, capsys):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text("{}")
    (tmp_path / "adapter_config.json").write_text("{}")
    precision = {"bits": bits, "dtype": "bfloat16"} | ({"type": "nf4", "double": True} if bits else {})
    told = {"model": {"name": str(tmp_path / "base")}, "adapter": str(tmp_path), "template": template}
    told |= {"system": "Be: brief", "thinking": True, "precision": precision, "assumed": False}
    monkeypatch.setattr(chat_settings, "newest_adapter", lambda or_else: tmp_path)
    monkeypatch.setattr(chat_settings, "read_run", lambda folder: told)
    assert read_settings([f"adapter_name_or_path={tmp_path}"])["template"] == template, "a named run's own, no other's"
    write_json(tmp_path / runs.IDENTITY, told)
    for other in ("template=llama3", "model_name_or_path=org/other"):
        with pytest.raises(UserError, match=f"was trained with .*{other.partition('=')[2]}"):
            read_settings([other])
    capsys.readouterr()
    found = read_settings(["max_new_tokens=64", "top_k=5"])
    assert (found["template"], found["default_system"], found["adapter_name_or_path"]) == (
        template,
        "Be: brief",
        str(tmp_path),
    )
    assert (found["max_new_tokens"], found["top_k"], found["temperature"]) == (64, 5, 0.6)
    assert found.get("quantization_bit") == bits
    assert found["infer_dtype"] == "bfloat16"
    assert str(tmp_path) in capsys.readouterr().out


def test_a_damaged_recipe_or_identity_is_one_line(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / runs.IDENTITY).write_text("[]")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: {\n")
    for recipe, message in ((written(tmp_path), "damaged"), (str(tmp_path / "broken.yaml"), "not a YAML mapping")):
        with pytest.raises(UserError, match=message) as caught:
            read_settings([recipe, f"adapter_name_or_path={tmp_path}"])
        assert "\n" not in str(caught.value)


def test_without_any_run_the_ways_on_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    with pytest.raises(UserError, match=r"make demo.*RECIPE="):
        read_settings([])


def test_the_shipped_recipes_name_their_remedy(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for recipe, remedy in (("examples/webchat_cpu.yaml", "make demo"), ("yamls/webchat.yaml", "make train")):
        with pytest.raises(UserError, match=remedy):
            read_settings([str(ROOT / recipe)])


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB", "en"),
        ("fr-FR,zh;q=0.5", "zh"),
        ("fr", "en"),
        ("", "en"),
        ("ZH", "zh"),
    ],
)
def test_the_browsers_language_is_taken(accepted, language):
    assert preferred({"accept-language": accepted}, ("en", "zh")) == language


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.chat", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("kind", ["chat", "webchat", "api"])
def test_a_port_in_use_is_said_at_once(kind):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        answer = run(kind, "--port", port)
    assert answer.returncode == 1
    assert f"error: port {port} is in use" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize("places", ["two", "0"])
def test_a_wrong_number_of_places_is_said_at_once(places):
    answer = run("chat", "--port", str(free_port()), MAX_CONCURRENT=places)
    assert answer.stderr == f"error: MAX_CONCURRENT is {places!r}, expected a number from 1 on\n"


@pytest.mark.parametrize("kind", ["chat", "webchat", "api"])
def test_what_is_missing_is_said_at_once_and_alone(kind, tmp_path):
    answer = run(kind, written(tmp_path, model_name_or_path="saves/none"), "--port", str(free_port()))
    assert answer.stdout == ""
    assert "saves/none, which has no config.json" in answer.stderr


@pytest.mark.parametrize("kind", ["chat", "webchat", "api"])
def test_the_address_stands_there_before_anything_heavy_is_imported(kind, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    path, port = written(tmp_path, model_name_or_path=str(tmp_path), temperature="hot"), free_port()
    code = f"""
import runpy, sys
from scripts.chat import settings
def stop(found):
    print("heavy:", {{"torch", "gradio", "llamafactory"}} & sys.modules.keys())
    raise settings.UserError("stop")
settings.check_values = stop
sys.argv = ["chat", "{kind}", "{path}", "--port", "{port}"]
runpy.run_module("scripts.chat", run_name="__main__")
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "starting: the libraries take some 20 seconds" in told.stdout
    assert f"opens at http://127.0.0.1:{port} once the model is loaded\nheavy: set()" in told.stdout, told.stderr


def test_a_wide_bind_needs_a_password_and_help_is_quick():
    answer = run("api", "--host", "0.0.0.0", API_KEY="")
    assert "API_KEY=" in answer.stderr
    began = time.monotonic()
    shown = run("--help").stdout
    assert time.monotonic() - began < 5, "a busy machine included"
    assert "examples:" in shown
    assert "research only" in shown
    loaded = "import sys, scripts.chat.__main__; print({'gradio', 'torch', 'fastapi'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", loaded], cwd=ROOT, text=True).strip() == "set()"


def test_the_page_and_its_helpers_import_nothing_of_evaluation():
    for path in Path(chat_settings.__file__).parent.glob("*.py"):
        assert "scripts.evaluate" not in path.read_text(), path.name
