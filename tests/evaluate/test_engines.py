"""Engines: what is asked of a model here or behind a server, forced at a budget, resumed, and told from others."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections import Counter
from pathlib import Path

import pytest

from scripts.common import UserError
from scripts.evaluate import accuracy, forms, server
from scripts.evaluate.engines import R1_SAMPLING, LoadedModel, LocalEngine, picker
from scripts.evaluate.generate import Form, Item, Limits, ask, without_half_mark
from scripts.evaluate.read import THINK
from scripts.evaluate.server import ServerEngine, identify, make_client
from scripts.evaluate.store import Store
from scripts.evaluate.subject import Subject
from scripts.prepare.benchmarks import read_items
from scripts.train.template import PromptFormat
from tests.conftest import TEMPLATES, build_adapter
from tests.evaluate.conftest import write_benchmark
from tests.scripted_server import Model, Script, continued, serve

EXACT = {"bits": None, "dtype": "float32"}
LIMITS = Limits((4, 8), 6)
OPENED = Form("thinking", lambda question: f"{question}<think>\n", True, THINK, "\n</think>\n\n")


@pytest.fixture(scope="module")
def loaded(tiny_models, tmp_path_factory) -> dict[str, LoadedModel]:
    """A tiny base with an adapter per template."""
    folder = tmp_path_factory.mktemp("adapters")
    found = {}
    for name, base in tiny_models.items():
        adapter = build_adapter(base, folder / name)
        found[name] = LoadedModel(Subject(str(base), str(adapter), name, None, True, EXACT, None))
    return found


@pytest.fixture
def form(loaded) -> PromptFormat:
    return loaded["deepseekr1"].form


def choices(path: Path, n: int = 6) -> list[Item]:
    return accuracy.items_of(read_items(write_benchmark(path, n)))


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_open_thought_is_closed_at_each_budget_and_thought_on(loaded, tmp_path, template):
    model = loaded[template]
    form = forms.thinking_form(model.form)
    said = {}
    for side in ("base", "tuned"):
        store = Store(tmp_path / "g.jsonl")
        rows = ask(LocalEngine(model, side), form, LIMITS, choices(tmp_path / "b.jsonl"), "b", store)
        said[side] = [row["outputs"]["8"]["text"] for row in rows]
        forced = [row for row in rows if row["outputs"]["8"]["forced"]]
        assert forced, "random models seldom close a thought within 8 tokens"
        for row in forced:
            thoughts = [row["outputs"][budget]["text"].split(form.close)[0] for budget in ("4", "8")]
            assert thoughts[1].startswith(thoughts[0]), "the larger budget continues the smaller one's thought"
            assert row["outputs"]["8"]["letter"] in set("ABCD"), "no letter was named, so it is asked by likelihood"
            assert row["outputs"]["8"]["status"] in ("read", "asked")
    assert said["base"] != said["tuned"], "the adapter is switched on and off"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("so it is B.\n</thi", "so it is B.\n"),
        ("so it is B.\n</", "so it is B.\n"),
        ("p < 0.05 and x <", "p < 0.05 and x <"),
    ],
)
def test_half_a_mark_at_the_budget_is_no_thought(text, left):
    assert without_half_mark(text, "</think>") == left


@pytest.mark.parametrize("sampling", [{}, R1_SAMPLING])
def test_padding_and_rows_that_leave_the_batch_do_not_change_an_answer(loaded, sampling):
    """Rows of unlike length end at different steps; each gives what it gives alone, its end token not in its text."""
    engine = LocalEngine(loaded["deepseekr1"], "tuned")
    prompts = ["Question: " + "fever and cough? " * i for i in range(12)]
    found = engine.generate(prompts, 200, sampling, list(range(12)))
    assert len({piece.tokens for piece in found}) > 2 or not sampling
    for seed, (prompt, piece) in enumerate(zip(prompts, found, strict=True)):
        assert engine.generate([prompt], 200, sampling, [seed])[0] == piece


def test_a_batch_s_last_states_reach_the_output_head_in_one_piece(loaded):
    """A slice of them makes torch copy the head's whole matrix for each row: three times slower on a CPU."""
    model, whole = loaded["qwen"], []
    head = model.model.get_output_embeddings()
    seen = head.register_forward_hook(lambda module, given, output: whole.append(given[0].is_contiguous()))
    LocalEngine(model, "base").generate(["What causes fever?"] * 3, 2, {}, [1, 2, 3])
    seen.remove()
    assert whole == [True, True]


def test_sampling_follows_the_shares():
    import torch

    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(4000, 1)
    choose = picker({"temperature": 1.0, "top_p": 0.9}, list(range(4000)), 1, "cpu")
    counts = Counter(choose(logits, list(range(4000)), 0).tolist())
    assert counts[3] == 0, "outside of top-p"
    assert counts[0] / 4000 == pytest.approx(0.5 / 0.95, abs=0.03)
    assert counts[2] / 4000 == pytest.approx(0.15 / 0.95, abs=0.03)


def test_batches_follow_the_free_memory(loaded, monkeypatch):
    engine = LocalEngine(loaded["deepseekr1"], "base")
    monkeypatch.setattr(LoadedModel, "batch_size", lambda self, tokens: 2 if tokens > 40 else 3)
    prompts = ["word " * n for n in (1, 50, 2, 60, 3)]
    batches = engine.batches(prompts, 0)
    assert batches == [[3, 1], [4, 2, 0]], "longest first, as many as fit"


def test_killed_in_the_middle_only_the_rest_is_asked(loaded, tmp_path, monkeypatch):
    engine, items = LocalEngine(loaded["deepseekr1"], "base"), choices(tmp_path / "b.jsonl")
    form = forms.thinking_form(engine.loaded.form)
    monkeypatch.setattr(LoadedModel, "batch_size", lambda self, tokens: 2)
    whole = ask(engine, form, LIMITS, items, "b", Store(tmp_path / "whole.jsonl"))
    calls, generate = [], LocalEngine.generate

    def dying(self, *arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return generate(self, *arguments)

    monkeypatch.setattr(LocalEngine, "generate", dying)
    with pytest.raises(KeyboardInterrupt):
        ask(engine, form, LIMITS, items, "b", Store(tmp_path / "killed.jsonl"))
    done = len((tmp_path / "killed.jsonl").read_text().splitlines())
    assert 0 < done < len(items)
    again = ask(engine, form, LIMITS, items, "b", Store(tmp_path / "killed.jsonl"))
    assert [row["outputs"] for row in again] == [row["outputs"] for row in whole]
    before = len(calls)
    ask(engine, form, LIMITS, items, "b", Store(tmp_path / "killed.jsonl"))
    assert len(calls) == before


def test_a_finished_item_is_read_again_whatever_the_model_said(tmp_path):
    said = "line\u2028separator, next\x85line, return\r and feed\x0c"
    Store(tmp_path / "s.jsonl").add([{"key": "k", "text": said}])
    assert Store(tmp_path / "s.jsonl").rows == {"k": {"key": "k", "text": said}}
    (tmp_path / "s.jsonl").write_text('{"text": "no key"}\n')
    with pytest.raises(UserError, match=r"line 1 is not a finished item"):
        Store(tmp_path / "s.jsonl")


def add_many(path: Path, name: str) -> None:
    store = Store(path)
    for i in range(200):
        store.add([{"key": f"{name}{i}", "text": "x" * 3000}, {"key": f"shared{i}", "by": name}])


def test_two_processes_on_one_store_lose_no_line(tmp_path):
    path = tmp_path / "s.jsonl"
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=add_many, args=(path, name)) for name in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join()
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 600, "each item once, those of both processes too"


def test_scores_from_a_scripted_server_are_exact(tmp_path, form):
    """Items 0-2 right, 3 wrong, 4 several, 5 asked once more by likelihood; faults are retried and counted."""
    items = read_items(write_benchmark(tmp_path / "bench.jsonl"))
    said = [f"hm\n</think>\n\nSo.\nAnswer: {'ABCDAB'[i]}" for i in range(3)]
    said += ["hm\n</think>\n\nAnswer: C", "hm\n</think>\n\nAnswer: A and B", "Answer: B\n</think>\n\nNo idea."]

    def reply(request):
        found = re.search(r"number (\d)\?", request.prompt)
        return continued(said[int(found[1])], request.prompt) if found else "2"

    script = Script(reply, faults=[None, 500, "drop", 429, "nonsense"])
    with serve(script) as url:
        engine = ServerEngine(url, "scripted", "base", "bfloat16", form)
        answered = ask(engine, OPENED, Limits((64,), 32), accuracy.items_of(items), "b", Store(tmp_path / "g.jsonl"))
        asked = len(script.requests)
        ask(engine, OPENED, Limits((64,), 32), accuracy.items_of(items), "b", Store(tmp_path / "g.jsonl"))
    assert len(script.requests) == asked, "a finished item was asked again"
    cell = accuracy.at_budget(answered, "64")
    assert (cell["base"]["acc"], cell["without_asked"]["base"]["acc"], cell["base"]["n"]) == (4 / 6, 3 / 6, 6)
    assert [cell["base"][name] for name in ("read", "several", "asked", "unparsed")] == [4 / 6, 1 / 6, 1 / 6, 0]
    assert engine.faults["status 500"] == engine.faults["status 429"] == 1
    assert engine.faults["retries"] >= 3


@pytest.fixture
def no_retries(monkeypatch):
    monkeypatch.setattr(server, "make_client", lambda *a: make_client(*a).with_options(max_retries=0))


def test_a_server_that_dies_scores_nothing_and_is_asked_only_for_the_rest(tmp_path, no_retries, form):
    items = choices(tmp_path / "b.jsonl")
    answers = []

    def reply(request):
        answers.append(request)
        if len(answers) == 5:
            script.faults += [503] * 99
        return "hm</think>Answer: A"

    script = Script(reply)
    with serve(script) as url:
        engine = ServerEngine(url, "scripted", "base", "bfloat16", form)
        engine.workers = 1
        with pytest.raises(UserError, match="nothing was scored wrong"):
            ask(engine, OPENED, Limits((64,), 8), items, "b", Store(tmp_path / "g.jsonl"))
        assert len(Store(tmp_path / "g.jsonl").rows) == 5
        script.faults.clear()
        script.requests.clear()
        assert len(ask(engine, OPENED, Limits((64,), 8), items, "b", Store(tmp_path / "g.jsonl"))) == 6
        assert len(script.requests) == 1


def test_a_model_retrained_under_its_old_name_is_another_model(tmp_path, form):
    """Its stored answers do not come back; the same model under another load is the same."""

    def known(weights: str, noise: float = 0.0) -> dict:
        script = Script(lambda request: "2", (Model("m", root="/models/m", weights=weights),), noise=noise)
        with serve(script) as url:
            engine = ServerEngine(url, "m", "base", "bfloat16", form)
            identify(engine, tmp_path)
            return engine.identity

    first = known("one")
    assert known("one") == first
    assert known("one", noise=0.02) == first, "log-probabilities move a little with the batch"
    assert known("two") != first
    assert known("one") == first, "the earlier one is known again"


def test_a_server_that_cannot_serve_is_told(no_retries, form):
    with (
        serve(Script(lambda request: "x", (Model("a"),))) as url,
        pytest.raises(UserError, match="serves a; expected b"),
    ):
        ServerEngine(url, "b", "base", "bfloat16", form)
    with pytest.raises(UserError, match="start the server first"):
        ServerEngine("http://127.0.0.1:9/v1", "m", "base", "bfloat16", form)


def test_the_real_tokenizer_keeps_prompt_letters_and_thought_marks(shared):
    """In DeepSeek-R1's tokenizer each option's letter is one token after its cue."""
    form = PromptFormat.load(str(shared / "tokenizer/deepseek-r1-distill-qwen"), "deepseekr1")
    assert forms.own_form(form).thinks, "its own chat template opens the thought"
    for cue, blank in ((accuracy.CUES["en"], " "), (accuracy.CUES["zh"], "")):
        prompt = f"x\n</think>\n\n{cue}"
        head = form.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        rows = [form.tokenizer(prompt + blank + letter, add_special_tokens=False)["input_ids"] for letter in "ABCDE"]
        assert all(row[:-1] == head for row in rows)
        assert len({row[-1] for row in rows}) == 5
