"""LLaMA-Factory's WebChat as `make webchat` serves it, in a real browser, on a model that knows three conversations."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.common import ROOT
from tests.chat.memorised import memorise
from tests.processes import free_port, running

pytestmark = pytest.mark.slow

EVIL = 'window.pwned=1"> <script>window.pwned=1</script>'
REPLIES = {  # long enough for the page to show some states on the way
    "What is fever?": "<think>\nThe body is warm: count the days. Ask about cough, pain, rash, travel and drugs taken. "
    "Look at the person and not only at the number: drinking, breathing, being awake. An infant below three months is "
    "seen at once. Most fevers of adults come from a virus and end within days.\n</think>\n\nAbove 38 °C.",
    "发热怎么办？": "<think>\n先看发热几天，再问有没有咳嗽、疼痛、皮疹、旅行史和用药史。不能只看体温，还要看精神、呼吸"
    "和饮水情况。三个月以下的婴儿应立即就诊。成人发热多由病毒引起，几天内可自行好转。\n</think>\n\n多喝水，注意休息。",
    "attack": f'<think>\n<img src=x onerror="{EVIL}\n</think>\n\n<img src=x onerror="{EVIL} '
    "[link](javascript:window.pwned=1) ![dot](http://203.0.113.7/dot.png) **bold**",
}
LABELS = {
    "en": ["Language", "Role", "Maximum new tokens", "Top-p", "Temperature", "Skip special tokens", "Escape HTML tags",
           "Enable thinking", "Submit", "Clear history"],
    "zh": ["语言", "角色", "最大生成长度", "Top-p 采样值", "温度系数", "跳过特殊 token", "转义 HTML 标签", "启用思考",
           "提交", "清空历史"],
}  # fmt: skip
HINTS = {"en": ["System prompt (optional)", "Input..."], "zh": ["系统提示词（非必填）", "输入..."]}
# Every state that the last answer goes through on the page.
WATCH = """() => { window.states = []; new MutationObserver(() => {
  const bots = document.querySelectorAll('[data-testid=bot]'), bot = bots[bots.length - 1];
  const text = bot ? bot.innerText.trim() : '';
  if (text && text !== window.states[window.states.length - 1]) window.states.push(text);
}).observe(document.body, {subtree: true, childList: true, characterData: true}) }"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The webchat command behind a dead proxy, in a folder where nothing can be written."""
    folder, port = tmp_path_factory.mktemp("webchat"), free_port()
    model = memorise(folder / "model", REPLIES)
    recipe = {"model_name_or_path": str(model), "template": "qwen", "infer_dtype": "float32", "max_new_tokens": 256}
    (folder / "webchat.yaml").write_text(yaml.safe_dump(recipe | {"temperature": 0.6, "top_p": 0.95}))
    command = [sys.executable, "-m", "scripts.chat", "webchat", str(folder / "webchat.yaml"), "--port", str(port)]
    env = {"PYTHONPATH": str(ROOT), "API_KEY": "", "all_proxy": "socks5://127.0.0.1:9"}
    with running(command, folder / "log", port, cwd=Path("/proc"), **env) as program:
        yield f"http://127.0.0.1:{port}"
    assert [word for word in ("fever", "发热", "pwned") if word in program.text()] == [], "what was typed is logged"


@pytest.fixture
def page(visit: Any, address: str, request: pytest.FixtureRequest) -> Any:
    page = visit(address, getattr(request, "param", "en-US"))
    page.get_by_role("button", name=re.compile("Submit|提交")).wait_for()
    return page


def ask(page: Any, question: str, done: str) -> Any:
    """Ask, wait until ``done`` is read in the last answer; returns that answer's element."""
    page.evaluate(WATCH)
    page.locator("textarea").last.fill(question)
    page.get_by_role("button", name=re.compile("Submit|提交")).click()
    answer = page.get_by_test_id("bot").last
    answer.get_by_text(done).last.wait_for(timeout=60_000)
    return answer


@pytest.mark.parametrize(("page", "language"), [("en-US", "en"), ("zh-CN", "zh")], indirect=["page"])
def test_it_opens_in_the_browsers_language_at_the_recipes_settings(page, language):
    page.get_by_text(LABELS[language][-1]).first.wait_for()
    text = page.locator("body").inner_text()
    assert [label for label in LABELS[language] if label not in text] == []
    hints = page.eval_on_selector_all("textarea, input", "fields => fields.map(field => field.placeholder)")
    assert [hint for hint in HINTS[language] if hint not in hints] == []
    assert re.findall(r"\b(?:Dropdown|Slider|Checkbox|Run|下拉|滑块)\b", text) == []
    settings = "[...document.querySelectorAll('input[type=number]')].map(field => field.value).join()"
    page.wait_for_function(f"{settings} == '256,0.95,0.6'")  # they come after the labels
    assert "For research only" in text
    assert "仅供研究" in text


@pytest.mark.parametrize(
    ("page", "language", "question", "during", "after"),
    [
        ("en-US", "en", "What is fever?", "Thinking", "Thought"),
        ("zh-CN", "zh", "发热怎么办？", "思考中", "思考完成"),
    ],
    indirect=["page"],
)
def test_an_answer_streams_in_with_its_thought_folded_apart(page, language, question, during, after):
    thought, reply = (part.strip() for part in REPLIES[question].removeprefix("<think>").split("</think>"))
    answer = ask(page, question, reply)
    assert answer.locator("details").count() == 1
    assert thought in answer.locator("details").inner_text()
    assert reply not in answer.locator("details").inner_text()
    assert after in answer.locator("summary").inner_text()
    states = page.evaluate("window.states")
    assert len(states) > 3, "it came in pieces"
    assert not any(reply in state for state in states if during in state)
    if os.environ.get("MEDCOT_PICTURES"):
        page.screenshot(path=Path(os.environ["MEDCOT_PICTURES"]) / f"webchat_{language}.png", full_page=True)
    answer.locator("summary").click()
    assert answer.locator("details").get_attribute("open") is None, "it folds"


def test_what_a_question_or_an_answer_contains_is_text(page):
    ask(page, "attack", "bold")
    page.locator("textarea").last.fill(
        f'<img src=x onerror="{EVIL} </think> ![dot](http://203.0.113.7/dot.png) # title'
    )
    page.get_by_role("button", name="Submit").click()
    page.get_by_test_id("bot").nth(1).wait_for()
    page.wait_for_timeout(1500)
    assert page.evaluate("window.pwned") is None
    for part in (page.get_by_test_id("bot").first, page.get_by_test_id("user").last):
        assert "<script>" in part.inner_text()
        assert part.locator("script, iframe, [onerror], a[href^=javascript]").count() == 0
    assert "</think>" in page.get_by_test_id("user").last.inner_text()
