"""One JSON value -> rows: a list of objects, one list per column, and what `to_json` of pandas writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wheretune.errors import DataError

if TYPE_CHECKING:
    from wheretune.data.spooled import Row


def json_rows(whole: Any, name: str) -> Iterator[Row]:
    """The rows that a JSON value holds.

    Args:
        whole: A list of objects, or an object: one that holds such a list, one list per column, or a frame of pandas in
            any of its orientations; every other object is one row.
        name: What messages call it.

    Raises:
        DataError: It holds no rows, or several tables.
    """
    rows = _unpacked(whole, name) if isinstance(whole, dict) else whole
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{name} holds no list of JSON objects", 'write [{"text": ..., "label": ...}, ...]')
    return iter(rows)


def _unpacked(whole: Mapping[str, Any], name: str) -> list[Any]:
    """The rows of an object.

    Raises:
        DataError: It holds several tables, or columns of different lengths.
    """
    lists = {key: value for key, value in whole.items() if isinstance(value, list)}
    if {"columns", "data"} <= lists.keys():  # a frame by orient="split"
        return _of_columns(dict(zip(lists["columns"], zip(*lists["data"], strict=True), strict=True)))
    tables = [key for key, value in lists.items() if value and isinstance(value[0], dict)]
    if len(tables) < len(lists) == len(whole):
        lengths = {len(value) for value in lists.values()}
        if len(lengths) == 1:
            return _of_columns(lists)
        if not tables:
            raise DataError(f"the columns of {name} differ in length", "give as many cells in each")
    if len(tables) > 1:
        raise DataError(f"{name} holds several tables ({', '.join(tables)})", "write each into a file of its own")
    return lists[tables[0]] if tables else _by_index(whole)


def _of_columns(columns: Mapping[str, Sequence[Any]]) -> list[Any]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _by_index(whole: Mapping[str, Any]) -> list[Any]:
    """The rows of a frame by orient="columns", the default of pandas, or "index"; otherwise the object as one row."""
    inner = [list(value) if isinstance(value, dict) else [] for value in whole.values()]
    if not whole or not inner[0] or any(keys != inner[0] for keys in inner):
        return [whole]
    if all(map(str.isdecimal, inner[0])):
        return [{column: cells[place] for column, cells in whole.items()} for place in inner[0]]
    return list(whole.values()) if all(map(str.isdecimal, whole)) else [whole]
