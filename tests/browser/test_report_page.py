"""A report's page in a real browser: one language at a time, dark, on a phone, and no request ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.page import table, write_page

pytestmark = pytest.mark.slow

ATTACK = '<img src=x onerror="window.pwned=1"> ![dot](http://203.0.113.7/dot.png) <script>window.pwned=1</script>'
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="540" height="20"><rect width="540" height="20"/></svg>'


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    """A page with an attack that nobody escaped, a wide table and a picture."""
    wide = table([f"column {i}" for i in range(12)], [["0.123 [0.1, 0.2]"] * 12])
    texts = {
        "en": f"# Report\n\n## Numbers\n\n{wide}\n\n![plot](plot.svg)\n\n{ATTACK}\n",
        "zh": f"# 报告\n\n## 数字\n\n{wide}\n",
    }
    write_page(tmp_path / "page.html", {"en": "Report", "zh": "报告"}, texts, {"plot.svg": PICTURE})
    return tmp_path / "page.html"


@pytest.mark.parametrize(("locale", "shown"), [("en-GB", "Report"), ("zh-CN", "报告")])
def test_one_language_shows_and_the_button_tells_which(chromium, page_file, locale, shown):
    page = chromium.new_page(locale=locale)
    page.goto(page_file.as_uri())
    assert page.locator("h1:visible").all_inner_texts() == [shown]
    other = "中文" if shown == "Report" else "English"
    page.get_by_text(other, exact=True).click()
    assert page.locator("h1:visible").all_inner_texts() == ["报告" if other == "中文" else "Report"]
    pressed = page.locator(".language label:has(:checked)")
    assert pressed.all_inner_texts() == [other]
    background = pressed.evaluate("element => getComputedStyle(element).backgroundColor")
    assert background == "rgb(15, 118, 110)"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_whole_and_nothing_is_asked_or_run(chromium, page_file, scheme):
    context = chromium.new_context(viewport={"width": 375, "height": 700}, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 375, "only tables scroll sideways"
    assert page.evaluate("document.querySelector('img').naturalWidth") == 540
    assert page.evaluate("window.pwned") is None
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (ink, paper)[scheme == "dark"] == ("rgb(29, 39, 51)" if scheme == "light" else "rgb(18, 24, 31)")
    context.close()
