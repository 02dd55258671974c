"""What the extractor makes of real-looking outputs; a wrong letter here is a wrong accuracy everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.common import read_jsonl
from scripts.evaluate.read import extract_choice, format_problems, in_language, split_reasoning

T = "<think>\nFever and cough: B is tempting, the answer is B.\n</think>\n\n"  # a thought that says B
LIST = "A. Amoxicillin\nB. Azithromycin\nC. Doxycycline\nD. Vancomycin"
LIST_ZH = "A. 阿莫西林\nB. 阿奇霉素\nC. 多西环素\nD. 万古霉素"
OPTIONS = {"A": "Amoxicillin", "B": "Azithromycin", "C": "Doxycycline", "D": "Vancomycin"}
OPTIONS_ZH = {"A": "急性阑尾炎", "B": "急性胰腺炎", "C": "胆囊炎", "D": "急性胆囊炎"}

# (text, intended letter, why where it is debatable)
FOUR = [
    # plain statements, English
    (T + r"\boxed{C}", "C", ""),
    (T + r"The final answer is $\boxed{\text{C}}$.", "C", ""),
    (T + r"\[\boxed{\textbf{(C)}}\]", "C", ""),
    (T + "**Answer: C**", "C", ""),
    (T + "**Answer:** C. Doxycycline", "C", ""),
    (T + "The correct answer is (C) Doxycycline.", "C", ""),
    (T + "The answer is C", "C", ""),
    (T + "the answer is c.", "C", "lower case after a cue"),
    (T + "Answer: c) doxycycline", "C", "lower case with a bracket"),
    (T + "C", "C", ""),
    (T + "(c)", "C", ""),
    (T + "C.", "C", ""),
    (T + "C. Doxycycline", "C", ""),
    (T + "### Final Answer\n\n**C**", "C", ""),
    (T + '{"answer": "C"}', "C", ""),
    (T + "<answer>C</answer>", "C", ""),
    (T + "My choice: C", "C", ""),
    (T + "I would go with C because the rash is typical.", "C", ""),
    (T + "Option C is correct.", "C", ""),
    (T + "C is the most appropriate next step.", "C", ""),
    (T + "The most likely diagnosis is **C. Scrub typhus**.", "C", ""),
    (T + "The answer to this question, given the rash, is C.", "C", ""),
    (T + "Therefore, the best option is C, doxycycline.", "C", ""),
    (T + "Correct answer: Option C", "C", ""),
    (T + "Answer - C", "C", ""),
    (T + "Answer\n\nC", "C", ""),
    (T + "If I had to choose, I would choose C.", "C", "a hedge, yet the only answer given"),
    # plain statements, Chinese
    (T + "答案是C", "C", ""),
    (T + "选 C。", "C", ""),
    (T + "答案：Ｃ", "C", "full width"),
    (T + "**正确答案：C**", "C", ""),
    (T + "【答案】C", "C", ""),
    (T + "故本题选C。", "C", ""),
    (T + "因此，正确选项是（C）。", "C", ""),
    (T + "应选C项。", "C", ""),
    (T + "综上所述，最可能的诊断是C。", "C", ""),
    (T + "选项C正确。", "C", ""),
    (T + "A错误，B错误，C正确，D错误。", "C", ""),
    (T + "A、B、D均不正确，只有C正确。", "C", ""),
    (T + "排除A和B，故选C。", "C", ""),
    (T + "答案为“C”", "C", ""),
    (T + "我会选择C：多西环素", "C", ""),
    (T + "C、多西环素", "C", ""),
    (T + "如果必须选一个，我会选C。", "C", "a hedge, yet the only answer given"),
    # two answers: the last one counts
    (T + "Answer: B\n\nWait, that is wrong.\n\nAnswer: C", "C", "last, never the better of both"),
    (T + "At first the answer is A. Actually, C.", "C", ""),
    (T + "答案是B……不对，应该是C。", "C", ""),
    (T + "选B，不选C。", "B", "C is denied"),
    (T + "The answer is not A but C.", "C", ""),
    (T + "答案不是A，而是C。", "C", ""),
    (T + "The answer is C. If she were pregnant, the answer would be A.", "C", "the second is another case"),
    # left open or denied: None
    (T + "C or D", None, "two letters"),
    (T + "The answer is C or D.", None, "two letters"),
    (T + "Answer: either B or C", None, "two letters"),
    (T + "The answer is C. Doxycycline or D. Vancomycin.", None, "two letters"),
    (T + "Both A and C are correct.", None, "one was asked for"),
    (T + "答案是C或D。", None, "two letters"),
    (T + "应选A和C", None, "one was asked for"),
    (T + "答案：ACD", None, "one was asked for"),
    (T + "答案：A、C", None, "one was asked for"),
    (T + "I cannot decide between B and C.", None, ""),
    (T + "The answer is not B.", None, "a denial is no choice"),
    (T + "Option C is incorrect.", None, "a denial is no choice"),
    (T + "Neither A nor B is correct.", None, "a denial is no choice"),
    (T + "不选A。", None, "a denial is no choice"),
    (T + "Is the answer C?", None, "a question is no statement"),
    (T + "答案是C吗？还不确定。", None, "a question is no statement"),
    # the reasoning is not the answer
    (T + "I am not sure.", None, "letter only in the reasoning"),
    (T, None, "no answer after the reasoning"),
    ("<think>\nSo the answer is C. But wait", None, "unclosed: cut off while thinking"),
    ("<think>\n答案是C。等等，再想想", None, "unclosed: cut off while thinking"),
    ("It may be B.</think>The answer is C", "C", "no opening tag: the prompt had it"),
    ("<think></think>\n\nC", "C", "empty reasoning"),
    ("<think>a</think>\n\nAnswer: B\n<think>hm</think>\n\nAnswer: C", "C", "the last text outside of thoughts"),
    ("<THINK>B</THINK>\nAnswer: C", "C", "tags in capitals"),
    ("The answer is C.", "C", "no reasoning at all is an answer nevertheless"),
    # options quoted back
    (T + LIST, None, "only quoted"),
    (T + f"{LIST}\n\nThe correct answer is C.", "C", ""),
    (T + f"{LIST}\n\nC", "C", ""),
    (T + f"Options:\n{LIST}\n\nAnswer: (C)", "C", ""),
    (T + "Options: A) Amoxicillin B) Azithromycin C) Doxycycline D) Vancomycin", None, "only quoted"),
    (T + f"{LIST_ZH}\n\n答案：C", "C", ""),
    (T + f"选项：\n{LIST_ZH}", None, "only quoted"),
    (T + "C. Doxycycline\n\nA. Wrong spectrum.\nB. Resistance.\nC. First line.\nD. Reserve drug.", "C", ""),
    (T + "Please answer with A, B, C or D.", None, "the task quoted back"),
    # letters that are no options
    (T + "She lacks vitamin A.", None, "vitamin A"),
    (T + "The most likely cause is hepatitis B.", None, "hepatitis B"),
    (T + "The diagnosis is hepatitis B, so the answer is C.", "C", ""),
    (T + "The answer is C. It prevents hepatitis B.", "C", ""),
    (T + "答案是C。患者缺乏维生素A。", "C", ""),
    (T + "考虑为B型血友病。", None, "type B"),
    (T + "C反应蛋白升高。", None, "C-reactive protein"),
    (T + "C. difficile infection is likely.", None, "Clostridioides difficile"),
    (T + "The answer is a bacterial infection.", None, "an article"),
    (T + "Answer: A patient with fever needs cultures first.", None, "an article"),
    (T + "A 45-year-old man with fever should be seen.", None, "an article"),
    (T + "D-dimer is elevated.", None, "D-dimer"),
    # nothing to read
    ("", None, "empty"),
    (T + "   \n", None, "blank"),
    (T + "I'm sorry, but I can't help with medical questions.", None, "refusal"),
    (T + "作为人工智能，我不能提供诊断建议。", None, "refusal"),
    (T + "The answer is 3.", None, "no letter"),
    (T + "The answer is E.", None, "not among four letters"),
    (T + "None of the options fits.", None, ""),
    # leaked tokens
    (T + "The answer is C.<｜end▁of▁sentence｜>", "C", ""),
    (T + "Answer: C<｜end▁of▁sentence｜><｜User｜>Next question. Answer: A", "C", "another turn"),
]
BY_TEXT = [
    ("The correct answer is doxycycline.", OPTIONS, "C", ""),
    ("Doxycycline", OPTIONS, "C", ""),
    ("**Doxycycline** is the drug of choice.", OPTIONS, "C", ""),
    ("Azithromycin or doxycycline would both do.", OPTIONS, None, "two options"),
    ("Amoxicillin is too narrow.\n\nThe answer is doxycycline.", OPTIONS, "C", "what follows the cue"),
    ("Penicillin", OPTIONS, None, "not an option"),
    ("最可能的诊断是急性胆囊炎。", OPTIONS_ZH, "D", "the longer option hides 胆囊炎"),
    ("胆囊炎", OPTIONS_ZH, "C", ""),
    ("答案是急性胰腺炎", OPTIONS_ZH, "B", ""),
    ("The answer is vitamin A.", {"A": "Vitamin B12", "B": "Vitamin A"}, "B", "the text, not its letter"),
    (
        "Hepatitis B",
        {"A": "Hepatitis A", "B": "Hepatitis C", "C": "Hepatitis B"},
        "C",
        "the text, not its letter",
    ),
    ("The answer is A. Doxycycline", OPTIONS, "A", "the letter is what was asked for"),
    ("**Doxycycline**\n\nAmoxicillin and vancomycin fail here.", OPTIONS, "C", "a line of its own"),
    (LIST, OPTIONS, None, "options quoted back, with their texts"),
    ("I would pick B, but the rash decides. D.", OPTIONS, "D", "the last sentence is the answer"),
    ("The answer is B. Hmm, no: C.", OPTIONS, "C", "corrected"),
    ("The answer is changed from A to C.", OPTIONS, "C", "corrected"),
    ("答案是A，哦不，是B。", OPTIONS_ZH, "B", "corrected"),
    ("答案是B。等一下，应改为C。", OPTIONS_ZH, "C", "corrected"),
    ("A, B and D can be excluded, leaving C.", OPTIONS, "C", "by elimination"),
    ("A、B、D都可以排除，只剩C。", OPTIONS_ZH, "C", "by elimination"),
    ("A、B均可排除。", OPTIONS_ZH, None, "only excluded"),
    ("绝不能选D！", OPTIONS_ZH, None, "a denial is no choice"),
    ("答案可能是A，也可能是C。", OPTIONS_ZH, None, "two letters"),
    (r"\boxed{A, B}", OPTIONS, None, "two letters"),
    ("若有汗则选B，若无汗则选A，题干没有说明。", OPTIONS_ZH, None, "depends on what is not known"),
    ("A. 错误。\nB. 错误。\nC. 符合诊断标准，正确。\nD. 错误。", OPTIONS_ZH, "C", "judged one by one"),
    ("- A ✘\n- B ✘\n- C ✔\n- D ✘", OPTIONS_ZH, "C", "judged one by one"),
    ("A型", {"A": "B型", "B": "O型", "C": "A型"}, "C", "a blood group, not the letter in it"),
    (
        "B\n\nQuestion: What is red?\nA. Iron\nB. Salt\nAnswer: A",
        OPTIONS,
        "B",
        "a base model goes on with another question",
    ),
    ("yes", {"A": "yes", "B": "no", "C": "maybe"}, "A", "PubMedQA's options"),
]


@pytest.mark.parametrize(("text", "want", "why"), FOUR)
def test_extract_choice(text: str, want: str | None, why: str) -> None:
    assert extract_choice(text) == want, why


@pytest.mark.parametrize(("text", "options", "want", "why"), BY_TEXT)
def test_extract_choice_by_the_options_text(text: str, options: dict, want: str | None, why: str) -> None:
    assert extract_choice(text, "".join(options), options=options) == want, why


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Answer: J", "J"),
        ("答案是H", "H"),
        ("The answer is (I).", "I"),
        ("I think it is hard to say.", None),
        ("E", "E"),
        ("The answer is E. coli.", None),
        ("I cannot say.", None),
        ("**G. Zinc**", "G"),
        ("The answer is K.", None),
    ],
)
def test_ten_options(text: str, want: str | None) -> None:
    assert extract_choice(text, "ABCDEFGHIJ") == want


def test_an_opened_prompt_makes_unclosed_text_a_thought() -> None:
    assert extract_choice("The answer is C.", prompt_opened=True) is None
    assert extract_choice("Fever.\n</think>\n\nThe answer is C.", prompt_opened=True) == "C"


@pytest.mark.parametrize(
    ("text", "opened", "want"),
    [
        ("<think>\na\n</think>\n\nb", False, ("a", "b", True)),
        ("a\n</think>\n\nb", True, ("a", "b", True)),
        ("a</think>b", False, ("a", "b", True)),
        ("<think>a", False, ("a", "", False)),
        ("a", True, ("a", "", False)),
        ("a", False, ("", "a", True)),
        ("", False, ("", "", True)),
        ("", True, ("", "", False)),
        ("<think>a</think>b</think>", False, ("a", "b", True)),
        ("<think>a</think>b<think>c", False, ("a\nc", "b", False)),
        ("<think>a</think><think>b</think>c", False, ("a\nb", "c", True)),
    ],
)
def test_split_reasoning(text: str, opened: bool, want: tuple) -> None:
    assert split_reasoning(text, opened) == want


@pytest.mark.parametrize(
    ("text", "lang", "want"),
    [
        ("<think>\na\n</think>\n\nTake rest.", "en", []),
        ("<think>\n想\n</think>\n\n多休息，可用 ibuprofen。", "zh", []),
        ("<think>\na\n</think>\n\nC", "zh", []),
        ("Take rest.", "en", ["no_reasoning"]),
        ("<think>\nstill", "en", ["unclosed_reasoning", "no_answer"]),
        ("<think>\n</think>\n\nRest.", "en", ["no_reasoning"]),
        ("<think>\na\n</think>\n\n", "en", ["no_answer"]),
        ("<think>a</think>Rest.</think>", "en", ["repeated_tag"]),
        ("<think>\na\n</think>\n\n多休息。", "en", ["answer_language"]),
        ("<think>\na\n</think>\n\nTake rest.", "zh", ["answer_language"]),
        ("<think>\na\n</think>\n\nRest.<｜User｜>", "en", ["special_token"]),
    ],
)
def test_format_problems(text: str, lang: str, want: list[str]) -> None:
    assert format_problems(text, lang) == want


def test_a_language_that_is_not_known_is_not_judged() -> None:
    assert in_language("Bonjour", "fr")
    assert not in_language("Bonjour à tous", "zh")


def test_agreement_with_the_letters_read_by_hand_stays_high() -> None:
    rows = [row for _, row in read_jsonl(Path(__file__).parents[1] / "data" / "answers_500.jsonl")]
    read = [extract_choice(row["text"], row["letters"], row["prompt_opened"], row["options"]) for row in rows]
    assert len(rows) == 500
    assert sum(letter == row["truth"] for letter, row in zip(read, rows, strict=True)) >= 480, "scripts.bench.answers"
