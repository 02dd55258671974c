"""The report's dictionary as Markdown: one function for each section, in English.

en.json turns names of the result files into words, zh.json English texts into Chinese ones. A section without content
is left out. Everything that a model or a record says goes through ``plain``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.common import NOTICE, NOTICE_ZH, read_json
from scripts.evaluate import forms
from scripts.evaluate.runs import MEASURES
from scripts.evaluate.subject import SIDES
from scripts.page import fold, plain, table

Say = Callable[..., str]
LONGEST = 900  # characters of a text that is shown; the rest is in the files beside the report
STATUSES = ("read", "asked", "several", "unparsed")
HERE = Path(__file__).parent
NAMES = {**MEASURES, **forms.WORDS, **read_json(HERE / "en.json")}  # names of the result files → words


def speaker(language: str) -> Say:
    """A function that gives an English text, its ``{places}`` filled, in the report's language."""
    chinese = read_json(HERE / "zh.json") if language == "zh" else {}

    def say(text: str, **values: Any) -> str:
        said = chinese.get(text, text)
        return said.format(**values) if values else said  # a judge's error may hold braces

    return say


def word(name: str, say: Say) -> str:
    """A name of the result files for people."""
    return say(NAMES.get(name, name.replace("_", " ")))


def label(row: dict[str, Any], say: Say) -> str:
    """What a row of the before/after table measures."""
    name, _, budget = row["of"].partition(", ")
    of = word(name, say) if row["measure"] == "instructions" else benchmark(name, say)
    if budget:
        of = say("{of}, {n} tokens", of=of, n=budget.removesuffix(" tokens"))
    return say("{measure}: {of}", measure=word(row["measure"], say), of=of) if of else word(row["measure"], say)


def benchmark(task: str, say: Say) -> str:
    """A benchmark's name, and whether its options were moved."""
    return task.replace("(rotated)", say("(options moved)"))


def number(value: float | None, unit: str = "share") -> str:
    """Nats as they are, shares in percent, differences with their sign, a dash for nothing."""
    if value is None:
        return "–"
    text = {"nats": "{0:.3f}", "change": "{0:+.3f}", "share": "{1:.1f}%", "points": "{1:+.1f}"}[unit]
    return text.format(value, 100 * value).replace("-", "−")


def estimate(cell: dict[str, Any] | None, unit: str = "share", key: str = "value") -> str:
    """value [low, high]; a dash where there is none."""
    if not cell or cell.get(key) is None:
        return "–"
    ends = cell.get("ci95") or []
    interval = ",\u00a0".join(number(end, unit).rstrip("%") for end in ends)  # an interval does not wrap
    return number(cell[key], unit) + (f" [{interval}]" if ends else "")


def change_of(row: dict[str, Any], say: Say) -> str:
    """The difference tuned - base with its interval and unit."""
    if row["unit"] == "nats":
        return estimate(row["difference"], "change")
    text = estimate(row["difference"], "points")
    return text if text == "–" else say("{change} points", change=text)


def p_value(difference: dict[str, Any]) -> str:
    """Holm's p for people."""
    p = difference.get("p_holm")
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def shorten(text: str) -> str:
    """A text's beginning and end, where it is long, as one table cell."""
    if len(text) > LONGEST:
        half = LONGEST // 2
        text = f"{text[:half]} […] {text[-half:]}"
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
    others = [row for row in compared if row["measure"] != "perplexity"]
    for verdict in ("gain", "loss"):
        for row in others:
            if row["difference"]["verdict"] == verdict:
                told = {"what": label(row, say), "by": change_of(row, say), "n": row["difference"]["n"]}
                parts.append(say("{verdict} in {what} ({by}, n = {n})", verdict=word(verdict, say), **told))
    for verdict in ("no difference shown", "too few"):
        same = [row for row in others if row["difference"]["verdict"] == verdict]
        if same:
            names = say(", ").join(dict.fromkeys(word(row["measure"], say) for row in same))
            sizes = sorted({row["difference"]["n"] for row in same})
            n = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}–{sizes[-1]}"
            parts.append(say("{verdict}: {names} (n = {n})", verdict=word(verdict, say), names=names, n=n))
    return say("After fine-tuning, {parts}.", parts=say("; ").join(parts))


def on_records(row: dict[str, Any], say: Say) -> str:
    """What happened on held-out records, as part of a sentence."""
    sentences = {
        "gain": "the model predicts the text of {n} records it never saw better than before",
        "loss": "the model predicts the text of {n} records it never saw worse than before",
        "no difference shown": "no difference is shown on the text of {n} records the model never saw",
        "too few": "{n} held-out records are too few to tell whether the model predicts unseen text better",
    }
    numbers = say(
        "{before} → {after} nats per token, difference {by}, lower is better",
        before=number(row["base"]["value"], "nats"),
        after=number(row["tuned"]["value"], "nats"),
        by=change_of(row, say),
    )
    difference = row["difference"]
    return say(
        "{sentence} ({numbers})", sentence=say(sentences[difference["verdict"]], n=difference["n"]), numbers=numbers
    )


def markdown(found: dict[str, Any], language: str, pictures: set[str]) -> str:
    """The whole report. ``pictures``: names of the files that were drawn."""
    say = speaker(language)
    parts = [f"# {plain(title(found, say))}", f"**{plain(summary(found['rows'], say))}**"]
    parts += [f"> {text}" for text in (*warnings(found, say), NOTICE_ZH if language == "zh" else NOTICE)]
    sections = {
        "Answers before and after": answers(found, say),
        "Training": training(found, say) + picture(f"plots/loss.{language}.svg", pictures),
        "Before and after in numbers": comparison(found, say) + picture(f"plots/differences.{language}.svg", pictures),
        "Accuracy in detail": accuracy(found, say),
        "What accuracy does not show": behind(found, say),
        "Held-out records in detail": perplexity(found, say),
        "Judged by a model and by people": judges(found, say),
        "Negative controls": controls(found, say),
        "Questions worth reading": to_read(found, say),
        "Where the numbers come from": sources(found, say),
        "The demo's steps": steps(found, say),
    }
    parts += [f"## {say(heading)}\n\n{body}" for heading, body in sections.items() if body]
    return "\n\n".join(parts) + "\n"


def picture(path: str, pictures: set[str]) -> str:
    """A picture's place, where it was drawn."""
    return f"\n\n![{Path(path).stem}]({path})" if path in pictures else ""


def warnings(found: dict[str, Any], say: Say) -> list[str]:
    """What a reader must know before any number."""
    failed = [control for control in found["controls"] if control["status"] == "failed"]
    text = "**A negative control failed: do not trust these numbers** ({name}: {detail})"
    said = [say(text, name=plain(control["name"]), detail=plain(control["detail"])) + "\n" for control in failed]
    if found["subject"].get("assumed"):
        said.append(say("The run's settings are assumed from its recipe; overrides, if any, are not known.") + "\n")
    return said


def answers(found: dict[str, Any], say: Say) -> str:
    """Each question with the thoughts and answers of both, side by side."""
    if not found["answers"]:
        return ""
    how = ", ".join(f"{name} {value}" for name, value in found["answers"]["sampling"].items())
    parts = [say("To be read; part of no number. Sampled with {how}.", how=how)]
    for row in found["answers"]["questions"]:
        sides = [side for side in SIDES if side in row]
        lines = [[thought(row[side], say) for side in sides]]
        lines += [[f"{say('**Answer**')}<br>{shorten(row[side]['answer'])}" for side in sides]]
        parts.append(f"### {plain(row['question'])}\n\n{table([word(side, say) for side in sides], lines)}")
    return "\n\n".join(parts)


def thought(said: dict[str, Any], say: Say) -> str:
    """A thought, and whether the model ended it by itself."""
    if not said["thought"]:
        return say("**Thought**: none")
    closed = say("ended by the model itself") if said["closed"] else say("not ended by the model: cut off")
    return f"{say('**Thought**')} <small>({closed})</small><br>{shorten(said['thought'])}"


def training(found: dict[str, Any], say: Say) -> str:
    """Training and validation loss of the run in words."""
    said = []
    for kind, points in found["training"].items():
        (start, first), (end, last) = points[0], points[-1]
        values = {"first": f"{first:.3f}", "last": f"{last:.3f}", "start": start, "end": end}
        said.append(say(f"- {kind} loss: {{first}} at step {{start}}, {{last}} at step {{end}}", **values))
    return "\n".join(said)


def comparison(found: dict[str, Any], say: Say) -> str:
    """The before/after table with its verdicts, and how both sides were asked."""
    lines = []
    for row in found["rows"]:
        difference = row["difference"] or {}
        counts = [str(row[side]["n"]) if row[side] else "–" for side in SIDES]
        values = [estimate(row[side], row["unit"]) for side in SIDES]
        verdict = word(difference.get("verdict", "–"), say)
        lines.append([label(row, say), *counts, *values, change_of(row, say), p_value(difference), verdict, by(row)])
    if not lines:
        return ""
    head = [
        "measure",
        "n base",
        "n tuned",
        "base [95%]",
        "tuned [95%]",
        "tuned − base [95%]",
        "p (Holm)",
        "verdict",
        "by",
    ]
    rules = say(
        "A verdict needs an exact paired test, corrected by Holm over the whole table, and at least 20 items; "
        "intervals are shown beside it. Nats per token are the logarithm of perplexity: lower is better."
    )
    return f"{rules}\n\n{forms_in_words(found['forms'], say)}{table(map(say, head), lines)}"


def by(row: dict[str, Any]) -> str:
    """Engine and precision of a row."""
    return plain(f"{row['engine']}, {row['precision']}")


def forms_in_words(asked: dict[str, Any], say: Say) -> str:
    """How each side was asked, and how the base model's form was chosen."""
    said = [f"- {word(side, say)}: {word(form, say)}" for side, form in asked["names"].items()]
    chosen = asked["chosen"]
    if said and chosen.get("by"):
        scores = [f"{word(k, say)} {number(v['acc'])}, n = {v['n']}" for k, v in chosen.get("scores", {}).items()]
        said[0] += " (" + "; ".join([say("chosen by: {by}", by=say(chosen["by"])), *scores]) + ")"
    return "\n".join(said) + "\n\n" if said else ""


def accuracy(found: dict[str, Any], say: Say) -> str:
    """Each benchmark at each budget: shares of how letters were read, and accuracy without those asked for."""
    lines = []
    for task, about in found["accuracy"].items():
        for budget, cell in about["budgets"].items():
            for side in [side for side in SIDES if side in cell]:
                mine = cell[side]
                values = [estimate(mine, key="acc"), estimate(cell["without_asked"][side], key="acc")]
                shares = [number(mine[name]) for name in (*STATUSES, "closed")]
                lines.append([plain(benchmark(task, say)), budget, word(side, say), mine["n"], *values, *shares])
    head = ["benchmark", "budget", "model", "n", "accuracy [95%]", "without asked"]
    names = [*(word(name, say) for name in STATUSES), word("thought_closed", say)]
    chance = ", ".join(
        f"{plain(benchmark(task, say))} {number(about['chance'])}" for task, about in found["accuracy"].items()
    )
    return f"{table([*map(say, head), *names], lines)}\n\n{say('Chance:')} {chance}" if lines else ""


def behind(found: dict[str, Any], say: Say) -> str:
    """Loops, mixed language, thoughts and form; what is zero on both sides is left out."""
    sides, lines = list(found["behind"]), []
    for name in dict.fromkeys(name for side in sides for name in found["behind"][side] if name != "n"):
        cells = [found["behind"][side].get(name) for side in sides]
        if any(cell and cell["value"] for cell in cells):
            counts = [cell["n"] if cell else "–" for cell in cells]
            lines.append([word(name, say), *counts, *(estimate(cell) for cell in cells)])
    names = [word(side, say) for side in sides]
    texts = table(["", *(f"n {name}" for name in names), *(f"{name} [95%]" for name in names)], lines)
    problems = found["problems"]
    kinds = sorted({kind for counts in problems.values() for kind in counts})
    counted = [[word(kind, say), *(problems[side].get(kind, 0) for side in problems)] for kind in kinds]
    form = table([say("outputs' form: how often"), *(word(side, say) for side in problems)], counted)
    return "\n\n".join(part for part in (texts, form) if part)


def perplexity(found: dict[str, Any], say: Say) -> str:
    """Nats per token of each part, language and length of the held-out responses."""
    lines = []
    for name, cell in found["perplexity"].items():
        values = [number(cell[side]["nats"], "nats") if side in cell else "–" for side in SIDES]
        change = estimate(cell.get("difference"), "change")
        lines.append([word(name, say), cell["base"]["n"], f"{cell['base']['tokens']:,}", *values, change])
    head = ["part, language or length", "records", "tokens", "base", "fine-tuned", "tuned − base [95%]"]
    return table(map(say, head), lines)


def judges(found: dict[str, Any], say: Say) -> str:
    """The judge's verdicts with its own errors, and people's votes."""
    judge, people, said = found["judge"], found["people"], []
    if judge:
        orders = say("the two orders disagree {n} times", n=judge["orders_disagree"])
        said.append(f"- {plain(judge['judge']['model'])}: {counted(judge['counts'], say)}; {orders}; n = {judge['n']}")
        if judge.get("errors"):
            said.append(f"- {say('without a verdict')}: {counted(judge['errors'], say)}")
        for kind, result in judge.get("controls", {}).items():
            said.append(f"- {word(kind, say)}: {result['wrong']} / {result['n']}")
    if people:
        rate = say("the fine-tuned model wins {rate}", rate=estimate(people["win_rate"]))
        said.append(f"- {say('people')}: {counted(people['counts'], say)}; {rate}; n = {people['n']}")
        kappa = people["kappa"]
        if kappa and kappa["value"] is not None:
            values = {"kappa": f"{kappa['value']:.2f}", "n": kappa["n"]}
            said.append(say("- people and judge agree: Cohen's κ = {kappa} (n = {n})", **values))
    return "\n".join(said)


def counted(counts: dict[str, int], say: Say) -> str:
    """Outcomes with their numbers."""
    return ", ".join(f"{plain(word(name, say))} {count}" for name, count in counts.items())


def controls(found: dict[str, Any], say: Say) -> str:
    """Checks whose outcome is known beforehand."""
    lines = []
    for control in found["controls"]:
        name, _, side = control["name"].partition(" ")
        of = f" ({word(side.strip('()'), say)})" if side else ""
        lines.append([word(name, say) + of, word(control["status"], say), control["n"], plain(control["detail"])])
    return table(map(say, ["control", "outcome", "n", "detail"]), lines)


def to_read(found: dict[str, Any], say: Say) -> str:
    """A few questions with both outputs, folded."""
    parts = []
    for item in found["to_read"]:
        options = "\n".join(f"{letter}. {text}" for letter, text in item["options"].items() if text)
        question = plain(f"{item['question']}\n{options}\n→ {item['answer_idx']}")
        heads = [f"{word(side, say)}: {item[side]['letter'] or word(item[side]['status'], say)}" for side in SIDES]
        texts = table(heads, [[shorten(item[side]["text"]) for side in SIDES]])
        parts.append(fold(f"{word(item['kind'], say)}: {item['task']}, {item['id']}", f"{question}\n\n{texts}"))
    return "\n".join(parts)


def sources(found: dict[str, Any], say: Say) -> str:
    """The run, its data and hashes; then engine, date, machine and versions of every file."""
    subject, files = found["subject"], found["files"]
    facts = [("base model", subject["model"], subject["hashes"].get("base"))]
    facts += [("adapter", subject["adapter"], subject["hashes"].get("tuned")), ("template", subject["template"], None)]
    facts += [("recipe", " ".join([subject.get("recipe") or "", *subject.get("overrides", [])]), None)]
    facts += [("seed", subject.get("seed"), None)]
    for dataset in subject.get("datasets", []):
        for file in dataset["files"] or [{"path": dataset["name"], "hash": None}]:
            facts.append(("trained on", file["path"], file["hash"]))
    known = [fact for fact in facts if fact[1] not in (None, "")]
    run = [[say(name), plain(str(value)), f"`{kept[:12]}`" if kept else ""] for name, value, kept in known]
    lines = []
    for name, about in files.items():
        made = about["provenance"]
        commit, _, dirty = (made.get("commit") or "–").partition("-")
        date = made.get("date", "–")[:16].replace("T", " ")  # UTC, to the minute
        lines.append([f"{name}.json", by(about), date, f"{commit[:10]} {dirty}", made.get("seconds", "–")])
    last = list(files.values())[-1]["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in last.get("versions", {}).items())
    machine = plain(f"{last.get('machine', '–')}; Python {last.get('python', '–')}; {versions}")
    settings = json.dumps({name: about["settings"] for name, about in files.items()}, ensure_ascii=False, indent=2)
    head = map(say, ["file", "by", "date (UTC)", "commit", "seconds"])
    tables = [table(["", "", "SHA-256"], run), table(head, lines), machine]
    return "\n\n".join([*tables, fold(say("All settings"), f"```json\n{settings}\n```")])


def steps(found: dict[str, Any], say: Say) -> str:
    """Seconds and memory of the demo's own steps."""
    lines = [[plain(row["step"]), row["seconds"], row["peak_mib"]] for row in found["steps"]]
    return table(map(say, ["step", "seconds", "peak memory (MiB)"]), lines)
