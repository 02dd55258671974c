"""The whole evaluation on tiny models of three templates, and what it refuses to show or to reuse."""

from __future__ import annotations

import json
import re
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.common import UserError, read_json, write_json
from scripts.evaluate import __main__ as command
from scripts.evaluate.runs import load_results, table_of_runs, table_of_two
from scripts.evaluate.steps import behind_accuracy
from scripts.evaluate.subject import find_subject
from scripts.train import run as runs
from tests.conftest import TEMPLATES, build_adapter, write_records
from tests.evaluate.conftest import make_run, write_benchmark
from tests.evaluate.results import scored
from tests.scripted_server import Model, Script, continued, serve

SMALL = ["--budget", "4 8", "--answer-tokens", "6", "--limit", "3"]


def evaluate(folder: Path, *arguments: str) -> Path:
    """Run the command in this process; returns the results folder."""
    benchmark = write_benchmark(folder.parent / "bench.jsonl")
    old = sys.argv
    sys.argv = ["evaluate", "--out", str(folder), "--benchmarks", str(benchmark), *SMALL, *arguments]
    try:
        command.main()
    finally:
        sys.argv = old
    return folder


@pytest.mark.parametrize("template", [TEMPLATES[0], *(pytest.param(t, marks=pytest.mark.slow) for t in TEMPLATES[1:])])
def test_every_template_is_evaluated_to_the_end(tmp_path, ended_runs, template, capsys):
    """Held-out records, both forms of asking, letters, instructions, controls: with the run's own settings."""
    folder = evaluate(tmp_path / "results", "--adapter", str(ended_runs[template]), "--base-form", "own")
    said = capsys.readouterr().out
    assert "verdict" in said
    results = load_results(folder)
    assert set(results) == {"perplexity", "answers", "accuracy", "instructions", "format", "controls"}
    run = runs.read_run(ended_runs[template])
    for result in results.values():
        subject = result["subject"]
        assert (subject["template"], subject["hashes"]["tuned"]) == (template, run["adapter_hash"])
        assert result["engine"] == "transformers"
        assert result["precision"] in ("bfloat16", "float32")
    cell = results["accuracy"]["tasks"]["bench"]["budgets"]["8"]
    for side in ("base", "tuned"):
        assert sum(cell[side][name] for name in ("read", "asked", "several", "unparsed")) == pytest.approx(1)
    assert results["perplexity"]["base"]["n"] == results["perplexity"]["tuned"]["n"] == 3
    assert results["perplexity"]["settings"]["held_out"].endswith("own_test.jsonl")
    assert "problems" not in results["format"], "texts of 8 tokens have no form"
    assert "well-formed output is not counted" in said
    assert "well-formed" not in (folder / "report.md").read_text()
    assert (folder / "report.html").exists()


def test_seeds_rotated_options_a_development_set_and_a_judge(tmp_path, ended_run, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    development = write_benchmark(tmp_path / "dev.jsonl")
    arguments = [
        "--adapter",
        str(ended_run),
        "--only",
        "accuracy",
        "format",
        "judge",
        "--development",
        str(development),
    ]
    arguments += ["--permute", "--sampling", "r1", "--seeds", "1", "2"]
    with serve(Script(lambda request: "[[tie]]", key="secret")) as url:
        folder = evaluate(tmp_path / "results", *arguments, "--judge-url", url, "--judge-model", "scripted")
    results = load_results(folder)
    assert set(results["accuracy"]["tasks"]) == {"bench", "bench (rotated)"}
    assert results["accuracy"]["tasks"]["bench"]["budgets"]["8"]["base"]["n"] == 3, "items, not answers"
    assert results["accuracy"]["behind"]["tuned"]["stays"]["n"] == 3
    assert results["accuracy"]["settings"]["base_form_chosen"]["by"] == "development set"
    judged = results["pairwise"]
    assert (judged["judge"]["model"], judged["counts"]["tie"], judged["n"]) == ("scripted", 3, 3)
    assert set(judged["controls"]) == {"identical", "swapped", "padded"}
    assert "a difference under" in capsys.readouterr().out


def test_a_rerun_asks_nothing_again(tmp_path, ended_run, monkeypatch):
    from scripts.evaluate.engines import LocalEngine

    folder = evaluate(tmp_path / "results", "--adapter", str(ended_run), "--only", "accuracy", "perplexity")
    before = (folder / "generations.jsonl").read_text()
    first = read_json(folder / "accuracy.json")["tasks"]
    asked = []
    generate = LocalEngine.generate
    monkeypatch.setattr(
        LocalEngine,
        "generate",
        lambda self, p, limit, s, seeds: asked.append(limit) or generate(self, p, limit, s, seeds),
    )
    evaluate(folder, "--adapter", str(ended_run), "--only", "accuracy", "perplexity")
    assert asked == [12], "the speed is measured again, no item is asked"
    assert (folder / "generations.jsonl").read_text() == before
    assert read_json(folder / "accuracy.json")["tasks"] == first


def test_after_training_again_in_the_same_folder_its_own_held_out_file_counts(tmp_path, tiny_model):
    """Retrain on other data, then evaluate: the old run's held-out file and results must not come back."""
    adapter = make_run(tmp_path, tiny_model, "deepseekr1")
    evaluate(tmp_path / "results", "--adapter", str(adapter), "--only", "perplexity")
    shutil.rmtree(adapter)
    shutil.copytree(make_run(tmp_path / "again", tiny_model, "deepseekr1"), adapter)
    held_out = write_records(tmp_path / "own_test.jsonl", 5, "Quite another held-out thought.")
    identity = {"held_out": {"path": str(held_out), "hash": runs.file_hash(held_out)}, "adapter_hash": None}
    write_json(adapter / "medcot.json", read_json(adapter / "medcot.json") | identity)
    other = build_adapter(tiny_model, tmp_path / "other")
    shutil.copy(other / "adapter_model.safetensors", adapter)
    runs.finish(adapter)
    folder = evaluate(tmp_path / "results", "--adapter", str(adapter), "--only", "perplexity")
    found = read_json(folder / "perplexity.json")
    assert found["base"]["n"] == 5
    assert found["subject"]["hashes"]["tuned"] == runs.read_run(adapter)["adapter_hash"]
    assert read_json(folder / "old-1/perplexity.json")["base"]["n"] == 3, "the older results are kept apart"


def test_a_held_out_file_that_was_prepared_again_is_refused(tmp_path, tiny_model):
    adapter = make_run(tmp_path, tiny_model, "deepseekr1")
    write_records(tmp_path / "own_test.jsonl", 4)
    with pytest.raises(UserError, match="prepared again"):
        evaluate(tmp_path / "results", "--adapter", str(adapter), "--only", "perplexity")


def test_a_left_over_file_of_another_model_is_named_and_not_shown(tmp_path, ended_run):
    from scripts.evaluate.report import write_report

    folder = evaluate(tmp_path / "results", "--adapter", str(ended_run), "--only", "perplexity")
    other = read_json(folder / "perplexity.json")
    other["subject"] = other["subject"] | {"id": "x", "adapter": "saves/older", "hashes": {"tuned": "0123456789"}}
    write_json(folder / "pairwise.json", other)
    with pytest.raises(UserError, match=r"saves/older \(01234567.*Evaluate again"):
        write_report(folder)


def test_overrides_count_not_the_recipe_file(tmp_path, tiny_model):
    """Trained with quantization_bit=null: the base is evaluated so, whatever the recipe file says."""
    adapter = make_run(tmp_path, tiny_model, "deepseekr1", quantization_bit=4)
    assert runs.read_run(adapter)["precision"]["bits"] == 4
    identity = read_json(adapter / "medcot.json")
    identity |= {"precision": {"bits": None, "dtype": "float32"}, "overrides": ["quantization_bit=null"]}
    write_json(adapter / "medcot.json", identity)
    folder = evaluate(tmp_path / "results", "--adapter", str(adapter), "--only", "perplexity")
    assert read_json(folder / "perplexity.json")["precision"] == "float32"


def test_a_run_without_a_test_split_skips_perplexity_and_goes_on(tmp_path, tiny_model, capsys):
    adapter = make_run(tmp_path, tiny_model, "deepseekr1")
    write_json(adapter / "medcot.json", read_json(adapter / "medcot.json") | {"held_out": None})
    folder = evaluate(tmp_path / "results", "--adapter", str(adapter), "--only", "perplexity", "answers")
    assert "no perplexity" in capsys.readouterr().out
    assert (folder / "answers.json").exists()
    assert not (folder / "settings.json").exists(), "what these steps need would be far too much for the others"
    assert not (folder / "perplexity.json").exists()


def test_what_has_been_measured_is_listed_and_compared(tmp_path, ended_run):
    evaluate(tmp_path / "results/one", "--adapter", str(ended_run), "--only", "perplexity", "accuracy")
    shutil.copytree(tmp_path / "results/one", tmp_path / "results/two")
    (tmp_path / "results/two/old.json").write_text("{}")
    listed = table_of_runs(tmp_path / "results")
    assert listed.count(str(ended_run)) == 2
    assert "own_train" in listed
    changed = read_json(tmp_path / "results/two/accuracy.json")
    changed["settings"]["budgets"] = [512]
    write_json(tmp_path / "results/two/accuracy.json", changed)
    sides = table_of_two(tmp_path / "results/one", tmp_path / "results/two")
    assert "one: base" in sides
    assert "accuracy: budgets" in sides
    assert json.loads((tmp_path / "results/one/accuracy.json").read_text())["provenance"]["date"] in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "server", "--model", "m"], "needs --base-url"),
        (["--adapter", "/nowhere"], "found no adapter_config.json"),
        (["--seeds", "1", "2"], "add --sampling r1"),
        (["--judge-url", "http://x/v1"], "belong together"),
        (["--model", "m"], "--template"),
        (["--budget", "0"], "--budget"),
        (["--limit", "-1"], "--limit"),
        (["--answer-tokens", "-3"], "--answer-tokens: found -3"),
        (["--answer-tokens", "0"], "--answer-tokens: found 0"),
        (["--benchmarks", "/nowhere.jsonl"], "no such file"),
        (["--engine", "vllm", "--vllm", "/nowhere"], "make setup-vllm"),
        (["report", "/nowhere"], "nothing"),
    ],
)
def test_bad_input_is_told_before_any_work(tmp_path, ended_run, monkeypatch, arguments, message):
    if "vllm" in arguments:
        arguments = [*arguments, "--adapter", str(ended_run), "--out", str(tmp_path), "--only", "accuracy"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    with pytest.raises(UserError, match=message):
        command.main()


def speak(request) -> str:
    """A model that thinks, then answers with the letter that the tuned one knows."""
    number = int(re.search(r"number (\d)", request.prompt + "number 0")[1])
    letter = "A" if request.model == "base" else "ABCD"[number % 4]
    said = f"First the fever, then the cough.\n</think>\n\nSo.\nAnswer: {letter}"
    return continued(said, request.prompt)


def test_a_vllm_server_of_base_and_adapter_is_evaluated_by_its_run(tmp_path, ended_run):
    """As vLLM serves them: two names, prefill, budgets, log-probabilities; prompts are those of the run's template."""
    models = (Model("base", root="/models/base"), Model("tuned", root="/adapters/run"))
    script = Script(speak, models, faults=[None, None, 500, "drop"])
    with serve(script) as url:
        arguments = ["--engine", "server", "--base-url", url, "--model", "base", "--adapter", "tuned"]
        arguments += ["--run", str(ended_run), "--precision", "bfloat16", "--base-form", "thinking"]
        folder = evaluate(tmp_path / "results", *arguments, "--budget", "64", "--answer-tokens", "32", "--limit", "4")
        asked = len(script.requests)
        evaluate(folder, *arguments, "--budget", "64", "--answer-tokens", "32", "--limit", "4", "--only", "accuracy")
        again = [request for request in script.requests[asked:] if "number" in request.prompt]
    assert again == [], "finished items are not asked again"
    results = load_results(folder)
    cell = results["accuracy"]["tasks"]["bench"]["budgets"]["64"]
    assert (cell["base"]["acc"], cell["tuned"]["acc"], cell["tuned"]["read"]) == (0.25, 1.0, 1.0)
    assert (results["accuracy"]["engine"], results["accuracy"]["precision"]) == ("vllm", "bfloat16")
    assert results["instructions"]["faults"]["status 500"] == 1
    assert results["perplexity"]["engine"] == "transformers", "in training's precision, and said so"
    prompts = [request.prompt for request in script.requests if "Which one" in request.prompt]
    form = find_subject(Namespace(model=None, adapter=str(ended_run), template=None, system=None)).prompt_format()
    assert all(prompt.startswith(form.frame().before) for prompt in prompts)
    assert script.requests[-1].body["stop_token_ids"] == form.stop_ids(), "as the engine here stops"
    assert len(read_json(folder / "servers.json")) == 2


def test_items_of_two_benchmarks_that_number_them_alike_are_counted_apart():
    rows = []
    for task in ("medqa", "cmexam", "medqa (rotated)"):
        for i in range(3):
            row = scored("tuned", i, right=True) | {"task": task}
            row["outputs"]["64"]["opened"] = True
            rows.append(row)
    run = SimpleNamespace(
        sides=("tuned",),
        forms={"tuned": SimpleNamespace(marks=("<think>", "</think>"))},
        settings=SimpleNamespace(rotated=False),
    )
    assert behind_accuracy(run, rows)["tuned"]["repeats_endlessly"]["n"] == 6
