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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from scripts.common import NOTICE, NOTICE_ZH, write_text

Say = Callable[..., str]
HERE = Path(__file__).parent
STYLE = HERE / "style.css"
LANGUAGES = {
    "en": {"name": "English", "tag": "en", "contents": "Contents"},
    "zh": {"name": "中文", "tag": "zh-Hans", "contents": "目录"},
}
ALLOWED = re.compile(r"&lt;(/?(?:br|mark|small|details|summary))&gt;")
MARKDOWN_SIGNS = re.compile(r"([\\`*_\[\]<>|~&#$])")
# All that a browser or Markdown may break a line at.
LINE_BREAKS = re.compile(r"\s*[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]\s*")
TOKEN = re.compile(r"[A-Za-z0-9]+|\s+|.", re.S)  # what "a word" is: Chinese has one for each character
FIRST_LANGUAGE = 'if (navigator.language.startsWith("zh")) document.getElementById("show-zh").checked = true;'


def plain(text: str) -> str:
    """Text as Markdown that shows it as it is, in one line: fit for a table's cell."""
    escaped = MARKDOWN_SIGNS.sub(r"\\\1", text.strip())
    return LINE_BREAKS.sub("<br>", escaped)


def table(head: Iterable[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table of cells that are Markdown already; nothing where there are no rows."""
    titles = list(head)
    first, *others = ["| " + " | ".join(map(str, row)) + " |" for row in (titles, *rows)]
    return "\n".join([first, "|" + " --- |" * len(titles), *others, ""]) if others else ""


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


def speaker(names: dict[str, str], chinese: dict[str, str]) -> Say:
    """A function that gives a name or an English text in words, its ``{places}`` filled.

    ``names``: name → English; ``chinese``: English → Chinese, empty for English.
    """

    def say(text: str, **values: Any) -> str:
        english = names.get(text, text.replace("_", " "))
        said = chinese.get(english, english)
        return said.format(**values) if values else said  # a judge's error may hold braces

    return say


def fill(template: Path, language: str, functions: dict[str, Callable], values: dict[str, Any], strict: bool) -> str:
    """A template as Markdown; of several empty lines, one is left. ``strict``: every value that it names is there."""
    import jinja2

    forms = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined if strict else jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    forms.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    forms.filters |= functions
    forms.globals |= functions
    notice = NOTICE_ZH if language == "zh" else NOTICE
    text = forms.get_template(template.name).render(**values, language=language, notice=notice)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def write_page(
    path: Path, titles: dict[str, str], markdown: dict[str, str], images: dict[str, str] | None = None
) -> None:
    """Write one HTML file from Markdown in English and Chinese (``en``, ``zh``), the reader's shown first.

    Beside it the Markdown, as .md and .zh.md. The contents stand before the first heading of second order. ``images``:
    an image's address in the Markdown → its SVG, which is put into the page; other images stay text.
    """
    import jinja2

    loader = jinja2.FileSystemLoader(HERE / "templates")
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("page.html.j2")
    text = page.render(
        titles=titles.values(),
        style=STYLE.read_text(encoding="utf-8"),
        script=FIRST_LANGUAGE,
        script_hash=base64.b64encode(hashlib.sha256(FIRST_LANGUAGE.encode()).digest()).decode(),
        languages=LANGUAGES,
        articles={language: _article(language, markdown[language], images or {}) for language in LANGUAGES},
    )
    write_text(path, text + "\n")
    for suffix, language in ((".md", "en"), (".zh.md", "zh")):
        write_text(path.with_suffix(suffix), markdown[language])


def _article(language: str, markdown: str, images: dict[str, str]) -> dict[str, Any]:
    """One language's Markdown as HTML: what stands above the contents, the headings listed there, what follows."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": True}).enable("table").disable(["link", "autolink", "reference"])
    for name in ("html_block", "html_inline"):
        reader.add_render_rule(name, lambda self, tokens, i, *_: _without_tags(tokens[i].content))
    reader.add_render_rule("image", lambda self, tokens, i, *_: _image(tokens[i], images))
    tokens = reader.parse(markdown)
    headings = [i for i, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h2"]
    for number, i in enumerate(headings, 1):
        tokens[i].attrSet("id", f"{language}-{number}")
    first = headings[0] if headings else len(tokens)
    parts = {"above": tokens[:first], "below": tokens[first:]}
    article = {name: reader.renderer.render(part, reader.options, {}) for name, part in parts.items()}
    words = [tokens[i + 1].children or [] for i in headings]
    return article | {"contents": [reader.renderer.render(part, reader.options, {}) for part in words]}


def _without_tags(markup: str) -> str:
    """HTML of the Markdown with every tag but the allowed ones as text."""
    return ALLOWED.sub(r"<\1>", markup.replace("<", "&lt;").replace(">", "&gt;"))


def _image(token: Any, images: dict[str, str]) -> str:
    """A picture of ours inside the page; any other as the text that stood there."""
    source, words = str(token.attrs["src"]), html.escape(token.content)
    if source not in images:
        return f"![{words}]({html.escape(source)})"
    data = base64.b64encode(images[source].encode()).decode()
    return f'<img alt="{words}" src="data:image/svg+xml;base64,{data}">'


def _inside(text: str) -> str:
    """``plain`` for a piece of a text, whose blanks at both ends belong to it."""
    body = text.strip()
    if not body:
        return "<br>" if "\n" in text else " " * bool(text)
    start = text[: len(text) - len(text.lstrip())]
    end = text[len(text.rstrip()) :]
    return _inside(start) + plain(body) + _inside(end)
