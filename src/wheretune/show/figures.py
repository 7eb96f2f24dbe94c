"""Figures, made with matplotlib from plain arrays: score profiles, similarities, deviations, speed-ups.

Colours are from the Okabe-Ito palette and from `cividis`, both made for colour-blind readers. Chosen
layers also differ in shape and size, so nothing hangs on colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wheretune.support.files import write

if TYPE_CHECKING:
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
) -> Figure:
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


def heatmap_figure(matrix: Sequence[Sequence[float]], *, label: str, title: str) -> Figure:
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


def violin_figure(
    groups: Sequence[tuple[str, Sequence[Sequence[int]], Sequence[float], float]], *, label: str, title: str
) -> Figure:
    """A violin a latent space from histograms, a crossbar at each mean; two groups share a violin, half each.

    Args:
        groups: One or two of (name, counts a bin and latent space, means, highest value); bins are equal parts of 0 to
            the highest.
        label: Of the vertical axis.
        title: Of the figure.
    """
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator
    from scipy.ndimage import gaussian_filter1d

    spaces = len(groups[0][1])
    figure, axes = pyplot.subplots(figsize=(max(6.4, 0.32 * spaces + 1.5), 4.0), dpi=150, layout="constrained")
    sides = ((-1, 1),) if len(groups) == 1 else ((-1, 0), (0, 1))
    shown: list[float] = []
    for (name, counts, means, highest), (left, right), colour in zip(groups, sides, (BLUE, ORANGE), strict=False):
        for space, bins in enumerate(np.asarray(counts, dtype=float)):
            middles = (np.arange(len(bins)) + 0.5) * highest / len(bins)
            heights = gaussian_filter1d(bins, 1.0, mode="constant")
            there = heights > 1e-3 * heights.max()
            width = 0.42 * heights[there] / heights.max()
            axes.fill_betweenx(
                middles[there], space + left * width, space + right * width,
                color=colour, alpha=0.65, linewidth=0, label=name if space == 0 and name else None,
            )  # fmt: skip
            axes.plot([space + 0.3 * left, space + 0.3 * right], [means[space]] * 2, color="black", linewidth=1.4)
            shown += [float(middles[there].min()), float(middles[there].max())]
    room = 0.06 * ((max(shown) - min(shown)) or 1.0)
    axes.set_ylim(min(shown) - room, max(shown) + room)
    if spaces <= MANY_LAYERS:
        axes.set_xticks(range(spaces), ["emb.", *map(str, range(spaces - 1))])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_major_formatter(lambda x, _: str(round(x) - 1) if x >= 1 else "emb." if x == 0 else "")
    axes.set_xlabel("after layer (counted from 0); bars are means")
    axes.set_ylabel(label)
    axes.set_title(title, fontsize=11)
    if len(groups) > 1:
        axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.16), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3, linewidth=0.6, zorder=0)
    pyplot.close(figure)
    return figure


def agreement_figure(
    names: Sequence[str],
    correlations: Sequence[Sequence[float | None]],
    chosen: Sequence[Sequence[int]],
    layers: int,
    title: str,
) -> Figure:
    """Several scorers side by side: the rank correlation of every two, and the layers that each would choose."""
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    count = len(names)
    width = 2.6 + 0.55 * count
    other = max(3.0, 0.3 * layers)
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(width + other, 1.9 + 0.42 * count), dpi=150, layout="constrained", width_ratios=(width, other)
    )
    cells = np.array([[np.nan if value is None else value for value in row] for row in correlations])
    image = left.imshow(cells, cmap="PuOr", vmin=-1, vmax=1)
    figure.colorbar(image, ax=left, shrink=0.9, label="Spearman correlation")
    for row in range(count):
        for column in range(count):
            value = cells[row, column]
            text = "–" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"
            left.text(
                column, row, text, ha="center", va="center", fontsize=8, color="white" if abs(value) > 0.6 else "black"
            )
    left.set_xticks(range(count), names, rotation=40, ha="right", fontsize=8)
    left.set_yticks(range(count), names, fontsize=8)
    left.set_title("how alike they rank the layers", fontsize=10)
    for row, picked in enumerate(chosen):
        right.scatter(range(layers), [row] * layers, s=14, facecolors="none", edgecolors=GREY, linewidths=0.7)
        right.scatter(
            list(picked), [row] * len(picked), s=42, marker="s", color=ORANGE, edgecolors="black", linewidths=0.6
        )
    right.set_ylim(count - 0.5, -0.5)
    right.set_yticks(range(count), names if layers > MANY_LAYERS else [""] * count, fontsize=8)
    if layers <= MANY_LAYERS:
        right.set_xticks(range(layers))
    else:
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_xlim(-0.6, layers - 0.4)
    right.set_xlabel("layer (counted from 0)")
    right.set_title("which layers each would choose", fontsize=10)
    right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    pyplot.close(figure)
    return figure


def speed_figure(
    names: Sequence[str],
    plain: Sequence[float | None],
    lean: Sequence[float | None],
    limits: Sequence[float | None],
    *,
    title: str,
) -> Figure:
    """Two bars a plan, how many times as fast as full fine-tuning it trains, and a tick where its FLOPs end.

    Args:
        names: Of the plans, the first on top.
        plain: The speed-up of plain freezing; None where it is not known.
        lean: The speed-up with every saving.
        limits: The most that the FLOPs allow.
        title: Of the figure.
    """
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.6, 1.5 + 0.55 * len(names)), dpi=150, layout="constrained")
    places, height = np.arange(len(names)), 0.36
    most = max([1.0, *(value for value in (*plain, *lean, *limits) if value is not None)])
    for values, offset, colour, label in (
        (plain, -height / 2, GREY, "plain freezing"),
        (lean, height / 2, BLUE, "wheretune"),
    ):
        known = [(place + offset, value) for place, value in zip(places, values, strict=True) if value is not None]
        axes.barh([place for place, _ in known], [value for _, value in known], height, color=colour, label=label)
        for place, value in known:
            inside = value > 0.15 * most
            axes.text(
                0.01 * most + (0 if inside else value), place, f"{value:.2f}x", va="center", fontsize=7.5,
                color="white" if inside else "black",
            )  # fmt: skip
    reached = [(place, limit) for place, limit in zip(places, limits, strict=True) if limit is not None]
    axes.vlines(
        [limit for _, limit in reached],
        [place - height for place, _ in reached],
        [place + height for place, _ in reached],
        color=ORANGE, linewidth=2.2, label="limit by FLOPs", zorder=3,
    )  # fmt: skip
    axes.axvline(1.0, color="black", linewidth=0.9, linestyle="--", zorder=3)
    axes.set_xlim(0, 1.04 * most)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(places, names, fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("times as fast as full fine-tuning (dashed), a step")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3, linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=10)
    pyplot.close(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    write(path, lambda draft: figure.savefig(draft, format="png"))
