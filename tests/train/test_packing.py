"""Packed records must not see each other: with neat_packing they don't, with plain packing they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from scripts.common import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "mixes"), [(["--neat"], False), ([], True)])
def test_the_second_record_of_a_pack_does_not_depend_on_the_first(flags, mixes, tmp_path):
    """Through LLaMA-Factory's own loader, packer and collator, on the CPU without Unsloth."""
    command = [sys.executable, "-m", "scripts.bench.packing", "--cpu", "--work", str(tmp_path), *flags]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["mixes"] is mixes, found
    assert (found["gradient_change"] > 0.1) is mixes
