"""Splits: what belongs together stays together, and nothing moves that need not."""

from __future__ import annotations

from scripts.prepare import split
from scripts.prepare.text import tokens

SETTINGS = {"seed": 42, "val": 0.2, "test": 0.2}


def test_linked_records_are_one_group_and_share_a_split() -> None:
    group = split.groups(range(6), [(0, 3), (3, 5), (1, 2)])
    assert group == {0: 0, 1: 1, 2: 1, 3: 0, 4: 4, 5: 0}
    home = split.assign({index: (f"id{index}", f"key {index}") for index in group}, group, SETTINGS, {})
    assert home[0] == home[3] == home[5]


def test_records_that_share_their_reasoning_are_linked() -> None:
    thought = "The pain comes after meals and when lying flat, which fits acid reflux. There is no weight loss at all, "
    thought += (
        "no bleeding and no trouble swallowing, so an endoscopy is not needed at first. A trial of acid suppression is "
    )
    texts = [
        thought + "a treatment and a test.",
        thought + "both a treatment and a test!",
        "Thiazides raise uric acid here.",
    ]
    keys = {index: split.reasoning_keys(tokens(text), 1) for index, text in enumerate([texts[0], *texts])}
    assert {pair for pair in split.shared_reasoning(keys) if 3 in pair} == set()
    assert (0, 1) in set(split.shared_reasoning(keys))


def test_a_group_goes_where_a_member_was_before() -> None:
    records = {index: (f"id{index}", f"key {index}") for index in range(40)}
    group = split.groups(records, [(0, 7)])
    for part in split.SPLITS:
        home = split.assign(records, group, SETTINGS, {"id7": part})
        assert home[0] == home[7] == part
    shares = [list(split.assign(records, group, SETTINGS, {}).values()).count(part) for part in split.SPLITS]
    assert shares[0] > shares[1] > 0 < shares[2]
