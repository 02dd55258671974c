"""What accuracy does not show: each measure on texts that have it and on texts that only look so."""

from __future__ import annotations

import random

import pytest

from scripts.evaluate import texts

EN = """Okay, so this man is 54 and has crushing chest pain for two hours. The ECG shows ST elevation in II and aVF.
That points to the inferior wall, and the right coronary artery feeds it. Blood pressure is 90/60, so I should be
careful with nitrates. Could the right ventricle be involved? V4R would tell. Let me think about the options again.
Beta blockers are risky with a heart rate of 48. Aspirin and a P2Y12 inhibitor are given at once. The next step is
primary PCI, since it can be done within 90 minutes. Fluids help the preload until then."""
ZH = """好的，患者54岁，胸痛两小时，心电图Ⅱ、Ⅲ、aVF导联ST段抬高。
这提示下壁心肌梗死，右冠状动脉（right coronary artery, RCA）可能闭塞。
血压90/60 mmHg，要小心硝酸酯类药物。右心室是否受累？需要加做V4R导联。
再想想各个选项。心率48次/分，用β受体阻滞剂有风险。
应立即给予阿司匹林和P2Y12受体抑制剂（如ticagrelor）。如果90分钟内可以完成，下一步是急诊PCI。在此之前补液有助于维持前负荷。"""
LISTS = {
    "doses": "\n".join(f"{i}. {name}: {i}00 mg twice a day" for i, name in enumerate(("Amoxicillin", "Cefuroxime"), 1)),
    "vitals": "| 时间 | 血压 | 心率 |\n|---|---|---|\n| 8点 | 120/80 | 72 |\n| 9点 | 118/76 | 75 |",
    "formulas": "BMI = 80 / 1.75² = 26.1\nBSA = √(80 × 175 / 3600) = 1.97\nCrCl = (140 − 54) × 80 / (72 × 1.1) = 86.9",
    "twice": f"{ZH}\n{ZH}",
    "conclusion said three times": f"{EN}\nSo it is C. The answer is C.\n\nAnswer: C",
    "short": "C",
    "empty": "",
}
SENTENCES = {"en": EN.replace("\n", " ").split(". "), "zh": ZH.replace("\n", "").split("。")}
ENDS = {"en": ". ", "zh": "。"}


def loops() -> list[str]:
    """Texts that go astray after a few sentences: a character, a word or some sentences again and again."""
    rng = random.Random(0)
    found = []
    for lang, sentences in SENTENCES.items():
        for start in range(2, len(sentences) - 3):
            head = ENDS[lang].join(sentences[:start])
            for size in (1, 2, 3):
                said = ENDS[lang].join(sentences[start : start + size]) + ENDS[lang]
                times = rng.randint(4, 30)
                found.append(head + said * times)
                found.append((head + said * (times + 1))[: -len(said) // 2])
                found.append(head + "".join(f"\n{i}. {said}" for i in range(times)))
            word = sentences[start][:6]
            found.append(head + "".join(word + rng.choice(",;.!\n ") for _ in range(60)))
            found.append(head + rng.choice(".-是a…") * 200)
    return found


def mixtures() -> list[str]:
    """Texts with one sentence of the other language, going on in it, or with its words among their own."""
    found = [EN + " Это инфаркт миокарда.", ZH + "これはしんぞうの病気です。"]
    for lang, other in (("en", "zh"), ("zh", "en")):
        mine, theirs = SENTENCES[lang], SENTENCES[other]
        for i in range(1, len(mine)):
            found.append(ENDS[lang].join([*mine[:i], theirs[-2], *mine[i:]]))
            found.append(ENDS[lang].join(mine[:i]) + "\n" + ENDS[other].join(theirs[:4]))
    for each in (5, 8, 12):
        found.append(" ".join("患者" if i % each == 0 else word for i, word in enumerate(EN.split())))
        found.append("".join("patient" if i % (2 * each) == 0 else sign for i, sign in enumerate(ZH)))
    return found


@pytest.mark.parametrize("text", [EN, ZH, *LISTS.values()], ids=["en", "zh", *LISTS])
def test_ordinary_texts_neither_loop_nor_mix(text: str) -> None:
    assert not texts.repeats_endlessly(text)
    assert not texts.mixes_languages(text)


def test_planted_loops_and_mixtures_are_found() -> None:
    missed = [text for text in loops() if not texts.repeats_endlessly(text)]
    assert len(missed) <= 0.02 * len(loops()), missed
    missed = [text for text in mixtures() if not texts.mixes_languages(text)]
    assert len(missed) <= 0.05 * len(mixtures()), missed


@pytest.mark.parametrize(
    "text",
    [
        "诊断为系统性红斑狼疮（systemic lupus erythematosus），查ANA、anti-dsDNA，用prednisone 1 mg/kg/d。" + ZH,
        "发表于《The New England Journal of Medicine》的研究显示有效。" + ZH,
        '{"analysis": "患者血压升高，心率加快。", "answer": "C"}',
        "故选C。<eoa>",
        "根据公式 $\\text{CrCl} = \\frac{(140 - age) \\times weight}{72}$，结果为86.9。" + ZH,
        EN + " In Chinese medicine this is called chest impediment (胸痹).",
        "答案：ABCD",
    ],
)
def test_terms_titles_and_formulas_are_no_mixture(text: str) -> None:
    assert not texts.mixes_languages(text)


def test_a_loop_of_a_hundred_thousand_characters_takes_no_time() -> None:
    assert texts.repeats_endlessly(ZH + "患者可能需要进一步检查。" * 10_000)
    assert not texts.repeats_endlessly("".join(random.Random(0).choices("abcdefghij klmnop", k=100_000)))


@pytest.mark.parametrize(
    ("text", "lang", "want"),
    [
        ("a\n</think>\n\nTake rest.", "en", []),
        ("a</ think >Take rest.", "en", []),
        ("\n</think>\n\nTake rest.", "en", ["no_reasoning"]),
        ("a", "en", ["unclosed_reasoning", "no_answer"]),
        ("a\n</think>\n", "en", ["no_answer"]),
        ("a\n</think>\n\nb\n</think>\n\nTake rest.", "en", ["repeated_tag"]),
        ("a\n</think>\n\nTake rest.<｜User｜>", "en", ["special_token"]),
        ("a\n</think>\n\nTake rest.</s>", "en", ["special_token"]),
        ("a\n</think>\n\nA <b>pressure</b> below 90 and p<|d|.", "en", []),
        ("a\n</think>\n\nTake rest.", "zh", ["answer_language"]),
        ("a\n</think>\n\n多休息。", "en", ["answer_language"]),
        ("a\n</think>\n\n多休息，可用 aspirin。", "zh", []),
        ("a\n</think>\n\nC", "zh", []),
        ("a\n</think>\n\nBonjour", "fr", []),
    ],
)
def test_format_problems(text: str, lang: str, want: list[str]) -> None:
    assert texts.format_problems({"text": text, "opened": True, "forced": False}, lang) == want


@pytest.mark.parametrize(
    ("output", "marks", "want"),
    [
        ({"text": "Take rest.", "opened": False, "forced": False}, texts.THINK, []),  # at once, without a thought
        ({"text": "a\n</think>\n\nRest.", "opened": True, "forced": True}, texts.THINK, ["unclosed_reasoning"]),
        ({"text": "a thought[end]Take rest.", "opened": True, "forced": False}, ("[start]", "[end]"), []),
    ],
)
def test_format_follows_the_prompt_and_the_template(output: dict, marks: tuple, want: list[str]) -> None:
    assert texts.format_problems(output, "en", marks) == want


ROW = {
    "id": "q1",
    "lang": "en",
    "question": "Which drug?",
    "options": {"A": "Amoxicillin", "B": "Doxycycline", "C": "Vancomycin", "D": "Amoxicillin-clavulanate"},
    "answer_idx": "B",
}


def described(text: str, **about: object) -> dict:
    return texts.describe({"text": text, "opened": True, "forced": False} | about, ROW["options"])


@pytest.mark.parametrize(
    ("thought", "answer", "want"),
    [
        ("Ticks carry it. So the answer is B.", "Answer: B", "agree"),
        ("Ticks carry it. So the answer is B.", "Answer: C", "disagree"),
        ("Ticks carry it. Hmm, doxycycline then.", "Answer: B", "agree"),
        ("Amoxicillin is an option. It should be doxycycline. That fits the rash.", "Answer: C", "disagree"),
        ("So it is amoxicillin-clavulanate.", "Answer: D", "agree"),
        ("So it is amoxicillin-clavulanate.", "Answer: A", "disagree"),
        ("Doxycycline or vancomycin, hard to say.", "Answer: B", "unclear"),
        ("It is not doxycycline.", "Answer: B", "unclear"),
        ("The answer is B. Wait, that is wrong.", "Answer: B", "unclear"),
        ("Ticks carry it.", "Answer: B", "unclear"),
        ("So the answer is B.", "I do not know.", "unclear"),
        ("So the answer is B.", "Answer: B and C", "unclear"),
        ("The answer is C. " + "But ticks carry it, so think again about this. " * 20, "Answer: C", "unclear"),
    ],
)
def test_whether_the_thought_agrees_with_the_answer(thought: str, answer: str, want: str) -> None:
    found = described(f"{thought}\n</think>\n\n{answer}")
    assert [name for name in ("agree", "disagree", "unclear") if found[f"thought_{name}"]] == [want]


def test_the_measures_of_one_text() -> None:
    good = described(f"{EN} So it is B.\n</think>\n\nAnswer: B")
    assert good == {
        "repeats_endlessly": False,
        "mixed_language": False,
        "thought_closed": True,
        "empty_thought": False,
        "thought_agree": True,
        "thought_disagree": False,
        "thought_unclear": False,
    }
    assert described(EN + " Wait." * 100)["repeats_endlessly"]
    assert described(f"{EN} {'Wait. ' * 100}\n</think>\n\nAnswer: B", forced=True)["repeats_endlessly"]
    assert described(f"{ZH}\n</think>\n\n{EN}")["mixed_language"]
    assert not described(EN)["thought_closed"]
    assert not described(f"{EN}\n</think>\n\nAnswer: B", forced=True)["thought_closed"]
    assert described("\n</think>\n\nAnswer: B")["empty_thought"]


def test_shares_count_items_not_seeds_and_what_has_a_thought() -> None:
    thoughts = ["So it is B.\n</think>\n\nAnswer: B", "So it is B.\n</think>\n\nAnswer: C", "So it is B."]
    answers = [*map(described, thoughts), described("Answer: B", opened=False)]
    shown = texts.shares(answers, ["q1", "q1", "q1", "q2"])
    assert (shown["thought_closed"]["value"], shown["thought_closed"]["n"]) == (pytest.approx(2 / 3), 1)
    outcomes = [shown[f"thought_{name}"]["value"] for name in ("agree", "disagree", "unclear")]
    assert outcomes == pytest.approx([1 / 3] * 3)
    assert shown["mixed_language"]["n"] == 2, "a text without a thought has a language"
    assert texts.shares(answers[3:], ["q2"])["empty_thought"] == {"value": None, "n": 0, "ci95": None}


def test_rotated_options_keep_their_texts_and_the_key() -> None:
    for k in range(6):
        turned = texts.rotate_options(ROW, k)
        assert turned["options"][turned["answer_idx"]] == "Doxycycline"
        assert sorted(turned["options"].values()) == sorted(ROW["options"].values())
        assert list(turned["options"]) == list("ABCD")
        assert (turned == ROW) == (k % 4 == 0)
    assert texts.rotate_options(ROW, 1)["options"]["C"] == "Doxycycline"
    assert ROW["answer_idx"] == "B"


def answered(item: dict, name: str, letter: str | None) -> dict:
    return {**item, "id": name, "seed": 1, "outputs": {"64": {"letter": "A"}, "256": {"letter": letter}}}


def test_stays_follows_the_text_not_the_letter() -> None:
    turned = texts.rotate_options(ROW, 1)
    rows = [answered(ROW, "text", "B"), answered(ROW, "letter", "B"), answered(ROW, "unread", "B")]
    rows += [answered(turned, "text", "C"), answered(turned, "letter", "B"), answered(turned, "unread", None)]
    found = texts.stays([*rows, answered(ROW, "asked once", "B")])
    assert (found["value"], found["n"], found["unread"]) == (pytest.approx(1 / 3), 3, pytest.approx(1 / 3))
    assert texts.stays([]) == {"value": None, "n": 0, "ci95": None, "unread": None}
