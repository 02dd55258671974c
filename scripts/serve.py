"""Serve the tuned model on this machine: ``python -m scripts.serve webchat|api [RECIPE] [KEY=VALUE...]``.

The models and the pages are LLaMA-Factory's. This file starts them with what `llamafactory-cli webchat` and
`llamafactory-cli api` leave open: loopback only, a password for any wider bind, no log of what people type, nothing
loaded from elsewhere, labels in the page's own language. docs/serving.md says why.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path
from typing import Any, Literal

from scripts.common import NOTICE, UserError, run_main

Kind = Literal["webchat", "api"]
PORTS = {"webchat": 7860, "api": 8000}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def environment(kind: Kind, host: str, port: int, key: str = "") -> dict[str, str]:
    """Variables to start LLaMA-Factory's server with; UserError for a host other than loopback without a key.

    Also right for a plain ``llamafactory-cli api RECIPE`` in a process of its own: ``os.environ | environment(...)``.
    """
    if host not in LOOPBACK and not key:
        raise UserError(
            f"--host {host} lets other machines in and needs a password: set API_KEY, for example "
            f"API_KEY=$(openssl rand -hex 16) python -m scripts.serve {kind} --host {host}"
        )
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    if kind == "webchat":
        return quiet | {"GRADIO_SERVER_NAME": host, "GRADIO_SERVER_PORT": str(port), "GRADIO_SHARE": "False"}
    # Answers beyond MAX_CONCURRENT wait. Each one is a thread with its own KV cache, and none is batched.
    concurrent = os.environ.get("MAX_CONCURRENT", "4")
    return quiet | {
        "API_HOST": host,
        "API_PORT": str(port),
        "API_KEY": key,
        "API_VERBOSE": "0",
        "MAX_CONCURRENT": concurrent,
    }
