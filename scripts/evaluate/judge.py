"""A judge model behind any OpenAI-compatible server: pairwise preference in both orders, and free-form accuracy.

Its prompts are in scripts/evaluate/prompts; it is shown final answers, not thoughts. The judge is judged too: identical
answers must be a tie, an order must not decide, and padding must not win (``judge_controls``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.common import UserError, file_hash, write_jsonl
from scripts.evaluate.engines import in_parallel
from scripts.evaluate.read import split_reasoning
from scripts.evaluate.server import make_client, message_text
from scripts.evaluate.stats import compare, paired
from scripts.evaluate.store import Store
from scripts.evaluate.subject import SIDES, key_of

PROMPTS = Path(__file__).with_name("prompts")
NO_ANSWER = "(no answer)"
SCORES = {"tuned": 1.0, "base": 0.0, "tie": 0.5}
MARKS = {"pairwise": ("A", "B", "tie"), "freeform": ("equivalent", "different")}
ROOM = 8192  # tokens: a reasoning judge thinks before its verdict
AT_ONCE, IN_A_ROW = 8, 3  # requests; failures after which the judge is given up
CONTROLS = 12  # pairs that the judge's own controls take
PADDING = {
    "en": " It is important to note that every patient is different, that many factors play a role, and that further "
    "information can always be helpful in understanding the overall situation.",
    "zh": "需要说明的是，每位患者的情况都有所不同，相关因素很多，更多的信息总是有助于全面了解整体情况。",
}
Judge = Callable[[str], str]


class Unscored(Exception):
    """A request that the judge refuses for good, such as one that its content filter stops."""


def prompt_for(kind: str, **fields: str) -> str:
    """The judge's prompt; fields are put in at once, so that braces or marks inside them stay text."""
    template = (PROMPTS / f"{kind}.txt").read_text(encoding="utf-8")
    return re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], template)


def read_verdict(text: str, kind: str) -> str | None:
    """The last verdict after the judge's own thought: [[mark]], {"verdict": mark}, or a last line that is a mark."""
    parts = split_reasoning(text)
    answer = re.sub(r"[`*]", "", parts.answer if parts.closed else "")
    marks = {mark.lower(): mark for mark in MARKS[kind]}
    words = "|".join(marks)
    found = list(re.finditer(rf"\[\[\s*({words})\s*\]\]", answer, re.I))
    found = found or list(re.finditer(rf'"\w+"\s*:\s*"\s*\[*({words})\]*\s*"', answer, re.I))
    if found:
        return marks[found[-1][1].lower()]
    lines = [line for line in answer.splitlines() if line.strip()]
    alone = re.fullmatch(rf"\W*(?:verdict|answer)?\W*({words})\W*", lines[-1], re.I) if lines else None
    return marks[alone[1].lower()] if alone else None


def combine(forward: str | None, backward: str | None) -> str:
    """base, tuned, tie or unscored from both orders (forward: base is A). Orders that disagree make a tie."""
    if forward is None or backward is None:
        return "unscored"
    first = {"A": "base", "B": "tuned", "tie": "tie"}[forward]
    second = {"A": "tuned", "B": "base", "tie": "tie"}[backward]
    return first if first == second else "tie"


def judge_from(url: str, model: str, key: str, faults: Counter[str]) -> Judge:
    """A judge that asks a server. Raises Unscored for a request that it refuses, UserError where it cannot be asked."""
    import openai

    client = make_client(url, faults, key)
    wanted: dict[str, Any] = {"max_tokens": ROOM, "temperature": 0}

    def ask(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        for _ in range(3):  # at most two parameters that this judge does not take
            try:
                said = client.chat.completions.create(model=model, messages=messages, **wanted)
                choice = said.choices[0]
                if choice.finish_reason == "content_filter":
                    raise Unscored("content_filter")
                return message_text(choice.message)
            except openai.BadRequestError as error:
                if not drop_parameter(wanted, str(error)):
                    raise Unscored(str(error)[:200]) from error
            except (openai.OpenAIError, AttributeError, IndexError, TypeError) as error:
                raise UserError(f"{url}: the judge {model} gave up ({error}); faults: {dict(faults)}") from error
        raise Unscored("its parameters are not taken")

    return ask


def drop_parameter(wanted: dict[str, Any], message: str) -> bool:
    """Do without a parameter that a judge's refusal names; False where it names none of ours."""
    if "max_tokens" in message and "max_tokens" in wanted:
        wanted["max_completion_tokens"] = wanted.pop("max_tokens")
        return True
    if "temperature" in message and "temperature" in wanted:
        del wanted["temperature"]
        return True
    return False


def ask_all(requests: list[dict[str, Any]], judge: Judge, identity: dict, store: Store) -> list[dict]:
    """Ask the judge every request ({"kind", "prompt", …}); returns rows with ``verdict`` and ``error``.

    Only verdicts that were understood are stored: a rerun asks the others again. After some failures in a row it stops.
    """
    from tqdm import tqdm

    keys = [key_of(identity, request["kind"], request["prompt"]) for request in requests]
    missing = list({key: i for i, key in enumerate(keys) if key not in store.rows}.values())
    failed: dict[str, str] = {}
    in_a_row = 0

    def ask(i: int) -> tuple[str, str]:
        try:
            return judge(requests[i]["prompt"]), ""
        except (Unscored, UserError) as error:
            return "", str(error)

    answers = in_parallel(ask, missing, AT_ONCE)
    try:
        for i, (said, error) in zip(missing, tqdm(answers, "judge", len(missing), unit="request"), strict=True):
            verdict = read_verdict(said, requests[i]["kind"])
            in_a_row = in_a_row + 1 if error and "gave up" in error else 0
            if in_a_row == IN_A_ROW:
                raise UserError(f"the judge failed {IN_A_ROW} times in a row ({error}); mend it and run again")
            if verdict is None:
                failed[keys[i]] = error or "no verdict in its text"
                continue
            about = {name: value for name, value in requests[i].items() if name != "prompt"}
            store.add([{"key": keys[i], **about, "verdict": verdict, "text": said}])
    finally:
        answers.close()
    return [
        {**store.rows[key], "error": None} if key in store.rows else {"verdict": None, "error": failed[key]}
        for key in keys
    ]


def pairwise(pairs: list[dict], judge: Judge, identity: dict, store: Store) -> list[dict]:
    """Outcome of each pair {"id", "lang", "question", "reference", "base", "tuned"} (texts of the final answers)."""
    requests = []
    for pair in pairs:
        for order, first, second in (("forward", "base", "tuned"), ("backward", "tuned", "base")):
            shown = {"first": pair[first] or NO_ANSWER, "second": pair[second] or NO_ANSWER}
            prompt = prompt_for("pairwise", question=pair["question"], reference=pair["reference"], **shown)
            requests.append({"kind": "pairwise", "id": pair["id"], "order": order, "prompt": prompt})
    said = ask_all(requests, judge, identity, store)
    rows = []
    for pair, forward, backward in zip(pairs, said[::2], said[1::2], strict=True):
        verdicts = {"forward": forward["verdict"], "backward": backward["verdict"]}
        error = forward["error"] or backward["error"]
        rows.append({**pair, **verdicts, "outcome": combine(*verdicts.values()), "error": error})
    return rows


def freeform(answers: list[dict], judge: Judge, identity: dict, store: Store) -> list[dict]:
    """Each answer {"id", "model", "lang", "question", "reference", "answer"} with ``equivalent``: True, False, None.

    An empty answer is different without asking.
    """
    requests = []
    for answer in answers:
        if answer["answer"].strip():
            prompt = prompt_for("freeform", **{name: answer[name] for name in ("question", "reference", "answer")})
            requests.append({"kind": "freeform", "id": answer["id"], "model": answer["model"], "prompt": prompt})
    said = iter(ask_all(requests, judge, identity, store))
    rows = []
    for answer in answers:
        row = next(said) if answer["answer"].strip() else {"verdict": "different", "error": None}
        verdict = {"equivalent": True, "different": False, None: None}[row["verdict"]]
        rows.append({**answer, "equivalent": verdict, "error": row["error"]})
    return rows


def disagree(row: dict) -> bool:
    """Whether the two orders of a scored pair came to different ends; (A, tie) and (tie, A) do too."""
    if row["outcome"] == "unscored":
        return False
    return (row["forward"], row["backward"]) not in (("A", "B"), ("B", "A"), ("tie", "tie"))


def win_rate(scores: list[float], pairs: list[str]) -> dict[str, Any]:
    """Mean of (votes,) scores (1 tuned, 0 base, 0.5 tie) over pairs, with interval and exact p against a half."""
    found = paired([0.5] * len(scores), scores, pairs, bound=0.5)
    if found["value"] is not None:
        found |= {"value": found["value"] + 0.5, "ci95": [end + 0.5 for end in found["ci95"]]}
    return found


def summarise_pairs(rows: list[dict]) -> dict[str, Any]:
    """Counts, and the tuned model's win rate (a tie is half a win) over the scored pairs."""
    scored = [row for row in rows if row["outcome"] in SCORES]
    first = [row[order] == "A" for row in rows for order in ("forward", "backward") if row[order] in ("A", "B")]
    return {
        "counts": {name: sum(row["outcome"] == name for row in rows) for name in ("tuned", "base", "tie", "unscored")},
        "n": len(rows),
        "errors": dict(Counter(row["error"] for row in rows if row["error"])),
        "win_rate": win_rate([SCORES[row["outcome"]] for row in scored], [row["id"] for row in scored]),
        "orders_disagree": sum(disagree(row) for row in rows),
        "first_preferred": sum(first) / len(first) if first else None,
    }


def summarise_freeform(rows: list[dict]) -> dict[str, Any]:
    """Share of answers equivalent to the reference per side, over all scored answers, and the paired difference."""
    verdicts = {side: {row["id"]: row["equivalent"] for row in rows if row["model"] == side} for side in SIDES}
    scored = {side: {k: float(v) for k, v in mine.items() if v is not None} for side, mine in verdicts.items() if mine}
    result = compare(scored)
    for side, mine in scored.items():
        result[side]["unscored"] = 1 - len(mine) / len(verdicts[side])
    return result


def judge_controls(pairs: list[dict], judge: Judge, identity: dict, store: Store) -> dict[str, Any]:
    """The judge's errors where the right verdict is known: identical answers, and an answer against itself padded."""
    chosen = [pair for pair in pairs if pair["base"]][:CONTROLS]
    same = [{**pair, "tuned": pair["base"]} for pair in chosen]
    padded = [{**pair, "tuned": pair["base"] + PADDING.get(pair["lang"], PADDING["en"])} for pair in chosen]
    found = {}
    for name, rows in (("identical", same), ("padded", padded)):
        scored = [row for row in pairwise(rows, judge, identity, store) if row["outcome"] != "unscored"]
        wrong = [row for row in scored if row["outcome"] == "tuned" or (name == "identical" and disagree(row))]
        found[name] = {"n": len(scored), "wrong": len(wrong)}
    return found


def judge_all(run: Any, pairs: list[dict], answers: list[dict]) -> None:
    """Both kinds of judging and the judge's own controls, written as ``freeform.json`` and ``pairwise.json``."""
    faults: Counter[str] = Counter()
    ask = judge_from(run.judge["url"], run.judge["model"], run.judge["key"], faults)
    identity = {"url": run.judge["url"], "model": run.judge["model"]}
    prompts = {path.name: file_hash(path) for path in sorted(PROMPTS.glob("*.txt"))}
    store = Store(run.folder / "verdicts.jsonl")
    about = {"judge": identity, "prompts": prompts}
    with run.step("freeform") as result:
        rows = freeform(answers, ask, identity, store)
        write_jsonl(run.folder / "freeform_samples.jsonl", rows)
        result |= summarise_freeform(rows) | about | {"faults": dict(faults)}
    with run.step("pairwise") as result:
        rows = pairwise(pairs, ask, identity, store)
        write_jsonl(run.folder / "pairwise_samples.jsonl", rows)
        controls = judge_controls(pairs, ask, identity, store)
        result |= summarise_pairs(rows) | about | {"controls": controls, "faults": dict(faults)}


def outcomes_of_one_who_says_first() -> list[str]:
    """What the evaluation makes of a judge that always prefers what it reads first: for the negative controls."""
    return [combine("A", "A") for _ in range(20)]
