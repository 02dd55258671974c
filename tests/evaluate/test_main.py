"""The command: what it picks by default, what it refuses before any work, and that a killed run goes on as if whole."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace

import pytest

from scripts.common import ROOT, UserError
from scripts.evaluate import plan
from scripts.evaluate.client import Client
from tests.evaluate.servers import Script, llamafactory_api, serve
from tests.evaluate.test_accuracy import write_benchmark
from tests.evaluate.tiny import build_tiny, write_records

FLAGS = ("model", "adapter", "recipe", "data", "base_url", "budget", "answer_tokens", "limit", "seeds", "benchmarks")
FLAGS += ("batch_size", "cutoff_len", "judge_url", "judge_model", "out")


def options(**given):
    return Namespace(**{**dict.fromkeys(FLAGS), "engine": "hf", "sampling": "greedy", **given})


def add_run(root, name, finished=True, when=0, **about):
    folder = root / "saves" / name
    folder.mkdir(parents=True)
    recipe = {"recipe": "recipe.yaml", "model": "base", "dataset": "own_train", "dataset_dir": str(root)}
    (folder / "medcot.json").write_text(json.dumps({**recipe, "cutoff_len": 99, **about}))
    if finished:
        (folder / "adapter_config.json").write_text("{}")
        (folder / "train_results.json").write_text("{}")
    os.utime(folder / "medcot.json", (when, when))


def test_the_last_finished_fine_tune_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    with pytest.raises(UserError, match="run `make demo` or `make train` first"):
        plan.describe(options())
    add_run(tmp_path, "old", when=1)
    add_run(tmp_path, "new", when=2)
    add_run(tmp_path, "unfinished", finished=False, when=3)
    with pytest.raises(UserError, match=r"dataset_info\.json"):
        plan.describe(options())
    (tmp_path / "dataset_info.json").write_text('{"own_test": {"file_name": "data/own_test.jsonl"}}')
    write_records((tmp_path / "data").mkdir() or tmp_path / "data/own_test.jsonl")
    found = plan.describe(options())
    assert (found["adapter"], found["model"], found["out"]) == ("saves/new", "base", "results/new")
    assert found["test_file"] == f"{tmp_path}/data/own_test.jsonl", "where the registry says, as for yamls/qlora.yaml"
    assert found["data_report"] == f"{tmp_path}/data/report.json"
    assert found["cutoff_len"] == 99
    demo = tmp_path / "results" / "demo"
    demo.mkdir(parents=True)
    (demo / "run.json").write_text(json.dumps({"name": "demo", "adapter": "saves/new", "model": "base"}))
    assert plan.describe(options())["out"].endswith("results/demo"), "the demo's results go on in its own folder"
    assert plan.describe(options(out="elsewhere"))["out"] == "elsewhere"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "server", "--model", "m"], "needs --base-url"),
        (["--model", "m", "--adapter", "/nowhere"], "found no adapter_config.json"),
        (["--seeds", "1", "2"], "add --sampling r1"),
        (["--judge-url", "http://x/v1"], "belong together"),
        (["perplexity", "--model", "m", "--data", "/nowhere.jsonl", "--out", "o"], "no such file"),
        (["report", "/nowhere"], "nothing to report"),
        (["model-card", "/nowhere"], "no run.json"),
        (["review", "/nowhere"], "no pairs.jsonl"),
    ],
)
def test_bad_input_is_told_before_any_work(arguments, message, monkeypatch):
    from scripts.evaluate import __main__

    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    with pytest.raises(UserError, match=re.escape(message)):
        __main__.main()


def test_bad_settings_are_told_before_any_work(tmp_path):
    base, adapter = build_tiny(tmp_path)
    benchmark = write_benchmark(tmp_path / "b.jsonl", 2)
    given = {"model": base, "adapter": adapter, "benchmarks": [str(benchmark)]}
    assert plan.Plan(options(**given, budget=["64 8", "16,8"])).budgets == (8, 16, 64)
    assert plan.Plan(options(**given)).small
    for change, message in (
        ({"budget": ["0"]}, "--budget"),
        ({"limit": -1}, "--limit"),
        ({"data": str(tmp_path / "none.jsonl")}, "no such file"),
        ({"benchmarks": [str(tmp_path / "none.jsonl")]}, "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            plan.Plan(options(**{**given, **change}))


def test_help_loads_nothing_heavy():
    heavy = {"torch", "transformers", "scipy", "matplotlib", "gradio", "lm_eval", "numpy"}
    code = "import sys, scripts.evaluate.__main__ as m; sys.argv = ['x', '--help']\n"
    code += f"try: m.main()\nexcept SystemExit: pass\nsys.exit(str({heavy} & set(sys.modules) or '') or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--judge-url" in done.stdout


def evaluate(folder, base, adapter, data, benchmarks, judge, **process):
    command = [sys.executable, "-m", "scripts.evaluate", "--model", base, "--adapter", adapter, "--data", str(data)]
    command += ["--benchmarks", *map(str, benchmarks), "--out", str(folder), "--judge-url", judge, "--judge-model", "s"]
    command += ["--limit", "6", "--batch-size", "2", "--budget", "4 8", "--answer-tokens", "6"]
    return subprocess.Popen(command, cwd=ROOT, **process)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_half_a_rerun_asks_no_finished_item_again_and_gives_the_same_numbers(tmp_path):
    base, adapter = build_tiny(tmp_path)
    data = write_records(tmp_path / "data.jsonl")
    benchmarks = [write_benchmark(tmp_path / "en.jsonl"), write_benchmark(tmp_path / "zh.jsonl", 6, "zh")]
    script = Script(lambda prompt: "[[A]]" if "Answer B" in prompt else "[[equivalent]]")
    with serve(script) as url:
        assert evaluate(tmp_path / "whole", base, adapter, data, benchmarks, url).wait() == 0
        asked_whole = len(script.prompts)
        store = tmp_path / "killed" / "generations.jsonl"
        total = len((tmp_path / "whole" / "generations.jsonl").read_text().splitlines())
        run = evaluate(tmp_path / "killed", base, adapter, data, benchmarks, url)
        while run.poll() is None and not (store.exists() and store.read_text().count("\n") >= total / 2):
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
        before = store.read_text()
        assert 0 < before.count("\n") < total
        assert evaluate(tmp_path / "killed", base, adapter, data, benchmarks, url).wait() == 0
        after = store.read_text()
        assert after.startswith(before[: before.rfind("\n") + 1])
        keys = [json.loads(line)["key"] for line in after.splitlines()]
        assert len(keys) == len(set(keys)) == total
        asked = len(script.prompts)
        assert asked == 2 * asked_whole
        assert evaluate(tmp_path / "killed", base, adapter, data, benchmarks, url).wait() == 0
        assert len(script.prompts) == asked, "a finished verdict was asked again"
    for name in ("perplexity", "accuracy", "instructions", "format", "freeform", "pairwise", "controls"):
        first, second = (json.loads((tmp_path / run / f"{name}.json").read_text()) for run in ("whole", "killed"))
        for result in (first, second):
            result.pop("provenance")
            result.pop("judge", None)
        assert first == second, name
    pairwise = json.loads((tmp_path / "killed" / "pairwise.json").read_text())
    assert pairwise["counts"] == {"tuned": 0, "base": 0, "tie": 6, "unscored": 0}  # always the first: all ties


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_judge_path_against_llamafactorys_own_server(tmp_path):
    """A tiny model as its own judge: nothing can be scored, and the report says so."""
    from scripts.evaluate import judge
    from scripts.evaluate import subject as models
    from scripts.evaluate.report import write_report
    from tests.evaluate.test_judge import pair

    with llamafactory_api(*build_tiny(tmp_path), tmp_path / "judge.log") as url:
        client = Client(url, "tuned", "key")
        rows = judge.pairwise(
            [pair(i) for i in range(3)], judge.judge_from(client, 8), {}, models.Store(tmp_path / "v.jsonl")
        )
    result = judge.summarise_pairs(rows)
    assert result["counts"]["unscored"] == 3
    assert not client.faults
    assert all("text" in row for row in models.Store(tmp_path / "v.jsonl").rows.values())
    (tmp_path / "pairwise.json").write_text(json.dumps(result | {"self": True, "faults": {}}))
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "0 of 3 pairs could be scored" in text
    assert "UNINFORMATIVE" in text


def test_a_model_that_judges_itself_is_asked_in_both_orders_and_resumes(tmp_path, monkeypatch):
    from scripts.evaluate import engines as engine
    from scripts.evaluate import judge
    from scripts.evaluate import subject as models
    from tests.evaluate.test_judge import pair

    subject = models.Subject(*build_tiny(tmp_path), precision={"bits": None, "dtype": "float32"})
    ask, store = judge.self_judge(engine.LocalEngine(subject, "tuned"), 8), models.Store(tmp_path / "v.jsonl")
    rows = judge.pairwise([pair(i) for i in range(2)], ask, {}, store, workers=1)
    assert [row["outcome"] for row in rows] == ["unscored"] * 2, "a cut-off text is no verdict"
    assert len(store.rows) == 4
    monkeypatch.setattr(engine.LocalEngine, "generate", lambda *_: pytest.fail("asked again"))
    assert judge.pairwise([pair(i) for i in range(2)], ask, {}, store, workers=1) == rows
