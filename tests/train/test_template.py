"""Questions become the tokens of training and back, by any template of LLaMA-Factory."""

from __future__ import annotations

import pytest

from scripts.common import UserError
from scripts.train.template import PromptFormat, official_prompt
from tests.conftest import TEMPLATES

OUTPUT = "<think>\n先看体温。\n再看咳嗽。\n</think>\n\n考虑肺炎。"
QUESTION = "患者发热3天？ Fever for 3 days?"


def trained_ids(form: PromptFormat, output: str, system: str | None = None) -> list[int]:
    """Prompt and response as LLaMA-Factory's own processor puts them together."""
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": output}]
    prompt, response = form.template.encode_multiturn(form.tokenizer, turns, system)[0]
    return prompt + response


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", [None, "You are careful. 谨慎。"])
def test_tokens_are_those_of_training_and_the_thought_ends_where_it_ends(tiny_models, name, system):
    form = PromptFormat.load(str(tiny_models[name]), name)
    encoded = form.encode(QUESTION, OUTPUT, system)
    assert encoded.prompt + encoded.response == trained_ids(form, OUTPUT, system)
    assert form.decode(encoded.response[encoded.answer_at :]).startswith("考虑肺炎。")
    assert form.decode(encoded.response[: encoded.answer_at]).endswith("</think>\n\n")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", [None, "You are careful. 谨慎。"])
def test_the_frame_as_text_gives_the_same_tokens(tiny_models, name, system):
    form = PromptFormat.load(str(tiny_models[name]), name)
    frame = form.frame(system)
    text = frame.prompt(QUESTION, opened=False) + OUTPUT + frame.after
    assert form.tokenizer.encode(text, add_special_tokens=False) == trained_ids(form, OUTPUT, system)
    assert frame.prompt(QUESTION).endswith("<think>\n")
    assert frame.marks == ("<think>", "</think>")
    assert frame.after.startswith(form.stop_words()[0])


def test_the_system_text_of_a_template_and_of_a_recipe_is_kept(tiny_models):
    qwen = PromptFormat.load(str(tiny_models["qwen"]), "qwen")
    assert "You are Qwen" in qwen.frame().before
    own = PromptFormat.load(str(tiny_models["qwen"]), "qwen", system="Answer in Latin.")
    assert "Answer in Latin." in own.frame().before
    again = PromptFormat.load(str(tiny_models["qwen"]), "qwen")
    assert again.frame() == qwen.frame(), "LLaMA-Factory's shared template object must not remember a recipe"


def test_a_template_that_does_not_train_the_thought_is_named(tiny_models):
    form = PromptFormat.load(str(tiny_models["qwen3"]), "qwen3", thinking=False)
    with pytest.raises(UserError, match="enable_thinking"):
        form.encode(QUESTION, OUTPUT)


@pytest.mark.parametrize(
    ("model", "name", "says"),
    [(None, "nosuch", "none of this name"), ("no/such-model", "qwen", "no/such-model: its tokenizer cannot be read")],
)
def test_what_cannot_be_loaded_is_named(tiny_models, model, name, says):
    with pytest.raises(UserError, match=says):
        PromptFormat.load(model or str(tiny_models["qwen"]), name)


def test_a_broken_tokenizer_is_stopped(tiny_models):
    """transformers#45488: SentencePiece's pre-tokenizer over a byte-level vocabulary loses spaces and Chinese."""
    from tokenizers import pre_tokenizers

    form = PromptFormat.load(str(tiny_models["deepseekr1"]), "deepseekr1")
    form.check_round_trip()
    form.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    with pytest.raises(UserError, match="患者发热3天"):
        form.check_round_trip()


def test_the_real_tokenizer_has_one_token_over_the_edge_of_the_thought(shared):
    """ "。\\n" before </think> is one token there: pieces encoded apart would give other ids."""
    form = PromptFormat.load(str(shared / "tokenizer/deepseek-r1-distill-qwen"), "deepseekr1")
    form.check_round_trip()
    encoded = form.encode(QUESTION, OUTPUT)
    assert encoded.prompt + encoded.response == trained_ids(form, OUTPUT)
    assert form.decode(encoded.response[encoded.answer_at :]).startswith("考虑肺炎。")
    official = official_prompt(form.tokenizer, QUESTION)
    assert official == form.frame().prompt(QUESTION), "DeepSeek's own template opens the thought"
