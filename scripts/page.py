"""Markdown in two languages as one self-contained HTML page: the form of both reports.

The page asks nothing of any other machine: its style and pictures are inside, links stay text, and its content
security policy forbids requests. Of HTML in the Markdown only a few tags without attributes count, such as <br> in a
table's cell; everything else is shown as it was written. Text of records and models goes through ``plain`` first.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scripts.common import write_text

STYLE = Path(__file__).with_name("style.css")
LANGUAGES = {"en": ("English", "Contents"), "zh": ("中文", "目录")}  # the button's word, the contents' title
ALLOWED = re.compile(r"&lt;(/?(?:br|mark|small|details|summary))&gt;")
MARKDOWN_SIGNS = re.compile(r"([\\`*_\[\]<>|~&#$])")
LINE_BREAKS = re.compile(
    r"\s*[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]\s*"
)  # all that a browser or Markdown may break at
MIME = {".svg": "svg+xml", ".png": "png", ".jpg": "jpeg"}
TOKEN = re.compile(r"[A-Za-z0-9]+|\s+|.", re.S)  # what "a word" is: Chinese has one for each character
FIRST_LANGUAGE = 'if (navigator.language.startsWith("zh")) document.getElementById("show-zh").checked = true;'


def plain(text: str) -> str:
    """Text as Markdown that shows it as it is, in one line: fit for a table's cell."""
    escaped = MARKDOWN_SIGNS.sub(r"\\\1", text.strip())
    return LINE_BREAKS.sub("<br>", escaped)


def table(head: Iterable[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table of cells that are Markdown already; nothing where there are no rows."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    if not lines:
        return ""
    titles = [str(cell) for cell in head]
    return "\n".join(["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles), *lines, ""])


def fold(summary: str, markdown: str) -> str:
    """A part of a page that opens on a click. ``summary``: Markdown signs in it are text."""
    return f"<details><summary>{html.escape(summary)}</summary>\n\n{markdown}\n\n</details>\n"


def side_by_side(left: str, right: str) -> tuple[str, str]:
    """Two texts as Markdown for a table's cells, with the words marked that the other one has not."""
    tokens = TOKEN.findall(left.strip()), TOKEN.findall(right.strip())
    cells: tuple[list[str], list[str]] = ([], [])
    for kind, *ends in difflib.SequenceMatcher(None, *tokens, autojunk=False).get_opcodes():
        for cell, words, (start, end) in zip(cells, tokens, (ends[:2], ends[2:]), strict=True):
            part = "".join(words[start:end])
            shown = _inside(part)
            cell.append(f"<mark>{shown}</mark>" if kind != "equal" and part.strip() else shown)
    return "".join(cells[0]), "".join(cells[1])


def write_page(
    path: Path, title: dict[str, str], markdown: dict[str, str], images: dict[str, Path] | None = None
) -> None:
    """Write one HTML file from Markdown by language (``en``, ``zh``), the first of them shown first.

    The contents stand before the first heading of second order. ``images``: an image's address in the Markdown → its
    file, which is put into the page; other images stay text.
    """
    body = "".join(_article(language, text, images or {}) for language, text in markdown.items())
    allowed = base64.b64encode(hashlib.sha256(FIRST_LANGUAGE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    script = f"<script>{FIRST_LANGUAGE}</script>" if "zh" in markdown else ""
    names = " · ".join(dict.fromkeys(title.values()))
    write_text(
        path,
        f'<!doctype html>\n<html lang="{next(iter(markdown))}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(names)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n{_buttons(list(markdown))}\n{script}\n{body}</body>\n</html>\n",
    )


def _buttons(languages: list[str]) -> str:
    """The language button: one radio button for each language, so that the page needs no script to switch."""
    if len(languages) < 2:
        return ""
    buttons = [
        f'<label lang="{name}"><input type="radio" name="language" id="show-{name}"{" checked" * (not place)}>'
        f"{LANGUAGES[name][0]}</label>"
        for place, name in enumerate(languages)
    ]
    return f'<div class="language" role="radiogroup" aria-label="Language · 语言">{"".join(buttons)}</div>'


def _article(language: str, markdown: str, images: dict[str, Path]) -> str:
    """One language's Markdown as HTML, with its contents."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": True}).enable("table").disable(["link", "autolink", "reference"])
    for name in ("html_block", "html_inline"):
        reader.add_render_rule(name, lambda self, tokens, i, *_: _without_tags(tokens[i].content))
    reader.add_render_rule("image", lambda self, tokens, i, *_: _image(tokens[i], images))
    tokens = reader.parse(markdown)
    headings = [i for i, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h2"]
    contents = []
    for number, i in enumerate(headings, 1):
        tokens[i].attrSet("id", f"{language}-{number}")
        words = reader.renderer.render(tokens[i + 1].children or [], reader.options, {})
        contents.append(f'<li><a href="#{language}-{number}">{words}</a></li>')
    first = headings[0] if headings else len(tokens)
    above, below = (reader.renderer.render(part, reader.options, {}) for part in (tokens[:first], tokens[first:]))
    label = LANGUAGES[language][1]
    nav = f'<nav aria-label="{label}"><b>{label}</b><ol>{"".join(contents)}</ol></nav>\n' if contents else ""
    tag = {"zh": "zh-Hans"}.get(language, language)
    return f'<article class="{language}" lang="{tag}">\n{above}{nav}{below}</article>\n'


def _without_tags(markup: str) -> str:
    """HTML of the Markdown with every tag but the allowed ones as text."""
    return ALLOWED.sub(r"<\1>", markup.replace("<", "&lt;").replace(">", "&gt;"))


def _image(token: Any, images: dict[str, Path]) -> str:
    """A picture of ours inside the page; any other as the text that stood there."""
    source, words = str(token.attrs["src"]), html.escape(token.content)
    if source not in images:
        return f"![{words}]({html.escape(source)})"
    path = images[source]
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{words}" src="data:image/{MIME[path.suffix]};base64,{data}">'


def _inside(text: str) -> str:
    """``plain`` for a piece of a text, whose blanks at both ends belong to it."""
    body = text.strip()
    if not body:
        return "<br>" if "\n" in text else " " * bool(text)
    start = text[: len(text) - len(text.lstrip())]
    end = text[len(text.rstrip()) :]
    return _inside(start) + plain(body) + _inside(end)
