"""make: variables count from the command line only, blanks are kept, and cleaning leaves other people's runs alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.common import ROOT


def make(*arguments: str, cwd: Path = ROOT, stdin: str = "", **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=os.environ | env, input=stdin, capture_output=True, text=True
    )


def commands(*arguments: str, **env: str) -> str:
    """What make would run, in one line, blanks as one."""
    return " ".join(make("-n", *arguments, **env).stdout.replace("\\\n", " ").split())


NOISE = dict.fromkeys("COLUMNS MODEL LIMIT RECIPE ARGS SOURCE BASE ADAPTER BUDGET ENGINE".split(), "9")  # noqa: SIM905


@pytest.mark.parametrize(
    "target", ["demo", "train", "eval", "export", "chat", "api", "webchat", "review", "test", "lint"]
)
def test_the_environment_does_not_reach_in(target):
    assert commands(target, **NOISE) == commands(target)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["demo", "SOURCE=my records.json"], "scripts.demo --source 'my records.json'"),
        (["demo", "SOURCE=it's.json"], "scripts.demo --source 'it'\\''s.json'"),
        (["demo", "COLUMNS=Question=q 'Response=the answer'"], "--columns Question=q 'Response=the answer'"),
        (["demo", "BASE=tiny", "STEPS=5"], "--base 'tiny' --steps '5'"),
        (["train", "RECIPE=my recipe.yaml", "ARGS=a=b c=d"], "scripts.train 'my recipe.yaml' a=b c=d"),
        (["eval", "BUDGET=256 1024", "LIMIT=0", "ENGINE=vllm"], "--engine 'vllm' --budget 256 1024 --limit '0'"),
    ],
)
def test_what_is_given_goes_through(arguments, wanted):
    assert wanted in commands(*arguments)


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with the Makefile, the demo's files and a run of somebody's own."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    runs = ("saves/demo", "saves/demo-tiny", "saves/own", "saves/qwen_coder_0.5b")
    for name in (*runs, "results/demo", "data/demo", "data/own"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    return tmp_path


def left(project: Path) -> set[str]:
    return {str(path.parent.relative_to(project)) for path in project.glob("*/*/file")}


def test_clean_removes_the_demos_files_alone(project):
    assert make("clean", cwd=project).returncode == 0
    assert left(project) == {"saves/own", "saves/qwen_coder_0.5b", "data/own"}


def test_clean_all_names_what_it_would_delete_and_asks(project):
    refused = make("clean-all", cwd=project, stdin="no\n")
    assert "saves/own" in refused.stdout
    assert "saves/own" in left(project)
    assert make("clean-all", cwd=project, stdin="yes\n").returncode == 0
    assert left(project) == {"data/own"}, "prepared data is not a run"
