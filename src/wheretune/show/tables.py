"""Terminal tables and progress bars, made with rich from plain values.

Every cell is a `rich.text.Text`, so text that comes from a data set is never read as markup.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

BAR_WIDTH = 24
TINY = 0.0005  # a score below this would show as nothing in four decimals
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """A horizontal bar that fills `share` (0 to 1) of `width` characters, to an eighth of one."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[str] = ()) -> Table:
    """A table of strings; the columns named in `left` are aligned left, the others right."""
    made = Table(title=Text(title, style="bold"), title_justify="left", header_style="bold", expand=False)
    for name in columns:
        made.add_column(Text(name), justify="left" if name in left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def unbroken(made: Table, width: int) -> Table:
    """The same table, with columns at least as wide as their longest words, where all of these fit into a width.

    What is left goes to the columns that need least to hold their cells whole.
    """
    cells = [[str(cell) for cell in (column.header, *column.cells)] for column in made.columns]
    widths = [max((len(word) for cell in column for word in cell.split()), default=0) for column in cells]
    whole = [max(len(line) for cell in column for line in cell.split("\n")) for column in cells]
    spare = width - sum(widths) - 3 * len(widths) - 1
    if spare < 0 or sum(whole) <= sum(widths) + spare:
        return made
    for place in sorted(range(len(widths)), key=lambda place: whole[place] - widths[place]):
        more = min(spare, whole[place] - widths[place])
        widths[place], spare = widths[place] + more, spare - more
        made.columns[place].width = widths[place]
    return made


def profile_table(
    title: str, values: Sequence[float], stds: Sequence[float], chosen: Sequence[int], names: Sequence[str]
) -> Table:
    """The score of every layer, by its name, with a bar from the lowest to the highest; chosen layers are marked.

    What is not a number is not known: a layer that is no candidate, a score that is no mean over samples.
    """
    there = [value for value in values if math.isfinite(value)]
    low, span = min(there), (max(there) - min(there)) or 1.0
    written = ".4f" if all(abs(value) >= TINY for value in there if value) else ".3g"
    rows = [
        (
            ("● " if index in chosen else "") + names[index],
            f"{value:{written}}" if math.isfinite(value) else "–",
            f"{std:{written}}" if math.isfinite(std) else "–",
            bar(0.08 + 0.92 * (value - low) / span) if math.isfinite(value) else "no candidate",
        )
        for index, (value, std) in enumerate(zip(values, stds, strict=True))
    ]
    return table(title, ("layer", "score", "std", "profile"), rows, left=("profile",))


def share_table(title: str, shares: Sequence[Sequence[float]]) -> Table:
    """A row per layer, a character per stretch of time: in how many of its steps the layer trains.

    Args:
        title: Of the table.
        shares: By layer and stretch, the share of the steps in which the layer trains.
    """

    def cell(share: float) -> str:
        return "█" if share == 1 else "▒" if share else "·"

    rows = [(str(layer), "".join(map(cell, row))) for layer, row in enumerate(shares)]
    return table(title, ("layer", "from the first step to the last"), rows, left=("from the first step to the last",))
