"""Check a training run before hours are spent on it: ``python -m scripts.train.preflight RECIPE [KEY=VALUE …]``.

Prints one table of checks, each failure with what to do, and exits with status 1 if anything that would waste the run
is wrong. When all is well it writes the run's identity (medcot.json) into output_dir; `make train` then trains.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from scripts.common import UserError, load_recipe, read_jsonl, run_main, write_json
from scripts.train import run as run_dir

# Both languages, digits, units, line breaks: transformers 5 loses every space and Chinese character of these.
ROUND_TRIP = (
    "Hello world, 患者发热3天",
    "<think>\n先看体温：38.5℃。\n</think>\n\n建议 0.5 µg/kg，2 次/日（≥ 3 天）。",
    "Na⁺ 128 mmol/L,  then  two spaces\n\n- item\tend",
)


class Check(NamedTuple):
    """One row of the table. ``status``: ok, warn (read it), skip (could not be checked here) or FAIL."""

    name: str
    status: str
    found: str


class Run:
    """A recipe as LLaMA-Factory itself parses it, with the tokenizer and model config loaded once."""

    def __init__(self, path: str, overrides: list[str]) -> None:
        self.path = path
        self.recipe = load_recipe(path, overrides)
        self.tokenizer: Any = None
        self.config: dict[str, Any] | None = None
        self.longest: int | None = None  # tokens of the longest record, once check_lengths has read them

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The run's identity; kept, since it reads every byte of the datasets."""
        return run_dir.identity(self.path, self.recipe)

    @property
    def batch(self) -> int:
        """Records per optimiser step and GPU."""
        return self.recipe.get("per_device_train_batch_size", 8) * self.recipe.get("gradient_accumulation_steps", 1)

    @property
    def model(self) -> str:
        return str(self.recipe["model_name_or_path"])


def check_recipe(run: Run) -> Iterator[Check]:
    """The recipe parses with LLaMA-Factory's own parser; a GPU recipe is parsed as for a CPU where there is no GPU."""
    import torch
    from llamafactory.hparams import get_train_args

    # output_dir is set aside: parsing must not look at, or refuse, an unfinished run that we want to resume.
    args = {**run.recipe, "output_dir": f"{run.recipe['output_dir']}/.parse-only", "report_to": "none"}
    if not torch.cuda.is_available():
        args["use_cpu"] = True
    try:
        get_train_args(args)
    except Exception as error:
        yield Check("recipe", "FAIL", f"{run.path}: {error}")
        return
    yield Check("recipe", "ok", f"{run.path}: LLaMA-Factory parses it; {run.batch} records per step and GPU")


def check_datasets(run: Run) -> Iterator[Check]:
    """Every dataset is registered, present, and has records."""
    for file in run_dir.dataset_files(run.recipe):
        records = sum(1 for _ in read_jsonl(file)) if file.suffix == ".jsonl" else None
        if records == 0:
            yield Check("dataset", "FAIL", f"{file}: no records; prepare it again and read its report.md")
        else:
            yield Check("dataset", "ok", f"{file}: {records if records is not None else 'some'} records")


def check_base_model(run: Run) -> Iterator[Check]:
    """The base model's config and tokenizer can be had: a local folder, the hub, a mirror or ModelScope."""
    from llamafactory.extras.misc import use_modelscope
    from transformers import AutoConfig, AutoTokenizer

    where = "local folder" if Path(run.model).is_dir() else "ModelScope" if use_modelscope() else "hub or its cache"
    if where != "local folder":
        print(f"asking for {run.model} (a minute where no hub can be reached) ...", file=sys.stderr, flush=True)
    try:
        folder = run.model
        if where == "ModelScope":
            from modelscope import snapshot_download

            folder = snapshot_download(run.model, allow_patterns=["*.json", "*.jinja"])
        run.config = AutoConfig.from_pretrained(folder).to_dict()
        run.tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        yield Check(
            "base model",
            "FAIL",
            f"{run.model} cannot be read from {where}: {first_line(error)}. Check the name and the network, set "
            "HF_ENDPOINT to a mirror, or USE_MODELSCOPE_HUB=1, or name a local folder by model_name_or_path=DIR",
        )
        return
    yield Check("base model", "ok", f"{run.model} ({where})")


def check_tokenizer(run: Run) -> Iterator[Check]:
    """The tokenizer gives back exactly what it was given, in both languages."""
    if run.tokenizer is None:
        yield Check("tokenizer", "skip", "no tokenizer was loaded")
        return
    for text in ROUND_TRIP:
        back = run.tokenizer.decode(run.tokenizer.encode(text, add_special_tokens=False))
        if back != text:
            yield Check(
                "tokenizer",
                "FAIL",
                f"{text!r} comes back as {back!r}: the model would learn garbage. transformers 5 does this to "
                "DeepSeek-R1-Distill-Qwen; run `make setup` for the pinned versions, or replace the tokenizer's files",
            )
            return
    yield Check("tokenizer", "ok", f"round trip exact in English and Chinese ({len(run.tokenizer)} tokens)")


def check_template(run: Run) -> Iterator[Check]:
    """Training's template and the tokenizer's own chat template give the same tokens up to <think>."""
    if run.tokenizer is None or not run.tokenizer.chat_template:
        yield Check("template", "skip", "the tokenizer brings no chat template to compare with")
        return
    message = {"role": "user", "content": "What causes fever? 发热的原因？"}
    official = run.tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    official_ids = run.tokenizer.encode(official.partition("<think>")[0], add_special_tokens=False)
    trained_ids, _ = template_of(run).encode_oneturn(
        run.tokenizer, [message, {"role": "assistant", "content": "<think>\nx\n</think>\n\ny"}]
    )
    if trained_ids != official_ids:
        found = run.tokenizer.decode(trained_ids)
        yield Check(
            "template",
            "FAIL",
            f"{run.recipe['template']} gives {found!r}, the tokenizer's own {official!r}; "
            "set `template` to the one of this model",
        )
    else:
        yield Check("template", "ok", f"{run.recipe['template']}: same tokens as the chat template up to <think>")


def check_lengths(run: Run) -> Iterator[Check]:
    """No record is longer than cutoff_len: training would cut off its answer and its end token."""
    if run.tokenizer is None or run.recipe.get("stage", "sft") != "sft":
        yield Check(
            "lengths", "skip", "no tokenizer was loaded" if run.tokenizer is None else "not a stage with records"
        )
        return
    from tqdm import tqdm

    template, limit, longest = template_of(run), int(run.recipe.get("cutoff_len", 2048)), 0
    for file in run_dir.dataset_files(run.recipe):
        for line, row in tqdm(read_jsonl(file), desc=f"lengths of {file.name}", leave=False):
            if not isinstance(row.get("input"), str) or not isinstance(row.get("output"), str):
                yield Check(
                    "lengths", "FAIL", f"{file}:{line}: expected text in `input` and `output`; prepare it again"
                )
                return
            turns = [{"role": "user", "content": row["input"]}, {"role": "assistant", "content": row["output"]}]
            prompt, answer = template.encode_oneturn(run.tokenizer, turns)
            # +1: the end token, which LLaMA-Factory's slots already hold for most templates
            length = len(prompt) + len(answer)
            longest = max(longest, length)
            if length > limit:
                yield Check(
                    "lengths",
                    "FAIL",
                    f"{file}:{line}: {length} tokens, cutoff_len is {limit}; "
                    f"prepare again with --cutoff-len {limit}, or raise cutoff_len",
                )
                return
    run.longest = longest
    yield Check("lengths", "ok", f"longest record {longest} tokens, cutoff_len {limit}")


def check_accelerator(run: Run) -> Iterator[Check]:
    """A GPU is there when the recipe wants one, with memory for it; how many GPUs and what batch that makes."""
    if run.recipe.get("use_cpu"):
        yield Check("accelerator", "ok", "the recipe says use_cpu")
        return
    import torch

    from scripts.train.memory import predict_peak_gib

    if not torch.cuda.is_available():
        yield Check(
            "accelerator",
            "FAIL",
            "no NVIDIA GPU with a working driver was found, and this recipe needs one. "
            "Check `nvidia-smi`; on a CPU try `make demo` (examples/qlora_cpu.yaml)",
        )
        return
    free, total = (value / 2**30 for value in torch.cuda.mem_get_info())
    name, count = torch.cuda.get_device_name(), torch.cuda.device_count()
    need = predict_peak_gib(run.recipe, run.config, run.longest)["total"] if run.config else None
    words = f"{name}, CUDA {torch.version.cuda}, {free:.1f} of {total:.1f} GiB free"
    if need is None:
        yield Check("accelerator", "warn", f"{words}; need unknown, the base model's config was not read")
    elif need > free:
        yield Check(
            "accelerator",
            "FAIL",
            f"{words}, but about {need:.1f} GiB are needed: close other programs, or halve "
            "per_device_train_batch_size and double gradient_accumulation_steps",
        )
    else:
        yield Check("accelerator", "ok", f"{words}; about {need:.1f} GiB needed")
    processes = int(os.environ.get("NPROC_PER_NODE", count))
    words = f"{processes}: {run.batch * processes} records per step"
    if processes == 1:
        yield Check("GPUs used", "ok", words)
    else:
        advice = f"set CUDA_VISIBLE_DEVICES=0 for one GPU, or divide per_device_train_batch_size by {processes}"
        yield Check("GPUs used", "warn", f"{words}; {advice}")


def check_imports(run: Run) -> Iterator[Check]:
    """The libraries that the recipe leans on load here, not after the model was downloaded."""
    wanted = {"bitsandbytes": "quantization_bit", "unsloth": "use_unsloth", "liger_kernel": "enable_liger_kernel"}
    for module, key in wanted.items():
        if not run.recipe.get(key):
            continue
        try:
            importlib.import_module(module)
            yield Check(module, "ok", "imports")
        except Exception as error:
            remedy = "it needs a GPU" if module == "unsloth" else "run `make setup`"
            yield Check(module, "FAIL", f"does not import: {first_line(error)} ({remedy}, or override {key}=false)")


def check_disk(run: Run) -> Iterator[Check]:
    """Room for the checkpoints and, when it is not here yet, for the base model."""
    output = Path(run.recipe["output_dir"])
    parent = next(path for path in [output, *output.absolute().parents] if path.exists())
    free = shutil.disk_usage(parent).free / 2**30
    need = 1.0 if Path(run.model).is_dir() else 17.0  # adapter and optimiser; a 7B base in bf16 is 15 GiB
    todo = "" if free >= need else "; free some, or set HF_HOME and output_dir to another disk"
    yield Check("disk", "ok" if free >= need else "FAIL", f"{free:.0f} GiB free, up to {need:.0f} wanted{todo}")


def check_output_dir(run: Run) -> Iterator[Check]:
    """output_dir is new, or holds an unfinished run of this very recipe and data; a broken checkpoint is set aside."""
    output = Path(run.recipe["output_dir"])
    state = run_dir.state(output, run.identity)
    if state in ("finished", "foreign"):
        what = {
            "finished": "already holds this run, finished",
            "foreign": "holds a run with another recipe, dataset or base model, which training would silently resume",
        }[state]
        yield Check("output_dir", "FAIL", f"{output} {what}. Name another (output_dir=saves/NAME) or move it away")
        return
    for message in run_dir.set_aside_broken(output):
        yield Check("output_dir", "warn", message)
    run_dir.trim_log(output)
    last = run_dir.checkpoints(output)[-1:]
    yield Check("output_dir", "ok", f"{output}: " + (f"resumes from {last[0].name}" if last else "new run"))


CHECKS: tuple[Callable[[Run], Iterator[Check]], ...] = (
    check_recipe,
    check_datasets,
    check_base_model,
    check_tokenizer,
    check_template,
    check_lengths,
    check_accelerator,
    check_imports,
    check_disk,
    check_output_dir,
)


def template_of(run: Run) -> Any:
    """LLaMA-Factory's template of the recipe, fitted to the tokenizer."""
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments

    return get_template_and_fix_tokenizer(run.tokenizer, DataArguments(template=run.recipe.get("template")))


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def examine(path: str, overrides: list[str]) -> list[Check]:
    """All checks of a recipe; a check that meets a user's mistake becomes a failed row instead of ending the rest."""
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")  # the table is what people should read
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # likewise: not each retry
    run, rows = Run(path, overrides), []
    for check in CHECKS:
        try:
            rows += check(run)
        except UserError as error:
            known = any(row.found == str(error) for row in rows)  # one missing file is one failure
            found = "needs what failed above" if known else str(error)
            rows.append(Check(check.__name__.removeprefix("check_"), "skip" if known else "FAIL", found))
    if not any(row.status == "FAIL" for row in rows):
        write_json(Path(run.recipe["output_dir"]) / run_dir.IDENTITY, run.identity)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.train.preflight",
        description="Check a training run before it starts; exit status 1 if it would be wasted.",
        epilog="examples:\n  python -m scripts.train.preflight yamls/qlora.yaml\n"
        "  python -m scripts.train.preflight yamls/qlora.yaml output_dir=saves/second learning_rate=5e-5",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a YAML recipe of yamls/ or examples/")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as behind llamafactory-cli train")
    args = parser.parse_args()
    rows = examine(args.recipe, args.overrides)
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.status:4s}  {row.name:{width}s}  {row.found}")
    failed = sum(row.status == "FAIL" for row in rows)
    print(
        f"{failed} of {len(rows)} checks failed: not ready to train"
        if failed
        else f"Ready: make train RECIPE={args.recipe}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
