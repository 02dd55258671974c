"""Thought and answer apart at every piece of a stream, and what a conversation shows of them."""

from __future__ import annotations

import pytest

from scripts.chat.conversation import Reply, turns_of
from scripts.chat.page import TEXTS
from scripts.chat.thinking import Spent, split

WORDS = ("<think>\n", "\n</think>\n\n")
# what the model says; the thought, the answer, whether the thought is closed
CASES = {
    "complete": ("<think>\nFever, so an infection.\n</think>\n\nRest.", "Fever, so an infection.", "Rest.", True),
    "chinese": ("<think>\n发热，考虑感染。\n</think>\n\n多喝水。", "发热，考虑感染。", "多喝水。", True),
    "never closed": ("<think>\nFever, and", "Fever, and", "", False),
    "cut inside the mark": ("<think>\nFever\n</thi", "Fever", "", False),
    "empty": ("<think>\n\n</think>\n\nRest.", "", "Rest.", True),
    "no thought": ("Rest if SpO2 < 90% or t<36.", "", "Rest if SpO2 < 90% or t<36.", True),
    "cut inside the first mark": ("<thi", "", "", True),
    "ends like a mark": ("Rest <", "", "Rest <", True),
    "begins like a mark": ("<thick blood>", "", "<thick blood>", True),
    "marks in words": ("<think>\na<b</think>\n\nx <th y </thin z", "a<b", "x <th y </thin z", True),
    "opening mark missing": ("Fever.\n</think>\n\nRest.", "Fever.", "Rest.", True),
}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
@pytest.mark.parametrize("case", CASES)
def test_thought_and_answer_are_apart_at_every_piece(case, size):
    text, thought, answer, closed = CASES[case]
    for end in range(size, len(text), size):
        now = split(text[:end], WORDS)
        if case != "opening mark missing":
            assert thought.startswith(now.thought)
            assert answer.startswith(now.answer), "no thought and no half of a mark in the answer"
    assert split(text, WORDS) == (thought, answer, closed)


def test_what_a_reply_shows_while_it_comes_and_after():
    for language, waiting, thought in (
        ("en", "Waiting for the model… 1", "Thought for 63 s"),
        ("zh", "等待模型…… 1", "思考了 63 秒"),
    ):
        texts, reply = TEXTS[language], Reply(WORDS)
        reply.began -= 100
        assert waiting in reply.shown("tuned", texts)[0]["content"]
        reply.add("<think>\nFever")
        reply.began -= 62.5
        assert [part["metadata"]["id"] for part in reply.shown("tuned", texts)] == ["thought"]
        reply.add(".\n</think>\n\n")
        reply.add("Rest.")
        reply.spent.new = 630
        reply.finish("cut")
        fold, answer, note = reply.shown("tuned", texts)
        assert (fold["content"], fold["metadata"]["title"], fold["metadata"]["status"]) == ("Fever.", thought, "done")
        assert (answer["content"], answer["metadata"]["id"]) == ("Rest.", "tuned")
        assert texts["cut"] in note["content"]
        assert any(texts["speed"].format(n=n) in note["content"] for n in ("10.0", "10.1"))


def test_a_model_is_sent_its_own_answers_and_nobodys_thoughts_or_notes():
    reply = Reply(WORDS, "<think>\nt\n</think>\n\na", spent=Spent(new=3))
    reply.finish("")
    texts = TEXTS["en"]
    history = [{"role": "user", "content": "q", "metadata": None}, *reply.shown("tuned", texts)]
    history += [{"role": "user", "content": "not answered"}]
    sent = turns_of(history, "next", "tuned")
    assert [turn["content"] for turn in sent] == ["q", "a", "next"]
    assert [turn["content"] for turn in turns_of(history, "next", "base")] == ["next"]


def test_both_languages_have_every_text():
    assert TEXTS["en"].keys() == TEXTS["zh"].keys()
    for key, text in TEXTS["en"].items():
        assert text.count("{") == TEXTS["zh"][key].count("{"), key
