"""How many tokens a record has under LLaMA-Factory's template, as it is trained: always the whole text encoded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from scripts.common import UserError, first_line, look_for_hub, quiet_libraries

WITHOUT = "or go on without counting tokens: --no-lengths"


class Lengths:
    """A tokenizer with a template on it; without a tokenizer only the template's thought words are known."""

    def __init__(self, template: str, model: str | None) -> None:
        """``model``: a folder or hub id, None to count nothing. Raises UserError at once where it cannot be had."""
        quiet_libraries()
        if model:
            look_for(model)
        from llamafactory.data.template import TEMPLATES

        from scripts.train.template import PromptFormat

        if template not in TEMPLATES:
            raise UserError(f"--template {template}: LLaMA-Factory has no template of this name")
        self.thought_open, self.thought_close = TEMPLATES[template].thought_words
        self.format: Any = None
        if not model:
            return
        try:
            self.format = PromptFormat.load(model, template)
            self.format.check_round_trip()
        except UserError as error:
            raise UserError(f"--tokenizer {first_line(error)}; name another one, {WITHOUT}") from error
        self.engine = self.format.tokenizer.backend_tokenizer
        self.engine.no_truncation()
        self.engine.no_padding()
        self.frame = lru_cache(maxsize=64)(self.format.frame)

    def output(self, thought: str, answer: str) -> str:
        """The text that is trained: the thought in the template's words, then the answer."""
        return f"{self.thought_open}{thought}{self.thought_close}{answer}"

    def count(self, system: str, question: str, output: str) -> int:
        """Tokens of a record, marks of the template included; 0 where none counts."""
        if self.format is None:
            return 0
        frame = self.frame(system or None)
        text = frame.before + question + frame.between + output + frame.after
        found = self.engine.encode_batch_fast([text], add_special_tokens=False)[0]
        return len(found) + int(self.format.template.efficient_eos)  # then the trainer adds one token more


def look_for(model: str) -> None:
    """Raise UserError where a tokenizer is no folder that holds one; use only what is at hand where no hub answers."""
    if Path(model).is_dir():
        if not (Path(model) / "tokenizer.json").is_file():
            raise UserError(f"--tokenizer {model}: no tokenizer.json in this folder; name another one, {WITHOUT}")
        return
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise UserError(f"--tokenizer {model}: no such folder; expected one with tokenizer.json, a hub id, {WITHOUT}")
    try:
        look_for_hub(model)
    except UserError as error:
        raise UserError(f"--tokenizer {error}, {WITHOUT}") from error
