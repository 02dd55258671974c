"""``python -m scripts.chat``: talk to a model."""

from scripts.chat.serve import main
from scripts.common import run_main

run_main(main)
