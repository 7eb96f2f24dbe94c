"""One cell of a table: what stands in it, whether it is a gap, and what it is where a text or a class belongs."""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import numpy as np

GAPS = {"nan", "NaN", "<NA>", "NaT"}  # what pandas makes of a gap when it turns a column into strings
MAYBE_GAPS = {"None", "none", "NA", "N/A", "NULL", "null"}  # likewise, but these are words and names of classes as well
UNSEEN = "\ufeff\u200b\u200c\u200d\u2060"  # characters without width, which `str.strip` keeps
HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Fault:
    """Why a row cannot be used.

    Attributes:
        why: What it has, such as "empty text".
        field: The setting that would have to be another if all rows are so.
    """

    why: str
    field: str


def plain(cell: object) -> object:
    """A cell as Python's own type, and None for a gap.

    NumPy's and torch's scalars become numbers; None, NaN, pandas' NA and NaT, and strings that are blank or one of
    `GAPS` are gaps.
    """
    if isinstance(cell, np.generic) or getattr(cell, "ndim", None) == 0:
        cell = cell.item()  # type: ignore[attr-defined]
    if isinstance(cell, str):
        return None if cell in GAPS or not cell.strip().strip(UNSEEN) else cell
    if isinstance(cell, float | Decimal):
        return None if math.isnan(cell) else cell
    pandas = sys.modules.get("pandas")
    return None if pandas is not None and (cell is pandas.NA or cell is pandas.NaT) else cell


def kind(cell: object) -> str | None:
    """What a plain cell is, where that is neither a text nor a number nor a date; None otherwise."""
    if cell is None or isinstance(cell, str | int | float | Decimal | date):
        return None
    if isinstance(cell, bytes | bytearray):
        return "bytes"
    if isinstance(cell, Mapping):
        return "an object"
    return "a list" if hasattr(cell, "__iter__") else f"a {type(cell).__name__}"


def written_kind(cell: object) -> str | None:
    """As `kind`, also of a string that is a list or an object written out, as a data frame is saved: `['a', 'b']`."""
    if not isinstance(cell, str) or (cell[:1], cell[-1:]) not in (("[", "]"), ("{", "}")):
        return kind(cell)
    if re.fullmatch(r"\[[\d.\s]*\]", cell):  # an array of NumPy's: [1 0]
        return "a list"
    try:
        return kind(ast.literal_eval(cell))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def whole_text(text: str) -> bool:
    """Whether every character of a text is whole, so that it can be encoded."""
    return text.isascii() or HALF.search(text) is None


def is_number(cell: object) -> bool:
    """Whether a plain cell is a number, or reads as one."""
    try:
        return not isinstance(cell, bool) and math.isfinite(float(str(cell)))
    except ValueError:
        return False
