"""The chat page in a real browser: LLaMA-Factory's server on the demo model, and a scripted one for exact pieces."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from scripts.chat.conversation import TEXTS
from scripts.common import ROOT
from tests.browser.conftest import free_port, running
from tests.chat.streams import DIE, Stream, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROWS = [json.loads(line) for line in (ROOT / "data/sample.jsonl").read_text(encoding="utf-8").splitlines()]
RECORDS = {row["Question"]: row for row in ROWS if isinstance(row, dict)}
MARKER = "zebrafish-7319"  # typed by a user, found nowhere afterwards
ATTACKS = [
    "<script>window.hacked = 1; alert(1)</script>",
    '<img src=x onerror="window.hacked = 1; alert(1)"><svg onload="alert(1)">',
    "[x](javascript:alert(1)) ![x](http://evil.example/p.png) <http://evil.example> http://evil.example",
    "</think> what now? <think> **bold** <iframe src='http://evil.example'></iframe>",
]


# Unfolds every thought and notes how much text each side shows whenever that changes.
WATCH = """() => {
  const opened = new Set();
  window.sizes = {tuned: [], base: []};
  new MutationObserver(() => {
    document.querySelectorAll(".thought-group .title").forEach(title => {
      if (!opened.has(title)) { opened.add(title); title.click(); }
    });
    for (const side in window.sizes) {
      const size = document.querySelector(`#${side} .message-wrap`)?.textContent.length ?? 0;
      if (size !== window.sizes[side].at(-1)) window.sizes[side].push(size);
    }
  }).observe(document.body, {childList: true, subtree: true, characterData: true});
}"""


class Site(NamedTuple):
    """A chat page at ``url``; its ``process`` prints to ``log`` and has ``folder`` for temporary files."""

    url: str
    process: subprocess.Popen
    log: Path
    folder: Path


@contextmanager
def chat_page(folder: Path, *options: str, seconds: float = 120) -> Iterator[Site]:
    port, log = free_port(), folder / "log.txt"
    (folder / "tmp").mkdir()
    env = {"TMPDIR": str(folder / "tmp"), "GRADIO_TEMP_DIR": str(folder / "tmp"), "MEDCOT_API_KEY": "k"}
    command = [sys.executable, "-m", "scripts.chat", *options, "--port", str(port)]
    with running(command, port, log, seconds, **env) as process:
        yield Site(f"http://127.0.0.1:{port}", process, log, folder / "tmp")


def reply(request: dict) -> list[str]:
    """What the scripted models say: pieces that depend on the question, or a record written for this project."""
    question = request["messages"][-1]["content"] if "messages" in request else request["prompt"]
    if question in RECORDS:
        thought, answer = RECORDS[question]["Complex_CoT"], RECORDS[question]["Response"]
        return ["<think>\n", *re.findall(r"\s*\S{1,12}", thought), "\n</think>\n\n", answer]
    if "die" in question:
        return ["<think>\nA thought", " that ends", DIE]
    if "long" in question:
        return ["<think>\n", *["long thought "] * 60, "\n</think>\n\n", *["long answer "] * 400]
    said = question if any(mark in question for mark in "<[") else f"**Rest** and fluids, says {request['model']}."
    text = f"<think>\nFever may be an infection. {said}\n</think>\n\n{said}"
    return [text[i : i + 4] for i in range(0, len(text), 4)]


@pytest.fixture(scope="module")
def script() -> Stream:
    return Stream(reply, pause=0.03, models=("script-1", "script-2"))


@pytest.fixture(scope="module")
def site(script: Stream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page with two scripted models behind it."""
    with (
        serve(script) as url,
        chat_page(tmp_path_factory.mktemp("site"), "--server", url, "--base-model", "script-2") as it,
    ):
        yield it


@pytest.fixture
def visit(chromium: Any) -> Iterator[Any]:
    """``visit(url, language, size) -> page``; fails at the end if anything ran, or asked for anything elsewhere."""
    pages, dialogs, requests, blocked = [], [], [], set()

    def go(url: str, language: str = "en-US", size: tuple[int, int] = (1280, 900)) -> Any:
        page = chromium.new_page(locale=language, viewport={"width": size[0], "height": size[1]})
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.on("requestfailed", lambda request: blocked.add((request.url, request.failure)))
        page.set_default_timeout(30000)
        page.goto(url)
        page.locator("html[lang]").wait_for(state="attached")
        page.get_by_text(TEXTS["zh" if language.startswith("zh") else "en"]["welcome"]).first.wait_for()
        pages.append(page)
        return page

    yield go
    assert not dialogs
    assert not any(page.evaluate("window.hacked") for page in pages)
    outside = {url for url in requests if not re.match(r"http://127\.0\.0\.1[:/]|data:|blob:", url)}
    assert all((url, "csp") in blocked for url in outside), "the browser must not even try"
    assert not any("evil" in url for url in requests)
    for page in pages:
        page.close()


def send(page: Any, question: str) -> None:
    asked = page.locator("#tuned .user-row").count()
    page.locator("#question textarea").fill(question)
    page.keyboard.press("Enter")
    page.locator("#tuned .user-row").nth(asked).wait_for()


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it becomes true within ten seconds."""
    return any(true() or time.sleep(0.1) for _ in range(100))


def done(page: Any) -> str:
    """Wait for the end of the answer; returns the text of the tuned model's last message."""
    page.locator("#send").wait_for()
    return page.locator("#tuned .bot .message-content").last.inner_text()


@pytest.fixture(scope="module")
def real(demo_recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page as `make chat ARGS=--compare` starts it: two api servers of its own, on the demo model."""
    with chat_page(tmp_path_factory.mktemp("real"), "--recipe", demo_recipe, "--compare", seconds=400) as it:
        yield it


@pytest.mark.parametrize(
    ("language", "question"), [("zh-CN", "患者发热三天，应该怎么办？"), ("en-US", "What helps against fever?")]
)
def test_the_demo_model_streams_its_answer(real, visit, language, question):
    page = visit(real.url, language)
    page.evaluate(WATCH)
    for _ in range(3):  # a tiny model may have little to say
        send(page, question)
        done(page)
    for side in ("tuned", "base"):
        sizes = page.evaluate(f"window.sizes.{side}")
        assert len([size for size in sizes if size > sizes[0] + 20]) >= 3, f"{side} grew piece by piece"
    assert question not in real.log.read_text()


def test_servers_started_by_the_page_end_with_it(real):
    children = psutil.Process(real.process.pid).children(recursive=True)
    assert len(children) >= 2
    real.process.terminate()
    assert real.process.wait(30) == 0
    assert not psutil.wait_procs(children, timeout=10)[1]


def test_the_thought_is_folded_and_apart_while_it_streams(site, visit, script):
    page = visit(site.url)
    send(page, "a long question")
    fold = page.locator("#tuned .thought-group")
    page.get_by_text(re.compile(r"^Thinking… \d+ s$")).first.wait_for()
    assert "long thought" not in page.locator("#tuned").inner_text()
    fold.locator(".title").click()
    fold.get_by_text("long thought").wait_for()
    before = fold.inner_text()
    page.locator("#question textarea").fill("the next question")
    page.get_by_text("long answer").first.wait_for()
    assert page.locator("#question textarea").input_value() == "the next question", "streaming leaves it alone"
    assert len(fold.inner_text()) > len(before), "it stays open and grows"
    assert re.match(r"Thought for \d+ s", fold.inner_text())
    assert "long answer" not in fold.inner_text()
    assert "long thought" not in page.locator("#tuned .bot .message-content").last.inner_text()
    broken = script.broken
    page.locator("#stop").click()
    assert done(page).endswith("Stopped.")
    size = len(page.locator("#tuned").inner_text())
    assert eventually(lambda: script.broken == broken + 2), "both servers were hung up on"
    assert len(page.locator("#tuned").inner_text()) == size
    page.locator("#compare input").uncheck()
    send(page, "fever?")
    assert done(page) == "Rest and fluids, says script-1."
    assert page.locator("#base").inner_text().endswith(TEXTS["en"]["skipped"])


def test_the_conversation_is_saved_only_when_asked_and_a_reload_keeps_nothing(site, visit):
    page = visit(site.url)
    send(page, f"Is {MARKER} a fish?")
    done(page)
    with page.expect_download() as download:
        page.locator("#save").click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert "research only" in saved["notice"]
    assert saved["models"] == {"tuned": "script-1", "base": "script-2"}
    assert saved["turns"][0]["question"] == f"Is {MARKER} a fish?"
    assert saved["turns"][0]["base"]["answer"] == "**Rest** and fluids, says script-2."
    page.reload()
    page.get_by_text(TEXTS["en"]["welcome"]).first.wait_for()
    assert MARKER not in page.content()
    assert page.evaluate("Object.keys(localStorage).concat(Object.keys(sessionStorage))") == []
    assert MARKER not in site.log.read_text()
    written = [path for path in site.folder.rglob("*") if path.is_file()]
    assert not [path for path in written if MARKER.encode() in path.read_bytes()]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_label_is_in_the_chosen_language(site, visit, language):
    other = {"zh": "en-US", "en": "zh-CN"}[language]
    page = visit(site.url, other)
    send(page, "123?")
    done(page)
    page.locator(f"#language input[value={language}]").check(force=True)
    words = TEXTS[language]
    page.locator("#send").get_by_text(words["send"]).wait_for()
    for key in ("shade", "new", "save"):
        assert page.locator(f"#{key}").inner_text() == words[key]
    assert page.locator("#notice").inner_text() == words["notice"]
    assert page.locator("#question textarea").get_attribute("placeholder") == words["hint"]
    assert page.locator("#tuned label").first.inner_text() == f"{words['tuned']} · script-1"
    page.locator("#new").click()
    page.get_by_text(words["welcome"]).first.wait_for()
    assert [page.locator("#examples button").nth(i).inner_text() for i in range(4)] == words["examples"]
    names = page.evaluate(
        """() => [...document.querySelectorAll("*")].filter(e => e.checkVisibility()).flatMap(e =>
           ["aria-label", "title", "placeholder", "alt"].map(name => e.getAttribute(name))).filter(Boolean)"""
    )
    seen = page.locator("body").inner_text() + "\n".join(names)
    strange = r"[A-Za-z]{2,}" if language == "zh" else r"[\u3400-\u9fff]+"
    assert set(re.findall(strange, seen)) <= {"MedCoT", "English", "script", "中文", "语言", "Language"}
    assert page.evaluate("document.documentElement.lang") == {"zh": "zh-CN", "en": "en"}[language]


def test_two_visitors_see_their_own_conversation(site, visit):
    first, second = visit(site.url), visit(site.url, "zh-CN")
    send(first, "[first] so that the answers overlap " + "fever " * 20)
    send(second, "[second] so that the answers overlap " + "cough " * 20)
    assert "[first]" in done(first)
    assert "[second]" in done(second)
    assert not {"cough", TEXTS["zh"]["send"]} & set(first.locator("body").inner_text().split())
    assert not {"fever", TEXTS["en"]["send"]} & set(second.locator("body").inner_text().split())


def test_light_and_dark(site, visit):
    page = visit(site.url)
    colour = "getComputedStyle(document.querySelector('#tuned')).backgroundColor"
    light = page.evaluate(colour)
    page.locator("#shade").click()
    page.wait_for_function(f"{colour} !== '{light}'")
    page.locator("#shade").click()
    page.wait_for_function(f"{colour} === '{light}'")


@pytest.mark.parametrize("attack", ATTACKS)
def test_text_that_looks_like_markup_stays_text(site, visit, attack):
    """The scripted models repeat the question in thought and answer; the fixture watches for what runs or loads."""
    page = visit(site.url)
    send(page, attack)
    done(page)
    page.locator("#tuned .thought-group .title").click()
    page.locator("#tuned .thought-group .content").wait_for()
    inside = "#panes :is(script, img, iframe, object, embed, a, video, form, svg[onload], .md svg, .md style)"
    assert page.locator(inside).count() == 0
    assert page.locator("#tuned .user").first.inner_text() == attack
    if "</think>" not in attack:
        assert page.locator("#tuned .bot").first.inner_text().count(attack[:20]) == 2


def test_a_closed_tab_hangs_up(site, visit, script):
    page, broken = visit(site.url), script.broken
    send(page, "a long question")
    page.get_by_text(re.compile(r"^Thinking… \d+ s$")).first.wait_for()
    page.goto("about:blank")
    assert eventually(lambda: script.broken == broken + 2)


class Frail(NamedTuple):
    """A page whose server, said to be vLLM, is up only where a test serves ``script`` on ``port``."""

    url: str
    script: Stream
    port: int


@pytest.fixture(scope="module")
def frail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frail]:
    script, port = Stream(reply, pause=0.05, owner="vllm"), free_port()
    with ExitStack() as stack:
        with serve(script, port) as url:
            site = stack.enter_context(chat_page(tmp_path_factory.mktemp("frail"), "--server", url))
        yield Frail(site.url, script, port)


def test_a_server_that_dies_is_a_message_and_the_page_recovers(frail, visit):
    page = visit(frail.url, "zh-CN")
    with serve(frail.script, frail.port):
        send(page, "please die")
        assert done(page).endswith(TEXTS["zh"]["lost"])
    send(page, "fever?")
    assert done(page).endswith(TEXTS["zh"]["lost"]), "nobody listens there"
    with serve(frail.script, frail.port):
        send(page, "fever?")
        assert done(page) == "Rest and fluids, says scripted."


def test_a_thinking_budget_is_offered_where_the_engine_allows_it(site, frail, visit):
    assert not visit(site.url).locator("#budget").is_visible()
    page = visit(frail.url, "zh-CN")
    page.get_by_text(TEXTS["zh"]["budget"]).wait_for()
    said = [each.get_attribute("aria-label") for each in page.locator("#budget input").all()]
    assert said == [TEXTS["zh"]["budget"]] * 2, "Gradio's own are in English"
    page.locator("#budget input[type=number]").fill("128")
    page.keyboard.press("Tab")
    with serve(frail.script, frail.port):
        send(page, "fever?")
        done(page)
    asked = frail.script.requests[-1]
    assert (asked["path"], asked["max_tokens"]) == ("/v1/completions", 128)


def test_other_sites_are_refused(site):
    def status(path: str, data: bytes | None = None, **headers: str) -> int:
        request = urllib.request.Request(site.url + path, data, {"Content-Type": "application/json", **headers})
        try:
            return urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            return error.code

    join = json.dumps({"data": ["hi", None, True, 0], "fn_index": 0, "session_hash": "x"}).encode()
    assert status("/") == 200
    assert status("/gradio_api/queue/join", join, Origin=site.url) != 403
    assert status("/", Origin="http://evil.example") == 403
    assert status("/gradio_api/queue/join", join, Origin="http://evil.example") == 403
    assert status("/gradio_api/queue/join", join, Origin="null") == 403
    assert status("/", Host="evil.example") == 403


def test_on_a_phone_all_fits_and_an_emergency_is_answered_at_once(site, visit, script):
    page = visit(site.url, "zh-CN", (390, 844))
    send(page, "我爸突然胸痛，左臂发麻，long，怎么办？")
    alarm = page.locator("#alarm [role=alert]")
    alarm.wait_for()
    assert "120" in alarm.inner_text()
    assert page.locator("#stop").is_visible(), "the model is still answering"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for part in ("#notice", "#alarm", "#question", "#stop", "#new", "#save", "#language", "#shade"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0, part
        assert box["x"] + box["width"] <= 390, part
        assert 0 <= box["y"] <= box["y"] + box["height"] <= 844, part
    assert page.locator("#tuned").bounding_box()["height"] > 180
    page.locator("#new").click()
    page.get_by_text(TEXTS["zh"]["welcome"]).first.wait_for()
    assert not alarm.is_visible()


def test_a_long_question_is_refused_before_it_reaches_the_model(site, visit, script):
    page = visit(site.url)
    asked = len(script.requests)
    page.locator("#question textarea").fill("x" * 8001)
    page.keyboard.press("Enter")
    page.get_by_text(TEXTS["en"]["too_long"].format(n=8001, limit=8000)).wait_for()
    assert len(page.locator("#question textarea").input_value()) == 8001, "so that it can be shortened"
    assert len(script.requests) == asked


def test_pictures(site, visit, tmp_path):
    """The README's pictures: ``MEDCOT_PICTURES=docs/images``."""
    folder = Path(os.environ.get("MEDCOT_PICTURES", tmp_path))
    for language, record, dark in (("en-US", "sample-en-013", False), ("zh-CN", "sample-zh-005", True)):
        page = visit(site.url, language, (1280, 860))
        if dark:
            page.locator("#shade").click()
        send(page, next(question for question, row in RECORDS.items() if row["id"] == record))
        done(page)
        page.locator("#tuned .thought-group .title").click()
        page.locator("#tuned .thought-group .content").wait_for()
        page.wait_for_timeout(600)  # the fold slides open
        picture = folder / f"chat_{language[:2]}.png"
        page.screenshot(path=picture)
        assert 20_000 < picture.stat().st_size < 300_000
