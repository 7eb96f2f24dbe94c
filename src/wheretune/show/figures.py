"""Figures, made with matplotlib from plain arrays: score profiles, similarities, deviations, speed-ups.

Colours are from the Okabe-Ito palette and from `cividis`, both made for colour-blind readers. Chosen
layers also differ in shape and size, so nothing hangs on colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wheretune.errors import OutputError
from wheretune.support.files import write

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#6E6E6E"
MANY_BLOCKS = 8  # more than these get numbers only
COUNTED = "layer (counted from 0)"
MANY_LAYERS = 16  # more ticks than this, or more numbers in cells, run into each other at 600 px


def profile_figure(
    values: Sequence[float],
    stds: Sequence[float],
    *,
    label: str,
    title: str,
    blocks: Sequence[range] = (),
    chosen: Sequence[int] = (),
    names: Sequence[str] | None = None,
) -> Figure:
    """A point per layer with the standard deviation over samples as error bar; blocks shaded in turn.

    `names` are what the layers are called, where that is more than their index.

    Points, not bars: the axis does not start at zero. A layer that is no candidate has a small cross at the bottom.
    """
    from matplotlib import pyplot

    points = np.asarray(values, dtype=float)
    errors = np.nan_to_num(np.asarray(stds, dtype=float))
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    low, high = float(np.nanmin(points - errors)), float(np.nanmax(points + errors))
    room = 0.08 * ((high - low) or 1.0)
    axes.set_ylim(low - room, high + (2.2 * room if blocks else room))
    _shade(axes, blocks, high + 0.9 * room)
    axes.plot(points, color=GREY, linewidth=0.9, zorder=2)
    tuned = np.isin(np.arange(len(points)), list(chosen))
    scored = np.isfinite(points)
    _points(axes, points, errors, scored & ~tuned, BLUE, "o", "frozen" if chosen else None)
    _points(axes, points, errors, scored & tuned, ORANGE, "s", "tuned")
    if not scored.all():
        excluded = np.flatnonzero(~scored)
        axes.plot(excluded, [low - 0.5 * room] * len(excluded), "x", color=GREY, markersize=5, label="no candidate")
    if chosen or not scored.all():
        axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, -0.16), frameon=False)
    _number_layers(axes.xaxis, len(points), names)
    axes.set_xlim(-0.5, len(points) - 0.5)
    axes.set_xlabel(COUNTED + ("; bars are standard deviations over samples" if errors.any() else ""))
    axes.set_ylabel(_literal(label))
    axes.set_title(_literal(title), fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3, linewidth=0.6, zorder=0)
    pyplot.close(figure)
    return figure


def _shade(axes: Axes, blocks: Sequence[range], height: float) -> None:
    """Every other block in grey, and their numbers at a height."""
    for number, block in enumerate(blocks):
        if number % 2 == 0:
            axes.axvspan(block.start - 0.5, block.stop - 0.5, color="black", alpha=0.06, linewidth=0)
        words = f"block {number}" if len(blocks) <= MANY_BLOCKS else str(number)
        axes.text((block.start + block.stop - 1) / 2, height, words, ha="center", fontsize=9, color=GREY)


def _points(
    axes: Axes,
    points: Float[np.ndarray, " layer"],
    errors: Float[np.ndarray, " layer"],
    shown: Bool[np.ndarray, " layer"],
    color: str,
    marker: str,
    label: str | None,
) -> None:
    """The points of some layers with their error bars."""
    if shown.any():
        size = 5 if marker == "o" else 6.5
        axes.errorbar(
            np.flatnonzero(shown), points[shown], yerr=errors[shown], fmt=marker, markersize=size,
            markerfacecolor=color, markeredgecolor="black", ecolor="black", elinewidth=1.0,
            capsize=5 if len(points) <= MANY_LAYERS else 2, zorder=3, label=label,
        )  # fmt: skip


def _literal(text: str) -> str:
    """Text as it is: matplotlib reads what stands between two dollar signs as a formula."""
    return text.replace("$", r"\$")


def _number_layers(axis: Axis, layers: int, names: Sequence[str] | None = None) -> None:
    """A tick for every layer, or for some where there are many."""
    from matplotlib.ticker import MaxNLocator

    if names is not None:
        ticks = range(0, layers, -(-layers // MANY_LAYERS))
        axis.set_ticks(ticks, [names[tick] for tick in ticks], rotation=90 if axis is axis.axes.xaxis else 0)
    elif layers <= MANY_LAYERS:
        axis.set_ticks(range(layers))
    else:
        axis.set_major_locator(MaxNLocator(integer=True))


def heatmap_figure(
    matrix: Sequence[Sequence[float]],
    *,
    label: str,
    title: str,
    names: Sequence[str] | None = None,
    parts: Sequence[range] = (),
) -> Figure:
    """An L x L matrix, one cell per pair of layers, with the numbers in the cells where they fit.

    Args:
        matrix: The numbers.
        label: What they are.
        title: Of the figure.
        names: What the layers are called, where that is more than their index.
        parts: The layers that are compared among themselves alone, if these are several; other cells stay empty.
    """
    from matplotlib import pyplot

    cells = np.array(matrix, dtype=float)
    count = len(cells)
    if len(parts) > 1:
        own = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        cells[own[:, None] != own] = np.nan
    figure, axes = pyplot.subplots(figsize=(6.0, 5.0), dpi=150, layout="constrained")
    image = axes.imshow(cells, cmap="cividis", origin="lower")
    figure.colorbar(image, ax=axes, label=_literal(label), shrink=0.9)
    if count <= MANY_LAYERS:
        middle = (np.nanmin(cells) + np.nanmax(cells)) / 2
        size = 10 if count <= 8 else 7
        for (row, column), value in np.ndenumerate(cells):
            if np.isnan(value):
                continue
            text = f"{round(value, 2) + 0.0:.2f}" if abs(value) < 9.995 else f"{value:.0f}"  # no -0.00
            colour = "black" if value > middle else "white"
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
    for axis in (axes.xaxis, axes.yaxis):
        _number_layers(axis, count, names)
    axes.set_xlabel(COUNTED)
    axes.set_ylabel(COUNTED)
    axes.set_title(_literal(title), fontsize=11)
    pyplot.close(figure)
    return figure


def violin_figure(
    groups: Sequence[tuple[str, Sequence[Sequence[int]], Sequence[float], float]], *, label: str, title: str
) -> Figure:
    """A violin per latent space from histograms, a crossbar at each mean; two groups share a violin, half each.

    Args:
        groups: One or two of (name, counts per bin and latent space, means, highest value); bins are equal parts of 0
            to the highest.
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
    axes.set_ylabel(_literal(label))
    axes.set_title(_literal(title), fontsize=11)
    if len(groups) > 1:
        axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.16), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3, linewidth=0.6, zorder=0)
    pyplot.close(figure)
    return figure


def timetable_figure(spans: Sequence[tuple[int, int, Sequence[int]]], units: int, *, title: str) -> Figure:
    """A map of layers and steps: a bar wherever a layer trains.

    Args:
        spans: (first step, last step, the layers that train), both ends counted.
        units: How many layers there are.
        title: Of the figure.
    """
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, axes = pyplot.subplots(figsize=(6.4, 1.6 + 0.2 * units), dpi=150, layout="constrained")
    for layer in range(units):
        bars = [(first - 0.5, last - first + 1) for first, last, trained in spans if layer in trained]
        axes.broken_barh(bars, (layer - 0.4, 0.8), facecolors=ORANGE, linewidth=0)
    axes.set_xlim(-0.5, spans[-1][1] + 0.5)
    axes.set_ylim(-0.5, units - 0.5)
    _number_layers(axes.yaxis, units)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step (counted from 0)")
    axes.set_ylabel(COUNTED)
    axes.set_title(_literal(title), fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    pyplot.close(figure)
    return figure


def budget_figure(counts: Sequence[int], budget: Sequence[tuple[int, int]], *, title: str) -> Figure:
    """How many texts have which eof layer, and over it how many the stage of each layer reads.

    Args:
        counts: By layer, the texts whose eof layer it is.
        budget: By layer, the texts that the stage from it up reads, and how many of these have an eof layer no higher.
        title: Of the figure.
    """
    from matplotlib import pyplot

    layers = range(len(counts))
    figure, axes = pyplot.subplots(figsize=(max(6.4, 0.2 * len(counts) + 1.5), 4.0), dpi=150, layout="constrained")
    axes.bar(layers, counts, 0.8, color=BLUE, alpha=0.75, label="eof layers")
    reads, matching = zip(*budget, strict=True)
    axes.stairs(
        reads, np.arange(len(counts) + 1) - 0.5, color=ORANGE, linewidth=2.2, baseline=None, label="budget", zorder=3
    )
    axes.plot(layers, matching, "D", color="white", markeredgecolor="black", markersize=4.5, zorder=4, clip_on=False,
              label="of the budget, with an eof layer no higher")  # fmt: skip
    _number_layers(axes.xaxis, len(counts))
    axes.set_xlim(-0.6, len(counts) - 0.4)
    axes.set_ylim(0, 1.08 * max(1, *counts, *reads))
    axes.set_xlabel(COUNTED)
    axes.set_ylabel(f"texts, of {sum(counts)}")
    axes.set_title(_literal(title), fontsize=11)
    axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.3, linewidth=0.6)
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

    names = [_literal(name) for name in names]
    count = len(names)
    width = 2.6 + 0.55 * count
    other = max(3.0, 0.3 * layers)
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(width + other, 1.9 + 0.42 * count), dpi=150, layout="constrained", width_ratios=(width, other)
    )
    cells = np.array([[np.nan if value is None else value for value in row] for row in correlations])
    image = left.imshow(cells, cmap="PuOr", vmin=-1, vmax=1)
    figure.colorbar(image, ax=left, shrink=0.9, label="Spearman correlation")
    for (row, column), value in np.ndenumerate(cells):
        text = "–" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}"
        colour = "white" if abs(value) > 0.6 else "black"
        left.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
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
    _number_layers(right.xaxis, layers)
    right.set_xlim(-0.6, layers - 0.4)
    right.set_xlabel(COUNTED)
    right.set_title("which layers each would choose", fontsize=10)
    right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_literal(title), fontsize=11)
    pyplot.close(figure)
    return figure


def speed_figure(
    names: Sequence[str],
    plain: Sequence[float | None],
    saving: Sequence[float | None],
    limits: Sequence[float | None],
    *,
    title: str,
) -> Figure:
    """Two bars per plan, how many times as fast as full fine-tuning it trains, and a tick where its FLOPs end.

    Args:
        names: Of the plans, the first on top.
        plain: The speed-up of plain freezing; None where it is not known.
        saving: The speed-up with every saving.
        limits: The most that the FLOPs allow.
        title: Of the figure.
    """
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.6, 1.5 + 0.55 * len(names)), dpi=150, layout="constrained")
    height = 0.36
    most = max([1.0, *(value for value in (*plain, *saving, *limits) if value is not None)])
    _bars(axes, plain, -height / 2, height, most, color=GREY, label="plain freezing")
    _bars(axes, saving, height / 2, height, most, color=BLUE, label="wheretune")
    reached = [(row, limit) for row, limit in enumerate(limits) if limit is not None]
    axes.vlines(
        [limit for _, limit in reached],
        [row - height for row, _ in reached],
        [row + height for row, _ in reached],
        color=ORANGE, linewidth=2.2, label="limit by FLOPs", zorder=3,
    )  # fmt: skip
    axes.axvline(1.0, color="black", linewidth=0.9, linestyle="--", zorder=3)
    axes.set_xlim(0, 1.04 * most)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [_literal(name) for name in names], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("times as fast as full fine-tuning (dashed), per step")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3, linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(_literal(title), fontsize=10)
    pyplot.close(figure)
    return figure


def _bars(
    axes: Axes, values: Sequence[float | None], offset: float, height: float, most: float, *, color: str, label: str
) -> None:
    """One bar per row whose value is known, the value written inside where it fits and beside it where not."""
    known = [(row + offset, value) for row, value in enumerate(values) if value is not None]
    axes.barh([row for row, _ in known], [value for _, value in known], height, color=color, label=label)
    for row, value in known:
        inside = value > 0.15 * most
        left, shade = (0.01 * most, "white") if inside else (0.01 * most + value, "black")
        axes.text(left, row, f"{value:.2f}x", va="center", fontsize=7.5, color=shade)


def check_ending(path: Path) -> None:
    """Refuses a file whose ending names no format of a figure.

    Raises:
        OutputError: It does.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise OutputError(f"no figure is written as {path.name}", f"let it end in one of {', '.join(known)}", "figure")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure in the format that its ending names, whole or not at all; twice the same gives the same file."""
    from matplotlib import rc_context

    dated = {".svg": "Date", ".svgz": "Date", ".pdf": "CreationDate"}.get(path.suffix.lower())
    with rc_context({"svg.hashsalt": "wheretune"}):
        write(path, lambda draft: figure.savefig(draft, metadata={dated: None} if dated else {}))
