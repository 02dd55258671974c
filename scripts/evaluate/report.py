"""Turn a results folder into report.md and report.html; run as ``python -m scripts.evaluate report results/demo``.

Each section is built once as blocks and rendered twice. Text is bilingual; everything from a model is escaped.
"""

from __future__ import annotations

import base64
import html
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.common import NOTICE, UserError, read_json, read_jsonl, write_text
from scripts.evaluate import plots

NOTICE_ZH = "仅供研究使用，不构成医疗建议，不得用于临床。"


@dataclass
class Section:
    """A title and blocks: ("text" | "alert", en, zh), ("table", head, rows), ("image", name, png), ("fold", …)."""

    en: str
    zh: str
    blocks: list[tuple] = field(default_factory=list)


def number(value: Any, digits: int = 3) -> str:
    """A number for people; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def interval(cell: dict[str, Any] | None, name: str = "ppl", digits: int = 3) -> str:
    """value [low, high]."""
    if not cell or cell.get(name) is None:
        return "–"
    low_high = cell.get("ci95")
    text = number(cell[name], digits)
    return f"{text} [{number(low_high[0], digits)}, {number(low_high[1], digits)}]" if low_high else text


def load(folder: Path, name: str) -> Any:
    """A JSON file of the results folder, or None."""
    return read_json(folder / name) if (folder / name).is_file() else None


def verdict(difference: dict[str, Any] | None, better: int) -> str:
    """gain, loss or no difference shown; ``better``: the sign of an improvement."""
    if not difference or not difference.get("ci95"):
        return "–"
    low, high = difference["ci95"]
    if low <= 0 <= high:
        return "no difference shown"
    return "gain" if (low > 0) == (better > 0) else "loss"


def perplexity_section(result: dict[str, Any]) -> Section:
    """Perplexity by part, language and length."""
    section = Section("Perplexity on held-out records", "留出数据上的困惑度")
    groups = {"reasoning + answer": result, **result["parts"]}
    for lang, parts in result["languages"].items():
        groups |= {f"{lang}: {'reasoning + answer' if part == 'both' else part}": cell for part, cell in parts.items()}
    rows = []
    for label, cell in groups.items():
        row = [label, cell["base"]["n"], cell["base"]["tokens"], interval(cell["base"]), interval(cell.get("tuned"))]
        rows.append([*row, interval(cell.get("difference")), verdict(cell.get("difference"), -1)])
    head = ["part", "n", "tokens", "base [95%]", "tuned [95%]", "tuned − base [95%]", "verdict"]
    section.blocks.append(
        (
            "text",
            "exp of the mean −log p over response tokens (nats), prompt masked, tokens as in training; "
            "lower is better. Intervals: paired bootstrap over records. "
            f"{result['truncated']} records were cut at {result['settings']['cutoff_len']} tokens.",
            "对回答部分所有词元的平均负对数似然取指数（屏蔽提问部分），越低越好；区间为按记录成对自助法的 95% 区间。",
        )
    )
    section.blocks.append(("table", head, rows))
    forest = [
        (label, cell["difference"]["ppl"], cell["difference"]["ci95"], cell["difference"]["gain"])
        for label, cell in groups.items()
        if cell.get("difference", {}).get("ppl") is not None
    ]
    if forest:
        picture = plots.differences(forest, "perplexity, tuned − base (95% interval; left of 0 is better)")
        section.blocks.append(("image", "perplexity_difference", picture))
    lines = {
        name: [(label, cell[name]["ppl"], cell[name]["ci95"]) for label, cell in result["lengths"].items()]
        for name in ("base", "tuned")
        if name in result
    }
    picture = plots.curves(lines, "response length (tokens)", "perplexity")
    section.blocks.append(("image", "perplexity_by_length", picture))
    return section


def training_section(folder: Path, run: dict[str, Any]) -> Section | None:
    """Loss, learning-rate and gradient-norm curves, and what each step cost."""
    section = Section("Training", "训练过程")
    train_dir = Path(run.get("train_dir") or "")
    if run.get("train_dir") and (train_dir / "trainer_state.json").is_file():
        history = [row for row in read_json(train_dir / "trainer_state.json")["log_history"] if "loss" in row]
    elif run.get("train_dir") and (train_dir / "trainer_log.jsonl").is_file():
        logged = [row for _, row in read_jsonl(train_dir / "trainer_log.jsonl") if "loss" in row]
        history = [{"step": row["current_steps"], "loss": row["loss"], "learning_rate": row["lr"]} for row in logged]
    else:
        history = []
    if history:
        words = f"{len(history)} logged points; training loss {history[0]['loss']:.3f} → {history[-1]['loss']:.3f}."
        section.blocks.append(("text", words, f"训练损失 {history[0]['loss']:.3f} → {history[-1]['loss']:.3f}。"))
        section.blocks.append(("image", "training_curves", plots.training_curves(history)))
    if steps := load(folder, "steps.json"):
        rows = [[s["step"], number(float(s["seconds"]), 1), s.get("peak_mib", "–"), s.get("output", "")] for s in steps]
        rows.append(["all", number(float(sum(s["seconds"] for s in steps)), 1), "", ""])
        section.blocks.append(("table", ["step", "seconds", "peak memory (MiB)", "output"], rows))
    return section if section.blocks else None


def provenance_section(folder: Path, run: dict[str, Any]) -> Section:
    """Where every number comes from."""
    section = Section("Provenance", "来源与可复现信息")
    section.blocks.append(("fold", "run.json", json.dumps(run, ensure_ascii=False, indent=2)))
    for path in sorted(folder.glob("*.json")):
        value = read_json(path)
        if isinstance(value, dict) and "provenance" in value:
            shown = {key: value[key] for key in ("settings", "provenance") if key in value}
            section.blocks.append(("fold", path.name, json.dumps(shown, ensure_ascii=False, indent=2)))
    return section


def build(folder: Path) -> list[Section]:
    """All sections for which the folder holds results."""
    run = load(folder, "run.json") or {}
    sections = []
    if result := load(folder, "perplexity.json"):
        sections.append(perplexity_section(result))
    sections += [section for section in (training_section(folder, run),) if section]
    if not sections:
        raise UserError(f"{folder}: nothing to report; run `python -m scripts.evaluate` or `make demo` first")
    return [*sections, provenance_section(folder, run)]


def to_markdown(title: str, sections: list[Section], folder: Path) -> str:
    """The report as Markdown; pictures go to ``plots/`` beside it."""
    lines = [f"# {title}", "", f"> {NOTICE} {NOTICE_ZH}", ""]
    for section in sections:
        lines += [f"## {section.en} · {section.zh}", ""]
        for kind, *rest in section.blocks:
            if kind == "table":
                head, rows = rest
                cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *rows]]
                lines += ["| " + " | ".join(row) + " |" for row in cells]
                lines.insert(len(lines) - len(rows), "|" + "---|" * len(head))
            elif kind == "image":
                (folder / "plots").mkdir(exist_ok=True)
                (folder / "plots" / f"{rest[0]}.png").write_bytes(rest[1])
                lines.append(f"![{rest[0].replace('_', ' ')}](plots/{rest[0]}.png)")
            elif kind == "fold":
                lines += [f"<details><summary>{html.escape(rest[0])}</summary>", ""]
                lines += [f"<pre>{html.escape(rest[1])}</pre>", "</details>"]
            else:
                mark = "**⚠ " if kind == "alert" else ""
                lines += [f"{mark}{rest[0]}{'**' if mark else ''}", "", rest[1]]
            lines.append("")
    return "\n".join(lines)


def both(en: str, zh: str, tag: str = "span", between: str = "") -> str:
    """English and Chinese text as elements that the language buttons show and hide."""
    return f'<{tag} class="en">{html.escape(en)}</{tag}>{between}<{tag} class="zh" lang="zh">{html.escape(zh)}</{tag}>'


def to_html(title: str, sections: list[Section]) -> str:
    """The report as one self-contained page."""
    bar = '<span class="bar"> · </span>'
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{style}</style><body>',
        '<div class="lang">'
        + "".join(
            f"<button onclick=\"document.body.className='{name}'\">{label}</button>"
            for name, label in (("en", "EN"), ("cn", "中文"), ("", "EN+中文"))
        )
        + "</div>",
        f'<h1>{html.escape(title)}</h1><div class="notice">{both(NOTICE, NOTICE_ZH, "div")}</div>',
    ]
    for section in sections:
        parts.append(f"<h2>{both(section.en, section.zh, between=bar)}</h2>")
        for kind, *rest in section.blocks:
            if kind == "table":
                head, rows = rest
                body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
                heads = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in head)
                parts.append(f'<div class="scroll"><table><tr>{heads}</tr>{body}</table></div>')
            elif kind == "image":
                data = base64.b64encode(rest[1]).decode()
                parts.append(f'<img alt="{rest[0].replace("_", " ")}" src="data:image/png;base64,{data}">')
            elif kind == "fold":
                summary, text = map(html.escape, rest)
                parts.append(f"<details><summary>{summary}</summary><pre>{text}</pre></details>")
            else:
                text = both(rest[0], rest[1], "p")
                parts.append(f'<div class="alert">{text}</div>' if kind == "alert" else text)
    return "\n".join([*parts, "</body></html>"])


def _cell(value: Any) -> str:
    name = f' class="{value}"' if value in ("gain", "loss") else ""
    return f"<td{name}>{html.escape(str(value))}</td>"


def write_report(folder: Path) -> Path:
    """Write report.md and report.html into ``folder``; returns the page's path."""
    sections = build(folder)
    title = f"MedCoT evaluation: {(load(folder, 'run.json') or {}).get('name', folder.name)}"
    write_text(folder / "report.md", to_markdown(title, sections, folder))
    write_text(folder / "report.html", to_html(title, sections))
    return folder / "report.html"
