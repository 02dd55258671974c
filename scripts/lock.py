"""Resolve requirements.in and requirements-dev.in into their locks again: ``make lock`` (python -m scripts.lock).

The locks are for Linux x86-64, CPython 3.11 and 3.12, because a lock for all platforms silently falls back to an
old Unsloth. Their first lines say how much a new machine downloads, which ``make setup`` shows before it starts.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from scripts.common import ROOT, atomic_path, run_main

TARGET = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--no-header", "-q"]
# Unsloth asks for xformers, whose newest build is for another torch than ours and does not load (unsloth#8580);
# without it Unsloth takes PyTorch's own attention.
TARGET += ["--no-emit-package", "xformers"]


def download_size(pylock: Path) -> str:
    """What the target machine fetches, in words."""
    packages = tomllib.loads(pylock.read_text())["packages"]
    files = [min(p.get("wheels") or [p["sdist"]], key=lambda file: file["size"]) for p in packages]
    return f"{sum(file['size'] for file in files) / 1e9:.1f} GB in {len(packages)} packages"


def compile_pins(uv: list[str], sources: list[str], *options: str) -> None:
    """Run ``uv pip compile``; raises CalledProcessError where nothing fits together."""
    subprocess.run([*uv, *sources, *TARGET, *options], cwd=ROOT, check=True)


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m scripts.lock", description=__doc__, epilog="example: make lock"
    ).parse_args()
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "compile"]
    known: list[str] = []  # what the first lock holds, the second need not hold again
    with tempfile.TemporaryDirectory() as folder:
        together, pylock = Path(folder) / "together.txt", Path(folder) / "pylock.toml"
        compile_pins(uv, ["requirements.in", "requirements-dev.in"], "-o", str(together))
        for name in ("requirements", "requirements-dev"):
            with atomic_path(ROOT / f"{name}.txt") as lock:
                source = [f"{name}.in", "-c", str(together), *(f"--no-emit-package={package}" for package in known)]
                compile_pins(uv, source, "--no-annotate", "--generate-hashes", "-o", str(lock))
                compile_pins(uv, source, "--format", "pylock.toml", "-o", str(pylock))
                size = f"# Made by `make lock` from {name}.in. A new machine downloads {download_size(pylock)}.\n"
                lock.write_text(size + lock.read_text())
            known += re.findall(r"^([\w.-]+)==", (ROOT / f"{name}.txt").read_text(), re.M)


if __name__ == "__main__":
    run_main(main)
