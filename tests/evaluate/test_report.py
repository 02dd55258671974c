"""The report says what the files say: gains only where shown, failed controls on top, model text escaped, offline."""

from __future__ import annotations

import json

import pytest

from scripts.common import UserError
from scripts.evaluate import accuracy, model_card, report
from scripts.evaluate.report import write_report
from scripts.evaluate.review import pair_key

ATTACK = "<script>alert(1)</script> | a pipe ![x](http://evil.example/x.png)"


def sample(i, name, right):
    output = {"text": ATTACK, "opened": True, "forced": False, "cut": False, "thought_tokens": 3, "answer_tokens": 2}
    about = {"key": f"{name}{i}", "task": "medcot_en", "id": f"q{i}", "lang": "en", "seed": 1, "model": name}
    about |= {"question": f"Q{i}? {ATTACK}", "answer_idx": "A", "options": {"A": "x", "B": "y"}}
    return about | {"outputs": {n: output | {"choice": "A" if right else "B"} for n in ("8", "64")}}


@pytest.fixture
def folder(tmp_path):
    rows = [sample(i, name, name == "tuned" or i < 2) for name in ("base", "tuned") for i in range(10)]
    rows[-1] = sample(9, "tuned", False)
    (tmp_path / "accuracy_samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"prompt": "p", "sampling": "greedy", "seeds": [1], "limit": None}
    write = lambda name, value: (tmp_path / name).write_text(json.dumps(value))  # noqa: E731
    write("accuracy.json", {"tasks": accuracy.summarise(rows), "settings": settings, "provenance": {"commit": "abc"}})
    controls = [("base_against_itself", "failed"), ("judge_says_first", "uninformative")]
    write("controls.json", {"controls": [{"name": n, "status": s, "detail": "d", "n": 3} for n, s in controls]})
    write(
        "run.json",
        {"name": "demo", "model": "org/base", "adapter": "saves/x", "train_dir": str(tmp_path), "recipe": "r"},
    )
    log = [{"step": s, "loss": 6 - s, "learning_rate": 1e-4, "grad_norm": 1.0} for s in (1, 2, 3)]
    write("trainer_state.json", {"log_history": [*log, {"step": 3, "train_loss": 4.0}]})
    write("steps.json", [{"step": "prepare", "seconds": 3.2, "peak_mib": 120, "output": "data/demo"}])
    return tmp_path


def test_a_failed_control_stands_on_top_and_a_gain_is_a_gain(folder):
    write_report(folder)
    text = (folder / "report.md").read_text()
    first = text.split("\n## ")[1]
    assert first.startswith("Read this first")
    alerts = [line for line in first.splitlines() if line.startswith("**⚠ ")]
    assert len(alerts) == 1, "uninformative is not failed"
    assert "base_against_itself" in alerts[0]
    assert text.index("Negative control failed") < text.index("Before and after")
    assert "| accuracy: medcot_en (%) | 10 | 20.0 [" in text
    assert "| 0.016 | gain |" in text  # 7 gained, 0 lost: 2 * 0.5**7
    assert "training loss 5.000 → 3.000" in text
    assert "| prepare | 3.2 | 120 | data/demo |" in text


def test_the_page_is_self_contained_and_escapes_what_models_said(folder):
    page = write_report(folder).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    for link in ('src="http', "href=", "@import", "url("):
        assert link not in page
    assert page.count("data:image/png;base64,") == 3  # differences, budget curve, training curves
    assert "base right, tuned wrong" not in page, "item 9 is wrong in both"
    assert "both wrong" in page
    assert 'lang="zh"' in page


@pytest.mark.parametrize(
    ("difference", "better", "word"),
    [
        ({"ci95": [0.1, 0.3], "p": 0.01}, 1, "gain"),
        ({"ci95": [0.1, 0.3], "p": 0.2}, 1, "no difference shown"),
        ({"ci95": [0.1, 0.3], "p": 0.01, "p_holm": 0.07}, 1, "no difference shown"),
        ({"ci95": [-0.1, 0.3], "p": 0.01}, 1, "no difference shown"),
        ({"ci95": [0.1, 0.3]}, -1, "loss"),
        ({"ci95": [-0.3, -0.1]}, -1, "gain"),
        ({"ci95": [0.0, 0.0], "p": 1.0}, 1, "no difference shown"),
        ({"ci95": None}, 1, "–"),
        (None, 1, "–"),
    ],
)
def test_verdict(difference, better, word):
    assert report.verdict(difference, better) == word


@pytest.mark.parametrize(
    ("rate", "word"),
    [
        ({"value": 0.1, "n": 20, "ci95": [0.02, 0.3], "p": 0.01}, "loss"),
        ({"value": 0.9, "n": 20, "ci95": [0.7, 0.98], "p": 0.01}, "gain"),
        ({"value": 0.9, "n": 3, "ci95": [0.7, 0.98], "p": 0.25}, "no difference shown"),
        ({"value": None, "n": 0, "ci95": None, "p": None}, "nothing scored"),
    ],
)
def test_a_win_rate_is_judged_against_a_half(folder, rate, word):
    counts = {"tuned": 1, "base": 1, "tie": 1, "unscored": 20 - rate["n"]}
    result = {"n": 20, "counts": counts, "win_rate": rate, "orders_disagree": 0, "errors": 0, "faults": {}}
    (folder / "pairwise.json").write_text(json.dumps(result))
    write_report(folder)
    row = next(x for x in (folder / "report.md").read_text().splitlines() if x.startswith("| judge |"))
    assert row.endswith(f"| {word} |")


def test_votes_and_agreement_with_the_judge(folder):
    said = ["tuned", "tuned", "base", "tie", "skip"]
    pairs = [{"id": f"p{i}", "base": "b", "tuned": "t"} for i in range(5)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    votes = [
        {"reviewer": "ann", "id": pair["id"], "pair": pair_key(pair), "vote": vote}
        for pair, vote in zip(pairs, said, strict=True)
    ]
    votes.insert(0, {**votes[0], "vote": "base"})  # changed later: the last vote counts
    votes.append({**votes[0], "reviewer": "bob", "pair": "an earlier run's answers"})  # not counted
    judged = ["tuned", "base", "base", "unscored", "tie"]
    (folder / "votes.jsonl").write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    rows = [{"id": f"p{i}", "outcome": outcome} for i, outcome in enumerate(judged)]
    (folder / "pairwise_samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = report.human_votes(folder)
    assert found["counts"] == {"tuned": 2, "base": 1, "tie": 1, "unscored": 1}
    assert found["win_rate"]["value"] == pytest.approx(2.5 / 4)
    # three pairs decided by both; 2 of 3 agree; by chance (2*1 + 1*2)/9 = 4/9; kappa = (6/9 - 4/9)/(5/9)
    assert (found["kappa"]["n"], found["kappa"]["value"]) == (3, pytest.approx(0.4))
    write_report(folder)
    assert "Cohen's κ = 0.40" in (folder / "report.md").read_text()


def test_model_card_has_a_header_and_the_notice(folder):
    import yaml

    text = model_card.write_card(folder, folder / "card.md", "mit").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["base_model"] == "org/base"
    assert header["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.9
    assert "not for clinical use" in text
    assert "Negative control failed" in text
    (folder / "run.json").write_text(json.dumps({"name": "x", "model": "m", "adapter": None}))
    with pytest.raises(UserError, match="names an adapter"):
        model_card.write_card(folder, folder / "card.md", "mit")


def test_nothing_to_report(tmp_path):
    with pytest.raises(UserError, match="nothing to report"):
        write_report(tmp_path)
    (tmp_path / "accuracy.json").write_text("{broken")
    with pytest.raises(UserError, match=r"accuracy\.json:1: not valid JSON"):
        write_report(tmp_path)
