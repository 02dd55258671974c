"""A judge model behind any OpenAI-compatible server: which of two answers is preferred, asked in both orders.

Its prompt is prompts/pairwise.txt; it is shown final answers, not thoughts. The judge is judged too: identical answers
must be a tie, an order must not decide, and padding must not win (``judge_controls``). Retries and time-outs are the
openai package's own; it is asked asynchronously, so that Ctrl-C ends all requests at once.
"""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scripts.chat.hosting import LOOPBACK
from scripts.common import UserError, file_hash, first_line, write_jsonl
from scripts.evaluate.read import split_reasoning
from scripts.evaluate.stats import paired
from scripts.evaluate.store import Store
from scripts.evaluate.subject import key_of

PROMPT = Path(__file__).with_name("prompts") / "pairwise.txt"
NO_ANSWER = "(no answer)"
SCORES = {"tuned": 1.0, "base": 0.0, "tie": 0.5}
# 8192 tokens: a reasoning judge thinks before its verdict. What a judge refuses by name is left out.
PARAMETERS = {"max_completion_tokens": 8192, "temperature": 0}
TIMEOUT = 300  # seconds, likewise
AT_ONCE = 8  # requests
IN_A_ROW = 3  # requests without an answer, after which the judge is given up
CONTROLS = 12  # pairs that the judge's own controls take
PADDING = {
    "en": " It is important to note that every patient is different, that many factors play a role, and that further "
    "information can always be helpful in understanding the overall situation.",
    "zh": "需要说明的是，每位患者的情况都有所不同，相关因素很多，更多的信息总是有助于全面了解整体情况。",
}


class Unscored(Exception):
    """A request without a verdict for good: refused, filtered, cut off. Its text: a kind, then ": " and details."""


class GaveUp(Exception):
    """A request that the server did not answer, after the client's own retries."""


@dataclass
class Judge:
    """A judge model. ``url`` ends in /v1; ``refused``: those of PARAMETERS that it does not take, as far as known."""

    url: str
    model: str
    key: str = "none"
    retries: int = 6
    refused: set[str] = field(default_factory=set)

    @property
    def identity(self) -> dict[str, str]:
        """What its verdicts belong to."""
        return {"url": self.url, "model": self.model}

    def client(self) -> Any:
        """The openai package's client, with no proxy on the way to this machine."""
        import openai

        here = urlsplit(self.url).hostname in LOOPBACK
        try:
            http = openai.DefaultAsyncHttpxClient(trust_env=not here, timeout=TIMEOUT)
        except (ImportError, ValueError) as error:
            raise UserError(f"{self.url}: the proxy on the way cannot be used: {first_line(error)}") from error
        return openai.AsyncOpenAI(base_url=self.url, api_key=self.key, max_retries=self.retries, http_client=http)

    def check(self) -> None:
        """Ask something small, before models are asked for hours. Raises UserError where it cannot be asked."""

        async def once() -> None:
            async with self.client() as client:
                await self.ask(client, "Say [[tie]] and nothing else.")

        try:
            asyncio.run(once())
        except GaveUp as error:
            raise UserError(f"{self.url}: the judge {self.model} does not answer ({error})") from error
        except Unscored:
            pass  # it answers, if only that it will not

    async def ask(self, client: Any, prompt: str) -> str:
        """Its text. Raises Unscored, GaveUp, or UserError where it cannot be asked at all."""
        import openai

        settings = {name: value for name, value in PARAMETERS.items() if name not in self.refused}
        messages = [{"role": "user", "content": prompt}]
        try:
            return text_of(await client.chat.completions.create(model=self.model, messages=messages, **settings))
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            named = [name for name in settings if name in str(error)]
            if error.code == "content_filter" or not named:
                raise Unscored(f"{error.code or error.status_code}: {first_line(error)[:200]}") from error
            self.refused.update(named)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise UserError(
                f"{self.url}: the judge {self.model} cannot be asked ({first_line(error)[:300]}); "
                "check --judge-url, --judge-model and JUDGE_API_KEY"
            ) from error
        except (openai.OpenAIError, ValueError) as error:
            raise GaveUp(f"no answer: {first_line(error)[:200]}") from error
        return await self.ask(client, prompt)


def text_of(said: Any) -> str:
    """The text of a chat completion. Raises Unscored where there is none or it was cut off."""
    choice = (getattr(said, "choices", None) or [None])[0]
    if not hasattr(choice, "message"):
        raise Unscored("no completion")
    if choice.finish_reason in ("content_filter", "length"):
        raise Unscored(choice.finish_reason)
    return choice.message.content or ""


def prompt_for(pair: dict[str, str], first: str, second: str) -> str:
    """The judge's prompt; fields are put in at once, so that braces or marks inside them stay text."""
    fields = {**pair, "first": pair[first] or NO_ANSWER, "second": pair[second] or NO_ANSWER}
    return re.sub(r"\{(\w+)\}", lambda match: fields[match[1]], PROMPT.read_text(encoding="utf-8"))


def read_verdict(text: str) -> str | None:
    """A, B or tie after the judge's own thought: on the last line, in a JSON field, or alone on a line as [[mark]]."""
    parts = split_reasoning(text)
    answer = unicodedata.normalize("NFKC", re.sub(r"[`*]", "", parts.answer if parts.closed else ""))
    last = next((line for line in reversed(answer.splitlines()) if line.strip(" {}")), "")
    name = "verdict|winner|answer|decision|choice|result|judge?ment"
    forms = (
        (r"\[\[\s*(?:answer )?([^\[\]]*?)\s*\]\]", last),
        (rf'"(?:\w*_)?(?:{name})"\s*:\s*"\W*(?:answer )?(A|B|tie)\W*"', answer),
        (r"^\W*\[\[\s*(A|B|tie)\s*\]\]\W*$", answer),
        (rf"^\W*(?:(?:my |the )?(?:final )?(?:{name})(?: is)?\W+)?(?:answer )?(A|B|tie)\W*$", last),
    )
    said = next((found for pattern, where in forms if (found := re.findall(pattern, where, re.I | re.M))), [""])
    return {"a": "A", "b": "B", "tie": "tie"}.get(said[-1].lower())


def combine(forward: str | None, backward: str | None) -> str:
    """base, tuned, tie or unscored from both orders (forward: base is A). Orders that disagree make a tie."""
    if forward is None or backward is None:
        return "unscored"
    return {("A", "B"): "base", ("B", "A"): "tuned"}.get((forward, backward), "tie")


def ask_all(prompts: list[str], judge: Judge, store: Store) -> list[tuple[str | None, str | None]]:
    """(verdict, error) of each prompt. Only verdicts are stored: a rerun asks for the others again."""
    keys = [key_of(judge.identity, "pairwise", prompt) for prompt in prompts]
    missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in store.rows}
    failed = asyncio.run(ask_missing(missing, judge, store)) if missing else {}
    return [(None, failed[key]) if key in failed else (store.rows[key]["verdict"], None) for key in keys]


async def ask_missing(missing: dict[str, str], judge: Judge, store: Store) -> dict[str, str]:
    """Ask several prompts (by key) at once and store the verdicts; key → error of those without one."""
    from tqdm import tqdm

    limit, failed, in_a_row = asyncio.Semaphore(AT_ONCE), {}, 0

    async def ask(key: str) -> tuple[str, str, Exception | None]:
        async with limit:
            try:
                return key, await judge.ask(client, missing[key]), None
            except (Unscored, GaveUp) as error:
                return key, "", error

    async with judge.client() as client:
        answers = asyncio.as_completed([asyncio.create_task(ask(key)) for key in missing])
        for answer in tqdm(answers, "judge", len(missing), unit="request"):
            key, said, error = await answer
            in_a_row = in_a_row + 1 if isinstance(error, GaveUp) else 0
            if in_a_row == IN_A_ROW:
                raise UserError(f"{judge.url}: the judge gave up ({error}); start or mend it and run the same again")
            verdict = read_verdict(said)
            if verdict:
                store.add([{"key": key, "verdict": verdict, "text": said, "prompt": missing[key]}])
            else:
                failed[key] = str(error or "no verdict in its text")
    return failed


def pairwise(pairs: list[dict], judge: Judge, store: Store) -> list[dict]:
    """Outcome of each pair {"id", "lang", "question", "reference", "base", "tuned"} (texts of the final answers)."""
    forward = [prompt_for(pair, "base", "tuned") for pair in pairs]
    backward = [prompt_for(pair, "tuned", "base") for pair in pairs]
    asked = ask_all(forward + backward, judge, store)  # at once: both orders share the requests that are under way
    rows = []
    for pair, (first, error), (second, other) in zip(pairs, asked[: len(pairs)], asked[len(pairs) :], strict=True):
        found = {"forward": first, "backward": second, "outcome": combine(first, second)}
        rows.append({**pair, **found, "error": error or other})
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
    return {
        "counts": {name: sum(row["outcome"] == name for row in rows) for name in (*SCORES, "unscored")},
        "n": len(rows),
        "errors": dict(Counter(row["error"].partition(":")[0] for row in rows if row["error"])),
        "win_rate": win_rate([SCORES[row["outcome"]] for row in counted], [row["id"] for row in counted]),
        "orders_disagree": sum(map(disagree, counted)),
    }


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


def judge_all(run: Any, pairs: list[dict]) -> None:
    """Pairwise judging and the judge's own controls, written as ``pairwise.json``."""
    store = Store(run.folder / "verdicts.jsonl")
    with run.step("pairwise") as result:
        rows = pairwise(pairs, run.judge, store)
        write_jsonl(run.folder / "pairwise_samples.jsonl", rows)
        result |= summarise_pairs(rows) | {"controls": judge_controls(rows, run.judge, store)}
        result |= {"judge": run.judge.identity, "prompt": file_hash(PROMPT)}
    if result["errors"]:
        print(f"judge: without a verdict {result['errors']}; the same command asks those again", flush=True)
