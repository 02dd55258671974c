"""The report's dictionary in words: templates/report.md.j2 is its form in English, here are its words and numbers.

en.json turns names of the result files into words, zh.json English texts into Chinese ones.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from scripts import page
from scripts.common import read_json
from scripts.evaluate import forms
from scripts.evaluate.settings import ROOM
from scripts.evaluate.subject import SIDES
from scripts.evaluate.texts import ROTATED
from scripts.page import Say, plain

LONGEST = 900  # characters of a text that is shown; the rest is in the files beside the report
HERE = Path(__file__).parent
NAMES = forms.WORDS | read_json(HERE / "en.json")  # names of the result files → words
CUT_SHORT = (
    "Thoughts were cut at {n} tokens to save time, which may lower all results but those on held-out records: "
    "BUDGET=512 gives them room."
)
ON_RECORDS = {
    "gain": "the model predicts the text of {n} records it never saw better than before",
    "loss": "the model predicts the text of {n} records it never saw worse than before",
    "no difference shown": "no difference is shown on the text of {n} records the model never saw",
    "too few": "the held-out records (n = {n}) are too few to tell whether the model predicts unseen text better",
}


def speaker(language: str) -> Say:
    """A function that gives a name or an English text, its ``{places}`` filled, in the report's language."""
    return page.speaker(NAMES, read_json(HERE / "zh.json") if language == "zh" else {})


def label(row: dict[str, Any], say: Say) -> str:
    """What a row of the before/after table measures."""
    of = say(row["of"]) if row["measure"] == "instructions" else benchmark(row["of"], say)
    if row["budget"]:
        of = say("{of}, {n} tokens", of=of, n=row["budget"])
    return say("{measure} ({of})", measure=say(row["measure"]), of=of) if of else say(row["measure"])


def benchmark(task: str, say: Say) -> str:
    """A benchmark's name, and whether its options were moved."""
    return task.replace(ROTATED, f" {say('(options moved)')}")


def number(value: float | None, unit: str = "share", sign: str = "") -> str:
    """Nats as they are, shares in percent, with ``sign="+"`` a difference of shares in points; a dash for nothing."""
    if value is None:
        return "–"
    percent = "" if sign else "%"
    text = f"{value:{sign}.3f}" if unit == "nats" else f"{100 * value:{sign}.1f}{percent}"
    return text.replace("-", "−")


def estimate(cell: dict[str, Any] | None, unit: str = "share", sign: str = "", key: str = "value") -> str:
    """value [low, high]; a dash where there is none."""
    if not cell or cell[key] is None:
        return "–"
    ends = [number(end, unit, sign).rstrip("%") for end in cell["ci95"] or []]
    interval = ",\u00a0".join(ends)  # an interval does not wrap
    return number(cell[key], unit, sign) + (f" [{interval}]" if ends else "")


def change_of(row: dict[str, Any], say: Say) -> str:
    """The difference tuned - base with its interval and unit."""
    change = estimate(row["difference"], row["unit"], "+")
    return change if row["unit"] == "nats" or change == "–" else say("{change} points", change=change)


def verdict_of(row: dict[str, Any], say: Say) -> str:
    """The verdict; where the interval alone would say more than the corrected test, it says so."""
    difference = row["difference"] or {"verdict": "–", "ci95": None}
    verdict = say(difference["verdict"])
    low, high = difference["ci95"] or (0, 0)
    if difference["verdict"] == "no difference shown" and (low > 0 or high < 0):
        verdict += say(" (after correction)")
    return verdict


def engine_of(row: dict[str, Any], say: Say) -> str:
    """By which engine a figure was made, and in which precision."""
    return f"{row['engine']}{say(', ')}{say(row['precision'])}"


def p_value(difference: dict[str, Any] | None) -> str:
    """Holm's p for people."""
    if not difference or difference["p_holm"] is None:
        return "–"
    return "< 0.001" if difference["p_holm"] < 0.001 else f"{difference['p_holm']:.3f}"


def shorten(text: str) -> str:
    """A text's beginning and end, where it is long, as one table cell."""
    if len(text) > LONGEST:
        start, end = text[: LONGEST // 2], text[-LONGEST // 2 :]
        # not in the middle of a word; Chinese has no spaces to stop at
        text = f"{re.sub(r'[A-Za-z]+$', '', start)} […] {re.sub(r'^[A-Za-z]+', '', end)}"
    return plain(text) or "–"


def title(found: dict[str, Any], say: Say) -> str:
    """The report's title."""
    return say("Before and after fine-tuning: {name}", name=found["name"])


def summary(rows: list[dict[str, Any]], say: Say) -> str:
    """One sentence in plain words: what fine-tuning did to the model, with n and intervals."""
    compared = [row for row in rows if row["difference"] and row["difference"]["value"] is not None]
    if not compared:
        return say("Only one model was measured, or nothing that can be compared.")
    parts = [on_records(row, say) for row in compared if row["measure"] == "perplexity"]
    for verdict in ("gain", "loss", "no difference shown", "too few"):
        told = [row for row in compared if row["measure"] != "perplexity" and row["difference"]["verdict"] == verdict]
        if verdict in ("gain", "loss"):
            for row in told:
                values = {"what": label(row, say), "by": change_of(row, say), "n": row["difference"]["n"]}
                parts.append(say("{verdict} in {what}: {by}, n = {n}", verdict=say(verdict), **values))
        elif told:
            names = say(", ").join(label(row, say) for row in told)
            sizes = sorted({row["difference"]["n"] for row in told})
            n = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}–{sizes[-1]}"
            parts.append(say("{verdict}: {names}, n = {n}", verdict=say(verdict), names=names, n=n))
    told = say("After fine-tuning, {parts}.", parts=say("; ").join(parts))
    room = max((int(row["budget"]) for row in rows if row["budget"]), default=ROOM)
    return told if room >= ROOM else say("{told} {more}", told=told, more=say(CUT_SHORT, n=room))


def on_records(row: dict[str, Any], say: Say) -> str:
    """What happened on held-out records, as part of a sentence."""
    difference = row["difference"]
    before, after = (number(row[side]["value"], "nats") for side in SIDES)
    numbers = " ({before} → {after} nats per token, difference {by}, lower is better)"
    said = say(ON_RECORDS[difference["verdict"]], n=difference["n"])
    return said + say(numbers, before=before, after=after, by=change_of(row, say))


def fill(template: str, found: dict[str, Any], language: str, **more: Any) -> str:
    """A template's Markdown from the report's dictionary."""
    say = speaker(language)
    functions = {
        "number": number,
        "estimate": estimate,
        "p_value": p_value,
        "say": say,
        "plain": plain,
        "shorten": shorten,
    }
    functions |= {
        function.__name__: partial(function, say=say)
        for function in (label, benchmark, change_of, verdict_of, engine_of)
    }
    words = {"sides": SIDES, "title": title(found, say), "summary": summary(found["rows"], say)}
    return page.fill(HERE / "templates" / template, language, functions, found | words | more, strict=False)
