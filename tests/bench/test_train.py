"""What the speed figures stand on: lengths, tokens that count, FLOPs, ratios, the table."""

from __future__ import annotations

import statistics

import pytest

from scripts.bench import stand_in, table, train
from scripts.common import UserError


def test_record_lengths_are_medical_o1s():
    lengths = stand_in.record_lengths(1920)
    assert statistics.mean(lengths) == pytest.approx(567, abs=5)
    assert sorted(lengths)[int(0.95 * 1920)] == pytest.approx(790, abs=15)
    assert max(lengths) == 1356


def test_a_token_counts_only_if_it_is_no_padding():
    import torch

    from scripts.bench.meter import real_tokens

    labels = torch.tensor([[-100, -100, 5, 6, -100, -100], [-100, 7, 8, 9, 10, 11]])  # (B, T): prompt, answer, padding
    assert real_tokens(labels).item() == 4 + 6


def test_flops_of_the_7b_shape():
    """4 FLOPs per weight of the matrix products (7.07 billion with the output layer), and attention's own."""
    found = stand_in.flops_per_token(stand_in.SHAPES["7b"], 300)
    assert found == pytest.approx(4 * 7.07e9 + 12 * 28 * 3584 * 300, rel=0.01)


def test_ratios_are_taken_within_one_loan_only():
    here = {"shape": "7b", "gpus": 1, "longest": 1356, "machine": "m", "commit": "a"}
    rows = [
        here | {"variant": "plain", "tokens_per_s": 100.0},
        here | {"variant": "ours", "tokens_per_s": 250.0},
        here | {"variant": "failed", "error": "status 1"},
        here | {"variant": "elsewhere", "tokens_per_s": 500.0, "commit": "b"},
        here | {"variant": "other records", "tokens_per_s": 500.0, "longest": 2048},
    ]
    found = {row["variant"]: row["ratio_to_plain"] for row in train.with_ratios(rows)}
    assert found == {"plain": 1.0, "ours": 2.5, "failed": None, "elsewhere": None, "other records": None}
    assert all(row["ratio_to_original"] is None for row in rows)


@pytest.mark.parametrize("wanted", ["no such variant", "ours@70b", "examples/none.yaml"])
def test_an_unknown_variant_is_refused(wanted, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train", "--tokenizer", ".", "--variants", wanted])
    with pytest.raises(UserError, match="not a variant"):
        train.main()


def test_the_table_of_the_repository_is_up_to_date():
    """examples/README.md shows what docs/bench_train.json holds."""
    text = (train.ROOT / "examples/README.md").read_text(encoding="utf-8")
    assert table.filled(text, train.read_json(train.ROOT / "docs/bench_train.json")) == text
