"""Blind review: the order is drawn and hidden, a vote means the right model, nothing is lost, no text is rendered."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from scripts.common import ROOT, UserError
from scripts.evaluate import review

ATTACK = '<img src=x onerror="alert(1)"> & <b>bold</b>'
PAIRS = [
    {"id": f"p{i}", "lang": "en", "question": f"Q{i} {ATTACK}", "reference": "r", "base": f"BB{i}", "tuned": f"TT{i}"}
    | {"base_thought": ATTACK, "tuned_thought": ""}
    for i in range(8)
]


def write_pairs(folder):
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return folder


def votes_of(folder):
    return [json.loads(line) for line in (folder / "votes.jsonl").read_text().splitlines()]


def test_order_is_a_fair_coin_per_reviewer_and_stays():
    swapped = [review.is_swapped("ann", f"p{i}") for i in range(1000)]
    assert 430 < sum(swapped) < 570
    assert swapped == [review.is_swapped("ann", f"p{i}") for i in range(1000)]
    assert swapped != [review.is_swapped("bob", f"p{i}") for i in range(1000)]


@pytest.mark.parametrize("choice", ["left", "right", "tie", "skip"])
def test_a_vote_means_the_model_that_stood_there(tmp_path, choice):
    votes = tmp_path / "votes.jsonl"
    for pair in PAIRS:
        _, _, left, right = review.show([pair], votes, "ann")
        seen = {"left": left, "right": right}.get(choice, "")
        review.save_vote(votes, "ann", pair, choice)
        wanted = choice if choice in ("tie", "skip") else "tuned" if "TT" in seen else "base"
        assert votes_of(tmp_path)[-1]["vote"] == wanted


def test_resumes_where_the_reviewer_stopped(tmp_path):
    votes = write_pairs(tmp_path) / "votes.jsonl"
    first = review.open_pairs(PAIRS, votes, "ann")
    review.save_vote(votes, "ann", first[0], "left")
    assert review.open_pairs(PAIRS, votes, "ann") == first[1:]
    assert len(review.open_pairs(PAIRS, votes, "bob")) == 8
    assert review.show(PAIRS, votes, "ann")[0] == "1 / 8"
    for pair in first[1:]:
        review.save_vote(votes, "ann", pair, "tie")
    assert review.show(PAIRS, votes, "ann") == ("8 / 8 · All done, thank you · 已全部完成，谢谢", "", "", "")


def test_model_text_is_escaped_and_names_are_hidden(tmp_path):
    shown = "".join(review.show(PAIRS, tmp_path / "none.jsonl", "ann"))
    assert "<img" not in shown
    assert "&lt;img" in shown
    assert "base" not in shown.lower()
    assert "tuned" not in shown.lower()
    assert "(no answer" in review.card("", "")


def test_no_pairs_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="make eval"):
        review.read_pairs(tmp_path)


@pytest.mark.slow
def test_in_a_browser_a_key_votes_and_nothing_leaves_the_machine(tmp_path):
    if not shutil.which("chromium"):
        pytest.skip("no chromium")
    sync = pytest.importorskip("playwright.sync_api")
    write_pairs(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "scripts.evaluate",
        "review",
        str(tmp_path),
        "--reviewer",
        "ann",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"HTTPS_PROXY": "http://127.0.0.1:9"})
    try:
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        with sync.sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page()
            hosts = set()
            page.on("request", lambda request: hosts.add(request.url.split("/")[2].split(":")[0]))
            blocked = {}
            page.on("requestfailed", lambda request: blocked.update({request.url.split("/")[2]: request.failure}))
            page.on("dialog", lambda dialog: pytest.fail("model text ran as a script"))
            page.goto(f"http://127.0.0.1:{port}")
            page.get_by_text("0 / 8").wait_for(timeout=60000)
            left = page.locator("#left").inner_text()
            page.keyboard.press("1")
            page.get_by_text("1 / 8").wait_for(timeout=20000)
            page.keyboard.press("0")
            page.get_by_text("2 / 8").wait_for(timeout=20000)
            page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
            browser.close()
    finally:
        server.terminate()
        server.wait(20)
    first, second = votes_of(tmp_path)
    assert first["vote"] == ("tuned" if "TT" in left else "base")
    assert second["vote"] == "tie"
    outside = {host for host in hosts if host} - {"127.0.0.1"}
    assert all(blocked[host] == "csp" for host in outside), "the browser must not even try"
