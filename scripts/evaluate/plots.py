"""The report's pictures as PNG bytes. Labels are English: no font with Chinese glyphs is taken for granted."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

GREY, BLUE, ORANGE, GREEN = "#8a94a3", "#2f6db3", "#d9822b", "#2e8b57"
COLOURS = {"base": GREY, "tuned": BLUE}


def _picture(draw: Callable[..., None], columns: int = 1, size: tuple[float, float] = (7.2, 3.4)) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    draw(*axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def training_curves(history: list[dict[str, Any]]) -> bytes:
    """Loss, learning rate and gradient norm over optimiser steps."""

    def draw(*axes: Any) -> None:
        titles = (
            ("loss", "training loss (nats/token)"),
            ("learning_rate", "learning rate"),
            ("grad_norm", "grad norm"),
        )
        for axis, (name, title), colour in zip(axes, titles, (BLUE, ORANGE, GREEN), strict=True):
            points = [(row["step"], row[name]) for row in history if name in row]
            axis.plot(*zip(*points, strict=True), color=colour, linewidth=1.6) if points else axis.text(
                0.5, 0.5, "not logged", ha="center", transform=axis.transAxes
            )
            axis.set(title=title, xlabel="step")
            if name == "learning_rate":
                axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))

    return _picture(draw, 3, (10.5, 2.9))


def differences(rows: list[tuple[str, float, list[float] | None, bool]], xlabel: str) -> bytes:
    """A forest plot of (label, difference, 95% interval, gain); zero marked, gains in green."""

    def draw(axis: Any) -> None:
        for y, (_, value, interval, gain) in enumerate(reversed(rows)):
            low, high = interval or (value, value)
            colour = GREEN if gain else (ORANGE if low > 0 or high < 0 else GREY)
            axis.plot([low, high], [y, y], color=colour, linewidth=2.2)
            axis.plot(value, y, "o", color=colour)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(xlabel=xlabel, yticks=range(len(rows)), yticklabels=[row[0] for row in reversed(rows)])
        axis.set_ylim(-0.6, len(rows) - 0.4)

    return _picture(draw, size=(7.2, 1.1 + 0.36 * len(rows)))


def curves(
    lines: dict[str, list[tuple[Any, float, list[float] | None]]], xlabel: str, ylabel: str, **marks: Any
) -> bytes:
    """Lines of (x, y, 95% interval) per name, x as given categories; ``marks``: name → y of a dashed level."""

    def draw(axis: Any) -> None:
        places = list(dict.fromkeys(x for points in lines.values() for x, *_ in points))
        for shift, (name, points) in enumerate(lines.items()):
            xs = [places.index(x) + 0.06 * (shift - (len(lines) - 1) / 2) for x, *_ in points]
            ys = [y for _, y, _ in points]
            errors = [[y - (i or [y, y])[0] for _, y, i in points], [(i or [y, y])[1] - y for _, y, i in points]]
            colour = COLOURS.get(name.split(" ")[-1])
            style = {"marker": "o", "capsize": 3, "label": name, "linestyle": "--" if "zh" in name else "-"}
            axis.errorbar(xs, ys, yerr=[[max(0, e) for e in side] for side in errors], color=colour, **style)
        for name, level in marks.items():
            axis.axhline(level, color="black", linestyle=":", linewidth=1, label=name)
        axis.set(xlabel=xlabel, ylabel=ylabel, xticks=range(len(places)), xticklabels=[str(x) for x in places])
        axis.legend(frameon=False, fontsize=8)

    return _picture(draw)
