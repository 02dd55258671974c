"""A judge model behind any OpenAI-compatible server: pairwise preference in both orders, and free-form accuracy.

Its prompts are in scripts/evaluate/prompts; it is shown final answers, not thoughts. The judge is judged too: identical
answers must be a tie, an order must not decide, and padding must not win (``judge_controls``).
"""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from scripts.common import UserError, file_hash, write_jsonl
from scripts.evaluate.judge_server import GaveUp, Judge, Unscored
from scripts.evaluate.read import split_reasoning
from scripts.evaluate.stats import compare, paired
from scripts.evaluate.store import Store
from scripts.evaluate.subject import SIDES, key_of

PROMPTS = Path(__file__).with_name("prompts")
NO_ANSWER = "(no answer)"
SCORES = {"tuned": 1.0, "base": 0.0, "tie": 0.5}
MARKS = {"pairwise": ("A", "B", "tie"), "freeform": ("equivalent", "different")}
AT_ONCE, IN_A_ROW = 8, 3  # requests; failures after which the judge is given up
CONTROLS = 12  # pairs that the judge's own controls take
PADDING = {
    "en": " It is important to note that every patient is different, that many factors play a role, and that further "
    "information can always be helpful in understanding the overall situation.",
    "zh": "需要说明的是，每位患者的情况都有所不同，相关因素很多，更多的信息总是有助于全面了解整体情况。",
}


def prompt_for(kind: str, **fields: str) -> str:
    """The judge's prompt; fields are put in at once, so that braces or marks inside them stay text."""
    template = (PROMPTS / f"{kind}.txt").read_text(encoding="utf-8")
    return re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], template)


def read_verdict(text: str, kind: str) -> str | None:
    """The verdict after the judge's own thought: on the last line, in a JSON field, or alone on a line as [[mark]]."""
    parts = split_reasoning(text)
    answer = unicodedata.normalize("NFKC", re.sub(r"[`*]", "", parts.answer if parts.closed else ""))
    last = next((line for line in reversed(answer.splitlines()) if line.strip(" {}")), "")
    words, name = "|".join(MARKS[kind]), "verdict|winner|answer|decision|choice|result|judge?ment"
    forms = (
        (r"\[\[\s*(?:answer )?([^\[\]]*?)\s*\]\]", last),
        (rf'"(?:\w*_)?(?:{name})"\s*:\s*"\W*(?:answer )?({words})\W*"', answer),
        (rf"^\W*\[\[\s*({words})\s*\]\]\W*$", answer),
        (rf"^\W*(?:(?:my |the )?(?:final )?(?:{name})(?: is)?\W+)?(?:answer )?({words})\W*$", last),
    )
    said = next((found for pattern, where in forms if (found := re.findall(pattern, where, re.I | re.M))), [""])
    return {mark.lower(): mark for mark in MARKS[kind]}.get(said[-1].lower())


def combine(forward: str | None, backward: str | None) -> str:
    """base, tuned, tie or unscored from both orders (forward: base is A). Orders that disagree make a tie."""
    if forward is None or backward is None:
        return "unscored"
    first = {"A": "base", "B": "tuned", "tie": "tie"}[forward]
    second = {"A": "tuned", "B": "base", "tie": "tie"}[backward]
    return first if first == second else "tie"


def ask_all(requests: list[dict[str, Any]], judge: Judge, store: Store) -> list[dict]:
    """Ask the judge every request ({"kind", "prompt", …}); returns rows with ``verdict`` and ``error``.

    Only verdicts that were understood are stored: a rerun asks the others again. After some failures in a row it stops.
    """
    keys = [key_of(judge.identity, request["kind"], request["prompt"]) for request in requests]
    missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in store.rows}
    failed = asyncio.run(ask_missing(missing, judge, store)) if missing else {}
    return [
        {**store.rows[key], "error": None} if key in store.rows else {"verdict": None, "error": failed[key]}
        for key in keys
    ]


async def ask_missing(missing: dict[str, dict], judge: Judge, store: Store) -> dict[str, str]:
    """Ask several requests (key → request) at once and store their verdicts; key → error of those without one."""
    from tqdm import tqdm

    limit, failed, in_a_row = asyncio.Semaphore(AT_ONCE), {}, 0

    async def ask(key: str) -> tuple[str, str, Exception | None]:
        async with limit:
            try:
                return key, await judge.ask(client, missing[key]["prompt"]), None
            except (Unscored, GaveUp) as error:
                return key, "", error

    async with judge.client() as client:
        answers = asyncio.as_completed([asyncio.create_task(ask(key)) for key in missing])
        for answer in tqdm(answers, "judge", len(missing), unit="request"):
            key, said, error = await answer
            in_a_row = in_a_row + 1 if isinstance(error, GaveUp) else 0
            if in_a_row == IN_A_ROW:
                raise UserError(f"{judge.url}: the judge gave up ({error}); start or mend it and run the same again")
            verdict = read_verdict(said, missing[key]["kind"])
            if verdict is None:
                failed[key] = str(error or "no verdict in its text")
                continue
            about = {name: value for name, value in missing[key].items() if name != "prompt"}
            store.add([{"key": key, **about, "verdict": verdict, "text": said}])
    return failed


def pairwise(pairs: list[dict], judge: Judge, store: Store) -> list[dict]:
    """Outcome of each pair {"id", "lang", "question", "reference", "base", "tuned"} (texts of the final answers)."""
    requests = []
    for pair in pairs:
        for order, first, second in (("forward", "base", "tuned"), ("backward", "tuned", "base")):
            shown = {"first": pair[first] or NO_ANSWER, "second": pair[second] or NO_ANSWER}
            prompt = prompt_for("pairwise", question=pair["question"], reference=pair["reference"], **shown)
            requests.append({"kind": "pairwise", "id": pair["id"], "order": order, "prompt": prompt})
    said = ask_all(requests, judge, store)
    rows = []
    for pair, forward, backward in zip(pairs, said[::2], said[1::2], strict=True):
        verdicts = {"forward": forward["verdict"], "backward": backward["verdict"]}
        error = forward["error"] or backward["error"]
        rows.append({**pair, **verdicts, "outcome": combine(*verdicts.values()), "error": error})
    return rows


def freeform(answers: list[dict], judge: Judge, store: Store) -> list[dict]:
    """Each answer {"id", "model", "lang", "question", "reference", "answer"} with ``equivalent``: True, False, None.

    An empty answer is different without asking.
    """
    rows = [{**answer, "equivalent": False, "error": None} for answer in answers]
    asked = [row for row in rows if row["answer"].strip()]
    requests = []
    for row in asked:
        prompt = prompt_for("freeform", **{name: row[name] for name in ("question", "reference", "answer")})
        requests.append({"kind": "freeform", "id": row["id"], "model": row["model"], "prompt": prompt})
    meant = {"equivalent": True, "different": False, None: None}
    for row, said in zip(asked, ask_all(requests, judge, store), strict=True):
        row |= {"equivalent": meant[said["verdict"]], "error": said["error"]}
    return rows


def scored(rows: list[dict]) -> list[dict]:
    """The pairs with a verdict in both orders."""
    return [row for row in rows if row["outcome"] != "unscored"]


def disagree(row: dict) -> bool:
    """Whether the two orders of a scored pair came to different ends; (A, tie) and (tie, A) do too."""
    return (row["forward"], row["backward"]) not in (("A", "B"), ("B", "A"), ("tie", "tie"))


def win_rate(scores: list[float], pairs: list[str]) -> dict[str, Any]:
    """Mean of (votes,) scores (1 tuned, 0 base, 0.5 tie) over pairs, with interval and exact p against a half."""
    found = paired([0.5] * len(scores), scores, pairs, bound=0.5)
    if found["value"] is not None:
        found |= {"value": found["value"] + 0.5, "ci95": [end + 0.5 for end in found["ci95"]]}
    return found


def summarise_pairs(rows: list[dict]) -> dict[str, Any]:
    """Counts, and the tuned model's win rate (a tie is half a win) over the scored pairs."""
    counted = scored(rows)
    first = [row[order] == "A" for row in rows for order in ("forward", "backward") if row[order] in ("A", "B")]
    return {
        "counts": {name: sum(row["outcome"] == name for row in rows) for name in (*SCORES, "unscored")},
        "n": len(rows),
        "errors": dict(Counter(row["error"].partition(":")[0] for row in rows if row["error"])),
        "win_rate": win_rate([SCORES[row["outcome"]] for row in counted], [row["id"] for row in counted]),
        "orders_disagree": sum(map(disagree, counted)),
        "first_preferred": sum(first) / len(first) if first else None,
    }


def summarise_freeform(rows: list[dict]) -> dict[str, Any]:
    """Share of answers equivalent to the reference per side, over all scored answers, and the paired difference."""
    verdicts = {side: {row["id"]: row["equivalent"] for row in rows if row["model"] == side} for side in SIDES}
    known = {side: {k: float(v) for k, v in mine.items() if v is not None} for side, mine in verdicts.items() if mine}
    result = compare(known)
    for side, mine in known.items():
        result[side]["unscored"] = 1 - len(mine) / len(verdicts[side])
    return result


def judge_controls(rows: list[dict], judge: Judge, store: Store) -> dict[str, Any]:
    """The judge's errors where the right verdict is known; ``rows``: of `pairwise`.

    identical: an answer against itself is a tie. swapped: the order of two answers does not decide. padded: an answer
    does not beat itself because empty words were added. Each: ``{"n", "wrong"}`` over the scored pairs.
    """
    chosen = [row for row in rows if row["base"].strip()][:CONTROLS]
    same = [{**row, "tuned": row["base"]} for row in chosen]
    padded = [{**row, "tuned": row["base"] + PADDING.get(row["lang"], PADDING["en"])} for row in chosen]
    found = {
        "identical": [row["forward"] != "tie" for row in scored(pairwise(same, judge, store))],
        "swapped": [disagree(row) for row in scored(rows)],
        "padded": [row["outcome"] == "tuned" for row in scored(pairwise(padded, judge, store))],
    }
    return {name: {"n": len(wrong), "wrong": sum(wrong)} for name, wrong in found.items()}


def judge_all(run: Any, pairs: list[dict], answers: list[dict]) -> None:
    """Both kinds of judging and the judge's own controls, written as ``freeform.json`` and ``pairwise.json``."""
    judge = run.judge
    prompts = {path.name: file_hash(path) for path in sorted(PROMPTS.glob("*.txt"))}
    store = Store(run.folder / "verdicts.jsonl")
    about = {"judge": judge.identity, "prompts": prompts}
    with run.step("freeform") as result:
        rows = freeform(answers, judge, store)
        write_jsonl(run.folder / "freeform_samples.jsonl", rows)
        result |= summarise_freeform(rows) | about
    with run.step("pairwise") as result:
        rows = pairwise(pairs, judge, store)
        write_jsonl(run.folder / "pairwise_samples.jsonl", rows)
        result |= summarise_pairs(rows) | about | {"controls": judge_controls(rows, judge, store)}
    if result["errors"]:
        print(f"judge: without a verdict {result['errors']}; the same command asks those again", flush=True)


def outcomes_of_one_who_says_first() -> list[str]:
    """What the evaluation makes of a judge that always prefers what it reads first: for the negative controls."""
    return [combine("A", "A") for _ in range(20)]
