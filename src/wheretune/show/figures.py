"""Figures, made with matplotlib from plain arrays: the score profile and the similarity heatmap.

Colours are from the Okabe-Ito palette and from `cividis`, both made for colour-blind readers. Chosen
layers also differ in shape and size, so nothing hangs on colour alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wheretune.files import write

if TYPE_CHECKING:  # matplotlib takes a second to import and most commands draw nothing
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#6E6E6E"
MANY_BLOCKS = 8  # more than these get numbers only
MANY_LAYERS = 16  # more ticks than this, or more numbers in cells, run into each other at 600 px


def profile_figure(
    values: Sequence[float],
    stds: Sequence[float],
    *,
    label: str,
    title: str,
    blocks: Sequence[range] = (),
    chosen: Sequence[int] = (),
) -> "Figure":
    """A point a layer with the standard deviation over samples as error bar; blocks shaded in turn.

    Points, not bars: the axis does not start at zero.
    """
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    layers = np.arange(len(values))
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    errors = np.nan_to_num(np.asarray(stds, dtype=float))
    low, high = float(np.nanmin(values - errors)), float(np.nanmax(values + errors))
    room = 0.08 * ((high - low) or 1.0)
    axes.set_ylim(low - room, high + (2.2 * room if blocks else room))
    for number, block in enumerate(blocks):
        if number % 2 == 0:
            axes.axvspan(block.start - 0.5, block.stop - 0.5, color="black", alpha=0.06, linewidth=0)
        middle = (block.start + block.stop - 1) / 2
        words = f"block {number}" if len(blocks) <= MANY_BLOCKS else str(number)
        axes.text(middle, high + 0.9 * room, words, ha="center", fontsize=9, color=GREY)
    axes.plot(layers, values, color=GREY, linewidth=0.9, zorder=2)
    for tuned, colour, marker, size, name in (
        (False, BLUE, "o", 5, "frozen" if chosen else None),
        (True, ORANGE, "s", 6.5, "tuned"),
    ):
        shown = [index for index in range(len(values)) if (index in chosen) is tuned]
        if shown:
            axes.errorbar(
                shown,
                [values[index] for index in shown],
                yerr=[errors[index] for index in shown],
                fmt=marker,
                markersize=size,
                markerfacecolor=colour,
                markeredgecolor="black",
                ecolor="black",
                elinewidth=1.0,
                capsize=5,
                zorder=3,
                label=name,
            )
    if chosen:
        axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.16), frameon=False)
    if len(layers) <= MANY_LAYERS:
        axes.set_xticks(layers)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_xlabel("layer (counted from 0)")
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3, linewidth=0.6, zorder=0)
    pyplot.close(figure)
    return figure


def heatmap_figure(matrix: Sequence[Sequence[float]], *, label: str, title: str) -> "Figure":
    """An L x L matrix, one cell a pair of layers, with the numbers in the cells where they fit."""
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    cells = np.asarray(matrix)
    count = len(cells)
    figure, axes = pyplot.subplots(figsize=(6.0, 5.0), dpi=150, layout="constrained")
    image = axes.imshow(cells, cmap="cividis", origin="lower")
    figure.colorbar(image, ax=axes, label=label, shrink=0.9)
    if count <= MANY_LAYERS:
        axes.set_xticks(range(count))
        axes.set_yticks(range(count))
        middle = (cells.min() + cells.max()) / 2
        size = 10 if count <= 8 else 7
        for row in range(count):
            for column in range(count):
                value = cells[row, column]
                text = f"{round(value, 2) + 0.0:.2f}" if abs(value) < 9.995 else f"{value:.0f}"  # no -0.00
                colour = "black" if value > middle else "white"
                axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer (counted from 0)")
    axes.set_ylabel("layer (counted from 0)")
    axes.set_title(title, fontsize=11)
    pyplot.close(figure)
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    write(path, lambda draft: figure.savefig(draft, format="png"))
