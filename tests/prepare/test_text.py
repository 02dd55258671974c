# ruff: noqa: E501 - texts in tables stay on one line
"""Repairs must not touch a dose; a language is told from few words; tokens fold the writing, not the words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.prepare.text import language, mixed, repair, tokens

UNTOUCHED = [
    "5 µg of levothyroxine, then 2.5 µg", "38.5℃ and 101℉", "BMI 24 kg/m²; CD4 10⁹/L", "½ tablet, ¼ dose, 1⁄3", "㎎ ㎏ ㏄ ㎜Hg",
    "p<0.05 and a < b > c", "Na⁺ 140, Ca²⁺ 2.3, pH 7.4", "①首选 ②次选 Ⅱ型 ⅱ", "±2 SD, ≥3 ×10⁹, ≤5‰, 37.2～38.0℃", "（全角）、标点；：！？",
    "Guillain–Barré, Ménière, Sjögren, naïve", "α-blocker β₂ γ-GT Δ", "5'-nucleotidase 3″", "AT&T; R&D; Q&A", "“quoted” ‘so’ … —",
    "x<y & y>z", "ﬁbrosis", "I'm 60 kg; take 1,000 IU", "<5 mg/dL", "Å is kept as Å",
    "1. Blood\n   - full count\n2. Urine\n     - again", "```python\ndef bmi(kg, m):\n    return kg / m ** 2\n```", "| drug  | dose   |\n|:------|-------:|",
]  # fmt: skip


@pytest.mark.parametrize("text", UNTOUCHED)
def test_repair_changes_no_dose_unit_mark_or_indentation(text: str) -> None:
    assert repair(text) == (text, set())


@pytest.mark.parametrize(
    ("broken", "mended", "kind"),
    [
        ("Temp 38\u00c2\u00b0C", "Temp 38°C", "characters"),
        ("the patient\u00e2\u20ac\u2122s", "the patient\u2019s", "characters"),
        ("Me\u0301nie\u0300re", "Ménière", "characters"),
        ("fever\u200b and\ufeff chills\x07", "fever and chills", "characters"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd", "characters"),
        ("dose:\u00a05\u202fmg", "dose: 5 mg", "characters"),
        ("a  \n\n\n\n  b\nc", "a\n\n  b\nc", "spaces"),
        ("<p>Fever</p><br/>and <b>rash</b>", "Fever\n\nand rash", "markup"),
        ("10<sup>9</sup>/L, H<sub>2</sub>O, x<sup>a+1</sup>", "10⁹/L, H₂O, x^{a+1}", "markup"),
        ("p &lt; 0.05 &amp;amp; 5&nbsp;&micro;g", "p < 0.05 & 5 µg", "markup"),
        ('<a href="x">link</a>', "link", "markup"),
        ("&lt;p&gt;escaped&lt;/p&gt;", "escaped", "markup"),
        ("Done.<｜end▁of▁sentence｜>", "Done.", "markup"),
        ("<｜begin▁of▁sentence｜><｜User｜>Why?", "Why?", "markup"),
    ],
)
def test_repair_mends_and_says_what(broken: str, mended: str, kind: str) -> None:
    text, kinds = repair(broken)
    assert text == mended
    assert kind in kinds


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_repair_is_stable(text: str) -> None:
    once = repair(text)[0]
    assert repair(once) == (once, set())


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("What is the role of β-blockers in heart failure?", "en"), ("What does TNF-α do?", "en"), ("How is Behçet disease treated?", "en"),
        ("What is a normal creatinine in µmol/L?", "en"), ("What does 气虚 mean in Chinese medicine?", "en"), ("Who described Ménière's disease?", "en"),
        ("肝硬化出血后嗜睡，用什么药？", "zh"), ("COPD患者FEV1/FVC<70%，PaCO2 60 mmHg，首选无创通气NIV还是HFNC？", "zh"), ("Crohn病?怎么治", "zh"),
        ("Was ist das?", None), ("Quelle est la cause?", None), ("¿Qué es la diabetes?", None), ("Che cosa è il diabete?", None), ("Wat is de oorzaak van jicht?", None),
        ("У мужчины 45 лет боль в груди.", None), ("患者は三日前から発熱があります。", None), ("환자는 열이 있습니다", None),
        ("Un homme de 45 ans consulte pour une douleur thoracique avec de la fièvre. Quel est le diagnostic le plus probable?", None),
        ("Gout treatment?", ""), ("TNF-α", ""), ("Guillain-Barré syndrome?", ""), ("Was hilft gegen Fieber?", None), ("", ""),
    ],
)  # fmt: skip
def test_language(text: str, lang: str | None) -> None:
    assert language(text) == lang


def test_mixed_texts_and_terms() -> None:
    zh = "大脚趾关节红肿热痛首先想到痛风。噻嗪类减少肾脏对尿酸的排泄，使血尿酸升高。尿酸盐容易析出结晶。"
    en = (
        "A hot swollen first toe joint suggests gout. Thiazides raise uric acid because they reduce how much is passed."
    )
    assert [mixed(zh, "zh"), mixed(en, "en"), mixed(zh, "en"), mixed(en, "zh")] == [False, False, True, True]
    assert mixed(zh + en, "zh")
    assert mixed(en + zh, "en")
    assert not mixed("患者使用ACEI（angiotensin converting enzyme inhibitor）后咳嗽，改用ARB（losartan）后好转。", "zh")
    assert not mixed("The Chinese term is 气虚 (qi deficiency), which has no exact counterpart.", "en")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Fever, 38.5 C!", "fever 38.5 c"), ("ＣＴ检查（３天）", "CT检查(3天)"), ("患者發熱，頭痛", "患者发热头痛"),
        ("5mg", "5 mg"), ("Ménière’s", "Meniere's"),
    ],
)  # fmt: skip
def test_tokens_are_equal_where_only_the_writing_differs(one: str, other: str) -> None:
    assert tokens(one) == tokens(other) != []
