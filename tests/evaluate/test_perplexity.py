"""Perplexity: against transformers' loss, on the trainer's own tokens, resumed, and on bad input."""

from __future__ import annotations

import json
import math

import pytest

from scripts.common import UserError
from scripts.evaluate import engines, perplexity
from scripts.evaluate.engines import LoadedModel
from scripts.evaluate.store import Store
from scripts.evaluate.subject import Subject
from tests.conftest import TEMPLATES, write_records

EXACT = {"bits": None, "dtype": "float32"}


@pytest.fixture(scope="module")
def tiny(tiny_model, tiny_adapter, tmp_path_factory):
    subject = Subject(str(tiny_model), str(tiny_adapter), "deepseekr1", None, True, EXACT, None)
    records = perplexity.read_records(write_records(tmp_path_factory.mktemp("data") / "data.jsonl"))
    return LoadedModel(subject), records


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("cutoff_len", [512, 60])
def test_tokens_are_the_trainers_and_loss_is_transformers(tiny_models, tmp_path, name, cutoff_len):
    import torch
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.hparams import DataArguments

    loaded = LoadedModel(Subject(str(tiny_models[name]), None, name, None, True, EXACT, None))
    form = loaded.form
    for record in perplexity.read_records(write_records(tmp_path / "data.jsonl")):
        tokens, cut = perplexity.encode(record, form, cutoff_len)
        arguments = DataArguments(template=name, cutoff_len=cutoff_len)
        trainer = SupervisedDatasetProcessor(form.template, form.tokenizer, None, arguments)
        turns = [{"role": "user", "content": record["input"]}], [{"role": "assistant", "content": record["output"]}]
        ids, labels = trainer._encode_data_example(*turns, None, None, [], [], [])
        assert tokens.prompt + tokens.response == ids
        assert [-100] * len(tokens.prompt) + tokens.response == labels
        assert cut == (cutoff_len == 60)
        with torch.inference_mode():
            loss = loaded.model(torch.tensor([ids]), labels=torch.tensor([labels])).loss
        nll = perplexity.response_nll(loaded.model, tokens.prompt, tokens.response)
        assert sum(nll) / len(nll) == pytest.approx(float(loss), rel=1e-5)


def test_base_is_the_model_without_adapter_and_a_rerun_asks_nothing(tiny, tmp_path, monkeypatch):
    loaded, records = tiny
    path = tmp_path / "items.jsonl"
    rows = perplexity.measure(loaded, records, 512, Store(path), ("base", "tuned"))
    result = perplexity.summarise(rows)
    alone = LoadedModel(Subject(loaded.subject.model, None, "deepseekr1", None, True, EXACT, None))
    base = perplexity.measure(alone, records, 512, Store(tmp_path / "alone.jsonl"), ("base",))
    assert perplexity.summarise(base)["base"]["ppl"] == pytest.approx(result["base"]["ppl"], rel=1e-6)
    assert result["tuned"]["ppl"] != result["base"]["ppl"]
    assert (result["base"]["n"], set(result["languages"])) == (6, {"en", "zh"})
    nll, tokens = (sum(sum(r[k].values()) for r in rows if r["model"] == "tuned") for k in ("nll", "tokens"))
    assert math.exp(nll / tokens) == pytest.approx(result["tuned"]["ppl"])  # recomputable from what is kept
    path.write_bytes(path.read_bytes()[:-20])  # killed while the last line was written
    again = perplexity.measure(loaded, records, 512, Store(path), ("base", "tuned"))
    assert perplexity.summarise(again) == result
    assert len(path.read_text().splitlines()) == 12
    monkeypatch.setattr(perplexity, "response_nll", lambda *_: pytest.fail("a finished record was asked again"))
    perplexity.measure(loaded, records, 512, Store(path), ("base", "tuned"))


@pytest.mark.filterwarnings("ignore")
def test_unpacked_4_bit_weights_say_what_packed_ones_say(tiny, tmp_path, monkeypatch):
    exact, records = tiny
    nf4 = {"bits": 4, "dtype": "bfloat16", "type": "nf4", "double": True}
    nats = {}
    for name, fits in (("packed", False), ("unpacked", True)):
        monkeypatch.setattr(engines, "fits_in_memory", lambda model, fits=fits: fits)
        loaded = LoadedModel(exact.subject, nf4)
        rows = perplexity.measure(loaded, records, 512, Store(tmp_path / name), ("base", "tuned"))
        nats[name] = [sum(row["nll"].values()) / sum(row["tokens"].values()) for row in rows]
        assert any("4bit" in type(part).__name__ for part in loaded.model.modules()) != fits
    assert nats["unpacked"] == pytest.approx(nats["packed"], rel=5e-3)


def test_alpacas_instruction_counts_as_the_question(tiny, tmp_path):
    """The same record as prepared, and with its question in `instruction`: one perplexity."""
    records = tiny[1]
    rows = [{"instruction": record["input"], "input": "", "output": record["output"]} for record in records]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = perplexity.read_records(tmp_path / "a.jsonl")
    assert [row["input"] for row in read] == [record["input"] for record in records]
    both = [{"instruction": "Be brief.", "input": "Fever?", "output": "x"}]
    (tmp_path / "b.jsonl").write_text(json.dumps(both[0]))
    assert perplexity.read_records(tmp_path / "b.jsonl")[0]["input"] == "Be brief.\nFever?"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no records"),
        ('{"input": "q"}', r":1: expected texts `input` and `output`"),
        ("{", r":1: not valid JSON"),
    ],
)
def test_bad_records_stop_before_any_work(tmp_path, line, message):
    (tmp_path / "data.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        perplexity.read_records(tmp_path / "data.jsonl")


def test_a_record_without_a_closed_thought_is_named(tiny):
    loaded, records = tiny
    for output in ("no thought", "<think>\nopen"):
        with pytest.raises(UserError, match="record r0: its `output` is not <think>"):
            perplexity.encode({**records[0], "output": output}, loaded.form, 512)
