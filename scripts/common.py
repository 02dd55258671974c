"""What every script shares: errors a user can mend, whole-or-nothing files, hashes, provenance."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTICE = "For research only. Not medical advice, not for clinical use."
NOTICE_ZH = "仅供研究使用，不构成医疗建议，不得用于临床。"
VERSION = "0.2.0"
# The first line of a command that imports torch, which prints nothing for as long.
STARTING = "starting: the libraries take some 20 seconds, on a busy machine a minute …"


def quiet_libraries() -> None:
    """Keep libraries' notices off the screen of a command whose own words are what people should read.

    Call it before torch or transformers are imported. What a user set by environment variables stays.
    """
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # of child processes
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY", "DATASETS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    if not sys.stderr.isatty():  # a log file needs few bars
        os.environ.setdefault("TQDM_MININTERVAL", "30")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in ("bitsandbytes", "accelerate", "torch", "unsloth", "urllib3", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def hub_address() -> str:
    """The hub that LLaMA-Factory asks."""
    if os.environ.get("USE_MODELSCOPE_HUB", "").lower() in ("1", "true"):
        return os.environ.get("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn")
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def hub_answers() -> bool:
    """Whether a hub answers within seconds; where none does, Hugging Face's libraries use what was fetched before.

    Call it before any of them is imported: they would retry for minutes.
    """
    if os.environ.get("HF_HUB_OFFLINE") and not os.environ.get("USE_MODELSCOPE_HUB"):
        return False
    if not server_answers(hub_address()):
        os.environ["HF_HUB_OFFLINE"] = "1"
        return False
    return True


@cache
def server_answers(address: str) -> bool:
    """Whether a server answers within five seconds; asked once, for all that a command loads."""
    import requests

    try:
        requests.head(address, timeout=5)
    except requests.RequestException:
        return False
    return True


def look_for_hub(model: str) -> None:
    """UserError at once for a model that is no folder, where no hub answers and nothing of it was fetched before."""
    if Path(model).is_dir() or hub_answers():
        return
    from huggingface_hub import try_to_load_from_cache

    with suppress(ValueError):  # no hub's id
        if isinstance(try_to_load_from_cache(model, "config.json"), str):
            return
    raise UserError(
        f"{model}: no such folder, {hub_address()} does not answer, and nothing of it was fetched before. Check name "
        "and network, set HF_ENDPOINT to a mirror, or USE_MODELSCOPE_HUB=1, or name a local folder"
    )


class UserError(Exception):
    """Something the user can mend; the message says where, what was found, what was expected and what to do."""


def run_main(main: Callable[[], int | None]) -> None:
    """Run ``main`` as a program: what a user, or the system's administrator, can mend is one message, exit status 1."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a folder that is read-only, a full disk
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror or error}; mend that and start again")
    except Exception as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        # safetensors and others written in Rust have kinds of their own for a full disk
        sys.exit(f"error: {first_line(error)}; mend that and start again")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to go on")


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 record, 2,000 records."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def first_line(error: BaseException) -> str:
    """The first line (300 characters) of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; renamed onto it on success, removed on an error.

    A killed run leaves the previous file whole (and a ``.tmp-`` file that the next run may overwrite).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of ``folder`` for the time of the block; UserError where one is there.

    The lock lies beside the folder and ends with its process, however that ends.
    """
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{folder}: another process is writing there; wait until it has ended") from error


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; it takes the place of ``path`` on success and is removed on an error.

    A kill at any moment leaves the previous folder whole, in its place or put back by the next call.
    """
    path = Path(path)
    new, old = path.with_name(f".tmp-{path.name}"), path.with_name(f".old-{path.name}")
    if old.exists() and not path.exists():
        old.rename(path)  # killed between the two renames below
    for left_over in (new, old):
        shutil.rmtree(left_over, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)


def load_recipe(
    path: str, overrides: list[str], keys: tuple[str, ...] = ("model_name_or_path", "dataset", "output_dir")
) -> dict[str, Any]:
    """A recipe with its KEY=VALUE overrides merged as LLaMA-Factory does; UserError where one of ``keys`` is not."""
    from omegaconf import OmegaConf

    if not Path(path).is_file():
        raise UserError(f"{path}: no such recipe; see yamls/ and examples/")
    try:
        recipe = OmegaConf.to_container(OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_cli(overrides)))
    except Exception as error:  # the YAML and OmegaConf libraries each raise their own kinds
        said = " ".join(str(error).split())
        raise UserError(f"{' '.join([path, *overrides])}: not a YAML mapping: {said}") from error
    missing = [key for key in keys if not isinstance(recipe, dict) or not recipe.get(key)]
    if missing:
        raise UserError(f"{path}: expected keys {', '.join(keys)}; missing: {', '.join(missing)}. See yamls/")
    return recipe


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write one JSON object per line, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_json(path: str | Path) -> Any:
    """Parse a JSON file; raises UserError with file and line."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except ValueError as error:  # no JSON, or no UTF-8
        line = getattr(error, "lineno", 1)
        raise UserError(f"{path}:{line}: not valid JSON ({error}); repair or delete this file") from error


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Yield (1-based line, object) for each non-blank line; raises UserError with file and line."""
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}:{number}: not valid JSON ({error.msg}); expected one object") from error
                if not isinstance(row, dict):
                    raise UserError(f"{path}:{number}: found {type(row).__name__}, expected one JSON object")
                yield number, row
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); convert it to UTF-8") from error


def file_hash(*paths: str | Path) -> str:
    """SHA-256 over the contents of the files in the order given, as 64 hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def versions(*names: str) -> dict[str, str]:
    """Installed versions of the named distributions; those that are missing are left out.

    Of one that lies twice on the path, the first: that is the one which is imported.
    """
    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_commit() -> str | None:
    """The checkout's commit with ``-dirty`` where tracked files differ; a copy is told it by MEDCOT_COMMIT."""
    if told := os.environ.get("MEDCOT_COMMIT"):
        return told
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> str:
    """The machine in words: processor, cores, memory, and the GPU where the driver answers."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    words = [named[1] if named else platform.machine()]
    words += [f"{len(os.sched_getaffinity(0))} cores", f"{memory:.0f} GiB memory"]
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        words += subprocess.run(query, capture_output=True, text=True).stdout.strip().splitlines()
    return ", ".join(words)


def provenance() -> dict[str, Any]:
    """Where a number comes from: command, commit, machine and the versions that matter."""
    libraries = ("llamafactory", "torch", "transformers", "peft", "bitsandbytes", "unsloth", "datasets", "vllm")
    return {
        "medcot": VERSION,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "commit": git_commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "versions": versions(*libraries),
    }
