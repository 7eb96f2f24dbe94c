"""Terminal tables and progress bars, made with rich from plain values.

Every cell is a `rich.text.Text`, so text that comes from a data set is never read as markup.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
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


def profile_table(title: str, values: Sequence[float], stds: Sequence[float], chosen: Sequence[int] = ()) -> Table:
    """The score of every layer with a bar from the lowest to the highest; chosen layers are marked.

    What is not a number is not known: a layer that is no candidate, a score that is no mean over samples.
    """
    there = [value for value in values if math.isfinite(value)]
    low, span = min(there), (max(there) - min(there)) or 1.0
    written = ".4f" if all(abs(value) >= TINY for value in there if value) else ".3g"
    rows = [
        (
            ("● " if index in chosen else "") + str(index),
            f"{value:{written}}" if math.isfinite(value) else "–",
            f"{std:{written}}" if math.isfinite(std) else "–",
            bar(0.08 + 0.92 * (value - low) / span) if math.isfinite(value) else "no candidate",
        )
        for index, (value, std) in enumerate(zip(values, stds, strict=True))
    ]
    return table(title, ("layer", "score", "std", "profile"), rows, left=("profile",))


def count(number: float) -> str:
    """A parameter count as the papers print it: 21.3 M, 592 K."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"


def short(number: float) -> str:
    """Three figures, or all before the point where there are more: 0.00123, 12.3, 12345."""
    return f"{number:.0f}" if abs(number) >= 999.5 else f"{number:.3g}"


def short_name(name: str) -> str:
    """A model's name without the folders that lead to it: its last two parts, as on the hub."""
    return "/".join(Path(name).parts[-2:])


def seconds(value: float) -> str:
    """A duration a person can read."""
    return f"{value:.1f} s" if value < 120 else f"{int(value // 60)} min {int(value % 60):02d} s"


def size(count: int) -> str:
    """A number of bytes, as one reads it."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"


def progress() -> Progress:
    """A progress bar on standard error, shown on a terminal only, so that logs and pipes stay clean."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
