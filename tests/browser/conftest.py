"""A headless Chromium, whose pages may run nothing of a model's text and load nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """A playwright browser; ends with this package, since other tests start loops of their own."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on the PATH (apt-get install chromium fonts-noto-cjk)")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Any]:
    """``visit(url, language, size, dark) -> page``; fails at the end if a text acted or anything was loaded."""
    pages, dialogs, requests, blocked = [], [], [], set()

    def go(url: str, language: str = "en-US", size: tuple[int, int] = (1280, 900), dark: bool = False) -> Any:
        scheme = "dark" if dark else "light"
        view = {"width": size[0], "height": size[1]}
        context = chromium.new_context(locale=language, viewport=view, color_scheme=scheme)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.on("requestfailed", lambda request: blocked.add((request.url, request.failure)))
        page.set_default_timeout(30000)
        page.goto(url)
        page.locator("textarea").last.wait_for()
        pages.append(page)
        return page

    yield go
    assert not dialogs
    assert not any(page.evaluate("window.hacked") for page in pages)
    outside = {url for url in requests if not re.match(r"http://(127\.0\.0\.1|\[::1\])[:/]|data:|blob:|about:", url)}
    assert all((url, "csp") in blocked for url in outside), "the browser must not even try"
    for page in pages:
        page.context.close()
