"""The code in data/README.md for larger engines is run as it stands there."""

from __future__ import annotations

import re

from scripts.common import ROOT
from tests.prepare.conftest import EN, record


def test_the_documented_datatrove_filter_runs_ours_unchanged() -> None:
    from datatrove.data import Document

    text = (ROOT / "data/README.md").read_text("utf-8")
    code = re.search(r"```python\n(.*?class MedCoTFilter.*?)```", text, re.S)
    space: dict = {}
    exec(code[1], space)
    good = record(*EN[0], "en")
    documents = [
        Document(text=row["Question"], id=str(n), metadata=row)
        for n, row in enumerate([good, good | {"Response": ""}, good | {"lang": "zh"}])
    ]
    judged = [space["MedCoTFilter"]().filter(document) for document in documents]
    assert judged == [True, (False, "no_answer"), (False, "wrong_language")]
