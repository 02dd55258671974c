"""Measure evaluation engines side by side on this machine: ``python -m scripts.bench.evaluate``; no hub is needed.

    python -m scripts.bench.evaluate --tokenizer DIR
    python -m scripts.bench.evaluate --tokenizer DIR --shape 1.5b --engines vllm --vllm /path/to/python

hf: transformers' generate with 100 prompts at once, as lm-eval's hf model does. ours: LocalEngine, whose batch
follows the free memory and loses rows that have ended. vllm: the server that ``make eval ENGINE=vllm`` starts. All in
bfloat16, with a LoRA adapter of rank 8, R1's sampling, the same prompts and the same end tokens.

Random weights never end a text, so a fixed share of the vocabulary counts as end tokens: lengths then differ as a
geometric distribution does (mean 400 tokens, at most 1,024). Rows go to docs/bench_evaluate.json.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path
from typing import Any

from scripts.bench.stand_in import SHAPES, build_model
from scripts.common import ROOT, git_commit, machine, read_json, run_main, versions, write_json
from scripts.evaluate.engines import R1_SAMPLING, LoadedModel, LocalEngine, in_parallel
from scripts.evaluate.server import AT_ONCE
from scripts.evaluate.subject import PLAIN, Subject

SEVEN = 16_528  # items of MedQA, MedMCQA, PubMedQA, MMLU's and MMLU-Pro's medical part, MedQA-zh, CMExam
HF_BATCH = 100
ITEMS = 512
BUDGET = 1024  # most tokens of a text
MEAN = 400  # tokens of a text that is not cut
WORK = ROOT / "saves/bench"  # models and logs
ROWS = ROOT / "docs/bench_evaluate.json"
WORDS = ("fever", "cough", "pain", "rash", "dose", "heart", "发热", "咳嗽", "疼痛", "剂量", "心脏", "血压")


def make_adapter(model: Path, folder: Path) -> Path:
    """A random rank-8 adapter on all linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    if not (folder / "adapter_model.safetensors").exists():
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(base, config).save_pretrained(folder)
    return folder


def make_prompts(count: int) -> list[str]:
    """Prompts of 100 to 300 words, as benchmark items with their options have."""
    drawn = random.Random(7)
    return [" ".join(drawn.choices(WORDS, k=drawn.randint(100, 300))) for _ in range(count)]


def end_tokens(vocabulary: int) -> list[int]:
    """A share 1/MEAN of the vocabulary, so that a random model's texts end after MEAN tokens on average."""
    return sorted(random.Random(11).sample(range(1000, vocabulary), vocabulary // MEAN))


def with_hf(loaded: LoadedModel, prompts: list[str], budget: int, ends: list[int]) -> int:
    """Tokens that transformers' own generate made."""
    import torch

    made = 0
    order = sorted(prompts, key=len, reverse=True)
    for start in range(0, len(order), HF_BATCH):
        batch = loaded.tokenizer(order[start : start + HF_BATCH], return_tensors="pt", padding=True)
        batch = batch.to(loaded.model.device)
        with torch.inference_mode():
            limits = {"max_new_tokens": budget, "eos_token_id": ends, "pad_token_id": ends[0]}
            rows = loaded.model.generate(**batch, **R1_SAMPLING, do_sample=True, top_k=0, **limits)
        for row in rows[:, batch["input_ids"].shape[1] :].tolist():
            made += next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
    return made


def with_ours(loaded: LoadedModel, prompts: list[str], budget: int, ends: list[int]) -> int:
    """Tokens that LocalEngine made."""
    loaded.stop_ids = set(ends)
    engine, made = LocalEngine(loaded, "tuned"), 0
    for batch in engine.batches(prompts, budget):
        pieces = engine.generate([prompts[i] for i in batch], budget, R1_SAMPLING, batch)
        made += sum(piece.tokens for piece in pieces)
    return made


def with_vllm(
    subject: Subject, python: str | None, prompts: list[str], budget: int, ends: list[int]
) -> tuple[int, float]:
    """(tokens, seconds) of vLLM's server, its start not counted."""
    import openai

    from scripts.evaluate import vllm

    with vllm.serve(subject, python, 4096, WORK / "vllm.log") as url:
        http = openai.DefaultHttpxClient(trust_env=False, timeout=600)
        client = openai.OpenAI(base_url=url, api_key=os.environ["OPENAI_API_KEY"], http_client=http)

        def ask(prompt: str) -> int:
            more = {"extra_body": {"stop_token_ids": ends, "add_special_tokens": False}}
            said = client.completions.create(model="tuned", prompt=prompt, max_tokens=budget, **R1_SAMPLING, **more)
            return said.usage.completion_tokens

        list(in_parallel(ask, prompts[:64], 64))  # warm: graphs are captured, kernels tuned
        began = time.perf_counter()
        made = sum(in_parallel(ask, prompts, AT_ONCE))
        return made, time.perf_counter() - began


def measure(name: str, subject: Subject, args: argparse.Namespace, loaded: LoadedModel | None) -> dict[str, Any]:
    """One row: tokens and items per second of an engine."""
    from transformers import AutoConfig

    prompts = make_prompts(ITEMS)
    ends = end_tokens(AutoConfig.from_pretrained(subject.model).vocab_size)
    if name == "vllm":
        made, seconds = with_vllm(subject, args.vllm, prompts, BUDGET, ends)
    else:
        run = with_hf if name == "hf" else with_ours
        run(loaded, prompts[:8], 16, ends)  # warm
        began = time.perf_counter()
        made = run(loaded, prompts, BUDGET, ends)
        seconds = time.perf_counter() - began
    about = {"engine": name, "model": args.shape, "precision": "bfloat16"}
    return about | {
        "items": ITEMS,
        "budget": BUDGET,
        "mean_tokens": round(made / ITEMS, 1),
        "seconds": round(seconds, 1),
        "tokens_per_s": round(made / seconds, 1),
        "items_per_s": round(ITEMS / seconds, 3),
        "seven_benchmarks_two_models_s": round(2 * SEVEN * seconds / ITEMS),
    }


def main() -> None:
    style = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.evaluate", description=__doc__, **style)
    parser.add_argument("--shape", choices=SHAPES, default="7b", help="of the model; its weights are random")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the model's tokenizer")
    parser.add_argument("--engines", nargs="+", choices=("hf", "ours", "vllm"), default=["hf", "ours", "vllm"])
    parser.add_argument("--vllm", help="an environment with vLLM, or its interpreter (default: .venv-vllm)")
    args = parser.parse_args()
    model = WORK / f"{args.shape}-evaluate"
    build_model(SHAPES[args.shape], model, args.tokenizer)
    adapter = make_adapter(model, WORK / f"{args.shape}-adapter")
    subject = Subject(str(model), str(adapter), "qwen", None, True, PLAIN, None)
    loaded = None
    for name in sorted(args.engines, reverse=True):  # vllm first: its server takes the whole GPU, and gives it back
        if name != "vllm":
            loaded = loaded or LoadedModel(subject, PLAIN)
        row = measure(name, subject, args, loaded)
        row |= {"machine": machine(), "commit": git_commit(), "measured": time.strftime("%Y-%m-%d")}
        row |= {"versions": versions("torch", "transformers", "vllm")}
        rows = read_json(ROWS) if ROWS.exists() else []
        write_json(ROWS, [*rows, row])
        print({key: row[key] for key in ("engine", "model", "tokens_per_s", "items_per_s", "seconds")}, flush=True)


if __name__ == "__main__":
    run_main(main)
