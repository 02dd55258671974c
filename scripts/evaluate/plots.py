"""The report's pictures as PNG bytes. Labels are English: no font with Chinese glyphs is taken for granted."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

GREY, BLUE, ORANGE, GREEN = "#8a94a3", "#2f6db3", "#d9822b", "#2e8b57"
COLOURS = {"base": GREY, "tuned": BLUE}


def _picture(
    draw: Callable[..., None], columns: int = 1, size: tuple[float, float] = (7.2, 3.4), rows: int = 1
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    draw(*axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def training_curves(history: list[dict[str, Any]]) -> bytes:
    """Loss, learning rate and gradient norm over optimiser steps."""
    titles = {"loss": "training loss (nats/token)", "learning_rate": "learning rate", "grad_norm": "grad norm"}

    def draw(*axes: Any) -> None:
        for axis, (name, title), colour in zip(axes, titles.items(), (BLUE, ORANGE, GREEN), strict=True):
            if points := [(row["step"], row[name]) for row in history if name in row]:
                axis.plot(*zip(*points, strict=True), color=colour, linewidth=1.6)
            else:
                axis.text(0.5, 0.5, "not logged", ha="center", transform=axis.transAxes)
            axis.set(title=title, xlabel="step")
        axes[1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))

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


def curves(panels: dict[str, dict[str, list]], xlabel: str, ylabel: str, marks: dict[str, float]) -> bytes:
    """One panel per title, in it a line of (x, y, 95% interval) per model; ``marks``: a panel's chance level."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)

    def draw(*axes: Any) -> None:
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis, (title, lines) in zip(axes, panels.items(), strict=False):
            places = list(dict.fromkeys(x for points in lines.values() for x, *_ in points))
            for shift, (name, points) in enumerate(lines.items()):
                xs = [places.index(x) + 0.06 * (shift - (len(lines) - 1) / 2) for x, *_ in points]
                ys = [y for _, y, _ in points]
                below = [max(0, y - (ends or [y])[0]) for _, y, ends in points]
                above = [max(0, (ends or [y])[-1] - y) for _, y, ends in points]
                axis.errorbar(xs, ys, yerr=[below, above], color=COLOURS[name], label=name, marker="o", capsize=3)
            if title in marks:
                axis.axhline(marks[title], color="black", linestyle=":", linewidth=1, label="chance")
            axis.set(title=title, xlabel=xlabel, ylabel=ylabel, xticks=range(len(places)), xticklabels=places)
            axis.legend(frameon=False, fontsize=8)

    return _picture(draw, columns, (max(7.2, 3.6 * columns), 3.3 * rows), rows)


def _lines(cells: dict[str, dict], value: str, scale: float = 1) -> dict[str, list]:
    """Model → points, from x → base/tuned cells."""
    return {
        name: [(x, c[name][value] * scale, [end * scale for end in c[name]["ci95"] or ()]) for x, c in cells.items()]
        for name in COLOURS
        if all(name in cell for cell in cells.values())
    }


def budgets(tasks: dict[str, dict]) -> bytes:
    """Accuracy against thinking budget, a panel per benchmark, with the chance level."""
    panels = {task: _lines(about["budgets"], "acc", 100) for task, about in tasks.items()}
    marks = {task: about["chance"] * 100 for task, about in tasks.items()}
    return curves(panels, "budget (tokens)", "accuracy (%)", marks)


def lengths(cells: dict[str, dict]) -> bytes:
    """Perplexity against the length of the response."""
    return curves({"": _lines(cells, "ppl")}, "response length (tokens)", "perplexity", {})
