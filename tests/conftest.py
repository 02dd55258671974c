"""Fixtures: real data beside the project, where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2-shaped model with random weights and the base model's special tokens; copy it before changing it."""
    from scripts.train.bases import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    build_tokenizer(["Fever for three days, give fluids. 患者发热三天，建议补液。"] * 3, folder, vocab_size=400)
    build_model(folder, hidden=64, layers=2)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """../shared with real data and the real tokenizer; the tests that want it are skipped without."""
    path = ROOT.parent / "shared"
    if not (path / "data").is_dir():
        pytest.skip("../shared is not present")
    return path
