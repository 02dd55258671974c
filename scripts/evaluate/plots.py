"""The report's two pictures, as SVG whose words stay text: the browser finds the glyphs, Chinese ones too.

Lines and words of the axes take the page's ink, so that a picture can be read in the dark.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

from scripts.evaluate.render import Say, label, speaker

INK = "#010203"  # a colour that nothing else has; it becomes a variable of the picture's style
STYLE = (
    ":root {--ink: #1d2733} @media (prefers-color-scheme: dark) {:root {--ink: #e4e9ee}} text {fill: var(--ink)} "
    'text {font-family: system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif !important}'
)
BASE, TUNED, GAIN, LOSS, SAME = "#d9822b", "#2f8fd0", "#1f9d63", "#d1492e", "#8a94a3"
COLOURS = {"gain": GAIN, "loss": LOSS}


def draw_all(found: dict[str, Any], language: str) -> dict[str, str]:
    """File's name → SVG of every picture that shows something."""
    drawn, say = {}, speaker(language)
    if len(found["training"].get("training", [])) > 1:
        drawn["loss"] = losses(found["training"], say)
    rows = [row for row in found["rows"] if row["unit"] == "share" and row["difference"] and row["difference"]["ci95"]]
    if any(row["difference"]["value"] for row in rows):
        drawn["differences"] = differences([(label(row, say), row["difference"]) for row in rows], say)
    return {f"plots/{name}.{language}.svg": picture for name, picture in drawn.items()}


def losses(history: dict[str, list[list[float]]], say: Say) -> str:
    """Training and validation loss over optimiser steps, in nats per token."""

    def draw(axis: Any) -> None:
        axis.plot(*zip(*history["training"], strict=True), color=TUNED, label=say("training loss"))
        if "validation" in history:
            axis.plot(*zip(*history["validation"], strict=True), "o--", color=BASE, label=say("validation loss"))
        axis.set(xlabel=say("optimiser step"))
        axis.legend(frameon=False)

    return _svg(draw, (7.5, 3.2))


def differences(changes: list[tuple[str, dict[str, Any]]], say: Say) -> str:
    """Each difference with its interval, its words above it; green a gain, red a loss."""

    def draw(axis: Any) -> None:
        for y, (words, change) in enumerate(reversed(changes)):
            colour = COLOURS.get(change["verdict"], SAME)
            axis.plot([100 * end for end in change["ci95"]], [y, y], color=colour, linewidth=2.5)
            axis.plot(100 * change["value"], y, "o", color=colour)
            axis.text(0.01, y + 0.25, words, transform=axis.get_yaxis_transform())
        axis.axvline(0, color=INK, linewidth=0.8)
        axis.set(
            xlabel=say("tuned − base in percentage points, with 95% interval"),
            yticks=[],
            ylim=(-0.5, len(changes) - 0.2),
        )
        axis.spines["left"].set_visible(False)

    return _svg(draw, (7.5, 1 + 0.55 * len(changes)))


def _svg(draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    ink = dict.fromkeys(names, INK)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "medcot", "font.size": 12, **ink}):
        figure = Figure(figsize=size, layout="constrained")
        axis = figure.subplots()
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3, linewidth=0.6)
        draw(axis)
        buffer = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # only measured here, drawn by the browser
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    picture = buffer.getvalue().replace(INK, "var(--ink)")
    return picture.replace('<style type="text/css">', f'<style type="text/css">{STYLE} ', 1)
