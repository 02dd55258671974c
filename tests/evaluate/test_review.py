"""Blind review: the order is drawn and hidden, a vote means the right model, nothing is lost, no text is rendered."""

from __future__ import annotations

import json
import resource
import signal
import socket
from types import SimpleNamespace

import pytest

from scripts.common import UserError
from scripts.evaluate import review

EN = review.TEXTS["en"]
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
        _, _, left, right = review.show([pair], votes, "ann", EN)
        seen = {"left": left, "right": right}.get(choice, "")
        review.save_vote(votes, "ann", pair, choice)
        wanted = choice if choice in ("tie", "skip") else "tuned" if "TT" in seen else "base"
        assert votes_of(tmp_path)[-1]["vote"] == wanted


def test_a_vote_that_no_longer_fits_is_refused_and_leaves_no_half(tmp_path):
    votes = write_pairs(tmp_path) / "votes.jsonl"
    review.save_vote(votes, "ann", PAIRS[0], "left")
    limits, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (votes.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            review.save_vote(votes, "ann", PAIRS[1], "left")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    review.save_vote(votes, "ann", PAIRS[1], "right")
    assert [vote["id"] for vote in votes_of(tmp_path)] == ["p0", "p1"]


def test_a_folder_that_cannot_be_written_to_is_told_before_the_page_opens(tmp_path, monkeypatch):
    monkeypatch.setattr(review.os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"votes\.jsonl: cannot be written"):
        review.launch(write_pairs(tmp_path), "ann", 7899)


def test_resumes_where_the_reviewer_stopped(tmp_path):
    votes = write_pairs(tmp_path) / "votes.jsonl"
    first = review.open_pairs(PAIRS, votes, "ann")
    review.save_vote(votes, "ann", first[0], "left")
    assert review.open_pairs(PAIRS, votes, "ann") == first[1:]
    assert len(review.open_pairs(PAIRS, votes, "bob")) == 8
    assert review.show(PAIRS, votes, "ann", EN)[0] == "1 / 8"
    for pair in first[1:]:
        review.save_vote(votes, "ann", pair, "tie")
    done, *nothing = review.show(PAIRS, votes, "ann", EN)
    assert done.startswith("8 / 8 · All done")
    assert f"python -m scripts.evaluate report {tmp_path}" in done
    assert nothing == ["", "", ""]


def test_nobody_is_asked_about_answers_that_are_the_same(tmp_path):
    same = [{**PAIRS[0], "id": "s0", "tuned": " BB0\n"}, {**PAIRS[0], "id": "s1", "base": "", "tuned": "\n"}]
    votes, one_empty = tmp_path / "votes.jsonl", {**PAIRS[0], "id": "s2", "tuned": ""}
    pairs = [*same, one_empty, PAIRS[1]]
    assert {pair["id"] for pair in review.open_pairs(pairs, votes, "ann")} == {"s2", "p1"}
    assert review.open_pairs(pairs, votes, "ann", same=True) != []
    assert review.show(pairs, votes, "ann", EN)[0] == "2 / 4"
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    page = review.build_page(tmp_path, "ann")
    assert not votes.exists(), "opening the page is no vote"
    press = next(block.fn for block in page.fns.values() if len(block.inputs) == 1)
    press(review.show(pairs, votes, "ann", EN)[1], SimpleNamespace(headers={}))
    assert [(vote["vote"], vote["asked"]) for vote in votes_of(tmp_path)][:2] == [("tie", False)] * 2
    assert len(votes_of(tmp_path)) == 3


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_taken_port_is_one_line(tmp_path, host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use"):
            review.launch(write_pairs(tmp_path), "ann", port, host)


def test_what_stops_the_page_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("MEDCOT_REVIEW_PASSWORD", raising=False)
    with pytest.raises(UserError, match="make eval"):
        review.read_pairs(tmp_path)
    with pytest.raises(UserError, match="MEDCOT_REVIEW_PASSWORD"):
        review.launch(write_pairs(tmp_path), "ann", 7862, "0.0.0.0")


def test_model_text_is_escaped_and_names_are_hidden(tmp_path):
    shown = "".join(review.show(PAIRS, tmp_path / "none.jsonl", "ann", EN))
    assert "<img" not in shown
    assert "&lt;img" in shown
    assert "base" not in shown.lower()
    assert "tuned" not in shown.lower()
    assert "(no answer)" in review.card("", "", EN)


def test_each_language_has_every_word_and_shows_no_other():
    assert review.TEXTS["en"].keys() == review.TEXTS["zh"].keys()
    for language, texts in review.TEXTS.items():
        shown = "".join(texts.values()) + review.card("", "x", texts)
        assert any("一" <= letter <= "龥" for letter in shown) == (language == "zh")
