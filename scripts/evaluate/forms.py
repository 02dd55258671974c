"""How base and tuned are asked. The tuned model as it was trained; the base model in its best form.

A base model may be at its best in its own chat template, answering at once, or thinking in its own words with the
thought opened for it. Which, is measured on a development set, never on a test set, or named by --base-form.
"""

from __future__ import annotations

from scripts.evaluate.generate import Form
from scripts.train.template import PromptFormat, official_prompt

WORDS = {
    "own": "its own chat template, answering at once",
    "own, thinking": "its own chat template, which opens the thought",
    "thinking": "the template of training with the thought opened",
}


def thinking_form(form: PromptFormat) -> Form:
    """As in training, with the thought opened."""
    frame = form.frame()
    return Form("thinking", frame.prompt, True, frame.marks, frame.thought_close)


def own_form(form: PromptFormat) -> Form:
    """The tokenizer's own chat template; where it opens a thought, so do we reckon."""
    frame = form.frame()

    def prompt(question: str) -> str:
        return official_prompt(form.tokenizer, question, form.system or None)

    thinks = prompt("?").rstrip().endswith(frame.marks[0])
    return Form("own, thinking" if thinks else "own", prompt, thinks, frame.marks, frame.thought_close)


BASE_FORMS = {"own": own_form, "thinking": thinking_form}
