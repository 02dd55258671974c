"""The report's sections, built from the JSON files of a results folder; rendered by report.py."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.common import UserError, read_json, read_jsonl
from scripts.evaluate import plots
from scripts.evaluate.judge import SCORES, win_rate
from scripts.evaluate.review import pair_key, read_pairs
from scripts.evaluate.stats import cohen_kappa, is_gain

FAILURES, SHOWN = 3, 1500  # of each kind, side by side; characters of each text
SELF_JUDGE = (
    "No judge was given, so the tuned demo model judged itself: this shows that the path works and is UNINFORMATIVE "
    "about quality. Pass --judge-url and --judge-model for a real judge.",
    "未指定评审模型，演示模型自评：仅说明流程可用，对质量没有信息量。请用 --judge-url 与 --judge-model 指定评审模型。",
)


@dataclass
class Section:
    """A title and its blocks.

    ("text" or "alert", en, zh), ("table", head, rows), ("image", name, png), ("fold", title, text),
    ("pair", title, question, [(label, text), (label, text)])."""

    en: str
    zh: str
    blocks: list[tuple] = field(default_factory=list)

    def add(self, *block: Any) -> None:
        """Append a block."""
        self.blocks.append(block)


def load(folder: Path, name: str) -> Any:
    """A JSON file of the results folder, or None."""
    return read_json(folder / name) if (folder / name).is_file() else None


def number(value: Any, digits: int = 3, scale: float = 1) -> str:
    """A number for people; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value * scale:.{digits}f}" if isinstance(value, float) or scale != 1 else str(value)


def percent(value: float | None) -> str:
    """A share as a percentage without its sign."""
    return number(value, 1, 100)


def interval(cell: dict[str, Any] | None, name: str = "value", digits: int = 2, scale: float = 1) -> str:
    """value [low, high]."""
    if not cell or cell.get(name) is None:
        return "–"
    text, ends = number(cell[name], digits, scale), cell.get("ci95")
    return f"{text} [{number(ends[0], digits, scale)}, {number(ends[1], digits, scale)}]" if ends else text


def verdict(difference: dict[str, Any] | None, better: int = 1) -> str:
    """gain, loss or no difference shown; ``better``: the sign of an improvement."""
    if not difference or not difference.get("ci95"):
        return "–"
    p = difference.get("p_holm", difference.get("p"))
    if is_gain(difference["ci95"], p, better):
        return "gain"
    return "loss" if is_gain(difference["ci95"], p, -better) else "no difference shown"


def comparison(label: str, cell: dict[str, Any], name: str, digits: int, scale: float, better: int = 1) -> list[str]:
    """A row of the before/after table."""
    difference = cell.get("difference") or {}
    shown = {"value": difference.get("value", difference.get(name)), "ci95": difference.get("ci95")}
    row = [label, cell["base"]["n"], *(interval(cell.get(side), name, digits, scale) for side in ("base", "tuned"))]
    p = difference.get("p_holm", difference.get("p")) if difference.get("ci95") else None
    return [*row, interval(shown, digits=digits, scale=scale), number(p), verdict(difference, better)]


def shares(results: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """(label, base/tuned/difference, name of the value) of everything that is a share of items."""
    found = []
    for task, cell in (results["accuracy"] or {"tasks": {}})["tasks"].items():
        found.append((f"accuracy: {task}", list(cell["budgets"].values())[-1], "acc"))
    for lang in ("en", "zh"):
        if lang in (results["instructions"] or {}):
            found.append((f"instructions followed: {lang}", results["instructions"][lang]["strict"], "share"))
    if results["format"]:
        found.append(("well-formed output", results["format"], "share"))
    if results["freeform"]:
        found.append(("answer equivalent to reference (judge)", results["freeform"], "acc"))
    return found


def summary_section(results: dict[str, Any]) -> Section:
    """The before/after table and the differences with their intervals."""
    section = Section("Before and after", "微调前后对比")
    rows = []
    if results["perplexity"]:
        rows.append(comparison("perplexity (lower is better)", results["perplexity"], "ppl", 2, 1, -1))
    rows += [comparison(f"{label} (%)", cell, name, 1, 100) for label, cell, name in shares(results)]
    limit = next((results[name]["settings"]["limit"] for name in ("accuracy", "format") if results[name]), None)
    items = f", the first {limit} of each set" if limit else ""
    head = ["metric", "n", "base [95%]", "tuned [95%]", "tuned − base [95%]", "p", "verdict"]
    section.add(
        "text",
        f"Same items, prompt and settings for both models{items}. “Gain” needs an interval without zero "
        "and p < 0.05 (exact McNemar; Holm-corrected over benchmarks); everything else is “no difference shown”.",
        "两个模型使用相同题目、相同提示与相同设置。仅当 95% 区间不含零且 p < 0.05（精确 McNemar 检验，多个基准间作 "
        "Holm 校正）时才称为提升（gain），否则为未显示差异。",
    )
    section.add("table", head, rows)
    differences = [(label, cell.get("difference") or {}) for label, cell, _ in shares(results)]
    forest = [
        (label, d["value"] * 100, [x * 100 for x in d["ci95"]], verdict(d) == "gain")
        for label, d in differences
        if d.get("ci95")
    ]
    if forest:
        picture = plots.differences(forest, "tuned − base in percentage points (95% interval; right of 0 is better)")
        section.add("image", "differences", picture)
    return section


def perplexity_section(result: dict[str, Any]) -> Section:
    """Perplexity by part, language and length."""
    section = Section("Perplexity on held-out records", "留出数据上的困惑度")
    groups = {"reasoning + answer": result, **result["parts"]}
    for lang, parts in result["languages"].items() if len(result["languages"]) > 1 else ():
        groups |= {f"{lang}: {'reasoning + answer' if part == 'both' else part}": cell for part, cell in parts.items()}
    rows = []
    for label, cell in groups.items():
        row = comparison(label, cell, "ppl", 2, 1, -1)
        rows.append([*row[:2], cell["base"]["tokens"], *row[2:5], row[6]])
    section.add(
        "text",
        "exp of the mean −log p over response tokens (nats), prompt masked, tokens as in training; lower is "
        f"better. Intervals: paired bootstrap over records. {result['truncated']} records were cut at "
        f"{result['settings']['cutoff_len']} tokens.",
        "对回答部分所有词元的平均负对数似然取指数（屏蔽提问部分），越低越好；区间为按记录成对自助法的 95% 区间。",
    )
    head = ["part", "n", "tokens", "base [95%]", "tuned [95%]", "tuned − base [95%]", "verdict"]
    section.add("table", head, rows)
    forest = [
        (label, cell["difference"]["ppl"], cell["difference"]["ci95"], cell["difference"]["gain"])
        for label, cell in groups.items()
        if cell.get("difference", {}).get("ppl") is not None
    ]
    if forest:
        picture = plots.differences(forest, "perplexity, tuned − base (95% interval; left of 0 is better)")
        section.add("image", "perplexity_difference", picture)
    lines = {
        name: [(label, cell[name]["ppl"], cell[name]["ci95"]) for label, cell in result["lengths"].items()]
        for name in ("base", "tuned")
        if name in result
    }
    picture = plots.curves({"": lines}, "response length (tokens)", "perplexity")
    section.add("image", "perplexity_by_length", picture)
    return section


def accuracy_section(result: dict[str, Any]) -> Section:
    """Accuracy per benchmark and budget, with what could not be read, was cut off or was forced."""
    section = Section("Answer accuracy by thinking budget", "不同思考预算下的答题正确率")
    rows, panels = [], {}
    sides = ("base", "tuned")
    for task, about in result["tasks"].items():
        for budget, cell in about["budgets"].items():
            row = comparison(task, cell, "acc", 1, 100)
            there = [cell[side] for side in sides if side in cell]
            pair = {
                key: " / ".join(number(side[key], 1, 1 if key == "thought_tokens" else 100) for side in there)
                for key in ("unparsed", "cut", "forced", "thought_tokens")
            }
            rows.append([task, budget, percent(about["chance"]), *row[1:6], *pair.values()])
        panels[task] = {
            side: [(b, c[side]["acc"] * 100, [x * 100 for x in c[side]["ci95"]]) for b, c in about["budgets"].items()]
            for side in sides
            if all(side in c for c in about["budgets"].values())
        }
    head = ["benchmark", "budget", "chance %", "n", "base % [95%]", "tuned % [95%]", "tuned − base [95%]", "p"]
    head += [f"{name}, base / tuned" for name in ("unparsed %", "cut off %", "forced %", "thinking tokens")]
    settings = result["settings"]
    section.add(
        "text",
        f"The model thinks, then answers. Prompt: {settings['prompt']}. Sampling: {settings['sampling']}, seeds "
        f"{list(settings['seeds'])}, at most {settings['limit'] or 'all'} items per benchmark. An open thought is "
        "closed at the budget and one of the letters chosen (forced). Cut off: a thought still open at the budget, or "
        "an answer at its own limit. Unparsed counts as wrong.",
        "模型先思考后作答。思考达到预算仍未结束时由程序闭合并要求从选项字母中作答（forced）；无法解析（unparsed）计为错误。",
    )
    section.add("table", head, rows)
    marks = {task: about["chance"] * 100 for task, about in result["tasks"].items()}
    section.add("image", "accuracy_by_budget", plots.curves(panels, "budget (tokens)", "accuracy (%)", marks))
    return section


def behaviour_section(results: dict[str, Any]) -> Section:
    """Instruction following and format adherence."""
    section = Section("Instruction following and format", "指令遵循与输出格式")
    head = ["what", "n", "base % [95%]", "tuned % [95%]", "tuned − base [95%]", "p", "verdict"]
    rows, problems = [], []
    groups = dict(results["instructions"] or {})
    for lang in ("all", "en", "zh"):
        if lang in groups:
            rows.append(comparison(f"all constraints followed: {lang}", groups[lang]["strict"], "share", 1, 100))
            rows.append(comparison(f"well-formed (instructions): {lang}", groups[lang]["format"], "share", 1, 100))
    if results["format"]:
        rows.append(comparison("well-formed (held-out questions)", results["format"], "share", 1, 100))
        counts = results["format"]["problems"]
        names = sorted({name for side in counts.values() for name in side})
        problems = [[name, *(side.get(name, 0) for side in counts.values())] for name in names]
    section.add(
        "text",
        "Constraints are checked by code. Well-formed: reasoning present and closed by the model itself, an answer "
        "in the question's language, no special token leaked.",
        "约束由程序检查。格式良好：有思考且由模型自行闭合，答案与提问语言一致，没有泄漏特殊标记。",
    )
    section.add("table", head, rows)
    if problems:
        section.add("table", ["problem (held-out outputs)", *counts], problems)
    return section


def preference_section(folder: Path, results: dict[str, Any]) -> Section | None:
    """Free-form accuracy and pairwise preference by judge and people, and how far they agree."""
    section = Section("Preference and free-form answers", "偏好对比与开放式问答")
    result, people = results["pairwise"], human_votes(folder)
    if (results["freeform"] or result or {}).get("self"):
        section.add("alert", *SELF_JUDGE)
    head = [
        "who",
        "pairs or votes",
        "tuned wins",
        "base wins",
        "ties",
        "unscored",
        "tuned win rate % [95%]",
        "p",
        "verdict",
    ]
    rows = []
    for who, found in (("judge", result), ("people", people)):
        if found:
            c, rate = found["counts"], found["win_rate"]
            shown = [interval(rate, digits=1, scale=100), number(rate["p"])]
            centred = {"ci95": rate["ci95"] and [x - 0.5 for x in rate["ci95"]], "p": rate["p"]}
            counts = [c["tuned"], c["base"], c["tie"], c["unscored"]]
            rows.append([who, found["n"], *counts, *shown, verdict(centred) if rate["n"] else "nothing scored"])
    if rows:
        words = "A tie is half a win; both orders are asked and orders that disagree are a tie."
        section.add("text", words, "平局记半胜；两种顺序各问一次，结论不一致记为平局。")
        section.add("table", head, rows)
    if result:
        scored = result["n"] - result["counts"]["unscored"]
        section.add(
            "alert" if scored < result["n"] / 2 else "text",
            f"Judge: {scored} of {result['n']} pairs could be scored; the two orders disagreed in "
            f"{result['orders_disagree']}; faults of the server, all retried: {result['faults'] or 'none'}; "
            f"pairs given up: {result['errors']}.",
            f"评审模型：{result['n']} 对中有 {scored} 对可评分，{result['orders_disagree']} 对两种顺序结论不一致。",
        )
    if results["freeform"]:
        cells = results["freeform"]
        row = comparison("equivalent to the reference (judge)", cells, "acc", 1, 100)
        unscored = " / ".join(percent(cells[side]["unscored"]) for side in ("base", "tuned") if side in cells)
        head = ["free-form", "n scored (base)", "base % [95%]", "tuned % [95%]", "tuned − base [95%]", "p", "verdict"]
        section.add("table", [*head, "unscored %, base / tuned"], [[*row, unscored]])
    if people and people["kappa"]:
        kappa = interval(people["kappa"])
        words = f"Agreement between people and judge: Cohen's κ = {kappa}, n = {people['kappa']['n']}."
        section.add("text", words, f"人工与评审模型的一致性：Cohen's κ = {kappa}。")
    return section if section.blocks else None


def human_votes(folder: Path, seed: int = 42) -> dict[str, Any] | None:
    """Win rate from votes.jsonl (clustered by pair), and Cohen's κ with the judge on pairs that both decided."""
    if not (folder / "votes.jsonl").is_file():
        return None
    current = {pair_key(pair) for pair in read_pairs(folder)}
    cast = [vote for _, vote in read_jsonl(folder / "votes.jsonl") if vote["pair"] in current]
    last = {(vote["reviewer"], vote["id"]): vote for vote in cast}
    votes = [vote for vote in last.values() if vote["vote"] != "skip"]
    rate = win_rate([SCORES[vote["vote"]] for vote in votes], [vote["id"] for vote in votes], seed)
    counts = {name: sum(vote["vote"] == name for vote in votes) for name in ("tuned", "base", "tie")}
    kappa = None
    if (folder / "pairwise_samples.jsonl").is_file():
        judged = {row["id"]: row["outcome"] for _, row in read_jsonl(folder / "pairwise_samples.jsonl")}
        both = [(v["vote"], judged[v["id"]]) for v in votes if judged.get(v["id"], "unscored") != "unscored"]
        kappa = cohen_kappa(*zip(*both, strict=True)) if both else None
    about = {"n": len(votes), "counts": counts | {"unscored": len(last) - len(votes)}, "win_rate": rate}
    return about | {"kappa": kappa}


def controls_section(result: dict[str, Any]) -> Section:
    """The negative controls of this evaluation."""
    section = Section("Negative controls", "阴性对照")
    words = "Checks whose right outcome is known beforehand; “uninformative” is not a pass."
    section.add("text", words, "事先已知正确结果的检验；uninformative 不等于通过。")
    rows = [[c["name"].replace("_", " "), c["status"], c["n"], c["detail"]] for c in result["controls"]]
    section.add("table", ["control", "status", "n", "detail"], rows)
    return section


def failures_section(folder: Path) -> Section | None:
    """Items worth reading: lost by tuning, wrong in both, not parsed; both models side by side."""
    if not (folder / "accuracy_samples.jsonl").is_file():
        return None
    pairs: dict[tuple, dict[str, dict]] = {}
    for _, row in read_jsonl(folder / "accuracy_samples.jsonl"):
        pairs.setdefault((row["task"], row["id"], row["seed"]), {})[row["model"]] = row
    kinds: dict[str, list[tuple]] = {"base right, tuned wrong": [], "both wrong": [], "not parsed": []}
    for key, pair in pairs.items():
        if len(pair) < 2:
            continue
        key_letter = pair["base"]["answer_idx"]
        base, tuned = (list(pair[name]["outputs"].values())[-1] for name in ("base", "tuned"))
        if None in (base["choice"], tuned["choice"]):
            kind = "not parsed"
        elif tuned["choice"] == key_letter:
            continue
        else:
            kind = "base right, tuned wrong" if base["choice"] == key_letter else "both wrong"
        kinds[kind].append((key, pair["base"], base, tuned))
    section = Section("Failures worth reading", "值得一读的失败样例")
    for kind, found in kinds.items():
        for key, row, base, tuned in found[:FAILURES]:
            options = "\n".join(f"{letter}. {text}" for letter, text in row["options"].items() if text)
            sides = [
                (f"{name}: {output['choice'] or 'not parsed'}", output["text"][:SHOWN])
                for name, output in (("base", base), ("tuned", tuned))
            ]
            question = f"{row['question']}\n{options}\nkey: {row['answer_idx']}"
            section.add("pair", f"{kind}: {key[0]}, {key[1]}", question, sides)
    return section if section.blocks else None


def training_section(folder: Path, run: dict[str, Any]) -> Section | None:
    """Loss, learning-rate and gradient-norm curves, and what each step cost."""
    section = Section("Training", "训练过程")
    train_dir = Path(run.get("train_dir") or "")
    history = []
    if run.get("train_dir") and (train_dir / "trainer_state.json").is_file():
        history = [row for row in read_json(train_dir / "trainer_state.json")["log_history"] if "loss" in row]
    elif run.get("train_dir") and (train_dir / "trainer_log.jsonl").is_file():
        logged = [row for _, row in read_jsonl(train_dir / "trainer_log.jsonl") if "loss" in row]
        history = [{"step": row["current_steps"], "loss": row["loss"], "learning_rate": row["lr"]} for row in logged]
    if history:
        words = f"{len(history)} logged points; training loss {history[0]['loss']:.3f} → {history[-1]['loss']:.3f}."
        section.add("text", words, f"训练损失 {history[0]['loss']:.3f} → {history[-1]['loss']:.3f}。")
        section.add("image", "training_curves", plots.training_curves(history))
    if steps := load(folder, "steps.json"):
        rows = [[s["step"], number(float(s["seconds"]), 1), s.get("peak_mib", "–"), s.get("output", "")] for s in steps]
        rows.append(["all", number(float(sum(s["seconds"] for s in steps)), 1), "", ""])
        section.add("table", ["step", "seconds", "peak memory (MiB)", "output"], rows)
    return section if section.blocks else None


def data_section(run: dict[str, Any]) -> Section | None:
    """Rows kept and rejected, and leaks found, from the data report."""
    path = run.get("data_report")
    if not path or not Path(path).is_file():
        return None
    report = read_json(path)
    section = Section("Training data and contamination", "训练数据与污染检查")
    words = f"{report['read']} records read, {report['kept']} kept, {report['rejected']} rejected ({path})."
    zh = f"读取 {report['read']} 条，保留 {report['kept']} 条，剔除 {report['rejected']} 条。"
    section.add("text", words, zh)
    if report.get("reasons"):
        section.add("table", ["reason for rejection", "records"], [list(x) for x in report["reasons"].items()])
    if report.get("benchmarks"):
        rows = [[name, about["items"], about["leaks"]] for name, about in report["benchmarks"].items()]
        section.add("table", ["benchmark", "items", "records removed as leaks"], rows)
    return section


def provenance_section(folder: Path, run: dict[str, Any]) -> Section:
    """Where every number comes from."""
    section = Section("Provenance", "来源与可复现信息")
    if (folder / "generations.jsonl").is_file():
        cost: dict[tuple, list[float]] = {}
        for _, row in read_jsonl(folder / "generations.jsonl"):
            total = cost.setdefault((row["task"], row["model"]), [0, 0, 0.0])
            output = list(row["outputs"].values())[-1]
            spent = (1, output["thought_tokens"] + output["answer_tokens"], row["seconds"])
            cost[row["task"], row["model"]] = [a + b for a, b in zip(total, spent, strict=True)]
        rows = [[*key, items, tokens, number(seconds, 1)] for key, (items, tokens, seconds) in cost.items()]
        section.add("table", ["task", "model", "answers kept", "tokens at the largest budget", "seconds"], rows)
    section.add("fold", "run.json", json.dumps(run, ensure_ascii=False, indent=2))
    for path in sorted(folder.glob("*.json")):
        value = read_json(path)
        if isinstance(value, dict) and "provenance" in value:
            shown = {key: value[key] for key in ("settings", "judge", "prompts", "provenance") if key in value}
            section.add("fold", path.name, json.dumps(shown, ensure_ascii=False, indent=2))
    return section


def warnings(results: dict[str, Any], run: dict[str, Any]) -> Section | None:
    """What must be read first: a failed control, and what kind of model this is."""
    section = Section("Read this first", "请先阅读")
    for control in (results["controls"] or {"controls": []})["controls"]:
        if control["status"] == "failed":
            words = f"Negative control failed: {control['name']} ({control['detail']}). Do not trust these numbers."
            section.add("alert", words, f"阴性对照未通过：{control['name']}。以下数字不可信。")
    if run.get("notice"):
        section.add("text", run["notice"], "演示用的微型模型只用于展示流程，不具备医学知识。")
    return section if section.blocks else None


def build(folder: Path) -> list[Section]:
    """All sections for which the folder holds results; raises UserError where there is none."""
    run = load(folder, "run.json") or {}
    names = ("perplexity", "accuracy", "instructions", "format", "freeform", "pairwise", "controls")
    results = {name: load(folder, f"{name}.json") for name in names}
    if not any(results.values()):
        raise UserError(f"{folder}: nothing to report; run `python -m scripts.evaluate` or `make demo` first")
    sections = [warnings(results, run), summary_section(results)]
    if results["accuracy"]:
        sections.append(accuracy_section(results["accuracy"]))
    if results["perplexity"]:
        sections.append(perplexity_section(results["perplexity"]))
    if results["instructions"] or results["format"]:
        sections.append(behaviour_section(results))
    sections.append(preference_section(folder, results))
    if results["controls"]:
        sections.append(controls_section(results["controls"]))
    sections += [failures_section(folder), training_section(folder, run), data_section(run)]
    return [section for section in sections if section] + [provenance_section(folder, run)]
