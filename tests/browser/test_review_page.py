"""The review page in a real browser: a key votes, a model's text does nothing, nothing leaves the machine."""

from __future__ import annotations

import sys

import pytest

from scripts.evaluate.review import TEXTS
from tests.evaluate.test_review import votes_of, write_pairs
from tests.processes import free_port, running

pytestmark = pytest.mark.slow
PROXIES = dict.fromkeys(("http_proxy", "HTTPS_PROXY", "all_proxy"), "socks5://127.0.0.1:9")


@pytest.mark.parametrize(("locale", "words"), [("en-US", "en"), ("zh-CN", "zh")])
def test_a_key_votes(chromium, tmp_path, locale, words):
    write_pairs(tmp_path)
    port = free_port()
    command = [sys.executable, "-m", "scripts.evaluate", "review", str(tmp_path), "--reviewer", "ann"]
    with running([*command, "--port", str(port)], tmp_path / "log", port, **PROXIES):
        page = chromium.new_page(locale=locale)
        acted, asked = [], []
        page.on("dialog", lambda dialog: (acted.append(dialog.message), dialog.dismiss()))
        page.on("requestfinished", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{port}")
        page.get_by_text("0 / 8").wait_for(timeout=60000)
        for word in set(TEXTS[words].values()) - {TEXTS[words][key] for key in ("done", "nothing")}:
            page.get_by_text(word, exact=True).first.wait_for()
        left = page.locator("#left").inner_text()
        page.keyboard.press("1")
        page.get_by_text("1 / 8").wait_for(timeout=20000)
        page.keyboard.press("0")
        page.get_by_text("2 / 8").wait_for(timeout=20000)
        page.close()
    first, second = votes_of(tmp_path)
    assert first["vote"] == ("tuned" if "TT" in left else "base")
    assert second["vote"] == "tie"
    assert not acted
    assert [url for url in asked if not url.startswith((f"http://127.0.0.1:{port}", "data:", "blob:"))] == []
