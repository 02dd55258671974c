"""Questions, thoughts and answers as tokens, and back, by LLaMA-Factory's template object.

The one place that knows how a question becomes a prompt. Turn marks, thought words, end marks and system text come from
the template; the tokens are those of training. Thought and answer are told apart by offsets in the whole response:
"。\\n" before ``</think>`` can be one token, so pieces encoded apart give other ids.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scripts.common import UserError, first_line

PLACE = "\u241fquestion\u241f"  # stands for a question where a prompt is cut into its parts
# Both languages, digits, units, line breaks: a tokenizer that is broken by its library loses some of these.
ROUND_TRIP = (
    "Hello world, 患者发热3天",
    "<think>\n先看体温：38.5℃。\n</think>\n\n建议 0.5 µg/kg，2 次/日（≥ 3 天）。",
    "Na⁺ 128 mmol/L,  then  two spaces\n\n- item\tend",
)


class Frame(NamedTuple):
    """A template as plain text around a question and a response. ``before`` holds the system text where there is one.

    prompt = before + question + between; response = thought_open + thought + thought_close + answer + after.
    """

    before: str
    between: str
    after: str
    thought_open: str
    thought_close: str

    def prompt(self, question: str, opened: bool = True) -> str:
        """The text before a response; ``opened``: with the thought opened."""
        return self.before + question + self.between + (self.thought_open if opened else "")

    @property
    def marks(self) -> tuple[str, str]:
        """The thought words without the blank characters around them, e.g. ``<think>`` and ``</think>``."""
        return self.thought_open.strip(), self.thought_close.strip()


class Encoded(NamedTuple):
    """Token ids of prompt and response; ``answer_at``: index of the response's first token after the thought."""

    prompt: list[int]
    response: list[int]
    answer_at: int


@dataclass(frozen=True)
class PromptFormat:
    """A tokenizer with LLaMA-Factory's template on it. ``system``: the text before every first turn, or empty."""

    name: str
    tokenizer: Any
    template: Any
    system: str = ""

    @classmethod
    def load(cls, model: str, name: str, system: str | None = None, thinking: bool | None = True) -> PromptFormat:
        """Tokenizer and template as the trainer makes them; ``system``: the recipe's default_system (None: its own).

        Raises UserError for a template that LLaMA-Factory does not have, or a tokenizer that loses characters.
        """
        from llamafactory.data.template import TEMPLATES, get_template_and_fix_tokenizer
        from llamafactory.hparams import DataArguments
        from transformers import AutoTokenizer

        if name not in TEMPLATES:
            raise UserError(f"template {name}: LLaMA-Factory has none of this name; see `template:` in the recipes")
        try:
            tokenizer = AutoTokenizer.from_pretrained(reachable(model))
        except (OSError, ValueError) as error:
            raise UserError(f"{model}: its tokenizer cannot be read ({first_line(error)})") from error
        arguments = DataArguments(template=name, default_system=system, enable_thinking=thinking)
        own = TEMPLATES[name]
        TEMPLATES[name] = copy.deepcopy(own)  # LLaMA-Factory writes a recipe's settings into its one shared object
        try:
            template = get_template_and_fix_tokenizer(tokenizer, arguments)
        finally:
            TEMPLATES[name] = own
        return cls(name, tokenizer, template, template.default_system or "")

    def check_round_trip(self) -> None:
        """Raise UserError unless the tokenizer gives back exactly what it was given, in both languages.

        transformers 5.6 and 5.7 break DeepSeek-R1-Distill-Qwen's tokenizer without an error (transformers#45488).
        """
        for text in ROUND_TRIP:
            back = self.tokenizer.decode(self.tokenizer.encode(text, add_special_tokens=False))
            if back != text:
                raise UserError(
                    f"the tokenizer gives {text!r} back as {back!r}: the model would learn garbage. Run `make setup` "
                    "for the pinned versions, and check that the model's folder holds its config.json"
                )

    def frame(self, system: str | None = None) -> Frame:
        """The template as text, for engines that take text and for counting; ``system``: a record's own text.

        Raises UserError where text and tokens do not say the same, so that nothing is asked other than it was trained.
        """
        ids = self.encode_prompt(PLACE, system)
        before, found, between = self.decode(ids).partition(PLACE)
        if not found or self.tokenizer.encode(before + PLACE + between, add_special_tokens=False) != ids:
            raise UserError(f"template {self.name}: its prompt as text gives other tokens; use another tokenizer")
        response = self.decode(self._turn(PLACE, self._example, system)[1])
        return Frame(before, between, response.rpartition("y")[2], *self.template.thought_words)

    def encode_prompt(self, question: str, system: str | None = None) -> list[int]:
        """The prompt's tokens as in training, up to where the response begins."""
        return self._turn(question, self._example, system)[0]

    def encode(self, question: str, output: str, system: str | None = None) -> Encoded:
        """Prompt and response as in training. ``output``: a prepared record's, thought words included."""
        prompt, response = self._turn(question, output, system)
        text = self.decode(response)
        plain = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if not text.startswith(output) or plain["input_ids"] != response:
            raise UserError(
                f"template {self.name} does not train this response as it stands (enable_thinking: "
                f"{self.template.enable_thinking}): found {text[:80]!r}, expected {output[:80]!r}"
            )
        close = self.template.thought_words[1]
        place = output.find(close)
        ends_at = place + len(close) if place >= 0 else 0
        return Encoded(prompt, response, sum(start < ends_at for start, _ in plain["offset_mapping"]))

    def decode(self, ids: list[int]) -> str:
        """Text of tokens, marks included."""
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def stop_ids(self) -> list[int]:
        """Tokens that end a response."""
        return sorted(self.template.get_stop_token_ids(self.tokenizer))

    def stop_words(self) -> list[str]:
        """The same as text, for servers."""
        return [self.decode([token]) for token in self.stop_ids()]

    def _turn(self, question: str, output: str, system: str | None) -> tuple[list[int], list[int]]:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": output}]
        return self.template.encode_multiturn(self.tokenizer, messages, system or None)[0]

    @property
    def _example(self) -> str:
        return "x".join(self.template.thought_words) + "y"


def reachable(model: str) -> str:
    """The folder or hub id to load; downloads through ModelScope or Openmind where LLaMA-Factory would."""
    if Path(model).is_dir():
        return model
    from llamafactory.extras.misc import try_download_model_from_other_hub
    from llamafactory.hparams import ModelArguments

    return try_download_model_from_other_hub(ModelArguments(model_name_or_path=model))


def official_prompt(tokenizer: Any, question: str, system: str | None = None) -> str:
    """The prompt that the tokenizer's own chat template makes: how the base model was meant to be asked."""
    if not tokenizer.chat_template:
        raise UserError(f"{Path(tokenizer.name_or_path).name}: the tokenizer brings no chat template of its own")
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
