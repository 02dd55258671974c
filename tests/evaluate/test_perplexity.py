"""Perplexity: by hand, against transformers' loss, on the trainer's own tokens, resumed, and on bad input."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest

from scripts.common import UserError
from scripts.evaluate import perplexity
from scripts.evaluate import subject as models
from tests.evaluate.tiny import build_tiny, write_records

PRECISION = {"bits": None, "dtype": "float32"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    base, adapter = build_tiny(folder)
    return models.Subject(base, adapter, precision=PRECISION), write_records(folder / "data.jsonl")


def test_toy_by_hand():
    import torch

    # p(next | current): from 0 to 1 with 1/2, from 1 to 2 with 1/4, from 2 to 0 with 1/5
    table = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.2, 0.4, 0.4]]).log()

    class Toy:
        device = "cpu"

        def __call__(self, ids, logits_to_keep):
            return SimpleNamespace(logits=table[ids][:, -logits_to_keep:])

    nll = perplexity.response_nll(Toy(), prompt=[2, 0], response=[1, 2, 0])
    assert nll == pytest.approx([math.log(2), math.log(4), math.log(5)])


def test_mean_is_over_tokens_not_records():
    rows = []
    for name, factor in (("base", 1.0), ("tuned", 0.5)):
        for line, (nll, tokens) in enumerate([(2.0, 1), (3.0, 9)]):
            rows.append(
                {"model": name, "id": "x", "line": line, "lang": "en", "truncated": False}
                | {"nll": {"reasoning": 0.0, "answer": nll * factor}, "tokens": {"reasoning": 0, "answer": tokens}}
            )
    result = perplexity.summarise(rows)
    assert result["base"]["ppl"] == pytest.approx(math.exp(5 / 10))
    assert (result["base"]["n"], result["base"]["tokens"]) == (2, 10)
    assert result["difference"]["ppl"] == pytest.approx(math.exp(2.5 / 10) - math.exp(5 / 10))
    assert result["difference"]["gain"]
    assert perplexity.summarise(rows, ("reasoning",))["base"]["ppl"] is None
    same = [row | {"nll": rows[i % 2]["nll"]} for i, row in enumerate(rows)]
    assert perplexity.summarise(same)["difference"] == {"ppl": 0.0, "n": 2, "ci95": [0.0, 0.0], "gain": False}


def test_tokens_are_the_trainers_and_loss_is_transformers(tiny):
    import torch
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.hparams import DataArguments

    subject, data = tiny
    model, tokenizer, template = subject.loaded()
    for cutoff_len in (512, 60):
        for record in perplexity.read_records(data):
            tokens = perplexity.encode(record, tokenizer, template, cutoff_len)
            arguments = DataArguments(template="deepseekr1", cutoff_len=cutoff_len)
            trainer = SupervisedDatasetProcessor(template, tokenizer, None, arguments)
            turns = [{"role": "user", "content": record["input"]}], [{"role": "assistant", "content": record["output"]}]
            ids, labels = trainer._encode_data_example(*turns, None, None, [], [], [])
            assert tokens["prompt"] + tokens["response"] == ids
            assert [-100] * len(tokens["prompt"]) + tokens["response"] == labels
            answer = tokenizer.decode(tokens["response"][tokens["answer_at"] :], skip_special_tokens=True)
            assert answer == record["output"].split("</think>\n\n")[1][: len(answer)]
            assert tokens["truncated"] == (cutoff_len == 60)
            with torch.inference_mode():
                loss = model(torch.tensor([ids]), labels=torch.tensor([labels])).loss
            nll = perplexity.response_nll(model, tokens["prompt"], tokens["response"])
            assert sum(nll) / len(nll) == pytest.approx(float(loss), rel=1e-5)


def test_base_is_the_model_without_adapter_and_a_rerun_asks_nothing(tiny, tmp_path, monkeypatch):
    subject, data = tiny
    result = perplexity.evaluate(subject, data, 512, tmp_path / "both")
    alone = models.Subject(subject.model, None, precision=PRECISION)
    assert perplexity.evaluate(alone, data, 512, tmp_path / "alone")["base"]["ppl"] == result["base"]["ppl"]
    assert result["tuned"]["ppl"] != result["base"]["ppl"]
    assert (result["base"]["n"], set(result["languages"])) == (6, {"en", "zh"})

    samples = tmp_path / "both" / "perplexity_samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    nll, tokens = (sum(sum(r[k].values()) for r in rows if r["model"] == "tuned") for k in ("nll", "tokens"))
    assert math.exp(nll / tokens) == pytest.approx(result["tuned"]["ppl"])  # recomputable from what is kept

    samples.write_bytes(samples.read_bytes()[:-20])  # killed while the last line was written
    fresh = models.Subject(subject.model, subject.adapter, precision=PRECISION)
    again = perplexity.evaluate(fresh, data, 512, tmp_path / "both")
    assert {k: again[k] for k in ("base", "tuned", "parts")} == {k: result[k] for k in ("base", "tuned", "parts")}
    assert len(samples.read_text().splitlines()) == 12
    monkeypatch.setattr(models, "load_model", lambda _: pytest.fail("a finished record was asked again"))
    perplexity.evaluate(
        models.Subject(subject.model, subject.adapter, precision=PRECISION), data, 512, tmp_path / "both"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no records"),
        ('{"input": "q"}', r":1: expected texts `input` and `output`"),
        ('{"input": "q", "output": "no thought"}', r":1: `output` is not <think>"),
        ('{"input": "q", "output": "<think>\\nopen"}', r":1: `output` is not <think>"),
        ("{", r":1: not valid JSON"),
    ],
)
def test_bad_records_stop_before_any_work(tmp_path, line, message):
    (tmp_path / "data.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        perplexity.read_records(tmp_path / "data.jsonl")


def test_precision_comes_from_the_adapters_recipe(tmp_path):
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        models.find_subject("base", str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text("quantization_bit: 4\ndouble_quantization: false\ntemplate: deepseekr1\n")
    (tmp_path / "medcot.json").write_text(json.dumps({"recipe": str(tmp_path / "recipe.yaml")}))
    assert models.find_subject("base", str(tmp_path)).precision == {
        "bits": 4, "dtype": "bfloat16", "type": "nf4", "double": False
    }  # fmt: skip
    with pytest.raises(UserError, match="no such recipe"):
        models.find_subject("base", str(tmp_path), recipe=str(tmp_path / "gone.yaml"))
