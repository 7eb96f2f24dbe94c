"""The bytes of a file -> rows, by its ending or, where it has none, by what stands in it."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any

from wheretune.errors import DataError
from wheretune.support.words import first_line

Row = Mapping[str, Any]
STANDARD_INPUT = "-"
PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}  # ending -> the module that opens it
BEGINNINGS = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz"}
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # byte order marks


def read_file(name: str) -> list[Row]:
    """The rows of a file, or of standard input, which is `-`.

    Raises:
        DataError: Its kind is not known, or it is not what its ending says.
    """
    content = _standard_input() if name == STANDARD_INPUT else Path(name).read_bytes()
    ending = _ending(name) or _ending(str(Path(name).resolve()))
    said = f"{name} cannot be read as {ending}" if ending else f"{name} cannot be read"
    try:
        packed = Path(ending or "").suffix if Path(ending or "").suffix in PACKED else _packed(content)
        if packed:
            content = import_module(PACKED[packed]).decompress(content)
        found = (ending or "").removesuffix(packed) or _guessed(content, name)
        return _READERS[found](content, name)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{said} ({first_line(error)})", "check the file and its ending") from error


def known_ending(name: str) -> bool:
    """Whether a name ends as one of the files that can be read."""
    return _ending(name) is not None


def _ending(name: str) -> str | None:
    """What a name ends with, such as `.jsonl.gz`; None where that is not known."""
    low = name.lower()
    every = [kind + packed for kind in _READERS for packed in ("", *PACKED)]
    return next((ending for ending in every if low.endswith(ending)), None)


def _packed(content: bytes) -> str:
    return next((ending for mark, ending in BEGINNINGS.items() if content.startswith(mark)), "")


def _guessed(content: bytes, name: str) -> str:
    """The kind of a file whose name does not say it."""
    if Path(name).suffix.lower() not in ("", *PACKED):
        raise DataError(f"{name} has an ending that is not known", f"give one of {', '.join(FORMATS)}")
    if content.startswith(b"PAR1"):
        return ".parquet"
    first = decoded(content, name).lstrip().partition("\n")[0]
    if first[:1] in ("{", "["):
        return ".json" if first[:1] == "[" else ".jsonl"
    if "\t" in first or "," in first:
        return ".tsv" if "\t" in first else ".csv"
    raise DataError(f"{name} has no ending, and does not look like a table", f"give one of {', '.join(FORMATS)}")


@cache
def _standard_input() -> bytes:
    """All of standard input, which can be read once only."""
    return sys.stdin.buffer.read()


def decoded(content: bytes, name: str) -> str:
    """The text of a file: UTF-8, or what its byte order mark says.

    Raises:
        DataError: It is not that.
    """
    encoding = next((encoding for mark, encoding in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name} is not {encoding.upper()} (byte {content[error.start]:#04x} in line {line})",
            "save it as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8)",
        ) from error


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text with their ends, as `io.StringIO` gives them, without its copy of four bytes a character."""
    start = 0
    while start < len(text):
        stop = text.find("\n", start) + 1 or len(text)
        yield text[start:stop]
        start = stop


def named_once(names: Sequence[str]) -> list[str]:
    """Names of columns with those that stand there more than once told apart: `text.1`, `text.2`."""
    times, seen = Counter(names), Counter[str]()
    made = []
    for name in names:
        seen[name] += 1
        made.append(f"{name}.{seen[name]}" if name and times[name] > 1 else name)
    return made


# --- JSON ----------------------------------------------------------------------------------------


def _json_lines(content: bytes, name: str) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(lines_of(decoded(content, name)), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_pairs)
        except ValueError as error:
            raise DataError(f"{name} line {number} is not JSON ({error})", "mend the line") from error
        if not isinstance(row, dict):
            raise DataError(f"{name} line {number} is no JSON object", 'write {"text": ..., "label": ...}')
        rows.append(row)
    return rows


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object none of whose names stands twice.

    Raises:
        ValueError: One does.
    """
    made = {sys.intern(name): value for name, value in pairs}  # one string for all rows
    if len(made) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise ValueError(f"it has {twice!r} twice")
    return made


def _json(content: bytes, name: str) -> list[Row]:
    """A list of objects; an object that holds one such list, or one list per column; or JSON lines."""
    try:
        whole = json.loads(decoded(content, name), object_pairs_hook=_pairs)
    except json.JSONDecodeError:
        return _json_lines(content, name)
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list)]
        tables = [value for value in lists if value and isinstance(value[0], dict)]
        if len(tables) == 1:
            whole = tables[0]
        elif lists and len(lists) == len(whole):
            whole = [dict(zip(whole, cells, strict=True)) for cells in zip(*lists, strict=True)]
        else:
            whole = [whole]
    if not isinstance(whole, list) or not all(isinstance(row, dict) for row in whole):
        raise DataError(f"{name} holds no list of JSON objects", 'write [{"text": ..., "label": ...}, ...]')
    return whole


# --- separated by commas or tabs -----------------------------------------------------------------


def _separated(usual: str) -> Callable[[bytes, str], list[Row]]:
    def read(content: bytes, name: str) -> list[Row]:
        csv.field_size_limit(2**31 - 1)
        text = decoded(content, name)
        first = text.partition("\n")[0]
        separator = usual if usual in first else next((mark for mark in ";\t,|" if mark in first), usual)
        try:
            header, rows = _cells(text, separator, quoted=True)
        except csv.Error:
            if separator != "\t":
                raise
            header, rows = _cells(text, separator, quoted=False)  # as GLUE's files, where a quote is a character
        place = _swallowing(header, rows, separator)
        if place is not None and separator == "\t":
            header, rows = _cells(text, separator, quoted=False)
        elif place is not None:
            raise DataError(
                f"{name} row {place + 1} has a quotation mark that is closed rows later, so that whole rows are read "
                "as one text",
                'write a quotation mark in a text as "" and the text between quotation marks, or use .jsonl',
            )
        return _as_rows(header, rows, name)

    return read


def _cells(text: str, separator: str, *, quoted: bool) -> tuple[list[str], list[list[str]]]:
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True))
    rows = [row for row in rows if row]
    return (rows[0], rows[1:]) if rows else ([], [])


def _swallowing(header: Sequence[str], rows: Sequence[Sequence[str]], separator: str) -> int | None:
    """The first row with a text over several lines that are rows of their own, because a stray quote opened it.

    Decided: they are if each line has as many cells as the header. That may happen in prose that has commas, so where
        commas separate the cells, one column must have no new value in any of these lines as well: none that no other
        row has, or that stands in one of the lines only, if these are four or more.
    """
    width = len(header)
    known: list[set[str]] = []
    for number, row in enumerate(rows):
        if not any(_lines_fit(cell, place, width, separator) for place, cell in enumerate(row)):
            continue
        if separator == "\t":
            return number
        known = known or [{one[i] for one in rows if len(one) > i} for i in range(width)]
        apart = [line.split(separator) for line in separator.join(row).replace("\r", "").split("\n")]
        if any(map(_nothing_new, zip_longest(*apart), known)):
            return number
    return None


def _nothing_new(column: Sequence[str | None], known: set[str]) -> bool:
    """Whether every value of a column is a known one, or, of four or more, stands there more than once."""
    return None not in column and (known.issuperset(column) or (len(column) >= 4 and min(Counter(column).values()) > 1))


def _lines_fit(cell: str, place: int, width: int, separator: str) -> bool:
    """Whether the lines of a cell, with the cells before and after it, are rows of as many cells as the header."""
    if "\n" not in cell or width < 2:
        return False
    found = [line.count(separator) for line in cell.split("\n")]
    return found == [width - place - 1, *[width - 1] * (len(found) - 2), place]


def _as_rows(header: Sequence[str], rows: Sequence[Sequence[str]], name: str) -> list[Row]:
    names = named_once([one.strip() for one in header])
    width = len(names)
    for number, row in enumerate(rows, start=1):
        if any(row[width:]):
            raise DataError(f"{name} row {number} has more cells than the header", "quote its text")
    return [dict(zip(names, [*row[:width], *[""] * (width - len(row))], strict=True)) for row in rows]


# --- others --------------------------------------------------------------------------------------


def _lines(content: bytes, name: str) -> list[Row]:
    """One text per line."""
    return [{"text": line.rstrip("\r\n")} for line in lines_of(decoded(content, name))]


def _parquet(content: bytes, name: str) -> list[Row]:
    import pyarrow.parquet

    return arrow_rows(pyarrow.parquet.read_table(io.BytesIO(content)))


def arrow_rows(table: Any) -> list[Row]:
    """The rows of a table of Arrow's; classes by their names, where Hugging Face's `datasets` wrote them down."""
    about = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    names = {one: kind["names"] for one, kind in features.items() if isinstance(kind, dict) and kind.get("names")}
    rows: list[Row] = table.rename_columns(named_once(table.column_names)).to_pylist()
    return with_classes(rows, names)


def with_classes(rows: list[Row], names: Mapping[str, Sequence[str]]) -> list[Row]:
    """Rows with the names of classes in place of their numbers; below 0, which says "not known", is a gap.

    Args:
        rows: The rows.
        names: By column, the names of its classes.
    """
    if not names:
        return rows

    def named(column: str, cell: Any) -> Any:
        if column not in names or not isinstance(cell, int):
            return cell
        return names[column][cell] if 0 <= cell < len(names[column]) else None

    return [{column: named(column, cell) for column, cell in row.items()} for row in rows]


_READERS: dict[str, Callable[[bytes, str], list[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".txt": _lines,
    ".parquet": _parquet,
}
FORMATS = tuple(_READERS)
