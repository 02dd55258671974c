# ruff: noqa: E501 - texts in tables stay on one line
"""A tiny tokenizer, a few real-looking records, and a way to run the command in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

EN = [
    ("A 45-year-old man has crushing chest pain for two hours and ST elevation in leads II, III and aVF. Which artery is most likely occluded?", "right coronary artery"),
    ("A 6-month-old infant has a barking cough and stridor at night after three days of a runny nose. What is the most likely diagnosis?", "croup"),
    ("Which vitamin deficiency explains night blindness and dry eyes in a child from a refugee camp?", "vitamin A"),
    ("A woman aged 30 notices weight loss, palpitations and heat intolerance with a diffuse goitre. What test confirms the suspicion?", "thyroid function tests"),
]  # fmt: skip
ZH = [
    ("患者，男，56岁，突发剧烈胸痛伴大汗两小时，心电图示下壁导联ST段抬高，最可能闭塞的血管是哪一支？", "右冠状动脉"),
    ("6个月婴儿夜间出现犬吠样咳嗽和喉鸣，三天前有流涕，最可能的诊断是什么？", "急性喉炎"),
    ("长期素食的老年人出现手足麻木和步态不稳，血红蛋白降低，应首先考虑缺乏哪种维生素？", "维生素B12"),
]


def record(question: str, answer: str, lang: str, **extra: object) -> dict:
    """A raw record with a short, sound chain of thought."""
    if lang == "en":
        thought = (
            f"Let me think about the findings first. {question} The picture fits best with {answer}. So that is it."
        )
        reply = f"The most likely answer is {answer}, as the findings show."
    else:
        thought = f"先看主要表现。{question}结合病史与检查，最符合的是{answer}。因此考虑{answer}。"
        reply = f"综合以上，答案是{answer}。"
    return {"Question": question, "Complex_CoT": thought, "Response": reply, "lang": lang, **extra}


@pytest.fixture
def rows() -> list[dict]:
    """Seven clean records that differ."""
    return [record(q, a, "en") for q, a in EN] + [record(q, a, "zh") for q, a in ZH]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny tokenizer that knows the marks of template deepseekr1."""
    from scripts.train.bases import build_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer([question for question, _ in EN + ZH], folder, vocab_size=600, template="deepseekr1")
    return folder


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """A benchmark file of two items, one in each language."""
    path = tmp_path / "items.jsonl"
    options = {"A": "Aspirin and clopidogrel", "B": "Warfarin alone", "C": "No treatment", "D": "Heparin infusion"}
    question = (
        "A 71-year-old woman with atrial fibrillation and a metallic mitral valve asks which drug prevents stroke best"
    )
    zh = {"A": "青霉素", "B": "红霉素", "C": "链霉素", "D": "万古霉素"}
    zh_question = "患儿，5岁，发热伴咽痛三天，舌呈草莓样，全身弥漫性红色皮疹，首选的治疗药物是"
    items = [
        {"id": "en1", "lang": "en", "question": question, "options": options, "answer_idx": "B"},
        {"id": "zh1", "lang": "zh", "question": zh_question, "options": zh, "answer_idx": "A"},
    ]
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), "utf-8")
    return path


def write(path: Path, rows: list) -> Path:
    """Rows as JSON lines; a str is written as it is."""
    path.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in rows), "utf-8"
    )
    return path


def read(path: Path) -> list[dict]:
    """Rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


@pytest.fixture
def run(tmp_path: Path, tokenizer: Path, items: Path) -> Callable[..., dict]:
    """Run the command as a user types it (default: --out out, one process); its report."""

    def command(*arguments: object, out: Path = tmp_path / "out") -> dict:
        from scripts.prepare.__main__ import parse_args
        from scripts.prepare.run import prepare

        given = [str(a) for a in arguments]
        defaults = {"--name": ["t"], "--tokenizer": [str(tokenizer)], "--benchmarks": [str(items)], "--num-proc": ["1"]}
        for flag, value in defaults.items():
            given += [] if flag in given else [flag, *value]
        return prepare(parse_args([*given, "--out", str(out)]))

    return command
