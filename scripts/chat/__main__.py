"""``python -m scripts.chat``: the chat page."""

from scripts.chat.page import main
from scripts.common import run_main

run_main(main)
