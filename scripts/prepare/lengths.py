"""How many tokens a record has under LLaMA-Factory's template, as it is trained: always the whole text encoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from scripts.common import UserError, first_line, look_for_hub, quiet_libraries


class Lengths:
    """A tokenizer with a template on it; without a tokenizer only the template's thought words are known."""

    def __init__(self, template: str, model: str | None) -> None:
        """``model``: a folder or hub id, None to count nothing. Raises UserError at once where it cannot be had."""
        quiet_libraries()
        if model:
            with told_what_to_do():
                look_for_hub(model)
                if Path(model).is_dir() and not (Path(model) / "tokenizer.json").is_file():
                    raise UserError(f"{model}: no tokenizer.json in this folder")
        from llamafactory.data.template import TEMPLATES

        from scripts.train.template import PromptFormat

        if template not in TEMPLATES:
            raise UserError(f"--template {template}: LLaMA-Factory has no template of this name")
        self.thought_open, self.thought_close = TEMPLATES[template].thought_words
        self.format = None
        if model:
            with told_what_to_do():
                self.format = PromptFormat.load(model, template)
                self.format.check_round_trip()
            self.frame = lru_cache(maxsize=64)(self.format.frame)
            self.engine = self.format.tokenizer.backend_tokenizer
            self.engine.no_truncation()  # as a tokenizer's file may ask for
            self.engine.no_padding()

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


@contextmanager
def told_what_to_do() -> Iterator[None]:
    """A UserError about a tokenizer ends with what else could be done."""
    try:
        yield
    except UserError as error:
        hint = "name another one, or go on without counting tokens: --no-lengths"
        raise UserError(f"--tokenizer {first_line(error)}; {hint}") from error
