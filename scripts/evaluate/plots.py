"""The report's pictures as PNG bytes. Labels are English: no font with Chinese glyphs is taken for granted."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

GREY, BLUE, ORANGE, GREEN = "#8a94a3", "#2f6db3", "#d9822b", "#2e8b57"
COLOURS = {"base": GREY, "tuned": BLUE}


def _picture(draw: Callable[..., None], size: tuple[float, float], columns: int = 1, rows: int = 1) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=130)
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

    return _picture(draw, (10.5, 2.9), 3)


def differences(changes: list[tuple[str, dict[str, Any]]], value: str, scale: float, xlabel: str) -> bytes:
    """A forest plot of (label, difference): its ``value`` times ``scale`` with its 95% interval, gains in green."""

    def draw(axis: Any) -> None:
        for y, (_, change) in enumerate(reversed(changes)):
            low, high = (end * scale for end in change["ci95"] or [change[value]] * 2)
            colour = GREEN if change["gain"] else (ORANGE if low > 0 or high < 0 else GREY)
            axis.plot([low, high], [y, y], color=colour, linewidth=2.2)
            axis.plot(change[value] * scale, y, "o", color=colour)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(xlabel=xlabel, yticks=range(len(changes)), yticklabels=[label for label, _ in reversed(changes)])
        axis.set_ylim(-0.6, len(changes) - 0.4)

    return _picture(draw, (7.2, 1.1 + 0.36 * len(changes)))


def curves(
    panels: dict[str, dict[str, dict]], value: str, scale: float, xlabel: str, ylabel: str, marks: dict[str, float]
) -> bytes:
    """A panel per title from x → base/tuned cells: ``value`` times ``scale`` with interval; ``marks``: chance level."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)

    def draw(*axes: Any) -> None:
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        for axis, (title, cells) in zip(axes, panels.items(), strict=False):
            for shift, name in ((-0.03, "base"), (0.03, "tuned")):
                points = [(x + shift, cell[name]) for x, cell in enumerate(cells.values()) if name in cell]
                xs, ys = [x for x, _ in points], [cell[value] * scale for _, cell in points]
                ends = [[end * scale for end in cell["ci95"] or [cell[value]] * 2] for _, cell in points]
                errors = [max(0, y - low) for y, (low, _) in zip(ys, ends, strict=True)]
                errors = [errors, [max(0, high - y) for y, (_, high) in zip(ys, ends, strict=True)]]
                if points:
                    axis.errorbar(xs, ys, yerr=errors, color=COLOURS[name], label=name, marker="o", capsize=3)
            if title in marks:
                axis.axhline(marks[title] * scale, color="black", linestyle=":", linewidth=1, label="chance")
            axis.set(title=title, xlabel=xlabel, ylabel=ylabel, xticks=range(len(cells)), xticklabels=cells)
            axis.legend(frameon=False, fontsize=8)

    return _picture(draw, (max(7.2, 3.6 * columns), 3.3 * rows), columns, rows)
