"""Fixtures of the tests that need an NVIDIA GPU: a small model, records, and runs of yamls/qlora.yaml on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS, SAVE = 120, 40


class Road:
    """A folder with a small model and records, and yamls/qlora.yaml pointed at them."""

    def __init__(self, folder: Path) -> None:
        from scripts.train.bases import build_model, build_tokenizer

        self.folder, self.model = folder, folder / "model"
        self.rows = []
        for line in (ROOT / "data/sample.jsonl").read_text().splitlines():
            row = json.loads(line)
            parts = (
                [row.get(key) for key in ("Question", "Complex_CoT", "Response")] if isinstance(row, dict) else [None]
            )
            if all(isinstance(part, str) for part in parts):  # the sample has planted faults
                output = f"<think>\n{parts[1]}\n</think>\n\n{parts[2]}"
                self.rows.append({"input": parts[0], "output": output})
        # 2,000 tokens in 2,048 rows: Unsloth needs room for a padding token of its own
        build_tokenizer([row["input"] + row["output"] for row in self.rows], self.model, vocab_size=2000)
        build_model(self.model, hidden=256, layers=4)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row | {"lang": "en"}) + "\n" for row in self.rows))
        columns = {"prompt": "input", "response": "output"}
        (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.jsonl", "columns": columns}}))

    def start(self, name: str, gpus: int = 1) -> subprocess.Popen:
        """Start the trainer on yamls/qlora.yaml with this folder's model and records; its output goes to NAME.log."""
        changes = {
            **{"model_name_or_path": self.model, "dataset_dir": self.folder, "dataset": "rows"},
            **{"output_dir": self.folder / name, "per_device_train_batch_size": 8 // gpus, "max_steps": STEPS},
            **{"gradient_accumulation_steps": 1, "eval_dataset": "null", "eval_strategy": "'no'"},
            **{"save_steps": SAVE, "logging_steps": 1, "learning_rate": 1e-3, "plot_loss": False},
        }
        pairs = [f"{key}={value}" for key, value in changes.items()]
        command = [sys.executable, "-m", "llamafactory.cli", "train", "yamls/qlora.yaml", *pairs]
        with (self.folder / f"{name}.log").open("a") as log:
            env = os.environ | {"UNSLOTH_DISABLE_STATISTICS": "1", "CUDA_VISIBLE_DEVICES": "0,1" if gpus == 2 else "0"}
            # LLaMA-Factory calls torchrun by its name
            env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            return subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)

    def losses(self, name: str) -> dict[int, float]:
        """Loss (nats/token) by optimiser step; a step that a resumed run made again counts once, its last time."""
        lines = (self.folder / name / "trainer_log.jsonl").read_text().splitlines()
        return {row["current_steps"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}


def mean_loss(curve: dict[int, float], first: int = 0, last: int = 0) -> float:
    """Mean loss of the first or the last so many steps of a curve."""
    steps = sorted(curve)[:first] if first else sorted(curve)[-last:]
    return sum(curve[step] for step in steps) / len(steps)


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    return Road(tmp_path_factory.mktemp("road"))


@pytest.fixture(scope="session")
def trained(road: Road) -> Road:
    """The uninterrupted run, "whole"."""
    assert road.start("whole").wait() == 0, (road.folder / "whole.log").read_text()[-3000:]
    return road
