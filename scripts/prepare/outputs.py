"""The second pass: every line of every batch to its split's file, or to rejected.jsonl."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
from tqdm import tqdm

from scripts.common import THINK_CLOSE, THINK_OPEN
from scripts.prepare.batch import REASONS
from scripts.prepare.dedup import Duplicates
from scripts.prepare.old_report import Examples
from scripts.prepare.publish import SPLITS
from scripts.prepare.table import Table


def write_outputs(
    work: Path, name: str, table: Table, duplicates: Duplicates, splits: np.ndarray, examples: Examples
) -> dict[Path, str]:
    """Second pass: every line to its split or to the rejected ones; (staged path -> file name)."""
    staged = {work / f"staged-{name}_{split}.jsonl": f"{name}_{split}.jsonl" for split in SPLITS}
    staged[work / "staged-rejected.jsonl"] = "rejected.jsonl"
    files = [path.open("wb", buffering=1 << 20) for path in staged]
    position = dict(zip(table.passed.tolist(), range(len(table.passed)), strict=True))
    reasons, warnings, row = table.rows["reason"].tolist(), table.rows["warnings"].tolist(), 0
    for stem in tqdm(table.stems, desc="write", unit=" batches"):
        for line in Path(f"{stem}.jsonl").read_bytes().splitlines(keepends=True):
            k = position.get(row)
            if k is None:
                examples.add(REASONS[reasons[row]], line)
                files[-1].write(line)
            elif (kept := int(duplicates.kept[k])) != k:
                line = rejected_duplicate(line, table, duplicates, k, kept)
                reason = "duplicate_exact" if table.key[k] == table.key[kept] else "duplicate_near"
                reasons[row] = REASONS.index(reason)
                examples.add(reason, line)
                files[-1].write(line)
            else:
                line = with_id(line, table.ids[k])
                files[splits[k]].write(line)
                if warnings[row]:
                    examples.warn(warnings[row], line)
            row += 1
    for file in files:
        file.close()
    table.rows["reason"] = np.array(reasons, np.int8)
    return staged


def with_id(line: bytes, own: bytes) -> bytes:
    """A prepared line under its unique id."""
    if line.startswith(b'{"id":"%s"' % own):
        return line
    return orjson.dumps({**orjson.loads(line), "id": own.decode()}, option=orjson.OPT_APPEND_NEWLINE)


def rejected_duplicate(line: bytes, table: Table, duplicates: Duplicates, k: int, kept: int) -> bytes:
    """The rejected line of a duplicate, with its kept record, their similarity and why that one was kept."""
    row = orjson.loads(line)
    thought, _, answer = row["output"].removeprefix(THINK_OPEN).partition(THINK_CLOSE)
    longer = table.thought[kept] - table.thought[k]
    clean = [table.rows["warnings"][table.passed[i]] == 0 for i in (kept, k)]
    why = f"reasoning {longer} characters longer" if longer > 0 else "came first"
    exact = table.key[k] == table.key[kept]
    value = {
        "source": row["source"],
        "line": row["line"],
        "reason": "duplicate_exact" if exact else "duplicate_near",
        "matched": table.ids[kept].decode(),
        "similarity": round(float(duplicates.similarity[k]), 3),
        "kept_because": "no personal data" if clean[0] and not clean[1] else why,
        "record": {"Question": row["input"], "Complex_CoT": thought, "Response": answer},
    }
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
