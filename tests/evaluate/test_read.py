"""What the reader makes of outputs of the kinds that real models write; a wrong letter here is a wrong accuracy."""

from __future__ import annotations

import time

import pytest

from scripts.evaluate.read import read_choice, split_reasoning

T = "<think>\nFever and cough: B is tempting, the answer is B.\n</think>\n\n"  # a thought that says B
LIST = "A. Amoxicillin\nB. Azithromycin\nC. Doxycycline\nD. Vancomycin"
LIST_ZH = "A. 阿莫西林\nB. 阿奇霉素\nC. 多西环素\nD. 万古霉素"

# Texts in which the letter read is C; options A to E.
READ = [
    # the form that is asked for, and its neighbours
    "Answer: C",
    "**Answer: C**",
    "**Answer:** C. Doxycycline",
    "The rash decides.\n\nAnswer: (C)",
    "answer: c",
    "Answer: c) doxycycline",
    "Answer - C",
    "Answer\n\nC",
    "## Final answer\n\n**C**",
    "ANSWER: C</s>",
    "Ans: C.",
    "Correct answer: Option C",
    "The answer is C",
    "The answer is: **(C) Doxycycline**",
    "The final answer is $\\boxed{\\text{C}}$.",
    r"\[\boxed{\textbf{(C)}}\]",
    r"\boxed{C. Doxycycline}",
    "Answer: \\( \\text{C} \\)",
    "The correct answer is therefore C, doxycycline.",
    "The answer to this question, given the rash, is C.",
    "Among A through E, the answer is C, doxycycline.",
    "The best option would be doxycycline. So the best option is C.",
    "I would choose C.",
    "If I had to choose, I would go with option C because the rash is typical.",
    "Therefore, option (C) is the correct answer.",
    '{"analysis": "D covers less.", "answer": "C"}',
    '{"thinking": "A and B fail.", "answer_choice": "C. Doxycycline"}',
    "<answer>C</answer>",
    "答案：C",
    "答案：Ｃ",
    "答案是 C。",
    "答案为“C”",
    "答：<C>",
    "**正确答案：C**\n\n解析：皮疹典型。",
    "【答案】C【解析】皮疹典型。",
    "【解析】皮疹典型，A选项不符合。<eoe>\n【答案】: C <eoa>",
    "[正确答案]C<eoa>",
    "选 C。",
    "故本题选C。",
    "应选C项。",
    "我会选择C：多西环素",
    "因此，正确选项是（C）。",
    "综上，错误的说法是C。",
    "因此，最佳治疗药物是：\n\nC. 多西环素",
    # traditional characters
    "故選C。",
    "答案為C。",
    "因此，正確的選項應該是 (C)",
    # the last statement, not an earlier one nor a remark after it
    "Answer: B\n\nOn reflection the rash decides.\n\nAnswer: C",
    "I would pick B, but the rash decides. C.",
    "答案是B……不对，应改为C。",
    "Answer: C\n\nOption A is correct in chronic disease, but this is acute.",
    "答案：C\n\nA项正确的情况是慢性病。",
    "答案：C\nA选项说的是慢性病。",
    "The answer is C. If she were pregnant, the answer would be A.",
    "The answer is C. It prevents hepatitis B.",
    "答案是C。患者缺乏维生素A。",
    "We can eliminate (A) and (B). The answer is (C).",
    "排除A和B，故选C。",
    "选C，不选D。",
    "答案是C多西环素，A项耐药。",
    "答案是C多西环素，B和D都无效。",
    "A. Wrong spectrum.\nB. Resistance.\nD. Contraindicated.\n\nThe answer is C.",
    f"{LIST}\n\nThe correct answer is C.",
    f"选项：\n{LIST_ZH}\n\n答案：C",
    "C. Doxycycline\n\n- A is wrong.\n- D is the correct choice only in mild disease.",
    "The correct answer is C.\n\nA is the best answer for children, but she is an adult.",
    "The best answer is not B but C.",
    "答案不是B而是C。",
    # a letter alone
    "C",
    "I think it's C.",
    "Therefore, C.",
    "This leaves option C.",
    "结论：C",
    "只有C选项符合题意。",
    "(c)",
    "C.",
    "<C>",
    "Both drugs cover it, one is safer.\n<C>",
    "C\n\nExplanation: A and B cover less.",
    f"{LIST}\n\nC",
    # an option as the line
    "C. Doxycycline",
    "C) Doxycycline",
    "Answer: C. Doxycycline\n\nD. Vancomycin would not cover it.",
    "**C. Doxycycline**\n\nExplanation: the rash is typical. A. Amoxicillin would fail.",
    "C、多西环素",
    "C:多西环素<eoa>",
    "选项C：多西环素",
    # an option named in the last sentence
    "Therefore, we can rule out option B. The best drug would be doxycycline (option C).",
    "The most likely diagnosis is **C. Scrub typhus**.",
    "综上所述，最可能的诊断是C. 恙虫病。",
    "恙虫病（选项C）是最可能的诊断。",
    "Hence, C is correct.",
    "So the drug of choice is doxycycline, option C.",
    "因此，选项C最符合。",
    "对应选项，应为C选项。",
    # what comes after the end of the turn was not asked
    "C<|role_end|>",
    "The answer is C.<|im_end|>\n<|im_start|>user\nAnswer: A",
    "Answer: C<｜end▁of▁sentence｜><｜User｜>Next question. Answer: A",
    "Answer: C<end_of_turn>",
    "[正确答案]C<eoa> 请回答：甲公司的合同是否有效？[正确答案]A<eoa>",
    "The answer is (C).\n\nQ: A boy has a cough.\nA: Let's think. The answer is (D).",
    "C\n\nQuestion: What is red?\nA. Iron\nB. Salt\nAnswer: A",
    "答案：C\n\n下一题：休克早期最敏感的指标是？\n答案：A",
    # a conclusion that names the option, wherever it stands
    "The most likely diagnosis is:\n\n**C. Measles**\n\nKoplik spots are typical of it.",
    "Based on the rash, the drug that fits is:\n\n**Option C: Doxycycline**\n\nIt covers rickettsia.",
    "The closest option to 12.4 mg is **C. 12.5 mg**.\n\n**Note:** the dose is rounded.",
    "The correct answer is:\n\n**C. A = aspirin, B = heparin**",
    "The mean <A> is 5/14. The closest option is C: 0.36.",
    "In that case, the answer would be: C. Iron",
    "The dose of 12.4 mg matches option C.",
    "The patient needs an operation at once (Option C).",
    "Therefore, the incorrect statement is C.",
    "The incorrect statement is: \n\nC. Measles is bacterial.",
    "最可能的诊断是C. 沙眼。患者的体征与其他选项不完全匹配。",
    "因此，可以尝试的方法是：\n\nC. 俯卧位通气\n\n它能改善氧合。",
    "因此，选项C“前壁”是正确答案。希望这有所帮助。",
    # letters that stand close to other words
    "不符合题意的选项是C。",
    "答案是C：A、B、D均不及它。",
    "Only C fits.",
    "The fever is of no help here. Only option C matches the rash.",
    "Only C remains. The others have been ruled out.",
    "Only C can explain this.",
    "Of these, only (C) is consistent with the rash.",
    "Only C.",
    "仅C符合。",
    "只有C项符合。其余各项都与题意不符。",
    "答 案：C",
    "正确 答案 ： C",
    "【答 案】C",
    "C多西环素",
    "C多西环素（doxycycline）",
    "C，多西环素",
    "皮疹典型，有蜱虫叮咬史。\nC多西环素。",
    "The next step is a CT. C",
    "He needs an MRI at once. (C)",
    "The level is 5 mg/dL. C",
    "He has a fever of 38.5°C. C",
    "Think of the rare causes (rash, etc.). C",
    # an explanation in lines below the answer
    "Answer:\nC. Doxycycline\n\nD. Vancomycin would not cover it.",
    "正确答案：\nC. 多西环素\nA. 阿莫西林：耐药，错误",
    "Answer:\nC\na rash that begins at the wrists is typical",
    "Answer:\n\nC. Doxycycline\n\n- A. Amoxicillin: resistance\n- B. Azithromycin: resistance",
    "Answer:\nC. Doxycycline\nI think the rash decides.",
    "Answer:\nC. Doxycycline\nE. coli would need another drug.",
    "Answer:\nC\nA patient with this rash needs it at once.",
    # the next option explained below the answer
    "Answer: C) Doxycycline\nD) Vancomycin is an alternative",
    "The correct answer is **C) Doxycycline**.\nD) Vancomycin would be second-line.",
    "答案：C. 多西环素\nD. 溶栓已超过时间窗。",
    "Answer: C\nD: wrong because of the heart\nE: wrong because of age",
    "正确答案是C. 多西环素。\nD. 万古霉素：禁忌。\nE. 头孢曲松：起效慢。",
    # what is said of other patients, by other people, of the other options
    "The answer is C. Had the patient been pregnant, the answer would be A.",
    "The answer is C. Were this viral, the answer would be A.",
    "The answer is C. In penicillin-allergic patients, choose D.",
    "The answer is C. For patients allergic to penicillin, the best option is D.",
    "Answer: C. When renal function is impaired, choose A.",
    "Answer: B. In this patient, however, the answer is C.",
    "答案为C。对青霉素过敏者选D。",
    "答案：C\n\n补充：如为儿童患者，首选为A。",
    "答案：B。对该患者应选C。",
    "The answer is C. Many students choose B because they confuse the two.",
    "The answer is C. One might be tempted to choose B, but it is wrong.",
    "答案：C。许多考生会选B。",
    "Correct answer: C\nIncorrect answers: A, B, D",
    "Answer: C\nWrong answers: A, B and D",
    "Answer: C. The other answers are A, B, and D which are distractors.",
    "答案：C。错误答案：A、B、D",
    "答案：B\n再看题意，错误的选项是C。",
    "Answer: C\n\nHowever, A is better in children.",
    "Answer: C\n\nActually B is wrong, as it does not cover it.",
    # a next question without a mark
    "Answer: C\n\n### Question 2\n...\n\nAnswer: A",
    "Answer: C\n\n2. A 45-year-old man has a cough.\n\nAnswer: A",
    "答案：C\n\n2. 患者男，45岁……\n答案：B",
    "答案：C\n下一题\n答案：B",
    "Answer: B\n\n1. The rash.\n2. The fever.\n\nAnswer: C",
    "### Question 1\nA rash?\n\nAnswer: C",
    # plain, if rare
    "因此C是最佳选项。",
    "So it's not A, it's C.",
    "C - Doxycycline",
    "Answer C",
    "Thus, C is most likely.",
    "If I had to guess, I'd say C.",
]
SEVERAL = [
    "The answer is either C (8 mg) or D (11 mg).",
    "So the correct answer is C (or D, as they are the same).",
    "The best answer is C) Doxycycline or D) Vancomycin.",
    "【答案】A、C、D",
    "答案：ACD",
    "答案是C或D。",
    "答案可能是A，也可能是C。",
    "应选A和C",
    "The answer is A, C (both apply)",
    "The answer is C) Doxycycline and D) Vancomycin.",
    "The answer is C. Doxycycline or D. Vancomycin.",
    "The answer is C/D depending on the definition.",
    "Answer: either B or C",
    r"\boxed{A, B}",
    '{"answer": ["A", "C"]}',
    "The answer is A) Aspirin and also C) Heparin.",
    "The correct options are:\n\n- A. Aspirin\n- C. Heparin",
    "选A或者C",
    "A\nC",
    "C or D",
    "A.B.C",
    "ABD</s>",
    "A. Amoxicillin\nC. Doxycycline",
    # a list of right options in lines of their own
    "正确选项：\nA. 阿莫西林\nC. 多西环素",
    "正确选项：\nA. …\nC. …",
    "正确选项有：\nA、阿莫西林\nB、阿奇霉素",
    "The correct answers are:\nA. Amoxicillin\nB. Azithromycin\nC. Doxycycline",
    "正确选项：\n\nA. 阿莫西林\n\nC. 多西环素",
    "**符合题意的选项：**\n- **A阿莫西林**\n- **C多西环素**",
    "Correct options:\n1. A\n2. C",
    "正确答案是：\n1. A. 阿莫西林\n2. C. 多西环素",
    "The correct options:\nA. Amoxicillin: covers it\nC. Doxycycline: covers it",
    "正确答案是 A 阿莫西林 和 B 阿奇霉素",
    "正确选项为A阿莫西林；C多西环素",
    "The correct answer is both A and C.",
    "Answer:\n\nA. Amoxicillin 0.5 g.\n\nC. Doxycycline.",
    "Answer:\nA\nC",
    "Answer: A\nC",
    "Answer:\n\n- A\n\n- C",
    "正确答案是A…和B…",
    "正确答案是A阿莫西林和B阿奇霉素。",
    "正确答案是A（阿莫西林）和C（多西环素）。",
    "答案为A阿莫西林、C多西环素",
    "正确答案包括A和C",
    "正确答案是A阿莫西林，C多西环素。",
    "正确答案是B、阿奇霉素和D、万古霉素",
    "正确答案是A. 阿莫西林；C. 多西环素",
    "The correct answers are A, amoxicillin, and C, doxycycline.",
    r"\boxed{A} and \boxed{C}",
    "可能选B，也可能选C。",
    "选B或选C。",
]
NONE = [
    "The correct answer is:\nC = lisinopril, D = amlodipine is not among the options.",
    "So the answer is:\nA is incorrect,\nC is incorrect.",
    "I cannot tell the correct choice from A-D.",
    "Without more of the options (A) to (",
    "The most likely blood type is A. Cross-match first.",
    "The mean <C> = 5/14 of the sample.",
    "最可能的原因包括：A. 感染；C. 缺血。",
    "下列说法正确的是:A:甲;C:乙。",
    "",
    "   \n",
    "I cannot decide between B and C.",
    "A, B and D are correct.",
    "Both A and C are correct.",
    "The answer is not B.",
    "The answer can't be A.",
    "The answer wouldn’t be C.",
    "Hard to say: A? D?",
    "Option C is incorrect.",
    "Neither A nor B is correct.",
    "不选A。",
    "绝不能选D！",
    "选项C是错误的。",
    "C: 不正确。皮疹不典型。",
    "Is the answer C?",
    "答案是C吗？还不确定。",
    "If he has a fever, the answer is C.",
    "若有汗则选B，若无汗则选A。",
    "The answer is B. Wait, that is the wrong drug.",
    "请按格式作答，例如答案：A",
    "A: Amoxicillin; B: Azithromycin; C: Doxycycline; D: Vancomycin",
    "Options: A) Amoxicillin B) Azithromycin C) Doxycycline D) Vancomycin E) None",
    "下列说法正确的是A:甲;B:乙;C:丙;D:丁;E:戊。",
    "说法正确的一项是：A:甲;B:乙;C:丙;D:丁。",
    f"正确选项：\n{LIST_ZH}\nE. 头孢曲松",
    "- A ✘\n- B ✘\n- C ✔\n- D ✘",
    "None of the options fits.",
    "根据给出的选项，没有明确的答案。",
    "I'm sorry, but I can't help with medical questions.",
    # the option's text alone is no letter
    "Doxycycline",
    "The azithromycin dose is unknown. I cannot say more.",
    # letters that are no options
    "She lacks vitamin A.",
    "The most likely cause is hepatitis B.",
    "考虑为B型血友病。",
    "答案是B型血友病。",
    "答案是C肽。",
    "The answer is B cell lymphoma.",
    "C反应蛋白升高。",
    "Answer: C-reactive protein",
    "Answer: B12",
    "The answer is E. coli.",
    "C. difficile infection is most likely.",
    "The answer is a bacterial infection.",
    "Answer: A patient with fever needs cultures first.",
    "I think it is hard to say.",
    "D-dimer is elevated.",
    "D二聚体升高。",
    "B超提示胆囊结石",
    "C肽水平正常",
    "C形臂透视",
    "B受体阻滞剂",
    "A患者先天缺陷",
    "A区疼痛",
    "D聚体检测",
    "Only A has no activity against it; therefore D.",
    "答案：\nB\nC. 多西环素是错误的",
    "A项错误",
    "A不正确",
    "Only B cells are left.",
    "Only C is wrong.",
    "Not only C fits.",
    "Only C can be excluded.",
    "Only D dimers were raised.",
    "只有B细胞受累。",
    "The answer is J.",  # not among five letters
    "Answer: B\n\nAnswer: J",
    "I cannot answer this.\n\nQuestion: What is red?\nAnswer: A",
    "Answer: A. Amoxicillin\nB. Azithromycin\nC. Doxycycline\nD. Vancomycin",  # the options again
    "Students often pick A.",
    # an answer and a second thought: which one is not for the reader to say
    "Answer: B\n\nActually D is better.",
    "Answer: B. However, on reflection, D is better.",
    "Answer: B\n\nHmm, on second thought, option D fits better.",
    "The answer seems to be B. However, given the low C3, option D is better.",
    "At first glance the answer is B. But the lactate suggests C instead.",
    "答案：B\n\n不，应该是D。",
    "答案：B\n\n我再想想，D更合适。",
    "答案：B\n仔细一想，还是D更好。",
]


@pytest.mark.parametrize("text", READ)
def test_a_letter_is_read(text: str) -> None:
    assert read_choice(text, "ABCDE") == ("C", "read")
    assert read_choice(T + text, "ABCDE") == ("C", "read"), "the thought says B and is not the answer"


@pytest.mark.parametrize("text", SEVERAL)
def test_several_letters_are_said_so(text: str) -> None:
    assert read_choice(T + text, "ABCDE") == (None, "several")


@pytest.mark.parametrize("text", NONE)
def test_no_letter_is_none_and_never_guessed(text: str) -> None:
    assert read_choice(T + text, "ABCDE") == (None, "none")


@pytest.mark.parametrize("text", [LIST, LIST_ZH, f"选项：\n{LIST_ZH}", LIST.replace("\n", " ")])
def test_options_quoted_back_are_none(text: str) -> None:
    assert read_choice(T + text, "ABCD") == (None, "none")


@pytest.mark.parametrize(
    ("text", "letters", "want"),
    [
        ("Answer: J", "ABCDEFGHIJ", "J"),
        ("The answer is (I).", "ABCDEFGHIJ", "I"),
        ("**G. Zinc**", "ABCDEFGHIJ", "G"),
        ("答案是H", "ABCDEFGHIJ", "H"),
        ("I cannot say.", "ABCDEFGHIJ", None),
        ("A. yes", "ABC", "A"),
    ],
)
def test_other_numbers_of_options(text: str, letters: str, want: str | None) -> None:
    assert read_choice(text, letters).letter == want


def test_an_open_thought_holds_no_answer() -> None:
    assert read_choice("The answer is C.", "ABCD", opened=True) == (None, "none")
    assert read_choice("<think>\nSo the answer is C. But wait", "ABCD") == (None, "none")
    assert read_choice("Fever.\n</think>\n\nAnswer: C", "ABCD", opened=True).letter == "C"
    marks = ("[THOUGHT]", "[/THOUGHT]")
    assert read_choice("[THOUGHT] the answer is B [/THOUGHT] Answer: C", "ABCD", marks=marks).letter == "C"


@pytest.mark.parametrize(
    ("text", "opened", "want"),
    [
        ("<think>\na\n</think>\n\nb", False, ("a", "b", True)),
        ("a\n</think>\n\nb", True, ("a", "b", True)),
        ("a</think>b", False, ("a", "b", True)),
        ("< THINK >a</ Think>b", False, ("a", "b", True)),
        ("<think>a", False, ("a", "", False)),
        ("a", True, ("a", "", False)),
        ("a", False, ("", "a", True)),
        ("", False, ("", "", True)),
        ("", True, ("", "", False)),
        ("<think></think>\n\nb", False, ("", "b", True)),
        ("<think>a</think>b</think>", False, ("a", "b", True)),
        ("<think>a</think>b<think>c", False, ("a\nc", "b", False)),
        ("<think>a</think><think>b</think>c", False, ("a\nb", "c", True)),
    ],
)
def test_split_reasoning(text: str, opened: bool, want: tuple) -> None:
    assert split_reasoning(text, opened) == want


def test_marks_come_from_the_template() -> None:
    marks = ("◁think▷", "◁/think▷")
    assert split_reasoning("◁think▷a◁/think▷b", marks=marks) == ("a", "b", True)
    assert split_reasoning("a◁/think▷b", True, marks) == ("a", "b", True)
    assert split_reasoning("<think>a", marks=marks) == ("", "<think>a", True)
    assert split_reasoning("a", marks=("", "")) == ("", "a", True), "a template without thoughts"


PIECES = [
    "the answer is the ",
    "the answer is A (x) or ",
    "Based on it the most likely is ",
    "best option of the ",
    "答案是",
]
PIECES += [
    "A、B、",
    "(A) ",
    "A ",
    "A(",
    "(",
    "\n",
    "1",
    "Hmm A ",
    "\nHowever A more ",
    "2. ",
]


@pytest.mark.parametrize("piece", PIECES)
def test_a_loop_of_a_hundred_thousand_characters_is_read_at_once(piece: str) -> None:
    began = time.perf_counter()
    read_choice(piece * (100_000 // len(piece)), "ABCDE")
    assert time.perf_counter() - began < 5
