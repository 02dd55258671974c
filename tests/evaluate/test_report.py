"""The report says what the files say: one sentence on top, gains only where shown, both languages, text stays text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.common import UserError, read_json, write_json, write_jsonl
from scripts.evaluate import accuracy, perplexity, render, terminal
from scripts.evaluate.judge import summarise_pairs
from scripts.evaluate.report import collect, human_votes, write_report
from scripts.evaluate.review import pair_key
from scripts.evaluate.runs import figures, load_results

ATTACK = "<script>alert(1)</script> | a pipe ![x](http://evil.example/x.png)\rnext line"
OPTIONS = {"A": "fever", "B": "cough"}


def scored(side: str, i: int, right: bool) -> dict:
    """One answered item."""
    output = {"text": ATTACK, "letter": "A" if right else "B", "status": "read", "cut": False, "forced": False}
    row = {"task": "bench", "id": f"q{i}", "lang": "en", "seed": 42, "model": side, "form": "own"}
    row |= {"question": f"{i}? {ATTACK}", "options": OPTIONS, "answer_idx": "A"}
    return row | {"outputs": {"64": output | {"closed": True, "thought_tokens": 9}}}


def record(side: str, i: int, nats: float) -> dict:
    """One held-out record's row."""
    tokens = {"reasoning": 60 + i, "answer": 20}
    return {
        "model": side,
        "lang": ("en", "zh")[i % 2],
        "tokens": tokens,
        "nll": {part: nats * n for part, n in tokens.items()},
        "truncated": False,
    }


def answer(text: str) -> dict:
    return {"thought": text, "answer": text, "closed": False, "cut": True}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder: 24 items with 12 gained, 24 records that are predicted better, answers, controls, steps."""
    run = tmp_path / "run"
    log = [{"current_steps": i, "loss": 4 - i / 10} for i in range(1, 11)] + [{"current_steps": 10, "eval_loss": 3.5}]
    run.mkdir()
    write_jsonl(run / "trainer_log.jsonl", log)
    subject = {"id": "s", "model": "org/base", "adapter": str(run), "template": "qwen", "hashes": {"tuned": "0a" * 32}}
    settings = {"seeds": [42], "forms": {"base": "own", "tuned": "thinking"}, "base_form_chosen": {"by": "default"}}
    about = {"subject": subject, "settings": settings, "engine": "transformers", "precision": "nf4"}
    about |= {"provenance": {"date": "2026-11-01", "commit": "abc", "seconds": 1.5, "machine": "a laptop"}}
    rows = [scored(side, i, i < 6 or (side == "tuned" and i < 18)) for side in ("base", "tuned") for i in range(24)]
    write_jsonl(tmp_path / "accuracy_samples.jsonl", rows)
    records = [record(side, i, nats + i / 100) for side, nats in (("base", 2.5), ("tuned", 2.0)) for i in range(24)]
    controls = [("base_against_itself", "failed"), ("shuffled_answers (tuned)", "uninformative")]
    files = {
        "accuracy": {"tasks": accuracy.summarise(rows), "behind": {}},
        "perplexity": perplexity.summarise(records),
        "answers": {"answers": [{"question": ATTACK, "base": answer(""), "tuned": answer(ATTACK)}]},
        "controls": {"controls": [{"name": n, "status": s, "detail": "d", "n": 3} for n, s in controls]},
    }
    for name, result in files.items():
        write_json(tmp_path / f"{name}.json", result | about)
    write_json(tmp_path / "steps.json", [{"step": "Prepare", "seconds": 3.2, "peak_mib": 120}])
    return tmp_path


def test_one_sentence_says_what_happened(folder):
    write_report(folder)
    english, chinese = ((folder / name).read_text().split("\n\n")[1] for name in ("report.md", "report.zh.md"))
    assert "predicts the text of 24 records it never saw better than before (2.620 → 2.120" in english
    assert "gain in accuracy: bench, 64 tokens (+50.0 \\[" in english
    assert "n = 24)" in english
    assert "24 条从未见过的记录预测得比以前更好" in chinese
    assert "准确率：bench，64 词元改善" in chinese


def test_a_failed_control_stands_before_every_number_and_the_demo_at_the_end(folder):
    write_report(folder)
    text = (folder / "report.md").read_text()
    assert text.count("A negative control failed") == 1, "uninformative is not failed"
    assert text.index("A negative control failed") < text.index("\n## ")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[:3] == ["## Answers before and after", "## Training", "## Before and after in numbers"]
    assert headings[-1] == "## The demo's steps"
    assert "validation loss: 3.500 at step 10" in text
    assert "not for clinical use" in text


def test_each_row_names_its_n_engine_and_precision_and_the_base_form(folder):
    write_report(folder)
    text = (folder / "report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| accuracy: bench"))
    assert "| 24 | 24 | 25.0% [" in row
    assert row.endswith("| < 0.001 | gain | transformers, nf4 |")
    assert "- base: its own chat template, answering at once (chosen by: default)" in text


def test_what_models_said_is_text_and_the_page_stands_alone(folder):
    page = write_report(folder).read_text()
    article = page.split("<article", 1)[1]
    assert "<script>" not in article
    assert "&lt;script&gt;" in article
    assert article.count("data:image/svg+xml;base64,") == 4  # loss and differences, in both languages
    assert 'src="http' not in page
    assert ATTACK in read_json(folder / "report.json")["answers"]["questions"][0]["question"]


def test_every_word_of_the_report_has_its_chinese(folder, monkeypatch):
    missing = []

    class Words(dict):
        def get(self, text, default=None):
            if text not in self:
                missing.append(text)
            return super().get(text, default)

    monkeypatch.setattr(render, "read_json", lambda path: Words(read_json(path)))
    write_report(folder)
    codes = {"–", "n"}
    assert [text for text in missing if text not in codes and not text[0].isdigit()] == []
    known = read_json(Path(render.__file__).with_name("zh.json"))
    assert [text for text in render.NAMES.values() if text not in known] == []


def test_nothing_empty_is_drawn_or_listed(folder):
    for name in ("answers", "controls", "perplexity", "steps"):
        (folder / f"{name}.json").unlink()
    rows = [scored(side, i, False) for side in ("base", "tuned") for i in range(24)]
    changed = read_json(folder / "accuracy.json") | {"tasks": accuracy.summarise(rows)}
    changed["subject"]["adapter"] = "saves/gone"
    write_json(folder / "accuracy.json", changed)
    write_report(folder)
    text = (folder / "report.md").read_text()
    assert "plots/" not in text
    assert "no difference shown: accuracy (n = 24)" in text
    for heading in ("Answers", "Training", "Negative controls", "Held-out", "The demo"):
        assert f"## {heading}" not in text


def test_a_model_alone_is_not_compared(folder):
    for name in ("perplexity", "answers", "controls"):
        (folder / f"{name}.json").unlink()
    rows = [scored("base", i, i < 6) for i in range(24)]
    write_json(folder / "accuracy.json", read_json(folder / "accuracy.json") | {"tasks": accuracy.summarise(rows)})
    write_report(folder)
    assert "Only one model was measured" in (folder / "report.md").read_text()


def test_the_terminal_ends_with_the_table_the_sentence_and_what_is_next(folder, capsys):
    terminal.tell_result(folder, folder / "report.html")
    said = capsys.readouterr().out
    assert "accuracy: bench, 64 tokens" in said
    assert " ".join(said.split()).count("After fine-tuning, the model predicts the text of 24 records") == 1
    assert f"Report: {folder / 'report.html'}" in said
    assert "Next: make chat, make export" in said
    assert "\033" not in said, "no colours in a pipe"


@pytest.mark.parametrize(("wins", "verdict"), [(2, "loss"), (18, "gain"), (11, "no difference shown")])
def test_a_win_rate_is_judged_against_a_half(folder, wins, verdict):
    sides = ["tuned" if i < wins else "base" for i in range(20)]
    letters = {"tuned": ("B", "A"), "base": ("A", "B")}
    rows = [
        {"id": str(i), "outcome": side, "error": None} | dict(zip(("forward", "backward"), letters[side], strict=True))
        for i, side in enumerate(sides)
    ]
    about = read_json(folder / "accuracy.json")
    rows.append({"id": "x", "outcome": "unscored", "forward": None, "backward": None, "error": "400 {'code': 'x'}"})
    result = summarise_pairs(rows) | {"judge": {"model": "judge-1"}, "controls": {"padded": {"n": 12, "wrong": 3}}}
    write_json(folder / "pairwise.json", {k: v for k, v in about.items() if k not in ("tasks", "behind")} | result)
    row = next(row for row in figures(load_results(folder)) if row["measure"] == "pairwise")
    assert row["difference"]["verdict"] == verdict
    write_report(folder)
    assert "- judge's errors on padded answers: 3 / 12" in (folder / "report.md").read_text()


def test_votes_and_agreement_with_the_judge(folder):
    said = ["tuned", "tuned", "base", "tie", "skip"]
    pairs = [{"id": f"p{i}", "base": "b", "tuned": "t"} for i in range(5)]
    write_jsonl(folder / "pairs.jsonl", pairs)
    votes = [
        {"reviewer": "ann", "id": pair["id"], "pair": pair_key(pair), "vote": vote}
        for pair, vote in zip(pairs, said, strict=True)
    ]
    votes.insert(0, {**votes[0], "vote": "base"})  # changed later: the last vote counts
    votes.append({**votes[0], "reviewer": "bob", "pair": "an earlier run's answers"})  # not counted
    write_jsonl(folder / "votes.jsonl", votes)
    judged = ["tuned", "base", "base", "unscored", "tie"]
    write_jsonl(
        folder / "pairwise_samples.jsonl", [{"id": f"p{i}", "outcome": outcome} for i, outcome in enumerate(judged)]
    )
    found = human_votes(folder)
    assert (found["counts"], found["unscored"]) == ({"tuned": 2, "base": 1, "tie": 1}, 1)
    assert found["win_rate"]["value"] == pytest.approx(2.5 / 4)
    # three pairs decided by both; 2 of 3 agree; by chance (2*1 + 1*2)/9 = 4/9; kappa = (6/9 - 4/9)/(5/9)
    assert (found["kappa"]["n"], found["kappa"]["value"]) == (3, pytest.approx(0.4))
    write_report(folder)
    assert "Cohen's κ = 0.40" in (folder / "report.md").read_text()


def test_items_to_read_are_those_that_changed(folder):
    kinds = [item["kind"] for item in collect(folder)["to_read"]]
    assert kinds == ["gained"] * 3


def test_nothing_to_report(tmp_path):
    with pytest.raises(UserError, match="nothing to report"):
        write_report(tmp_path)
    (tmp_path / "accuracy.json").write_text("{broken")
    with pytest.raises(UserError, match=r"accuracy\.json:1: not valid JSON"):
        write_report(tmp_path)
    (tmp_path / "accuracy.json").write_text(json.dumps({"tasks": {}}))
    with pytest.raises(UserError, match="older MedCoT"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("terminal_there", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_verdicts_are_coloured_where_the_terminal_has_colours(monkeypatch, terminal_there, no_color, coloured):
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal_there)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    assert terminal.coloured("gain", "gain").startswith("\033") == coloured
