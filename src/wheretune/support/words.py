"""Numbers, names and errors in words that a person can read."""

from __future__ import annotations

import re
from pathlib import Path


def count(number: float) -> str:
    """A parameter count as the papers print it: 21.3 M, 592 K."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"


def counted(number: int, noun: str) -> str:
    """A number of things: 1 epoch, 2 epochs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def short(number: float) -> str:
    """Three figures, or all before the point where there are more: 0.00123, 12.3, 12345."""
    return f"{number:.0f}" if abs(number) >= 999.5 else f"{number:.3g}"


def short_name(name: str) -> str:
    """A model's name without the folders that lead to it: its last two parts, as on the hub."""
    return "/".join(Path(name).parts[-2:])


def seconds(value: float) -> str:
    """A duration a person can read."""
    return f"{value:.1f} s" if value < 120 else f"{int(value // 60)} min {int(value % 60):02d} s"


def rate_in_words(value: float | None) -> str:
    """A learning rate as it is written on the command line; None is each plan's own."""
    return "auto" if value is None else f"{value:g}"


def size(count: float) -> str:
    """A number of bytes, as one reads it."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{short(count)} {unit}"
        count /= 1000
    return f"{short(count)} GB"


def in_bytes(text: str) -> int:
    """The bytes of a size such as 500MB, 20GB or 1.5GiB.

    Raises:
        ValueError: It is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if found is None:
        raise ValueError(f"{text!r} is no size such as 500MB or 20GB")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " "))


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
