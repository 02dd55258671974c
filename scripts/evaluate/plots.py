"""The report's two pictures, as SVG whose words stay text: the browser finds the glyphs, Chinese ones too.

Lines and words of the axes take the page's ink, so that a picture can be read in the dark.
"""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

from scripts.evaluate.render import Say, label, speaker

INK = "#010203"  # plots.mplstyle's; it becomes a variable of the picture's style
STYLE = (
    ":root {--ink: #1d2733} @media (prefers-color-scheme: dark) {:root {--ink: #e4e9ee}} text {fill: var(--ink)} "
    'text {font-family: system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif !important}'
)
BASE, TUNED, SAME = "#d9822b", "#2f8fd0", "#8a94a3"
COLOURS = {"gain": "#1f9d63", "loss": "#d1492e"}


def draw_all(found: dict[str, Any], language: str) -> dict[str, str]:
    """Name → SVG of every picture that shows something."""
    import matplotlib

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    drawn, say = {}, speaker(language)
    with matplotlib.rc_context(fname=Path(__file__).with_suffix(".mplstyle")):
        if len(found["training"].get("training", [])) > 1:
            drawn["loss"] = losses(found["training"], say)
        rows = [row for row in found["rows"] if row["unit"] == "share" and (row["difference"] or {}).get("ci95")]
        if any(row["difference"]["value"] for row in rows):
            drawn["differences"] = differences(rows, say)
    return drawn


def losses(history: dict[str, list[list[float]]], say: Say) -> str:
    """Training and validation loss over optimiser steps, in nats per token."""
    axis = new_axis(3.2)
    axis.plot(*zip(*history["training"], strict=True), color=TUNED, label=say("training loss"))
    if "validation" in history:
        axis.plot(*zip(*history["validation"], strict=True), "o--", color=BASE, label=say("validation loss"))
    axis.set(xlabel=say("optimiser step"))
    axis.legend(frameon=False)
    return svg(axis.figure)


def differences(rows: list[dict[str, Any]], say: Say) -> str:
    """Each difference with its interval, its words above it; green a gain, red a loss."""
    axis = new_axis(1 + 0.55 * len(rows))
    for y, row in enumerate(reversed(rows)):
        change = row["difference"]
        colour = COLOURS.get(change["verdict"], SAME)
        axis.plot([100 * end for end in change["ci95"]], [y, y], color=colour, linewidth=2.5)
        axis.plot(100 * change["value"], y, "o", color=colour)
        axis.text(0.01, y + 0.25, label(row, say), transform=axis.get_yaxis_transform())
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set(
        xlabel=say("tuned − base in percentage points, with 95% interval"), yticks=[], ylim=(-0.5, len(rows) - 0.2)
    )
    axis.spines["left"].set_visible(False)
    return svg(axis.figure)


def new_axis(height: float) -> Any:
    """The axes of a new figure, ``height`` in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(7.5, height), layout="constrained").subplots()


def svg(figure: Any) -> str:
    """A figure as SVG in the page's ink."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # only measured here, drawn by the browser
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    picture = buffer.getvalue().replace(INK, "var(--ink)")
    return picture.replace('<style type="text/css">', f'<style type="text/css">{STYLE} ', 1)
