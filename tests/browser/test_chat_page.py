"""The chat page in a real browser, with scripted models behind it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.chat.page import MAX_CHARS, TEXTS
from scripts.common import NOTICE, NOTICE_ZH
from tests.processes import Program, free_port, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ATTACKS = [
    "<script>window.hacked = 1; alert(1)</script> [",
    '<img src=x onerror="window.hacked = 1; alert(1)"><svg onload="alert(1)">',
    "[x](javascript:alert(1)) ![x](http://evil.example/p.png) <http://evil.example>",
    "</think> what now? <think> **bold** <iframe src='http://evil.example'></iframe>",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Program]]:
    """The page with two scripted models."""
    port = free_port()
    command = [sys.executable, "-m", "tests.chat.scripted", str(port), "--base"]
    with running(command, tmp_path_factory.mktemp("site") / "log", port) as program:
        yield f"http://127.0.0.1:{port}", program


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page with one."""
    port = free_port()
    with running(
        [sys.executable, "-m", "tests.chat.scripted", str(port)], tmp_path_factory.mktemp("single") / "log", port
    ):
        yield f"http://127.0.0.1:{port}"


def send(page: Any, question: str) -> None:
    page.locator("textarea").last.fill(question)
    page.keyboard.press("Enter")


def settings(page: Any, language: str = "en") -> None:
    page.get_by_text(TEXTS[language]["settings"], exact=True).first.click()


def talk(page: Any) -> str:
    return page.locator("#talk").inner_text()


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it becomes true within twenty seconds."""
    return any(true() or time.sleep(0.1) for _ in range(200))


def done(page: Any, count: int = 2, language: str = "en") -> str:
    """Wait until ``count`` speeds are shown: so many answers ended; returns the whole conversation."""
    unit = TEXTS[language]["speed"].partition("}")[2]
    assert eventually(lambda: talk(page).count(unit) == count), talk(page)
    return talk(page)


@pytest.mark.parametrize(
    ("language", "locale", "question", "answer"),
    [
        ("en", "en-US", "What helps against fever?", "Rest and fluids"),
        ("zh", "zh-CN", "发热怎么办？", "多喝水"),
        ("zh", "zh-HK", "发热怎么办？", "多喝水"),
    ],
)
def test_an_answer_streams_in_the_browsers_language_with_its_thought_folded(
    site, visit, language, locale, question, answer
):
    page, texts = visit(site[0], locale), TEXTS[language]
    page.get_by_text(texts["welcome"]).wait_for()
    page.get_by_placeholder(texts["hint"]).wait_for()
    for example in texts["examples"].splitlines():
        page.get_by_text(example, exact=True).wait_for()
    assert page.locator("#talk .example").count() == 2, "none in the other language"
    body = page.locator("body").inner_text()
    assert NOTICE in body
    assert NOTICE_ZH in body
    send(page, question)
    shown = done(page, language=language)
    assert answer in shown
    assert texts["base"] in shown
    folds = page.locator("#talk").get_by_text(re.compile("^" + texts["thought"].replace("{s}", r"\d+") + "$"))
    assert folds.count() == 2
    assert not page.get_by_text("infection" if language == "en" else "可能是感染").first.is_visible()
    folds.first.click()
    page.get_by_text("infection" if language == "en" else "可能是感染").first.wait_for()
    settings(page, language)
    for key in ("temperature", "length", "budget"):
        page.get_by_text(texts[key]).first.wait_for()


def test_settings_stand_behind_a_fold_and_count(single, visit):
    page = visit(single)
    assert not page.get_by_text(TEXTS["en"]["temperature"]).is_visible()
    settings(page)
    for key, value in (("temperature", "0.2"), ("budget", "128")):
        field = page.get_by_label(re.compile(re.escape(TEXTS["en"][key]))).first
        field.fill(value)
        field.press("Tab")
    send(page, "fever?")
    shown = done(page, 1)
    assert "saves/demo: turn 1, 0.2, 128" in shown
    assert "saves/base" not in shown


def test_copy_regenerate_and_edit_the_last_question(single, visit):
    page = visit(single)
    send(page, "first question")
    done(page, 1)
    send(page, "second question")
    assert "turn 2" in done(page, 2)
    page.locator("#talk").get_by_label(re.compile("copy", re.I)).last.click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "**Rest and fluids** come first." in copied, "the text as the model wrote it"
    page.locator("#talk").get_by_label(re.compile("retry|regenerate", re.I)).last.click()
    assert eventually(lambda: talk(page).count("tokens/s") == 1), "the old answer goes"
    shown = done(page, 2)
    assert shown.count("second question") == 1
    page.locator("#talk").get_by_label(re.compile("edit", re.I)).last.click()
    page.locator("#talk textarea").fill("third question")
    page.locator("#talk").get_by_label(re.compile("submit", re.I)).last.click()
    assert eventually(lambda: "third question" in talk(page))
    shown = done(page, 2)
    assert "second question" not in shown
    assert shown.count("turn 2") == 1


def test_stop_and_a_closed_tab_end_the_generating(site, visit):
    url, program = site

    def left() -> int:
        return program.text().count("the reader has gone")

    before = left()
    page = visit(url)
    send(page, "a long question")
    thinking = page.get_by_text(re.compile(r"^Thinking, \d+ s so far$"))
    thinking.nth(1).wait_for()
    page.locator(".stop-button").click()
    assert eventually(lambda: left() >= before + 2)  # an earlier test's closed page may be counted late
    send(page, "fever?")
    assert eventually(lambda: "Rest and fluids" in talk(page)), "the page goes on"
    done(page)
    send(page, "a long question")
    thinking.nth(3).wait_for()  # two were stopped
    before = left()
    page.goto("about:blank")
    assert eventually(lambda: left() >= before + 2)


@pytest.mark.parametrize(("question", "note"), [("please fail", "lost"), ("cut it", "cut")])
def test_an_answer_that_fails_says_so_and_the_page_goes_on(site, visit, question, note):
    page = visit(site[0])
    send(page, question)
    page.get_by_text(TEXTS["en"][note]).first.wait_for()
    send(page, "fever?")
    assert eventually(lambda: "saves/demo: turn" in talk(page))
    assert question not in site[1].text(), "what is typed is not logged"


def test_the_too_long_notice_stands_in_the_conversation(site, visit):
    page = visit(site[0])
    send(page, "x" * (MAX_CHARS + 1))
    notice = page.get_by_text(TEXTS["en"]["too_long"]).first
    notice.wait_for()

    def above_the_box() -> bool:
        notice.scroll_into_view_if_needed()  # the page may still be on its way there
        place, box = notice.bounding_box(), page.locator("textarea").last.bounding_box()
        return place["y"] + place["height"] <= box["y"]

    assert eventually(above_the_box), "over no button"


def test_a_text_cannot_act_and_another_visitor_does_not_see_it(site, visit):
    """The scripted models repeat the question in their answers; the fixture watches for what runs or loads."""
    page, other = visit(site[0]), visit(site[0], "zh-CN")
    send(other, "[second]")
    for number, attack in enumerate(ATTACKS, 1):
        send(page, attack)
        assert "[second]" not in done(page, 2 * number)
    inside = "#talk :is(script, iframe, object, embed, form, [onerror], [onload], a[href^=javascript])"
    assert page.locator(inside).count() == 0
    assert "alert" not in done(other, language="zh")


def test_all_fits_on_a_phone_too(single, visit, tmp_path):
    """With pictures to look at: ``MEDCOT_PICTURES=docs/images``."""
    folder = Path(os.environ.get("MEDCOT_PICTURES", tmp_path))
    for name, language, size, dark in (
        ("chat_en", "en", (1280, 860), False),
        ("chat_zh", "zh", (1280, 860), True),
        ("chat_phone", "zh", (390, 844), False),
    ):
        page = visit(single, {"en": "en-US", "zh": "zh-CN"}[language], size, dark)
        send(page, {"en": "What helps against fever?", "zh": "发热怎么办？"}[language])
        done(page, 1, language)
        page.wait_for_timeout(1500)  # the question field comes back
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert 0 < page.locator("textarea").last.bounding_box()["y"] < size[1]
        picture = folder / f"{name}.png"
        page.screenshot(path=picture)
        assert 10_000 < picture.stat().st_size < 300_000
