"""One batch of raw rows through every step that needs no other row; runs in worker processes.

A batch leaves two files: ``<key>.jsonl`` (one line per row: the prepared record or the rejected one) and
``<key>.npz`` (what the later steps remember of each row). The key hashes the rows and the settings, so a rerun
after a kill finds finished batches and goes on from there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import orjson

from scripts.common import ASSISTANT, BOS, EOS, THINK_CLOSE, THINK_OPEN, USER, UserError
from scripts.prepare import clean
from scripts.prepare.decontaminate import BenchmarkIndex
from scripts.prepare.dedup import sketch
from scripts.prepare.keys import Tokens, features, text_keys, tokenise

FIELDS = ("Question", "Complex_CoT", "Response")
LANGUAGES = (None, "zh", "en")
WARNINGS = ("email", "id_number", "phone")
REPAIRS = ("characters", "markup", "spaces", "think_tag")
REASONS = (
    None, "not_json", "not_object", "not_text", *clean.FILTERS, "other_language",
    "leak_verbatim", "leak_ngram", "too_long", "duplicate_exact", "duplicate_near",
)  # fmt: skip
KEPT = 0


@dataclass(frozen=True)
class Rules:
    """What decides about a row. ``columns``: our field -> the source's; ``claimed``: language or None."""

    tokenizer: str
    cutoff_len: int
    langs: tuple[str, ...]
    skip: frozenset[str]
    columns: tuple[tuple[str, str], ...]
    seed: int


@dataclass
class Row:
    """One row on its way through a batch. ``leak``: index of a benchmark item, -1 for none."""

    line: int
    raw: str | orjson.Fragment
    reason: str | None = None
    record: clean.Record | None = None
    id: str = ""
    output: str = ""
    key: int = 0
    tokens: int = 0
    leak: int = -1
    repairs: int = 0
    warnings: int = 0


@lru_cache(maxsize=2)
def load_tokenizer(path: str):
    """The fast tokenizer of a folder's tokenizer.json and the count of tokens that the template adds."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"{path}: not a readable tokenizer.json ({error}); fetch or build the tokenizer again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, sum(len(tokenizer.encode(mark, add_special_tokens=False)) for mark in (BOS, USER, ASSISTANT, EOS))


def count_tokens(path: str, prompts: list[str], outputs: list[str]) -> list[int]:
    """Tokens of each record under LLaMA-Factory's template deepseekr1, its marks included."""
    tokenizer, marks = load_tokenizer(path)
    lengths = [len(e) for e in tokenizer.encode_batch_fast(prompts + outputs, add_special_tokens=False)]
    return [marks + a + b for a, b in zip(lengths[: len(prompts)], lengths[len(prompts) :], strict=True)]


def batch_key(rows: list[tuple[int, bytes]], fingerprint: bytes) -> str:
    """Name of a batch: a hash of its rows, where they stand, and the settings."""
    digest = blake2b(fingerprint, digest_size=12)
    for line, raw in rows:
        digest.update(b"%d:%d:" % (line, len(raw)))
        digest.update(raw)
    return digest.hexdigest()


def parse(line: int, raw: bytes, columns: dict[str, str], claimed: str | None) -> Row:
    """One raw row to a record with repaired texts, or to its rejection."""
    raw = raw.replace(b"\n", b" ").replace(b"\r", b" ")  # an array's item may span lines
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return Row(line, raw.decode("utf-8", "replace"), "not_json")
    if not isinstance(value, dict):
        return Row(line, orjson.Fragment(raw), "not_object")
    row, texts = Row(line, orjson.Fragment(raw)), []
    for field in FIELDS:
        text = value.get(columns[field])
        if text is not None and not isinstance(text, str):
            row.reason = "not_text"
            return row
        texts.append(text or "")
    repaired = [clean.repair(text) for text in texts]
    repaired[1] = clean.repair_thought(repaired[1])
    if repaired != texts:
        row.repairs = repairs_made(texts, repaired)
    lang = value.get("lang")
    row.record = clean.Record(*repaired, claimed=lang if lang in ("zh", "en") else claimed)
    row.record.lang = clean.language(repaired[0] if len(repaired[0]) > 40 else f"{repaired[0]}\n{repaired[1][:400]}")
    own = value.get("id")
    row.id = str(own) if isinstance(own, (str, int)) and 0 < len(str(own)) <= 64 and str(own).isprintable() else ""
    return row


def repairs_made(before: list[str], after: list[str]) -> int:
    """Bits of REPAIRS that changed a record's texts beyond their ends."""
    bits = 0
    for old, new in zip(before, after, strict=True):
        if old == new:
            continue
        characters = clean.repair_characters(old)
        markup = clean.repair_markup(characters)
        bits |= (characters != old) | (markup != characters) << 1 | (clean.repair_spaces(markup) != markup) << 2
        bits |= bool(clean.THINK_EDGE.search(old)) << 3
    return bits


def judge(rows: list[Row], rules: Rules, index: BenchmarkIndex) -> Tokens:
    """Give each parsed row its id, its length and its reason, if any; the feature sets of those that are kept."""
    tokens = tokenise([row.record.question for row in rows])
    sets = features(tokens)
    for row, leak, key in zip(rows, index.search(tokens, sets), text_keys(tokens).tolist(), strict=True):
        row.key, row.id = key, row.id or f"{row.record.lang or 'xx'}-{key:016x}"
        if leak:  # before every filter, so that each leak is listed with its item
            row.reason, row.leak = leak.kind, leak.item
            continue
        row.reason = clean.reject_reason(row.record, rules.skip)
        if row.reason is None and row.record.lang not in rules.langs and "other_language" not in rules.skip:
            row.reason = "other_language"
    whole = [row for row in rows if row.reason is None]
    for row in whole:
        row.output = f"{THINK_OPEN}{row.record.thought}{THINK_CLOSE}{row.record.answer}"
    counted = count_tokens(rules.tokenizer, [row.record.question for row in whole], [row.output for row in whole])
    for row, count in zip(whole, counted, strict=True):
        row.tokens, row.reason = count, "too_long" if count > rules.cutoff_len else None
        found = clean.personal_data(f"{row.record.question}\n{row.output}")
        row.warnings = sum(1 << WARNINGS.index(kind) for kind in found)
    return sets.take(np.flatnonzero([row.reason is None for row in rows]))


def process(
    rows: list[tuple[int, bytes]], source: str, claimed: str | None, rules: Rules, index: BenchmarkIndex, stem: Path
) -> None:
    """Clean, decontaminate, measure and sketch a batch; write its two files, the .npz last."""
    columns = dict(rules.columns)
    done = [parse(line, raw, columns, claimed) for line, raw in rows]
    sets = judge([row for row in done if row.reason is None], rules, index)
    kept = [row for row in done if row.reason is None]
    temporary = stem.with_name(f".tmp-{os.getpid()}-{stem.name}")
    with temporary.open("wb") as file:
        file.writelines(_line(row, source, index) for row in done)
    os.replace(temporary, f"{stem}.jsonl")
    remembered = {
        "reason": np.array([REASONS.index(row.reason) for row in done], np.int8),
        "lang": np.array([LANGUAGES.index(row.record.lang if row.record else None) for row in done], np.int8),
        "tokens": np.array([row.tokens for row in done], np.int32),
        "repairs": np.array([row.repairs for row in done], np.uint8),
        "warnings": np.array([row.warnings for row in done], np.uint8),
        "ids": np.array([row.id.encode() for row in kept], dtype=bytes if kept else "S1"),
        "thought": np.array([len(row.record.thought) for row in kept], np.int32),
        "key": np.array([row.key for row in kept], np.uint64),
        "sketch": sketch(sets, rules.seed),
        "feature": (sets.hashes >> np.uint64(32)).astype(np.uint32),
        "features": np.diff(sets.starts).astype(np.int32),
    }
    with temporary.open("wb") as file:
        np.savez(file, **remembered)
    os.replace(temporary, f"{stem}.npz")


def _line(row: Row, source: str, index: BenchmarkIndex) -> bytes:
    where = {"source": source, "line": row.line}
    if row.reason is None:
        value = {"id": row.id, "lang": row.record.lang, "input": row.record.question, "output": row.output, **where}
    else:
        value = {**where, "reason": row.reason, "matched": index.ids[row.leak] if row.leak >= 0 else None}
        value |= {"tokens": row.tokens} if row.reason == "too_long" else {}
        value["record"] = row.raw
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
