"""Benchmarks end to end: the fixed prompt, budget forcing, exact scores from a scripted server, resuming, bad files."""

from __future__ import annotations

import json
import re

import pytest

from scripts.common import UserError
from scripts.evaluate import accuracy
from scripts.evaluate import engines as engine
from scripts.evaluate import subject as models
from scripts.evaluate.client import Client
from scripts.evaluate.subject import Store
from tests.evaluate.servers import Script, serve
from tests.evaluate.tiny import build_tiny


def write_benchmark(path, n=6, lang="en", letters="ABCD"):
    rows = [
        {"id": f"{lang}{i}", "lang": lang, "question": f"Question {i}?", "answer_idx": letters[i % len(letters)]}
        | {"options": {letter: f"choice {letter.lower()}{i}" for letter in letters}}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    base, adapter = build_tiny(tmp_path_factory.mktemp("tiny"))
    return models.Subject(base, adapter, precision={"bits": None, "dtype": "float32"})


def test_local_models_are_forced_at_the_budget_and_resume(subject, tmp_path, monkeypatch):
    files = [
        write_benchmark(tmp_path / "medcot_en.jsonl"),
        write_benchmark(tmp_path / "other.jsonl", 5, "zh", "ABCDEFGHIJ"),
    ]

    def evaluate(folder):
        store = Store(tmp_path / folder / "g.jsonl")
        rows = []
        for name in subject.names:
            thinker = engine.Thinker(engine.LocalEngine(subject, name, 2), store, (4, 8), 6)
            rows += accuracy.run(thinker, files, None)
        return rows, accuracy.summarise(rows)

    rows, result = evaluate("whole")
    assert [(task, cell["budgets"]["8"]["base"]["n"]) for task, cell in result.items()] == [
        ("medcot_en", 6),
        ("other", 5),
    ]
    assert [cell["chance"] for cell in result.values()] == pytest.approx([0.25, 0.1])
    forced = [row for row in rows if row["outputs"]["8"]["forced"]]
    assert len(forced) > len(rows) / 2, "random models seldom close a thought within 8 tokens"
    for row in forced:
        small, large = row["outputs"]["4"], row["outputs"]["8"]
        thought = {n: row["outputs"][n]["text"].split("\n</think>\n\n")[0] for n in ("4", "8")}
        assert thought["8"].startswith(thought["4"]), "the larger budget continues the smaller one's thought"
        assert small["choice"] in row["options"], "a forced answer is one of the letters"
        assert large["choice"] in row["options"]
        assert large["text"].split("</think>\n\n")[1][:-1] == accuracy.CUES[row["lang"]]
    assert {row["model"] for row in rows} == {"base", "tuned"}
    by_model = {
        name: [row["outputs"]["8"]["text"] for row in rows if row["model"] == name] for name in ("base", "tuned")
    }
    assert by_model["base"] != by_model["tuned"], "the adapter is switched on and off"

    calls = []
    generate = engine.LocalEngine.generate

    def dying(self, *arguments):
        calls.append(arguments)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return generate(self, *arguments)

    monkeypatch.setattr(engine.LocalEngine, "generate", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate("killed")
    done = len((tmp_path / "killed" / "g.jsonl").read_text().splitlines())
    assert 0 < done < len(rows)
    again, summary = evaluate("killed")
    assert summary == result
    assert [row["outputs"] for row in again] == [row["outputs"] for row in rows]
    before = len(calls)
    evaluate("killed")
    assert len(calls) == before, "a finished item was asked again"


def test_a_finished_item_is_read_again_whatever_the_model_said(tmp_path):
    said = "line\u2028separator, next\x85line, return\r and feed\x0c"
    Store(tmp_path / "s.jsonl").add([{"key": "k", "text": said}])
    assert Store(tmp_path / "s.jsonl").rows == {"k": {"key": "k", "text": said}}
    (tmp_path / "s.jsonl").write_text('{"text": "no key"}\n')
    with pytest.raises(UserError, match=r"s\.jsonl:1: not a finished item"):
        Store(tmp_path / "s.jsonl")


def test_the_prompt_is_the_templates_with_an_opened_thought(subject):
    local = engine.LocalEngine(subject, "base")
    text = "发热3天, what now?"
    assert local.prompt(text) == f"<｜begin▁of▁sentence｜><｜User｜>{text}<｜Assistant｜><think>\n"
    with serve(Script(lambda _: "x", completions=True)) as url:
        server = engine.ServerEngine(Client(url, "m"), "base")
        assert server.prompt(text) == local.prompt(text)


def test_left_padding_does_not_change_an_answer(subject):
    local = engine.LocalEngine(subject, "tuned", 4)
    prompts = [local.prompt(text) for text in ("Hi", "A much longer question about fever, cough and chest pain?")]
    together = local.generate(prompts, 12, {}, 0)
    assert [piece.text for piece in together] == [local.generate([p], 12, {}, 0)[0].text for p in prompts]
    options = [("A", "B", "C", "D")] * 2
    assert local.choose(prompts, options) == [local.choose([prompt], options[:1])[0] for prompt in prompts]


def test_sampling_differs_by_seed_and_repeats(subject, tmp_path):
    def ask(seed, folder):
        thinker = engine.Thinker(
            engine.LocalEngine(subject, "tuned", 4), Store(tmp_path / folder), (8,), 4, engine.R1_SAMPLING, seed
        )
        return [row["outputs"]["8"]["text"] for row in thinker.answer([engine.Item("a", "Fever?")], "t")]

    assert ask(1, "one") == ask(1, "again")
    assert ask(1, "one") != ask(2, "one")


@pytest.mark.parametrize("completions", [True, False])
def test_scores_from_a_scripted_server_are_exact(tmp_path, completions):
    """Items 0-2 right, 3 wrong, 4 unparsed, 5 a letter only inside the reasoning (unparsed as well)."""
    path = write_benchmark(tmp_path / "bench.jsonl")

    def reply(prompt):
        if "Question" not in prompt:
            return "2"  # the engine's probe for /v1/completions
        i = int(re.search(r"Question (\d)\?", prompt)[1])
        key = "ABCDAB"[i]
        said = [f"hm</think>Answer: {key}"] * 3 + [
            "hm</think>Answer: C",
            "hm</think>No idea.",
            f"Answer: {key}</think>?",
        ]
        return said[i]

    script = Script(reply, (500, "drop", 429), completions)
    with serve(script) as url:
        client = Client(url, "m", attempts=5, timeout=2, pause=0.001)
        thinker = engine.Thinker(engine.ServerEngine(client, "base", 2), Store(tmp_path / "g.jsonl"), (64,), 8)
        rows = accuracy.run(thinker, [path], None)
    cell = accuracy.summarise(rows)["bench"]["budgets"]["64"]["base"]
    assert (cell["acc"], cell["n"], cell["unparsed"], cell["cut"]) == (3 / 6, 6, 2 / 6, 0.0)
    assert thinker.engine.prefill == completions
    assert client.faults.total() >= 2, "the faults were retried"
    asked = len(script.prompts)
    assert len(accuracy.run(thinker, [path], None)) == 6
    assert len(script.prompts) == asked


def test_a_server_that_dies_scores_nothing(tmp_path):
    path = write_benchmark(tmp_path / "bench.jsonl")
    with serve(Script(lambda _: "hm</think>Answer: A", (), True)) as url:
        thinker = engine.Thinker(
            engine.ServerEngine(Client(url, "m", attempts=2, timeout=1, pause=0.001), "base", 2),
            *(Store(tmp_path / "g.jsonl"), (64,), 8),
        )
    with pytest.raises(UserError, match="nothing was scored wrong"):
        accuracy.run(thinker, [path], None)
    assert not thinker.store.rows


def test_a_server_that_dies_midway_is_asked_only_for_the_rest(tmp_path):
    path = write_benchmark(tmp_path / "bench.jsonl")

    def reply(prompt):
        if len(script.prompts) == 5:  # the probe and four answers, then nothing but errors
            script.faults += [503] * 99
        return "hm</think>Answer: A"

    script = Script(reply, (), True)
    with serve(script) as url:

        def run():
            client = Client(url, "m", attempts=2, timeout=2, pause=0.001)
            thinker = engine.Thinker(engine.ServerEngine(client, "base", 2), Store(tmp_path / "g.jsonl"), (64,), 8)
            return accuracy.run(thinker, [path], None)

        with pytest.raises(UserError, match="nothing was scored wrong"):
            run()
        assert len(Store(tmp_path / "g.jsonl").rows) == 4
        script.faults.clear()
        script.prompts.clear()
        assert len(run()) == 6
        assert len(script.prompts) == 1 + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_idx": "E"}, r":1: answer_idx is 'E', expected one of A, B, C, D"),
        ({"answer_idx": None}, r":1: answer_idx is None"),
        ({"options": {"A": "x"}}, r":1: expected `question` and at least two"),
        ({"question": ""}, r":1: expected `question`"),
        ({"id": None}, r":1: id None is missing"),
    ],
)
def test_a_bad_benchmark_stops_before_any_work(tmp_path, change, message):
    path = write_benchmark(tmp_path / "b.jsonl", 1)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        accuracy.read_benchmark(path)
    path.write_text("")
    with pytest.raises(UserError, match="no items"):
        accuracy.read_benchmark(path)


def test_seeds_are_clusters_and_holm_guards_the_gain():
    def row(i, seed, name, right):
        output = {
            "choice": "A" if right else None,
            "cut": False,
            "forced": False,
            "thought_tokens": 5,
            "answer_tokens": 1,
        }
        about = {"task": "t", "id": i, "seed": seed, "model": name, "lang": "en", "answer_idx": "A"}
        return {**about, "options": {"A": "x", "B": "y"}, "outputs": {"8": output}}

    once = [row(i, 1, name, name == "tuned" or i < 2) for name in ("base", "tuned") for i in range(8)]
    cell = accuracy.summarise(once)["t"]["budgets"]["8"]
    assert (cell["base"]["acc"], cell["tuned"]["acc"], cell["base"]["unparsed"]) == (0.25, 1.0, 0.75)
    assert (cell["difference"]["gained"], cell["difference"]["p"]) == (6, 2 * 0.5**6)
    assert cell["difference"]["gain"]
    few = [r for r in once if r["id"] < 4]  # +50 points, but from 2 of 4 items: p = 0.5
    assert not accuracy.summarise(few)["t"]["budgets"]["8"]["difference"]["gain"]
    thrice = [
        row(i, s, name, name == "tuned" or i < 2) for name in ("base", "tuned") for i in range(8) for s in range(3)
    ]
    cell = accuracy.summarise(thrice)["t"]["budgets"]["8"]
    assert cell["base"]["n"] == cell["difference"]["n"] == 8
    assert "gained" not in cell["difference"]


def test_the_real_tokenizer_keeps_prompt_letters_and_thought_marks(shared, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (shared / "tokenizer" / "deepseek-r1-distill-qwen").iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    real = models.Subject(str(folder), None)
    tokenizer, template = models.load_tokenizer(real)
    real._loaded = (None, tokenizer, template)
    local = engine.LocalEngine.__new__(engine.LocalEngine)
    local.subject = real
    prompt = local.prompt("Hello world, 患者发热3天。\nA. 肺炎")
    assert prompt == "<｜begin▁of▁sentence｜><｜User｜>Hello world, 患者发热3天。\nA. 肺炎<｜Assistant｜><think>\n"
    official = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    assert tokenizer(local.prompt("Hi"), add_special_tokens=False)["input_ids"] == official
    for cue in accuracy.CUES.values():
        ids = tokenizer(f"x\n</think>\n\n{cue}", add_special_tokens=False)["input_ids"]
        for letter in "ABCDEFGHIJ":  # the letter is one token that leaves the cue's tokens as they are
            assert tokenizer(f"x\n</think>\n\n{cue}{letter}", add_special_tokens=False)["input_ids"][:-1] == ids
