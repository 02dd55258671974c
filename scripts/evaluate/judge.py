"""A judge model behind any OpenAI-compatible server: pairwise preference in both orders, and free-form accuracy.

Its prompts are in scripts/evaluate/prompts. A verdict is the last [[…]] in the last line of the judge's text after its
reasoning; anything else is unscored, and so is a text that was cut off. It is shown final answers, not thoughts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from scripts.common import THINK_OPEN, UserError
from scripts.evaluate.client import Client, Fault
from scripts.evaluate.engines import LocalEngine, in_parallel
from scripts.evaluate.read import split_reasoning
from scripts.evaluate.stats import compare, mcnemar_exact, paired_difference
from scripts.evaluate.subject import MODELS, Store, key_of

PROMPTS = Path(__file__).with_name("prompts")
NO_ANSWER = "(no answer)"
SCORES = {"tuned": 1.0, "base": 0.0, "tie": 0.5}
MARKS = {"pairwise": ("A", "B", "tie"), "freeform": ("equivalent", "different")}
Judge = Callable[[str], str]


def prompt_for(kind: str, **fields: str) -> str:
    """The judge's prompt; fields are put in at once, so that braces or marks inside them stay text."""
    template = (PROMPTS / f"{kind}.txt").read_text(encoding="utf-8")
    return re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], template)


def read_verdict(text: str, kind: str) -> str | None:
    """The last [[mark]] in the last line after the judge's own reasoning, or None."""
    lines = split_reasoning(text).answer.splitlines()
    found = re.findall(r"\[\[\s*(\w+)\s*\]\]", lines[-1]) if lines else []
    marks = {mark.lower(): mark for mark in MARKS[kind]}
    return marks.get(found[-1].lower()) if found else None


def combine(forward: str | None, backward: str | None) -> str:
    """base, tuned, tie or unscored from both orders (forward: base is A). Orders that disagree make a tie."""
    if forward is None or backward is None:
        return "unscored"
    first = {"A": "base", "B": "tuned", "tie": "tie"}[forward]
    second = {"A": "tuned", "B": "base", "tie": "tie"}[backward]
    return first if first == second else "tie"


def ask_all(requests: list[dict[str, Any]], judge: Judge, identity: dict, store: Store, workers: int = 4) -> list[dict]:
    """Ask the judge every request ({"kind", "prompt", …}) once; returns rows with ``verdict`` (None: unscored).

    A request that fails for good is not stored, so that a rerun asks it again; after three in a row the run stops.
    """
    from tqdm import tqdm

    keys = [key_of(identity, request["kind"], request["prompt"]) for request in requests]
    missing = list({key: i for i, key in enumerate(keys) if key not in store.rows}.values())
    failed: dict[str, str] = {}
    in_a_row = 0

    def ask(i: int) -> str | Fault:
        try:
            return judge(requests[i]["prompt"])
        except Fault as fault:
            return fault

    with closing(in_parallel(ask, missing, workers)) as answers:
        for i, said in zip(missing, tqdm(answers, "judge", len(missing), unit="request"), strict=True):
            in_a_row = in_a_row + 1 if isinstance(said, Fault) else 0
            if in_a_row == 3:
                raise UserError(f"the judge failed three times in a row ({said}); mend it and run again")
            if isinstance(said, Fault):
                failed[keys[i]] = str(said)
                continue
            about = {name: value for name, value in requests[i].items() if name != "prompt"}
            verdict = read_verdict(said, requests[i]["kind"])
            store.add([{"key": keys[i], **about, "verdict": verdict, "text": said}])
    return [
        {**store.rows[key], "error": None} if key in store.rows else {"verdict": None, "error": failed[key]}
        for key in keys
    ]


def pairwise(pairs: list[dict], judge: Judge, identity: dict, store: Store, workers: int = 4) -> list[dict]:
    """Outcome of each pair {"id", "lang", "question", "reference", "base", "tuned"} (texts of the final answers)."""
    requests = []
    for pair in pairs:
        for order, first, second in (("forward", "base", "tuned"), ("backward", "tuned", "base")):
            shown = {"first": pair[first] or NO_ANSWER, "second": pair[second] or NO_ANSWER}
            prompt = prompt_for("pairwise", question=pair["question"], reference=pair["reference"], **shown)
            requests.append({"kind": "pairwise", "id": pair["id"], "order": order, "prompt": prompt})
    said = ask_all(requests, judge, identity, store, workers)
    rows = []
    for pair, forward, backward in zip(pairs, said[::2], said[1::2], strict=True):
        verdicts = {"forward": forward["verdict"], "backward": backward["verdict"]}
        error = forward["error"] or backward["error"]
        rows.append({**pair, **verdicts, "outcome": combine(*verdicts.values()), "error": error})
    return rows


def freeform(answers: list[dict], judge: Judge, identity: dict, store: Store, workers: int = 4) -> list[dict]:
    """Each answer {"id", "model", "lang", "question", "reference", "answer"} with ``equivalent``: True, False, None.

    An empty answer is different without asking.
    """
    requests = []
    for answer in answers:
        if answer["answer"].strip():
            prompt = prompt_for("freeform", **{name: answer[name] for name in ("question", "reference", "answer")})
            requests.append({"kind": "freeform", "id": answer["id"], "model": answer["model"], "prompt": prompt})
    said = iter(ask_all(requests, judge, identity, store, workers))
    rows = []
    for answer in answers:
        row = next(said) if answer["answer"].strip() else {"verdict": "different", "error": None}
        verdict = {"equivalent": True, "different": False, None: None}[row["verdict"]]
        rows.append({**answer, "equivalent": verdict, "error": row["error"]})
    return rows


def judge_from(client: Client, max_tokens: int = 1024) -> Judge:
    """A judge that asks a server, greedily; a text that was cut off becomes an open thought, hence no verdict."""

    def ask(prompt: str) -> str:
        said = client.chat(prompt, max_tokens, temperature=0)
        return ("<think>" if said["finish"] == "length" and "</think>" not in said["text"] else "") + said["text"]

    return ask


def self_judge(engine: LocalEngine, max_tokens: int = 48) -> Judge:
    """The evaluated model as its own judge: shows that the path works, not which model is better."""
    return lambda prompt: THINK_OPEN + engine.generate([engine.prompt(prompt)], max_tokens, {}, 0)[0].text


def win_rate(scores: list[float], pairs: list[str], seed: int = 42) -> dict[str, Any]:
    """Mean of (votes,) scores (1 tuned, 0 base, 0.5 tie), interval clustered by pair, p of a sign test on pairs."""
    rate = paired_difference([0.5] * len(scores), scores, pairs, seed)
    means = {pair: [s for s, of in zip(scores, pairs, strict=True) if of == pair] for pair in pairs}
    decided = [sum(mine) / len(mine) - 0.5 for mine in means.values()]
    rate["p"] = mcnemar_exact([x < 0 for x in decided], [x > 0 for x in decided])["p"] if decided else None
    if scores:
        rate |= {"value": rate["value"] + 0.5, "ci95": rate["ci95"] and [x + 0.5 for x in rate["ci95"]]}
    return rate


def summarise_pairs(rows: list[dict], seed: int = 42) -> dict[str, Any]:
    """Counts, and the tuned model's win rate (a tie is half a win) over the scored pairs."""
    scored = [row for row in rows if row["outcome"] in SCORES]
    first = [row[order] == "A" for row in rows for order in ("forward", "backward") if row[order] in ("A", "B")]
    return {
        "counts": {name: sum(row["outcome"] == name for row in rows) for name in ("tuned", "base", "tie", "unscored")},
        "n": len(rows),
        "errors": sum(row["error"] is not None for row in rows),
        "win_rate": win_rate([SCORES[row["outcome"]] for row in scored], [row["id"] for row in scored], seed),
        "orders_disagree": sum(row["outcome"] == "tie" != row["forward"] for row in rows),
        "first_preferred": sum(first) / len(first) if first else None,
    }


def summarise_freeform(rows: list[dict], seed: int = 42) -> dict[str, Any]:
    """Share of answers equivalent to the reference per model, over all scored answers, and the paired difference."""
    verdicts = {name: {row["id"]: row["equivalent"] for row in rows if row["model"] == name} for name in MODELS}
    scored = {
        name: {key: value for key, value in mine.items() if value is not None}
        for name, mine in verdicts.items()
        if mine
    }
    result = compare(scored, seed=seed)
    for name, mine in scored.items():
        result[name]["unscored"] = 1 - len(mine) / len(verdicts[name])
    return result
