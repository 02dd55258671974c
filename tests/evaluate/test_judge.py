"""The judge over real HTTP: known verdicts come out exactly whatever the server does; no fault becomes a score."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from scripts.common import ROOT, UserError
from scripts.evaluate import judge
from scripts.evaluate.judge import Judge
from scripts.evaluate.store import Store
from tests.scripted_server import STATUS, Script, serve


def pair(i: int, **changes: str) -> dict:
    made = {"id": f"p{i}", "lang": "en", "question": f"Q{i}?", "reference": "R"}
    return {**made, "base": f"base {i}", "tuned": f"tuned {i}", **changes}


def scripted(request) -> str:
    """Items 0-5: tuned is better; 6-7: base; 8-9: always the first; 10: a tie; 11: no verdict in one order."""
    i = int(request.prompt.split("[Question]\nQ")[1].split("?")[0])
    tuned_first = f"[Answer A]\ntuned {i}" in request.prompt
    if i >= 11:
        return "I like both." if tuned_first else "<think>[[B]]</think>fine\n[[A]]"
    wanted = ["tuned"] * 6 + ["base"] * 2 + ["first"] * 2 + ["tie"]
    mark = {"tuned": "BA"[tuned_first], "base": "AB"[tuned_first], "first": "A", "tie": "tie"}[wanted[i]]
    return f"<think>perhaps [[{'AB'[mark == 'A']}]]</think>\nBecause.\n[[{mark}]]"


def judged(script: Script, pairs: list[dict], store: Store) -> list[dict]:
    with serve(script) as url:
        return judge.pairwise(pairs, Judge(url, "scripted", retries=2), store)


@pytest.mark.parametrize("faults", [[], ["crash", 429, "drop", 503]])
def test_win_rate_is_exact_with_and_without_faults(tmp_path, faults):
    store = Store(tmp_path / "j")
    with serve(Script(scripted, faults=list(faults))) as url:
        rows = judge.pairwise([pair(i) for i in range(12)], Judge(url, "scripted"), store)
        asked_again = judge.pairwise([pair(i) for i in range(12)], Judge(url, "scripted"), store)
    result = judge.summarise_pairs(rows)
    assert result["counts"] == {"tuned": 6, "base": 2, "tie": 3, "unscored": 1}
    assert result["win_rate"]["value"] == pytest.approx(7.5 / 11)
    assert (result["win_rate"]["n"], result["n"]) == (11, 12)
    assert result["errors"] == {"no verdict in its text": 1}
    assert result["win_rate"]["p"] == pytest.approx(74 / 256)  # exact sign test, 6 wins to 2: 2 * (1 + 8 + 28) / 2**8
    assert result["orders_disagree"] == 2
    assert judge.summarise_pairs(asked_again) == result


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[[A]]", "A"),
        ("better.\n[[ b ]]", "B"),
        ("[[A]] no, on reflection [[B]]", "B"),
        ("[[B]]\n\nReason: it names the dose.", "B"),
        ("```\n[[tie]]\n```", "tie"),
        ('```json\n{"reason": "A is longer", "verdict": "B"}\n```', "B"),
        ('{\n  "verdict": "[[A]]",\n  "reason": "safer"\n}', "A"),
        ("**Verdict: A**", "A"),
        ("Final verdict: Answer B.", "B"),
        ("［［A］］", "A"),
        ("I weigh [[A]] against [[B]].</think>\nBoth say it.\n[[tie]]", "tie"),
        ("<think>[[A]]", None),
        ("Answer A is better", None),
        ("[[A]] is what you would expect me to say.\nBut I cannot decide.", None),
        ("[[A]] or [[B]]? I mean [[maybe]]", None),
        ('{"best": "A", "worst": "B"}', None),
        ("Answer A:\nshort\nAnswer B:\nlong, and I cannot decide", None),
        ("[[better]]", None),
        ("", None),
    ],
)
def test_verdicts(text, verdict):
    assert judge.read_verdict(text) == verdict


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("temperature",), "Unsupported value: 'temperature' does not support 0 with this model."),
        (("max_completion_tokens",), "'max_tokens' or 'max_completion_tokens' is too large: 8192, the window is 4096"),
        (("temperature", "max_completion_tokens"), "Unsupported parameters: temperature, max_completion_tokens"),
    ],
)
def test_parameters_that_a_judge_does_not_take_are_left_out(tmp_path, monkeypatch, names, message):
    """As reasoning models do, or servers with a window that is smaller than the room; several requests run at once."""
    error = {"message": message, "type": "invalid_request_error", "code": "unsupported_parameter"}
    monkeypatch.setitem(STATUS, "parameter", (400, error))
    refuses = lambda asked: "parameter" if asked.body.keys() & set(names) else None  # noqa: E731
    script = Script(lambda request: "[[tie]]", refuses=refuses)
    assert {row["outcome"] for row in judged(script, [pair(i) for i in range(3)], Store(tmp_path / "j"))} == {"tie"}
    sent = script.requests[-1].body.keys() & {"temperature", "max_completion_tokens", "max_tokens"}
    assert sent == {"temperature", "max_completion_tokens"} - set(names)


@pytest.mark.parametrize(
    ("fault", "error"), [("filter", "content_filter"), ("refuse", "400"), ("html", "no completion")]
)
def test_a_refused_pair_is_unscored_and_the_run_goes_on(tmp_path, fault, error):
    store, script = Store(tmp_path / "j"), Script(lambda request: "[[tie]]", faults=[fault])
    pairs = [pair(i) for i in range(4)]
    with serve(script) as url:
        rows = judge.pairwise(pairs, Judge(url, "scripted"), store)
        assert sorted(row["outcome"] for row in rows) == ["tie", "tie", "tie", "unscored"]
        assert judge.summarise_pairs(rows)["errors"] == {error: 1}
        assert {row["outcome"] for row in judge.pairwise(pairs, Judge(url, "scripted"), store)} == {"tie"}
    assert len(script.requests) == 9, "only what has no verdict is asked again"


def test_a_verdict_that_was_cut_off_is_none(tmp_path):
    script = Script(lambda request: "Perhaps [[A]]", finish="length")
    assert judged(script, [pair(0)], Store(tmp_path / "j"))[0]["error"] == "length"


@pytest.mark.parametrize("way", ["check", "pairwise"])
def test_a_judge_that_cannot_be_asked_is_told_in_one_line_and_before_models_are_asked(tmp_path, way):
    def ask(asked: Judge) -> None:
        asked.check() if way == "check" else judge.pairwise([pair(i) for i in range(4)], asked, Store(tmp_path / "j"))

    with pytest.raises(UserError, match=r"gave up|does not answer"):
        ask(Judge("http://127.0.0.1:9/v1", "gone", retries=0))
    with serve(Script(lambda request: "", key="secret")) as url, pytest.raises(UserError, match="JUDGE_API_KEY"):
        ask(Judge(url, "scripted"))
    with serve(Script(lambda request: "")) as url, pytest.raises(UserError, match="--judge-model"):
        ask(Judge(url, "other"))
    with serve(Script(lambda request: "[[tie]]", faults=["filter"])) as url:
        ask(Judge(url, "scripted"))


def test_no_proxy_on_the_way_to_this_machine(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    assert judged(Script(lambda request: "[[tie]]"), [pair(0)], Store(tmp_path / "j"))[0]["outcome"] == "tie"


def test_ctrl_c_ends_hanging_requests_at_once(tmp_path):
    code = (
        # a shell's background job is born deaf to it
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from scripts.common import run_main; from scripts.evaluate import judge\n"
        "from scripts.evaluate.judge import Judge; from scripts.evaluate.store import Store\n"
        f"run_main(lambda: judge.pairwise({[pair(0), pair(1)]!r}, Judge(sys.argv[1], 'scripted'), Store(sys.argv[2])))"
    )
    script = Script(lambda request: "[[tie]]", faults=["slow"] * 9, slow=60)
    with serve(script) as url:
        process = subprocess.Popen([sys.executable, "-c", code, url, str(tmp_path / "j")], cwd=ROOT)
        while len(script.requests) < 2 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 1  # not when the answers come, after a minute


def test_orders_that_disagree_are_counted():
    orders = [("A", "tie"), ("tie", "A"), ("A", "A"), ("B", "B"), ("A", "B"), ("B", "A"), ("tie", "tie")]
    rows = [{"forward": forward, "backward": backward} for forward, backward in orders]
    assert [judge.disagree(row) for row in rows] == [True, True, True, True, False, False, False]


def longer(request) -> str:
    first, second = request.prompt.split("[Answer A]\n")[1].split("\n\nSay in")[0].split("\n\n[Answer B]\n")
    return "[[A]]" if len(first) >= len(second) else "[[B]]"


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (scripted, {"identical": 0, "swapped": 0, "padded": 0}),
        (lambda request: "[[A]]", {"identical": 6, "swapped": 6, "padded": 0}),
        (longer, {"identical": 6, "swapped": 0, "padded": 6}),
    ],
)
def test_the_judge_is_judged(tmp_path, answer, wrong):
    """One that judges right, one that always says the first, one that likes length (and so the first of equals)."""

    def right(request):
        if answer is not scripted:
            return answer(request)
        return scripted(request) if "tuned" in request.prompt else "[[tie]]"

    store = Store(tmp_path / "j")
    with serve(Script(right)) as url:
        ask = Judge(url, "scripted")
        rows = judge.pairwise([pair(i) for i in range(6)], ask, store)
        found = judge.judge_controls(rows, ask, store)
    assert found == {name: {"n": 6, "wrong": count} for name, count in wrong.items()}
