# ruff: noqa: E501 - texts in tables stay on one line
"""Keys, near-duplicates and leaks: what must be found, and what must be left alone."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.prepare import decontaminate, dedup, keys
from tests.prepare.conftest import EN, ZH


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Fever, 38.5 C!", "fever 38.5 c"),
        ("ＣＴ检查（３天）", "CT检查(3天)"),
        ("患者發熱，頭痛", "患者发热头痛"),
        ("5mg", "5 mg"),
        ("Ménière’s", "Meniere's"),
    ],
)
def test_keys_are_equal_where_only_the_writing_differs(one: str, other: str) -> None:
    first, second = keys.text_keys(keys.tokenise([one, other]))
    assert first == second


def test_keys_do_not_depend_on_the_batch() -> None:
    texts = [question for question, _ in EN + ZH]
    together = keys.text_keys(keys.tokenise(texts))
    alone = [keys.text_keys(keys.tokenise([text]))[0] for text in texts]
    assert together.tolist() == alone
    assert len(set(alone)) == len(texts)
    grams = keys.ngrams(keys.tokenise(texts), 3, 4)
    assert grams.of(5).tolist() == keys.ngrams(keys.tokenise([texts[5]]), 3, 4).hashes.tolist()


def test_empty_and_odd_texts_have_keys() -> None:
    tokens = keys.tokenise(["", "...", "\x00", "a", ""])
    assert np.diff(tokens.starts).tolist() == [0, 0, 0, 1, 0]
    assert keys.features(tokens).starts.tolist() == [0, 0, 0, 0, 1, 1] or len(keys.features(tokens).hashes) == 1
    assert keys.tokenise(["", ""]).starts.tolist() == [0, 0, 0]


def clusters(texts: list[str], quality: list[int] | None = None, threshold: float = 0.5) -> dedup.Duplicates:
    tokens = keys.tokenise(texts)
    sets = keys.features(tokens)
    english = np.array([text.isascii() for text in texts])
    best = np.array(quality or [0] * len(texts))
    return dedup.deduplicate(keys.text_keys(tokens), dedup.sketch(sets, 1), sets, best, english, threshold)


def test_near_duplicates_are_found_and_the_better_one_kept() -> None:
    first, second, zh = EN[0][0], EN[1][0], ZH[0][0]
    edited = first.replace("crushing", "severe").replace("two hours", "3 hours")
    moved = "Which artery is most likely occluded? A 45-year-old man has crushing chest pain for two hours and ST elevation in leads II, III and aVF."
    zh_edited = zh.replace("剧烈", "压榨样").replace("两小时", "2小时")
    found = clusters([first, second, edited, zh, zh_edited, moved, first.upper()], [0, 0, 9, 0, 0, 1, 2])
    assert found.kept.tolist() == [2, 1, 2, 3, 3, 2, 2]
    assert found.anchor.tolist() == [0, 1, 0, 3, 3, 0, 0]
    assert found.similarity[4] < 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the drug of choice for malaria in pregnancy?", "What is the drug of choice for syphilis in pregnancy?"),
        ("Which nerve is injured in a fracture of the humeral shaft?", "Which nerve is injured in a fracture of the fibular neck?"),
        ("高血压患者首选的降压药物是什么？", "糖尿病患者首选的降糖药物是什么？"),
        (EN[0][0], EN[1][0]),
        (ZH[0][0], ZH[1][0]),
    ],
)  # fmt: skip
def test_different_questions_in_the_same_words_stay(one: str, other: str) -> None:
    assert clusters([one, other]).kept.tolist() == [0, 1]


def test_a_chain_keeps_both_ends_in_one_cluster() -> None:
    words = [f"word{i}" for i in range(40)]
    texts = [" ".join(words[i : i + 24]) for i in (0, 7, 14)]  # 0~1 and 1~2 alike, 0 and 2 not
    found = clusters(texts, [2, 1, 2], 0.4)
    assert found.kept.tolist() == [0, 0, 2]
    assert found.anchor.tolist() == [0, 0, 0]


ITEMS = [
    ("A 71-year-old woman with atrial fibrillation and a metallic mitral valve asks which drug prevents stroke best", ["Aspirin and clopidogrel", "Warfarin alone", "No treatment at all", "Heparin infusion"]),
    ("患儿，5岁，发热伴咽痛三天，舌呈草莓样，全身弥漫性红色皮疹，首选的治疗药物是", ["青霉素", "红霉素", "链霉素", "万古霉素"]),
    ("Concentration of tropicamide:", ["0.01", "0.02", "0.03", "0.04"]),
    ("缺铁性贫血", ["血清铁降低，总铁结合力增高", "血清铁增高，总铁结合力降低", "转铁蛋白饱和度增高", "骨髓铁染色阳性"]),
    ("Which of the following is not a risk factor for malignancy", ["DNA aneuploidy", "Male gender", "Candidiasis", "Leukoplakia"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def index() -> decontaminate.BenchmarkIndex:
    items = [
        {"benchmark": "b", "id": str(n), "question": q, "options": dict(zip("ABCD", options, strict=True))}
        for n, (q, options) in enumerate(ITEMS)
    ]
    return decontaminate.BenchmarkIndex(items)


@pytest.mark.parametrize(
    ("text", "item", "kind"),
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
        (EN[0][0], None, None),
        (ZH[1][0], None, None),
        ("", None, None),
    ],
)  # fmt: skip
def test_leaks(index: decontaminate.BenchmarkIndex, text: str, item: int | None, kind: str | None) -> None:
    tokens = keys.tokenise([EN[2][0], text, ZH[2][0]])
    leaks = index.search(tokens, keys.features(tokens))
    assert leaks[0] is None
    assert leaks[2] is None
    if item is None:
        assert leaks[1] is None
    else:
        assert leaks[1].item == item
        assert leaks[1].kind.startswith(kind)
