"""Turn a results folder into report.md and report.html; run as ``python -m scripts.evaluate report results/demo``.

Sections (sections.py) are built once as blocks and rendered twice. Everything from a model is escaped.
"""

from __future__ import annotations

import base64
import html
from functools import cache
from pathlib import Path
from typing import Any

from scripts.common import NOTICE, read_json, write_text
from scripts.evaluate.sections import Section, build, load

NOTICE_ZH = "仅供研究使用，不构成医疗建议，不得用于临床。"


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
            elif kind == "pair":
                said = "\n\n".join(f"=== {label} ===\n{text}" for label, text in rest[2])
                lines += [f"<details><summary>{html.escape(rest[0])}</summary>", ""]
                lines += [f"<pre>{html.escape(rest[1])}\n\n{html.escape(said)}</pre>", "</details>"]
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
                heads = "".join(f"<th>{_words(cell)}</th>" for cell in head)
                parts.append(f'<div class="scroll"><table><tr>{heads}</tr>{body}</table></div>')
            elif kind == "image":
                data = base64.b64encode(rest[1]).decode()
                parts.append(f'<img alt="{rest[0].replace("_", " ")}" src="data:image/png;base64,{data}">')
            elif kind == "fold":
                summary, text = map(html.escape, rest)
                parts.append(f"<details><summary>{summary}</summary><pre>{text}</pre></details>")
            elif kind == "pair":
                sides = "".join(f"<div><b>{html.escape(x)}</b><pre>{html.escape(y)}</pre></div>" for x, y in rest[2])
                text = f'<pre>{html.escape(rest[1])}</pre><div class="pair">{sides}</div>'
                parts.append(f"<details><summary>{html.escape(rest[0])}</summary>{text}</details>")
            else:
                text = both(rest[0], rest[1], "p")
                parts.append(f'<div class="alert">{text}</div>' if kind == "alert" else text)
    return "\n".join([*parts, "</body></html>"])


def _cell(value: Any) -> str:
    kind = value if value in ("gain", "loss") else "number" if str(value)[:1] in "-–0123456789" else "words"
    return f'<td class="{kind}">{_words(value)}</td>'


@cache
def _chinese() -> dict[str, str]:
    return read_json(Path(__file__).with_name("report_zh.json"))


def _words(value: Any) -> str:
    """A cell's text; where report_zh.json knows it, in both languages (Chinese only shows when chosen)."""
    found = _chinese().get(str(value))
    if not found:
        return html.escape(str(value))
    return f'<span class="only-en">{html.escape(str(value))}</span><span class="only-cn">{html.escape(found)}</span>'


def write_report(folder: Path) -> Path:
    """Write report.md and report.html into ``folder``; returns the page's path."""
    sections = build(folder)
    title = f"MedCoT evaluation: {(load(folder, 'run.json') or {}).get('name', folder.name)}"
    write_text(folder / "report.md", to_markdown(title, sections, folder))
    write_text(folder / "report.html", to_html(title, sections))
    return folder / "report.html"
