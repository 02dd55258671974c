# ruff: noqa: E501 - texts in tables stay on one line
"""Leaks in the question, the thought and the answer; what shares a topic or a law with an item is none."""

from __future__ import annotations

import pytest

from scripts.prepare.leaks import Index
from tests.prepare.conftest import EN, ZH

ITEMS = [
    ("A 71-year-old woman with atrial fibrillation and a metallic mitral valve asks which drug prevents stroke best", ["Aspirin and clopidogrel", "Warfarin alone", "No treatment at all", "Heparin infusion"]),
    ("患儿，5岁，发热伴咽痛三天，舌呈草莓样，全身弥漫性红色皮疹，首选的治疗药物是", ["青霉素", "红霉素", "链霉素", "万古霉素"]),
    ("Concentration of tropicamide:", ["0.01", "0.02", "0.03", "0.04"]),
    ("缺铁性贫血", ["血清铁降低，总铁结合力增高", "血清铁增高，总铁结合力降低", "转铁蛋白饱和度增高", "骨髓铁染色阳性"]),
    ("Which of the following is not a risk factor for malignancy", ["DNA aneuploidy", "Male gender", "Candidiasis", "Leukoplakia"]),
    ("癫痫持续状态是指（　　）。", ["发作超过一分钟", "发作超过五分钟", "每天发作", "夜间发作"]),
    ("根据《药品不良反应报告和监测管理办法》，应报告所有不良反应的是", ["进口五年内的药品", "医院制剂", "中药饮片", "老药"]),
    ("属于β-内酰胺酶抑制剂的是", ["克拉维酸", "青霉素", "红霉素", "庆大霉素"]),
]  # fmt: skip
LONG = "Let me think about this patient first. The story is typical. "


@pytest.fixture(scope="module")
def index() -> Index:
    rows = enumerate(ITEMS)
    return Index(
        [
            {"benchmark": "b", "id": str(n), "question": q, "options": dict(zip("ABCD", o, strict=True))}
            for n, (q, o) in rows
        ]
    )


@pytest.mark.parametrize(
    ("text", "item", "reason"),
    [
        (ITEMS[0][0], 0, "leak_verbatim"),
        ("Please answer. " + ITEMS[0][0] + "? Think step by step.", 0, "leak_verbatim"),
        (ITEMS[0][0].replace("71", "68").replace("metallic", "mechanical"), 0, "leak_ngram"),
        (ITEMS[0][0] + "\nA. Aspirin and clopidogrel\nB. Warfarin alone\nC. No treatment at all\nD. Heparin infusion", 0, "leak_verbatim"),
        ("".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in ITEMS[0][0]), 0, "leak_verbatim"),
        (ITEMS[1][0], 1, "leak_verbatim"),
        ("患兒，5歲，發熱伴咽痛三天，舌呈草莓樣，全身彌漫性紅色皮疹，首選的治療藥物是", 1, "leak_verbatim"),
        ("患儿，６岁，发热伴咽痛两天，舌呈草莓样，全身弥漫性红色皮疹，首选治疗药物是？", 1, "leak_ngram"),
        ("concentration of Tropicamide", 2, "leak_verbatim"),
        ("Concentration of tropicamide: A) 0.01 B) 0.02 C) 0.03 D) 0.04", 2, "leak_"),
        ("缺铁性贫血 A、血清铁降低，总铁结合力增高 B、血清铁增高，总铁结合力降低 C、转铁蛋白饱和度增高 D、骨髓铁染色阳性", 3, "leak_"),
        ("我家宝宝查出来有点缺铁性贫血，请问能补回来吗？平时应该多吃些什么？", None, None),
        ("A 50-year-old man has dysphagia and weight loss. Which of the following is not a risk factor for the disease that he has?", None, None),
        ("根据《药品不良反应报告和监测管理办法》，哪一类机构在发现药品群体不良事件时应迅速开展自查？", None, None),
        (EN[0][0], None, None),
        (ZH[1][0], None, None),
        ("", None, None),
    ],
)  # fmt: skip
def test_leaks_in_the_question(index: Index, text: str, item: int | None, reason: str | None) -> None:
    leak = index.find(text, EN[2][0], ZH[2][0])
    assert (leak and leak.item) == item
    if leak:
        assert leak.where == "question"
        assert leak.reason.startswith(reason)


@pytest.mark.parametrize(
    ("text", "item"),
    [
        (LONG + ITEMS[0][0] + "? The valve decides.", 0),
        (LONG + ITEMS[0][0].replace("asks", "wants to know") + ". The valve decides.", 0),
        ("这让我想到一道题：“" + ITEMS[1][0] + "（　）”，答案是青霉素。", 1),
        ("类似的题目有：属于β-内酰胺酶抑制剂的是？选克拉维酸。", 7),
        (LONG + "Concentration of tropicamide: A. 0.01 B. 0.02 C. 0.03 D. 0.04. So", 2),
        (LONG + "which of the following is not a\nrisk factor for MALIGNANCY? So", 4),
        ("强直-阵挛性癫痫持续状态是指当患者反复出现发作，间歇期意识没有恢复。", None),
        ("头孢哌酮常与属于β-内酰胺酶抑制剂的是舒巴坦合用。", None),
        ("因此考虑缺铁性贫血，需要补铁。", None),
        (LONG + "She has atrial fibrillation and a metallic mitral valve, so warfarin it is.", None),
    ],
)
@pytest.mark.parametrize("where", ["thought", "answer"])
def test_quotes_in_thought_and_answer(index: Index, where: str, text: str, item: int | None) -> None:
    leak = index.find(EN[0][0], text if where == "thought" else "So it is.", text if where == "answer" else "So.")
    assert (leak and leak.item) == item
    if leak:
        assert (leak.reason, leak.where) == ("leak_quoted", where)
