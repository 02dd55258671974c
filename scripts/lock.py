"""Resolve requirements.in into requirements.txt: ``make lock`` (python -m scripts.lock).

The lock is for Linux x86-64, CPython 3.11 and 3.12, because a lock for all platforms silently falls back to an
old Unsloth. Its first line says how much a new machine downloads, which ``make setup`` shows before it starts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from scripts.common import ROOT, atomic_path, run_main

TARGET = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--no-header", "-q"]


def download_size(pylock: Path) -> str:
    """What the target machine fetches, in words."""
    packages = tomllib.loads(pylock.read_text())["packages"]
    files = [min(p.get("wheels") or [p["sdist"]], key=lambda file: file["size"]) for p in packages]
    return f"{sum(file['size'] for file in files) / 1e9:.1f} GB in {len(packages)} packages"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, epilog="example: make lock").parse_args()
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "requirements.in", *TARGET]
    with tempfile.TemporaryDirectory() as folder, atomic_path(ROOT / "requirements.txt") as lock:
        pylock = Path(folder) / "pylock.toml"
        subprocess.run([*uv, "--generate-hashes", "-o", str(lock)], cwd=ROOT, check=True)
        subprocess.run([*uv, "--format", "pylock.toml", "-o", str(pylock)], cwd=ROOT, check=True)
        size = f"# Made by `make lock` from requirements.in. A new machine downloads {download_size(pylock)}.\n"
        lock.write_text(size + lock.read_text())


if __name__ == "__main__":
    run_main(main)
