"""Base and tuned in this process: one loaded model, the adapter switched off for base, in training's precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from scripts.common import UserError
from scripts.evaluate.subject import Subject
from scripts.train.template import reachable

R1_SAMPLING = {"temperature": 0.6, "top_p": 0.95}  # DeepSeek-R1's recommended settings
MEMORY_SHARE = 0.6  # of the free memory that a batch's cache may take
LARGEST_BATCH = {"cuda": 512, "cpu": 16}
TINY = 50_000_000  # parameters; below it a second thread costs more than it gives


@dataclass
class Continuation:
    """Generated text, its number of tokens, and whether the model ended it by itself."""

    text: str
    tokens: int
    ended: bool


class LocalEngine:
    """base or tuned in this process: one loaded model, the adapter switched off for base, in training's precision."""

    workers, can_continue, faults = 1, True, Counter()

    def __init__(self, loaded: LoadedModel, side: str) -> None:
        self.loaded, self.side = loaded, side
        self.about = {"engine": "transformers", "precision": loaded.precision}
        self.identity = {**loaded.subject.identity(side), **self.about}

    def count(self, text: str) -> int:
        """Tokens in a text."""
        return len(self.loaded.tokenizer(text, add_special_tokens=False)["input_ids"])

    def batches(self, prompts: Sequence[str], new_tokens: int) -> list[list[int]]:
        """Places of the prompts, longest first, in batches that fit into the free memory with their new tokens."""
        lengths = [self.count(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: -lengths[i])
        batches = []
        while order:
            size = self.loaded.batch_size(lengths[order[0]] + new_tokens)
            batches.append(order[:size])
            order = order[size:]
        return batches

    def generate(
        self, prompts: Sequence[str], limit: int, sampling: dict[str, float], seeds: Sequence[int]
    ) -> list[Continuation]:
        """Continue every prompt by at most ``limit`` tokens; a row that has ended leaves the batch.

        ``seeds``: one per prompt, so that a sampled text does not depend on the batch that it is made in.
        """
        import torch

        tokenizer, device = self.loaded.tokenizer, self.loaded.model.device
        batch = tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=False).to(device)
        choose = picker(sampling, seeds, limit, device)
        written: list[list[int]] = [[] for _ in prompts]
        live = list(range(len(prompts)))
        tokens, mask, cache = batch["input_ids"], batch["attention_mask"], None
        with self.loaded.as_side(self.side), torch.inference_mode():
            for step in range(limit):
                positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
                output = self.loaded.model(
                    input_ids=tokens,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache, chosen = output.past_key_values, choose(output.logits[:, -1].float(), live, step)
                going = []
                for row, (place, token) in enumerate(zip(live, chosen.tolist(), strict=True)):
                    written[place].append(token)
                    if token not in self.loaded.stop_ids:
                        going.append(row)
                if not going:
                    break
                if len(going) < len(live):
                    kept = torch.tensor(going, device=device)
                    cache.batch_select_indices(kept)
                    mask, chosen, live = mask[kept], chosen[kept], [live[row] for row in going]
                tokens = chosen[:, None]
                mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        return [self._finished(ids) for ids in written]

    def _finished(self, ids: list[int]) -> Continuation:
        ended = bool(ids) and ids[-1] in self.loaded.stop_ids
        text = self.loaded.form.decode(ids[: len(ids) - ended])
        return Continuation(text.rstrip("\ufffd"), len(ids), ended)  # half a character, cut at the limit

    def choose(self, prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str | None]:
        """The likeliest of each prompt's choices as a continuation, by the first token that tells them apart."""
        chosen = []
        for prompt, options in zip(prompts, choices, strict=True):
            texts = [prompt + option for option in options]
            rows = self.loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]
            # after the prompt, and perhaps a blank that all choices begin with
            place = next(i for i, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1)
            scores = self._next_scores(rows[0][:place])
            best = max(zip(options, rows, strict=True), key=lambda one: scores[one[1][place]])
            chosen.append(best[0])
        return chosen

    def _next_scores(self, ids: list[int]) -> list[float]:
        """Logits of the token after (length,) ids: (vocabulary,)."""
        import torch

        with self.loaded.as_side(self.side), torch.inference_mode():
            tokens = torch.tensor([ids], device=self.loaded.model.device)
            return self.loaded.model(tokens, logits_to_keep=1).logits[0, -1].float().tolist()


def picker(sampling: dict[str, float], seeds: Sequence[int], limit: int, device: Any) -> Callable[..., Any]:
    """A function (logits (rows, vocabulary), places of the rows, step) → chosen tokens (rows,).

    Greedy without ``sampling``; else temperature and top-p by inverse transform, with numbers drawn per prompt.
    """
    import numpy as np
    import torch

    if not sampling:
        return lambda logits, live, step: logits.argmax(-1)
    drawn = torch.tensor(np.array([np.random.default_rng(seed).random(limit) for seed in seeds]), device=device)

    def choose(logits: torch.Tensor, live: list[int], step: int) -> torch.Tensor:
        shares, order = (logits / sampling["temperature"]).softmax(-1).sort(-1, descending=True)
        sums = shares.cumsum(-1)
        shares = shares.where(sums - shares < sampling["top_p"], 0.0)
        sums = shares.cumsum(-1)
        wanted = drawn[live, step].float()[:, None] * sums[:, -1:]
        place = torch.searchsorted(sums, wanted).clamp(max=shares.shape[-1] - 1)
        return order.gather(-1, place)[:, 0]

    return choose


class LoadedModel:
    """A subject's weights, loaded once, with the adapter on top. ``precision``: e.g. nf4 with bfloat16 arithmetic."""

    def __init__(self, subject: Subject, precision: dict[str, Any] | None = None) -> None:
        import torch

        self.subject, self.form = subject, subject.prompt_format()
        self.form.check_round_trip()
        self.tokenizer = self.form.tokenizer
        self.tokenizer.padding_side = "left"
        settings = precision or subject.precision
        self.model = load_weights(subject, settings)
        # logits_to_keep hands over a slice of a batch, for each row of which torch on a CPU copies the whole matrix
        head = self.model.get_output_embeddings()
        head.register_forward_pre_hook(lambda module, given: (given[0].contiguous(),))
        dtype = str(self.model.dtype).removeprefix("torch.")
        self.precision = f"{settings['type']}, {settings['dtype']} arithmetic" if settings["bits"] else dtype
        own = self.model.generation_config.eos_token_id
        self.stop_ids = {*self.form.stop_ids(), *(own if isinstance(own, list) else [own])} - {None}
        if self.model.device.type == "cpu" and self.model.num_parameters() < TINY:
            torch.set_num_threads(1)

    def as_side(self, side: str) -> AbstractContextManager:
        """A context in which the model is ``base`` (adapter off) or ``tuned`` (adapter on)."""
        off = side == "base" and hasattr(self.model, "disable_adapter")
        return self.model.disable_adapter() if off else nullcontext()

    def batch_size(self, tokens: int) -> int:
        """Rows of so many tokens whose keys and values fit into the memory that is free now."""
        import psutil
        import torch

        config, device = self.model.config, self.model.device.type
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        width = 2 * config.num_hidden_layers * config.num_key_value_heads * head * self.model.dtype.itemsize
        logits = 4 * 4 * config.vocab_size  # float32, and what sorting them takes
        free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
        if device == "cuda":
            free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        # twice: a cache is copied when it grows
        fits = int(MEMORY_SHARE * free / (2 * width * tokens + logits))
        return max(1, min(fits, LARGEST_BATCH[device]))


def load_weights(subject: Subject, settings: dict[str, Any]) -> Any:
    """The model in evaluation mode on the GPU, else the CPU, in the precision of ``settings``."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = settings["dtype"] if settings["dtype"] == "auto" else getattr(torch, settings["dtype"])
    kwargs: dict[str, Any] = {"dtype": dtype, "device_map": {"": "cuda" if torch.cuda.is_available() else "cpu"}}
    if settings["bits"] == 4:
        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_type=settings["type"],
            bnb_4bit_use_double_quant=settings["double"],
        )
    elif settings["bits"]:
        raise UserError(
            f"quantization_bit: the run was trained in {settings['bits']} bits; only 4 or none are evaluated"
        )
    model = AutoModelForCausalLM.from_pretrained(reachable(subject.model), **kwargs)
    if settings["bits"] and model.device.type == "cpu" and fits_in_memory(model):
        model = model.dequantize()  # the same 4-bit values, unpacked once and not for every token: 4 times faster
    if subject.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, subject.adapter)
    return model.eval()


def fits_in_memory(model: Any) -> bool:
    """Whether the free memory holds a quantised model's weights once more in 16 bits, and as much for its work."""
    import psutil

    return 2 * 2 * model.num_parameters() < psutil.virtual_memory().available


def in_parallel(work: Callable[[Any], Any], jobs: Sequence[Any], workers: int) -> Iterator[Any]:
    """The jobs' results in order, several at once where ``workers`` allows; once closed, those not begun are left."""
    if workers == 1:  # in this very thread: torch's number of threads is a setting of the thread
        yield from map(work, jobs)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(work, jobs)
    finally:
        pool.shutdown(cancel_futures=True)
