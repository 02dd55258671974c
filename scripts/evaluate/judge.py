"""A judge model behind any OpenAI-compatible server: pairwise preference in both orders, and free-form accuracy.

Its prompts are in scripts/evaluate/prompts. A verdict is the last [[…]] in the last line of the judge's text after its
reasoning; anything else is unscored, and so is a text that was cut off. It is shown final answers, not thoughts.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.common import THINK_CLOSE, UserError, file_hash
from scripts.evaluate.answers import split_reasoning
from scripts.evaluate.client import Client, Fault
from scripts.evaluate.models import MODELS, Store, Subject, key_of
from scripts.evaluate.stats import is_gain, mcnemar_exact, paired_difference, proportion_ci

PROMPTS = Path(__file__).with_name("prompts")
NO_ANSWER = "(no answer)"
SCORES = {"tuned": 1.0, "base": 0.0, "tie": 0.5}
MARKS = {"pairwise": ("A", "B", "tie"), "freeform": ("equivalent", "different")}
Judge = Callable[[str], str]


def prompt_for(kind: str, **fields: str) -> str:
    """The judge's prompt; fields are put in at once, so that braces or marks inside them stay text."""
    template = (PROMPTS / f"{kind}.txt").read_text(encoding="utf-8")
    return re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], template)


def prompt_hashes() -> dict[str, str]:
    """SHA-256 of the judge's prompts."""
    return {path.name: file_hash(path) for path in sorted(PROMPTS.glob("*.txt"))}


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
    from concurrent.futures import ThreadPoolExecutor

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

    with ThreadPoolExecutor(workers) as pool:
        for begin in tqdm(range(0, len(missing), workers), desc="judge", unit="batch"):
            batch = missing[begin : begin + workers]
            for i, said in zip(batch, pool.map(ask, batch), strict=True):
                if isinstance(said, Fault):
                    failed[keys[i]], in_a_row = str(said), in_a_row + 1
                    continue
                in_a_row = 0
                about = {name: value for name, value in requests[i].items() if name != "prompt"}
                verdict = read_verdict(said, requests[i]["kind"])
                store.add([{"key": keys[i], **about, "verdict": verdict, "text": said}])
            if in_a_row >= 3:
                raise UserError(f"the judge failed three times in a row ({said}); mend it and run again")
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
        outcome = combine(forward["verdict"], backward["verdict"])
        about = {"forward": forward["verdict"], "backward": backward["verdict"], "outcome": outcome}
        rows.append({**pair, **about, "error": forward["error"] or backward["error"]})
    return rows


def freeform(answers: list[dict], judge: Judge, identity: dict, store: Store) -> list[dict]:
    """Each answer {"id", "model", "lang", "question", "reference", "answer"} with ``equivalent``: True, False, None.

    An empty answer is different without asking.
    """
    asked = [answer for answer in answers if answer["answer"].strip()]
    requests = []
    for answer in asked:
        prompt = prompt_for("freeform", **{name: answer[name] for name in ("question", "reference", "answer")})
        requests.append({"kind": "freeform", "id": answer["id"], "model": answer["model"], "prompt": prompt})
    said = iter(ask_all(requests, judge, identity, store))
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


def reference_of(record: dict) -> str:
    """The final answer of a prepared record's output."""
    return record["output"].split(THINK_CLOSE, 1)[1].strip()


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
    counts = {name: sum(row["outcome"] == name for row in rows) for name in ("tuned", "base", "tie", "unscored")}
    scored = [row for row in rows if row["outcome"] in SCORES]
    first = [row[order] == "A" for row in rows for order in ("forward", "backward") if row[order] in ("A", "B")]
    disagree = sum(combine(row["forward"], row["backward"]) == "tie" != row["forward"] for row in rows)
    return {
        **{"counts": counts, "n": len(rows), "errors": sum(row["error"] is not None for row in rows)},
        "win_rate": win_rate([SCORES[row["outcome"]] for row in scored], [row["id"] for row in scored], seed),
        **{"orders_disagree": disagree, "first_preferred": sum(first) / len(first) if first else None},
    }


def summarise_freeform(rows: list[dict], seed: int = 42) -> dict[str, Any]:
    """Share of answers equivalent to the reference per model, over all scored answers, and the paired difference."""
    result: dict[str, Any] = {}
    verdicts = {name: {row["id"]: row["equivalent"] for row in rows if row["model"] == name} for name in MODELS}
    for name, mine in verdicts.items():
        scored = [value for value in mine.values() if value is not None]
        if mine:
            acc = sum(scored) / len(scored) if scored else None
            result[name] = {"acc": acc, "n": len(scored), "ci95": proportion_ci(sum(scored), len(scored))}
            result[name]["unscored"] = 1 - len(scored) / len(mine)
    both = [k for k in verdicts["base"] if verdicts["base"][k] is not None and verdicts["tuned"].get(k) is not None]
    if verdicts["tuned"]:
        base, tuned = ([verdicts[name][k] for k in both] for name in MODELS)
        difference = paired_difference(base, tuned, seed=seed) | mcnemar_exact(base, tuned)
        result["difference"] = difference | {"gain": is_gain(difference["ci95"], difference["p"])}
    return result


@contextmanager
def local_judge(subject: Subject, log: Path) -> Iterator[Client]:
    """Serve the tuned model by ``llamafactory-cli api`` on 127.0.0.1 while the context lasts; yields a client of it.

    A model judging itself shows that the path works, not which model is better: the report says so.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key = secrets.token_hex(16)
    env = os.environ | {"API_HOST": "127.0.0.1", "API_PORT": str(port), "API_KEY": key, "API_VERBOSE": "0"}
    env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # a tiny model, beside the one being evaluated
    command = [str(Path(sys.executable).with_name("llamafactory-cli")), "api", "--model_name_or_path", subject.model]
    command += ["--template", subject.template, "--infer_dtype", subject.precision["dtype"]]
    if subject.adapter:
        command += ["--adapter_name_or_path", subject.adapter, "--finetuning_type", "lora"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        server = subprocess.Popen(command, env=env, stdout=stream, stderr=subprocess.STDOUT)
    try:
        _await_server(server, port, log)
        yield Client(f"http://127.0.0.1:{port}/v1", "tuned model itself", api_key=key)
    finally:
        server.terminate()
        server.wait(30)


def _await_server(server: subprocess.Popen, port: int, log: Path, seconds: float = 180) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise UserError(f"llamafactory-cli api did not start; its log is {log}")
