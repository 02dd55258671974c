"""Splits: what belongs together stays together, and nothing moves that need not."""

from __future__ import annotations

from argparse import Namespace

from scripts.prepare import dedup, split
from scripts.prepare.text import tokens


def test_linked_records_are_one_group() -> None:
    group = split.groups(6, [(0, 3), (3, 5), (1, 2)])
    assert [group.index(own) for own in group] == [0, 1, 1, 0, 4, 0]


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
    keys = [split.reasoning_bands(tokens(text), 1) for text in [texts[0], *texts]]
    linked = dedup.same_band(keys)
    assert all([later, 0] in linked for later in (1, 2))
    assert not any(3 in pair for pair in linked)


def test_a_group_goes_where_a_member_was_before_or_its_first_is_drawn() -> None:
    settings = Namespace(seed=42, val=0.2, test=0.2)
    records = [Namespace(id=f"id{number}", key=f"key {number}", reason=None) for number in range(40)]
    alone, group = split.assign(records, range(40), {}, settings), split.groups(40, [(0, 7)])
    assert alone.count("train") > alone.count("val") > 0 < alone.count("test")
    assert split.assign(records, group, {}, settings) == [*alone[:7], alone[0], *alone[8:]]
    for part in split.SPLITS:
        home = split.assign(records, group, {"id7": part}, settings)
        assert home[0] == home[7] == part
