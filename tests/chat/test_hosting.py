"""Where pages and servers listen: one line for what the machine refuses, no proxies, no other sites."""

from __future__ import annotations

import os
import re
import socket
import sys

import httpx
import pytest

from scripts.chat.hosting import check_machine, is_foreign, require_password
from scripts.common import UserError
from tests.processes import free_port, running

PAGE = """
from scripts.chat.hosting import run_page, without_proxies
with without_proxies():
    import gradio
with gradio.Blocks() as page:
    gradio.Markdown("hello")
run_page(page, "{host}", {port})
"""
DEAD = "127.0.0.1:9"  # nobody listens there


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 0, "port 0.*1 to 65535"),
        ("127.0.0.1", 99999, "port 99999.*1 to 65535"),
        ("192.0.2.1", 7860, "of 192.0.2.1 cannot be had .*; choose another"),
        ("no-such-name.invalid", 7860, "of no-such-name.invalid cannot"),
    ],
)
def test_what_cannot_be_listened_on_is_one_line(host, port, message):
    with pytest.raises(UserError, match=message) as caught:
        check_machine(host, port)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_taken_port_is_said(host):
    check_machine(host, free_port(host))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as busy, pytest.raises(UserError, match="is in use; choose"):
        check_machine(host, busy.getsockname()[1])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_a_wider_bind_needs_a_password(host, monkeypatch):
    monkeypatch.delenv("API_KEY", raising=False)
    with pytest.raises(UserError, match="API_KEY"):
        require_password(host, "API_KEY")
    assert require_password("::1", "API_KEY") == ""
    monkeypatch.setenv("API_KEY", "secret")
    assert require_password(host, "API_KEY") == "secret"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "proxies"),
    [
        ("127.0.0.1", {"http_proxy": f"http://{DEAD}", "https_proxy": f"http://{DEAD}"}),
        ("::1", {"all_proxy": f"socks5://{DEAD}"}),
    ],
)
def test_a_page_starts_behind_a_proxy_and_on_ipv6(host, proxies, tmp_path):
    port = free_port(host)
    command = [sys.executable, "-c", PAGE.format(host=host, port=port)]
    with running(command, tmp_path / "log", PYTHONPATH=os.getcwd(), **proxies) as program:
        program.wait_for_port(port, host)
        name = f"[{host}]" if ":" in host else host
        answer = httpx.get(f"http://{name}:{port}/", trust_env=False, timeout=30)
        assert answer.status_code == 200
        assert b"frame-ancestors" in answer.headers["content-security-policy"].encode()
        foreign = httpx.get(f"http://{name}:{port}/", headers={"Origin": "http://evil.example"}, trust_env=False)
        assert foreign.status_code == 403
        program.wait_for_line(f"ready: {re.escape(f'http://{name}:{port}')}")
        assert program.process.poll() is None, "it goes on"


@pytest.mark.parametrize(
    ("host", "origin", "loopback", "foreign"),
    [
        ("127.0.0.1:7863", None, True, False),
        ("127.0.0.1:7863", "http://127.0.0.1:7863", True, False),
        ("localhost:7863", "http://localhost:7863", True, False),
        ("[::1]:7863", "http://[::1]:7863", True, False),
        ("127.0.0.1:7863", "http://evil.example", True, True),
        ("127.0.0.1:7863", "http://127.0.0.1:9999", True, True),
        ("127.0.0.1:7863", "null", True, True),
        ("evil.example:7863", "http://evil.example:7863", True, True),
        ("evil.example", None, True, True),
        ("", None, True, True),
        ("chat.example", "https://chat.example", False, False),
        ("chat.example", "https://evil.example", False, True),
        ("[::1", None, False, True),
        ("[::1]", "http://[::1", True, True),
    ],
)
def test_other_sites_are_refused(host, origin, loopback, foreign):
    assert is_foreign(host, origin, loopback) is foreign
