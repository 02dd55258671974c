"""What is decided before a model is loaded: where a server listens, with which key, and whether its model is there."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from scripts.chat.serve import check_models, environment
from scripts.common import ROOT, UserError


@pytest.mark.parametrize("kind", ["webchat", "api"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_a_wider_bind_needs_a_key(kind, host):
    with pytest.raises(UserError, match="API_KEY"):
        environment(kind, host, 8000)
    assert host in environment(kind, host, 8000, "secret").values()


def test_the_servers_start_closed_and_quiet(monkeypatch):
    monkeypatch.delenv("MAX_CONCURRENT", raising=False)
    api = environment("api", "127.0.0.1", 8000)
    assert {
        "API_HOST": "127.0.0.1",
        "API_PORT": "8000",
        "API_VERBOSE": "0",
        "MAX_CONCURRENT": "2",
    }.items() <= api.items()
    webchat = environment("webchat", "localhost", 7861)
    assert {"GRADIO_SERVER_NAME": "localhost", "GRADIO_SHARE": "False"}.items() <= webchat.items()
    for env in (api, webchat):
        assert env["GRADIO_ANALYTICS_ENABLED"] == "False"
        assert env["HF_HUB_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("MAX_CONCURRENT", "8")
    assert environment("api", "127.0.0.1", 8000)["MAX_CONCURRENT"] == "8"


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        (None, [], "no such recipe"),
        ("- a list\n", [], "not a YAML mapping"),
        ("model_name_or_path: saves/none\n", [], "saves/none.*config.json"),
        ("model_name_or_path: org/name\nadapter_name_or_path: saves/qlora_x\n", [], "adapter_config.json.*make train"),
        ("model_name_or_path: org/name\n", ["adapter_name_or_path=saves/a,saves/b"], "saves/a"),
        ("model_name_or_path: ./here\n", [], "here"),
        ("model_name_or_path: org/name\n", [], None),
        ("model_name_or_path: org/name\nadapter_name_or_path: org/adapter\n", [], None),
    ],
)
def test_a_missing_model_is_said_before_anything_is_loaded(recipe, overrides, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    if recipe:
        path.write_text(recipe)
    if message is None:
        check_models(str(path), overrides)
    else:
        with pytest.raises(UserError, match=message):
            check_models(str(path), overrides)


def test_a_port_in_use_is_said_at_once(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model_name_or_path: org/name\n")
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        command = [sys.executable, "-m", "scripts.chat.serve", "api", str(tmp_path / "recipe.yaml"), "--port", port]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert f"port {port} is in use" in answer.stderr
