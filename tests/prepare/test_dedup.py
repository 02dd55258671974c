# ruff: noqa: E501 - texts in tables stay on one line
"""Near-duplicates: rewordings leave one, questions that ask something else stay, groups of any size leave one."""

from __future__ import annotations

import random
import time
from types import SimpleNamespace

import pytest

from scripts.prepare import dedup
from scripts.prepare.text import language, tokens
from tests.prepare.conftest import EN, ZH


def find(texts: list[str], quality: list[int] | None = None, threshold: float = 0.5) -> tuple[dict, list]:
    records = []
    for text, longer in zip(texts, quality or [0] * len(texts), strict=True):
        parts = tokens(text)
        bands = dedup.sketch(parts, 1)
        records.append(SimpleNamespace(key=" ".join(parts), lang=language(text), bands=bands, quality=(0, longer)))
    return dedup.find(records, threshold)


def test_near_duplicates_are_found_and_the_better_one_kept() -> None:
    first, second, zh = EN[0][0], EN[1][0], ZH[0][0]
    edited = first.replace("crushing", "terrible")
    zh_edited = zh.replace("剧烈", "很剧烈的")
    shuffled = "Which artery is most likely occluded? A 45-year-old man has crushing chest pain for two hours and ST elevation in leads II, III and aVF."
    matched, _ = find([first, second, edited, zh, zh_edited, shuffled, first.upper()], [0, 0, 9, 0, 0, 1, 2])
    assert {index: kept for index, (kept, _) in matched.items()} == {0: 2, 4: 3, 5: 2, 6: 2}
    assert 0.5 < matched[4][1] < 1


OTHER = [
    ("What is the drug of choice for malaria in pregnancy?", "What is the drug of choice for syphilis in pregnancy?"),
    ("Which nerve is injured in a fracture of the humeral shaft?", "Which nerve is injured in a fracture of the fibular neck?"),
    ("高血压患者首选的降压药物是什么？", "糖尿病患者首选的降糖药物是什么？"),
    (EN[0][0], EN[0][0].replace("45-year-old", "75-year-old")),
    (EN[0][0], EN[0][0].replace("two hours", "three hours")),
    (EN[0][0], EN[0][0].replace("two hours", "two weeks")),
    ("A 60-year-old man on warfarin has an INR of 7 without bleeding. What should be done next?", "A 60-year-old man on warfarin has an INR of 7 with bleeding. What should be done next?"),
    (EN[0][0], EN[0][0].replace("has crushing", "on warfarin has crushing")),
    (EN[0][0], EN[0][0].replace("A 45-year-old man", "A 45-year-old woman")),
    (EN[0][0], EN[0][0] + " And what is the first treatment?"),
    (EN[1][0], EN[1][0].replace("What is the most likely diagnosis?", "What is the best treatment?")),
    ("A man with gout takes allopurinol every day and has a new rash on his left arm. What should be done now?", "A man with gout takes febuxostat every day and has a new rash on his left arm. What should be done now?"),
    ("A man with gout takes allopurinol every day and has a new rash on his left arm. What should be done now?", "A man with gout takes allopurinol every day and has a new rash on his right arm. What should be done now?"),
    (ZH[0][0], ZH[0][0].replace("56岁", "36岁")),
    (ZH[0][0], ZH[0][0].replace("两小时", "三小时")),
    ("患儿5岁，发热伴犬吠样咳嗽两天，夜间加重，最可能的诊断是什么？", "患儿5月，发热伴犬吠样咳嗽两天，夜间加重，最可能的诊断是什么？"),
    (ZH[0][0], ZH[0][0] + "应如何处理？"),
    (ZH[0][0], ZH[0][0].replace("男，", "女，")),
    ("患者长期服用华法林，近日牙龈出血并出现瘀斑，应首先复查哪项凝血指标？", "患者长期服用利伐沙班，近日牙龈出血并出现瘀斑，应首先复查哪项凝血指标？"),
    ("患者右侧肢体无力伴言语不清三小时，头颅影像未见出血，下一步应如何处理？", "患者肢体无力伴言语不清三小时，头颅影像未见出血，下一步应如何处理？"),
    ("患者突发重症胰腺炎，腹痛剧烈并且伴有呕吐和发热，应首选什么治疗？", "患者突发胰腺炎，腹痛剧烈并且伴有呕吐和发热，应首选什么治疗？"),
    ("患者右侧肢体无力伴言语不清三小时，头颅影像未见出血，下一步应如何处理？", "患者左侧肢体无力伴言语不清三小时，头颅影像未见出血，下一步应如何处理？"),
    ("医生，我最近被诊断为哮喘，医生建议我使用吸入剂。请问推荐的剂量是多少呢？", "医生，我最近被诊断为哮喘，医生建议我使用吸入剂。请问推荐的剂量是多少呢？另外，如果症状控制得好，应该如何调整？"),
    ("A man with diabetes and a dry cough takes lisinopril every day. Which drug should replace it now?", "A man with hypertension and a dry cough takes lisinopril every day. Which drug should replace it now?"),
    (EN[0][0], EN[1][0]),
    (ZH[0][0], ZH[1][0]),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_questions_that_ask_something_else_stay(one: str, other: str) -> None:
    assert find([one, other])[0] == {}


SAME = [
    ("用户：医生，我最近发现尿液中有异物，而且经常感到下腹部疼痛，这种情况是否适合做膀胱镜检查？", "医生，我最近发现尿液中有异物，而且经常感到下腹部疼痛，这种情况是否适合做膀胱镜检查？"),
    ("具体给我讲讲每种类型的临床表现和实验室检查特点好吗？我想多了解库欣综合征。", "具体给我讲讲每种类型的临床表现和实验室检查的特点好吗？我想多了解库欣综合征。"),
    (EN[1][0], "Please answer: " + EN[1][0]),
    (EN[0][0], EN[0][0].replace("has crushing", "perhaps has crushing")),
    ("A man with gout presents with a new rash on his left arm after a week. What should be done now?", "A man with gout complains of a new rash on his left arm after a week. What should be done now?"),
    ("A young woman has fever, dysuria and left flank pain. Which is the most appropriate antibiotic?", "A young woman has fever, dysuria, and left flank pain. What is the most appropriate antibiotic?"),
    ("患者男，45岁，左侧胸痛3小时，心电图ST段抬高，应首先给予什么处理？", "患者，男，45岁。左侧胸痛3小时，心电图ST段抬高，应首先给予何种处理？"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_rewordings_leave_one(one: str, other: str) -> None:
    assert len(find([one, other])[0]) == 1


@pytest.mark.parametrize("size", [50, 200])
@pytest.mark.parametrize(
    "text",
    [
        EN[3][0] + " She also tells of tremor, moist warm skin and a fine pulse that races at rest.",
        ZH[0][0] + "请结合病史与检查综合考虑，给出依据。",
    ],
)
def test_a_group_of_any_size_leaves_one(size: int, text: str) -> None:
    rng, spare = random.Random(3), "really thus gently well clearly kindly" if text.isascii() else "的地得着了过"
    texts = []
    for _ in range(size):
        parts = text.split() if text.isascii() else list(text)
        parts.insert(rng.randrange(20, len(parts)), rng.choice(spare.split() if text.isascii() else spare))
        texts.append((" " if text.isascii() else "").join(parts))
    assert len(find(texts)[0]) == size - 1


@pytest.mark.parametrize(
    "words", [[str(n) for n in range(600)], [f"{chr(97 + n // 26)}{chr(97 + n % 26)}tumab" for n in range(600)]]
)
def test_questions_of_one_template_stay_and_take_seconds(words: list[str]) -> None:
    texts = [
        f"A man who takes {word} mg for the pain in his joints has weak legs and sleeps badly. What causes it?"
        for word in words
    ]
    begin = time.perf_counter()
    matched, _ = find([*texts, texts[500].replace("has weak", "has really weak")])
    assert {place: kept for place, (kept, _) in matched.items()} == {600: 500}
    assert time.perf_counter() - begin < 10  # 1 on a quiet machine; every pair compared, 10 there


@pytest.mark.parametrize(("text", "share"), [(EN[0][0], 0.15), (EN[3][0], 0.2), (ZH[0][0], 0.1), (ZH[2][0], 0.1)])
def test_no_near_duplicates_are_left_of_a_group_near_the_threshold(text: str, share: float) -> None:
    rng, glue = random.Random(4), " " if text.isascii() else ""
    spare = "really thus gently well clearly kindly" if text.isascii() else "的 了 也 就 会 很"
    texts = []
    for _ in range(180):
        parts = text.split() if text.isascii() else list(text)
        for place in sorted(rng.sample(range(len(parts)), round(share * len(parts))), reverse=True):
            parts[place : place + 1] = rng.choice([[], [parts[place], rng.choice(spare.split())]])
        texts.append(glue.join(parts))
    matched, _ = find(texts)
    kept = [text for place, text in enumerate(texts) if place not in matched]
    assert find(kept)[0] == {}
    for number, one in enumerate(kept):
        assert not any(find([other, one])[0] for other in kept[:number])


ILLS = {"en": "gout malaria asthma sepsis lupus anaemia", "zh": "痛风 疟疾 哮喘 败血症 狼疮 贫血"}
PILLS = {
    "en": "carbaxin lotopine mebamab pravelol sultoxin zodilol ribapine cardimab lovelol metoxin",
    "zh": "阿莫 奥普 依坦 头匹 美非 氟替 沙孢 利西 培司 曲罗",
}
TEMPLATES = {
    "en": ("A {}-year-old man with {} takes {} every day and has a new rash on his arm. What should be done now?", ("his arm", "his own arm"), ("has a", "really has a"), ("new rash", "rash"), ("be done", "really be done")),
    "zh": ("患者男，{}岁，诊断为{}，长期服用{}，近日出现乏力，应首先检查什么？", ("长期", "长"), ("近日", "近日会"), ("应首先", "首先"), ("检查什么", "检查的什么")),
}  # fmt: skip


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_repeats_among_questions_of_one_template_leave_one(lang: str) -> None:
    template, *edits = TEMPLATES[lang]
    named = [(ill, pill) for ill in ILLS[lang].split() for pill in PILLS[lang].split()]
    texts = [template.format(20 + number, *names) for number, names in enumerate(named)]
    repeats = [text.replace(*edit) for text in texts for edit in edits]
    matched, _ = find([*texts, *repeats])
    assert sorted(matched) == list(range(len(texts), len(texts) + len(repeats)))


def test_what_is_alike_but_another_question_is_linked_for_the_splits() -> None:
    _, linked = find([EN[0][0], EN[0][0].replace("45-year-old", "75-year-old")])
    assert linked == [(0, 1)]
