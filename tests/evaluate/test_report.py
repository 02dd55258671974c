"""The report says what the files say: one sentence on top, gains only where shown, both languages, text stays text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.common import UserError, read_json, write_json, write_jsonl
from scripts.demo import TINY_NOTICE
from scripts.evaluate import render, terminal
from scripts.evaluate.judge import summarise_pairs
from scripts.evaluate.report import collect, human_votes, write_report
from scripts.evaluate.review import pair_key
from scripts.evaluate.runs import figures, load_results
from tests.evaluate.results import scored, write_results


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    steps = [{"step": "Prepare the records", "seconds": 3.2, "peak_mib": 120}]
    write_json(tmp_path / "demo.json", {"notice": TINY_NOTICE, "steps": steps})
    return write_results(tmp_path)


def reported(folder: Path) -> str:
    """The English report as Markdown."""
    write_report(folder)
    return (folder / "report.md").read_text()


def test_one_sentence_says_what_happened(folder):
    english = reported(folder).split("\n\n")[1]
    chinese = (folder / "report.zh.md").read_text().split("\n\n")[1]
    assert "predicts the text of 24 records it never saw better than before (2.620 → 2.120" in english
    assert "gain in accuracy (bench, 64 tokens): +50.0 \\[" in english
    assert "n = 24" in english
    assert "24 条从未见过的记录预测得比以前更好" in chinese
    assert "提升：准确率（bench，64 词元）" in chinese


def test_its_order_and_what_each_row_names(folder):
    text = reported(folder)
    assert text.count("A negative control failed") == 1, "uninformative is not failed"
    assert text.index("A negative control failed") < text.index("\n## ")
    assert f"not for clinical use. {TINY_NOTICE}" in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[:3] == ["## Answers before and after", "## Training", "## Before and after in numbers"]
    assert headings[-1] == "## The demo's steps"
    assert "validation loss: 3.900 at step 5 → 3.500 at step 10" in text
    row = next(line for line in text.splitlines() if line.startswith("| accuracy (bench"))
    assert "| 24 | 24 | 25.0% [" in row
    assert row.endswith("| < 0.001 | gain | transformers, 4-bit nf4, bfloat16 |")
    assert "- base: its own chat template, answering at once (chosen by: default)" in text


def test_what_models_said_is_text_and_the_page_stands_alone(folder):
    page = write_report(folder).read_text()
    article = page.split("<article", 1)[1]
    assert "<script>" not in article
    assert "&lt;script&gt;" in article
    assert article.count("data:image/svg+xml;base64,") == 4  # loss and differences, in both languages
    assert 'src="http' not in page


def test_every_word_of_the_report_has_its_chinese(folder, monkeypatch):
    missing = set()

    class Words(dict):
        def get(self, text, default=None):
            if text not in self:
                missing.add(text)
            return super().get(text, default)

    monkeypatch.setattr(render, "read_json", lambda path: Words(read_json(path)))
    write_report(folder)
    assert [text for text in missing - {"–", "n", "SHA-256"} if not text[0].isdigit()] == []
    known = read_json(Path(render.__file__).with_name("zh.json"))
    assert [text for text in render.NAMES.values() if text not in known] == []


@pytest.mark.parametrize(("budget", "told"), [("32", True), ("512", False)])
def test_a_budget_that_cuts_thoughts_is_said_beside_the_verdict(budget, told):
    difference = {"value": -1.0, "n": 20, "verdict": "loss", "ci95": [-1.0, -0.7]}
    rows = [{"measure": "accuracy", "of": "bench", "budget": budget, "unit": "share", "difference": difference}]
    assert ("Thoughts were cut at 32 tokens" in render.summary(rows, render.speaker("en"))) is told
    assert ("思考在 32 个词元处被截断" in render.summary(rows, render.speaker("zh"))) is told


@pytest.mark.parametrize(
    ("verdict", "ci95", "told"),
    [
        ("no difference shown", [-0.3, -0.01], "no difference shown (after correction)"),
        ("no difference shown", [-0.3, 0.1], "no difference shown"),
        ("loss", [-0.3, -0.1], "loss"),
    ],
)
def test_a_verdict_that_its_interval_seems_to_contradict_says_why(verdict, ci95, told):
    row = {"difference": {"verdict": verdict, "ci95": ci95}}
    assert render.verdict_of(row, render.speaker("en")) == told


def test_a_long_text_is_not_cut_within_a_word():
    start, _, end = render.shorten("sternocleidomastoid " * 100).partition(" \\[…\\] ")
    assert {*start.split(), *end.split()} == {"sternocleidomastoid"}


def test_settings_stand_once_where_results_share_them(folder):
    path = folder / "answers.json"
    answers = read_json(path)
    answers["settings"] |= {"seeds": [7], "budgets": [448]}
    write_json(path, answers)
    settings = collect(folder)["settings"]
    assert settings["answers"] == {"seeds": [7], "budgets": [448]}
    assert "seeds" not in settings["all"]
    assert settings["all"]["base_form_chosen"] == {"by": "default"}
    assert "thoughts of at most 448 tokens" in reported(folder)


def test_a_model_that_answers_at_once_has_no_share_of_ended_thoughts(tmp_path):
    rows = [scored(side, i, False) for side in ("base", "tuned") for i in range(24)]
    for row in rows[:24]:
        row["outputs"]["64"] |= {"opened": False, "thought_tokens": 0}
    text = reported(write_results(tmp_path, rows, only=("accuracy",)))
    base, tuned = (line for line in text.splitlines() if line.startswith("| bench | 50.0% |"))
    assert base.endswith("| – |")
    assert tuned.endswith("| 100.0% |")


def test_nothing_empty_is_drawn_or_listed(tmp_path):
    rows = [scored(side, i, False) for side in ("base", "tuned") for i in range(24)]
    text = reported(write_results(tmp_path, rows, only=("accuracy",), adapter="saves/gone"))
    assert "plots/" not in text
    assert "no difference shown: accuracy (bench, 64 tokens), n = 24" in text
    for heading in ("Answers", "Training", "Negative controls", "Held-out", "Right before", "The demo"):
        assert f"## {heading}" not in text


def test_a_model_alone_is_not_compared(tmp_path):
    rows = [scored("base", i, i < 6) for i in range(24)]
    folder = write_results(tmp_path, rows, only=("accuracy",), adapter=None)
    result = read_json(folder / "accuracy.json")
    result["settings"] |= {"forms": {"base": "thinking"}, "base_form_chosen": {}}
    write_json(folder / "accuracy.json", result)
    text = reported(folder)
    assert "Only one model was measured" in text
    assert "- base: the template of training with the thought opened\n\n" in text


def test_items_to_read_are_those_that_tuning_lost(tmp_path):
    rows = [scored(side, i, (i < 8) == (side == "base")) for side in ("base", "tuned") for i in range(24)]
    folder = write_results(tmp_path, rows, only=("accuracy",))
    assert [pair["base"]["id"] for pair in collect(folder)["failures"]] == ["q0", "q1", "q2", "q3", "q4"]
    assert "<details><summary>bench, q4</summary>" in reported(folder)


def test_one_is_no_plural(capsys, tmp_path):
    terminal.tell_start({"model": "base", "adapter": None}, 1, tmp_path)
    assert "1 held-out record;" in capsys.readouterr().out
    assert "(n = 1)" in render.speaker("en")(render.ON_RECORDS["too few"], n=1)


def test_the_terminal_ends_with_the_table_the_sentence_and_what_is_next(folder, capsys):
    terminal.tell_result(folder, folder / "report.html")
    said = capsys.readouterr().out
    assert "accuracy (bench, 64 tokens)" in said
    assert " ".join(said.split()).count("After fine-tuning, the model predicts the text of 24 records") == 1
    assert f"Report: {folder / 'report.html'}" in said
    assert "Next: make chat, make export" in said
    assert "\033" not in said, "no colours in a pipe"


@pytest.mark.parametrize(("wins", "verdict"), [(2, "loss"), (18, "gain"), (11, "no difference shown")])
def test_a_win_rate_is_judged_against_a_half(folder, wins, verdict):
    won = {"outcome": "tuned", "forward": "B", "backward": "A", "error": None}
    lost = {"outcome": "base", "forward": "A", "backward": "B", "error": None}
    rows = [{"id": str(i), **(won if i < wins else lost)} for i in range(20)]
    rows.append({"id": "x", "outcome": "unscored", "forward": None, "backward": None, "error": "400 {'code': 'x'}"})
    result = summarise_pairs(rows) | {"judge": {"model": "judge-1"}, "controls": {"padded": {"n": 12, "wrong": 3}}}
    write_json(folder / "pairwise.json", read_json(folder / "answers.json") | result)
    row = next(row for row in figures(load_results(folder)) if row["measure"] == "pairwise")
    assert row["difference"]["verdict"] == verdict
    assert "- judge's errors on padded answers: 3 / 12" in reported(folder)


def test_votes_and_agreement_with_the_judge(folder):
    pairs = [{"id": f"p{i}", "base": "b", "tuned": "t"} for i in range(5)]
    votes = [{"reviewer": "ann", "id": pair["id"], "pair": pair_key(pair)} for pair in pairs]
    votes = [vote | {"vote": said} for vote, said in zip(votes, ["tuned", "tuned", "base", "tie", "skip"], strict=True)]
    votes.insert(0, {**votes[0], "vote": "base"})  # changed later: the last vote counts
    votes.append({**votes[0], "reviewer": "bob", "pair": "an earlier run's answers"})  # not counted
    judged = [{"id": f"p{i}", "outcome": said} for i, said in enumerate(["tuned", "base", "base", "unscored", "tie"])]
    write_jsonl(folder / "pairs.jsonl", pairs)
    write_jsonl(folder / "votes.jsonl", votes)
    write_jsonl(folder / "pairwise_samples.jsonl", judged)
    found = human_votes(folder)
    assert (found["counts"], found["n"]) == ({"tuned": 2, "base": 1, "tie": 1}, 4)
    assert found["win_rate"]["value"] == pytest.approx(2.5 / 4)
    # three pairs decided by both; 2 of 3 agree; by chance (2*1 + 1*2)/9 = 4/9; kappa = (6/9 - 4/9)/(5/9)
    assert (found["kappa"]["n"], found["kappa"]["value"]) == (3, pytest.approx(0.4))
    assert "Cohen's κ = 0.40" in reported(folder)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (None, "nothing to report"),
        ("{broken", r"accuracy\.json:1: not valid JSON"),
        (json.dumps({"tasks": {}}), "older MedCoT"),
    ],
)
def test_nothing_to_report(tmp_path, written, message):
    if written:
        (tmp_path / "accuracy.json").write_text(written)
    with pytest.raises(UserError, match=message):
        write_report(tmp_path)
