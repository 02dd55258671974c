"""vLLM on loopback for the time of an evaluation: base and adapter in bfloat16, in an environment of its own.

``make setup-vllm`` builds that environment (.venv-vllm); ``VLLM=PATH`` names one that is there. The server ends with
the block, also after Ctrl-C or a crash; its output goes to a log file.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scripts.common import ROOT, UserError, read_json
from scripts.evaluate.subject import Subject
from scripts.train.template import ROUND_TRIP, PromptFormat, reachable

WAIT = 900.0  # seconds until a server that does not answer is given up


def find_python(named: str | None) -> str:
    """The interpreter that has vLLM: an environment's folder or an interpreter by VLLM, else .venv-vllm."""
    path = Path(named or ROOT / ".venv-vllm")
    python = path / "bin/python" if path.is_dir() else path
    if not python.is_file():
        raise UserError(f"{path}: no environment with vLLM there; run `make setup-vllm`, or name one: VLLM=PATH")
    return str(python)


def command_of(python: str, subject: Subject, port: int, longest: int, memory: float) -> list[str]:
    """vLLM's own OpenAI-compatible server for a base model and its adapter."""
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", reachable(subject.model), "--served-model-name", "base", "--dtype", "bfloat16"]
    command += ["--max-model-len", str(longest), "--gpu-memory-utilization", str(memory), "--enable-prefix-caching"]
    # vLLM's own defaults: a model's generation_config.json (a repetition penalty, say) would change greedy answers too.
    command += ["--generation-config", "vllm"]
    if subject.adapter:
        rank = read_json(Path(subject.adapter) / "adapter_config.json")["r"]
        largest = next(size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank)
        adapter = str(Path(subject.adapter).resolve())
        command += ["--enable-lora", "--max-lora-rank", str(largest), "--lora-modules", f"tuned={adapter}"]
    return command


@contextmanager
def serve(subject: Subject, named: str | None, longest: int, log: Path, memory: float = 0.9) -> Iterator[str]:
    """Start the server and yield its address (ends in /v1) once it answers; UserError with its last words else."""
    python = find_python(named)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key = secrets.token_urlsafe(24)  # so that nobody else on this machine asks it
    environment = os.environ | {"VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # FlashInfer's sampler is compiled at the first start, for minutes and only where CUDA's compiler is installed.
    environment |= {"VLLM_USE_FLASHINFER_SAMPLER": os.environ.get("VLLM_USE_FLASHINFER_SAMPLER", "0")}
    environment |= {"PATH": f"{Path(python).parent}:{os.environ['PATH']}"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        command = command_of(python, subject, port, longest, memory)
        # A session of its own: its workers end with it, and a Ctrl-C is ours to pass on.
        child = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
        os.environ["OPENAI_API_KEY"] = key
        try:
            wait_for(child, port, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            stop(child)


def wait_for(child: subprocess.Popen, port: int, log: Path) -> None:
    """Wait until the server answers; UserError where it ends or takes too long."""
    import requests

    began = time.monotonic()
    while child.poll() is None and time.monotonic() - began < WAIT:
        print(f"\rstarting vLLM: {time.monotonic() - began:.0f} s", end="", file=sys.stderr, flush=True)
        try:
            session = requests.Session()
            session.trust_env = False
            if session.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                print(file=sys.stderr)
                return
        except requests.RequestException:
            time.sleep(1)
    said = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
    raise UserError(f"\nvLLM did not start within {WAIT:.0f} s or ended:\n{said}\nwhole log: {log}")


def check_tokenizer(url: str, form: PromptFormat) -> None:
    """Raise UserError unless the server cuts texts into the same tokens as here: its transformers is another one."""
    import requests

    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {os.environ['OPENAI_API_KEY']}"
        for text in (*ROUND_TRIP, form.frame().prompt("发热3天, what now?")):
            asked = {"model": "base", "prompt": text, "add_special_tokens": False}
            found = session.post(f"{url.removesuffix('/v1')}/tokenize", json=asked, timeout=60).json()
            wanted = form.tokenizer(text, add_special_tokens=False)["input_ids"]
            if found.get("tokens") != wanted:
                raise UserError(
                    f"vLLM cuts {text!r} into {str(found)[:200]}, training into {wanted}: its transformers breaks this "
                    "tokenizer. Run `make setup-vllm` for the pinned versions"
                )


def stop(child: subprocess.Popen) -> None:
    """End the server and its workers, by force where they do not end within seconds."""
    try:
        os.killpg(child.pid, signal.SIGINT)
        child.wait(20)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # a worker that outlived its parent would keep the GPU's memory
        child.wait()
