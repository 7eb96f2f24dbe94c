"""What stands in a file -> rows, by its ending or, where it has none, by what stands in it."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from wheretune.data.cells import plain
from wheretune.data.content import PACKED, STANDARD_INPUT, Content
from wheretune.data.nested import json_rows
from wheretune.data.spooled import BLOCK, Row, spooled
from wheretune.errors import DataError, WheretuneError
from wheretune.support.log import log
from wheretune.support.words import first_line

SAID = re.compile("sep=(.)")  # what separates the cells, as Excel says it in a line before the header


def read_file(name: str) -> Sequence[Row]:
    """The rows of a file, or of standard input, which is `-`.

    Raises:
        DataError: Its kind is not known, or it is not what its ending says.
        OutputError: They are many, and there is no room on the disk to keep them.
    """
    return spooled(rows_of(name))


def rows_of(name: str) -> Iterator[Row]:
    """The rows of `read_file`, each read when it is asked for.

    Of a `.json` file that is one list all are read at once, and a table is first looked through for stray quotes.
    """
    ending = _ending(name) or _ending(str(Path(name).resolve()))
    said = f"{name} cannot be read as {ending}" if ending else f"{name} cannot be read"
    try:
        content = Content.of(name, ending)
        found = (ending or "").removesuffix(content.packed) or _guessed(content)
        yield from _READERS[found](content)
    except WheretuneError:
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


def _guessed(content: Content) -> str:
    """The kind of a file whose name does not say it."""
    name = content.name
    if Path(name).suffix.lower() not in ("", *PACKED):
        raise DataError(f"{name} has an ending that is not known", f"give one of {', '.join(FORMATS)}")
    with content.opened() as file:
        if file.read(4) == b"PAR1":
            return ".parquet"
    first = next((line for line in content.lines() if line.strip()), "").lstrip()
    if first[:1] in ("{", "["):
        return ".json" if first[:1] == "[" else ".jsonl"
    if any(mark in first for mark in "\t,;"):
        return ".tsv" if "\t" in first else ".csv"
    if name == STANDARD_INPUT:
        problem = "neither JSON lines nor a table with a header comes" if first else "nothing comes"
        raise DataError(f"{problem} from standard input", 'write {"text": ...} on each line')
    raise DataError(f"{name} has no ending, and does not look like a table", f"give one of {', '.join(FORMATS)}")


def named_once(names: Sequence[str]) -> list[str]:
    """Names of columns with those that stand there more than once told apart: `text.1`, `text.2`."""
    times, seen = Counter(names), Counter[str]()
    made = []
    for name in names:
        seen[name] += 1
        made.append(f"{name}.{seen[name]}" if name and times[name] > 1 else name)
    return made


# --- JSON ----------------------------------------------------------------------------------------


def _json_lines(content: Content) -> Iterator[Row]:
    name = content.name
    for number, line in enumerate(content.lines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_pairs)
        except ValueError as error:
            raise DataError(f"{name} line {number} is not JSON ({error})", "mend the line") from error
        if not isinstance(row, dict):
            raise DataError(f"{name} line {number} is no JSON object", 'write {"text": ..., "label": ...}')
        yield row


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


def _lines_or_list(content: Content) -> Iterable[Row]:
    """JSON lines; or one list, whose name says lines."""
    beginning = next((line for line in content.lines() if line.strip()), "")
    return _json(content) if beginning.lstrip().startswith("[") else _json_lines(content)


def _json(content: Content) -> Iterable[Row]:
    """What one JSON value holds, or JSON lines."""
    try:
        whole = json.loads(content.text(), object_pairs_hook=_pairs)
    except json.JSONDecodeError:
        return _json_lines(content)
    return json_rows(whole, content.name)


# --- separated by commas or tabs -----------------------------------------------------------------


def _separated(usual: str) -> Callable[[Content], Iterator[Row]]:
    def read(content: Content) -> Iterator[Row]:
        csv.field_size_limit(2**31 - 1)
        first = next(content.lines(), "")
        said = SAID.fullmatch(first.rstrip())
        separator = (
            said[1] if said else usual if usual in first else next((mark for mark in ";\t,|" if mark in first), usual)
        )
        quoted = True
        try:
            place = _swallowing(partial(_cells, content, separator), separator)
        except csv.Error:
            if separator != "\t":
                raise
            place, quoted = None, False  # as GLUE's files, where a quote is a character
        if place is not None and separator == "\t":
            quoted = False
        elif place is not None:
            raise DataError(
                f"{content.name} row {place + 1} has a quotation mark that is closed rows later, so that whole rows "
                "are read as one text",
                'write a quotation mark in a text as "" and the text between quotation marks, or use .jsonl',
            )
        return _as_rows(_cells(content, separator, quoted=quoted), content.name)

    return read


def _cells(content: Content, separator: str, *, quoted: bool = True) -> Iterator[list[str]]:
    """The cells of each line that has any; the header's are the first."""
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = content.lines(newline="")
    first = next(lines, "")
    lines = lines if SAID.fullmatch(first.rstrip()) else chain((first,), lines)
    return filter(None, csv.reader(lines, delimiter=separator, quoting=quoting, strict=True))


def _swallowing(cells: Callable[[], Iterator[list[str]]], separator: str) -> int | None:
    """The first row with a text over several lines that are rows of their own, because a stray quote opened it.

    Decided: they are if each line has as many cells as the header. That may happen in prose that has commas, so where
        commas separate the cells, one column must have no new value in any of these lines as well: none that no other
        row has, or that stands in one of the lines only, if these are four or more.

    Args:
        cells: Gives the cells of the header and of each row.
        separator: What stands between two cells.
    """
    rows = cells()
    width = len(next(rows, []))
    known: list[set[str]] = []
    for number, row in enumerate(rows):
        if not any(_lines_fit(cell, place, width, separator) for place, cell in enumerate(row)):
            continue
        if separator == "\t":
            return number
        known = known or _values(cells(), width)
        apart = [line.split(separator) for line in separator.join(row).replace("\r", "").split("\n")]
        if any(map(_nothing_new, zip_longest(*apart), known)):
            return number
    return None


def _values(cells: Iterator[list[str]], width: int) -> list[set[str]]:
    """By column, what stands in its rows."""
    next(cells)
    known: list[set[str]] = [set() for _ in range(width)]
    for row in cells:
        for cell, column in zip(row, known, strict=False):
            column.add(cell)
    return known


def _nothing_new(column: Sequence[str | None], known: set[str]) -> bool:
    """Whether every value of a column is a known one, or, of four or more, stands there more than once."""
    return None not in column and (known.issuperset(column) or (len(column) >= 4 and min(Counter(column).values()) > 1))


def _lines_fit(cell: str, place: int, width: int, separator: str) -> bool:
    """Whether the lines of a cell, with the cells before and after it, are rows of as many cells as the header."""
    if "\n" not in cell or width < 2:
        return False
    found = [line.count(separator) for line in cell.split("\n")]
    return found == [width - place - 1, *[width - 1] * (len(found) - 2), place]


def _as_rows(cells: Iterator[list[str]], name: str) -> Iterator[Row]:
    header = next(cells, [])
    names = named_once([one.strip() for one in header])
    width = len(names)
    for number, row in enumerate(cells, start=1):
        if any(row[width:]):
            raise DataError(f"{name} row {number} has more cells than the header", "quote its text")
        if row == header and width > 1:
            raise DataError(f"{name} row {number} is the header once more, as of joined files", "take it out")
        yield dict(zip(names, [*row[:width], *[""] * (width - len(row))], strict=True))


# --- others --------------------------------------------------------------------------------------


def _lines(content: Content) -> Iterator[Row]:
    """One text per line, or the table that has been saved as such a file."""
    separator = _of_table(list(islice(content.lines(), 100)))
    if separator is not None:
        log.warning("%s is read as a table, by the names of columns in its first line", content.name)
        yield from _separated(separator)(content)
        return
    for line in content.lines():
        yield {"text": line.rstrip("\r\n")}


def _of_table(lines: Sequence[str]) -> str | None:
    """What separates the columns of a table; None where the lines are texts.

    Decided: lines are a table's if each has as many tabs as the first, or if the first has `text` between commas.
    """
    if len(lines) > 1 and lines[0].count("\t") and len({line.count("\t") for line in lines}) == 1:
        return "\t"
    header = lines[0].strip() if lines else ""
    return next((mark for mark in ",;" if mark in header and "text" in header.split(mark)), None)


def _parquet(content: Content) -> Iterator[Row]:
    import pyarrow.parquet

    with content.opened() as file, pyarrow.parquet.ParquetFile(file) as table:
        yield from arrow_rows(table.iter_batches(BLOCK), table.schema_arrow)


def arrow_rows(batches: Iterable[Any], schema: Any) -> Iterator[Row]:
    """The rows of batches of Arrow's; classes by their names, where Hugging Face's `datasets` wrote them down."""
    names = named_once(schema.names)
    rows = chain.from_iterable(batch.rename_columns(names).to_pylist() for batch in batches)
    return with_classes(rows, _class_names(schema))


def class_names(name: str) -> dict[str, list[str]]:
    """By column, the names of the classes that a file itself says it has."""
    if _ending(name) != ".parquet":
        return {}
    import pyarrow.parquet

    return _class_names(pyarrow.parquet.read_schema(name))


def _class_names(schema: Any) -> dict[str, list[str]]:
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    return {one: kind["names"] for one, kind in features.items() if isinstance(kind, dict) and kind.get("names")}


def with_classes(rows: Iterable[Row], names: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    """Rows with the names of classes in place of their numbers; below 0, which says "not known", is a gap.

    Args:
        rows: The rows.
        names: By column, the names of its classes.
    """

    def named(column: str, cell: Any) -> Any:
        if column not in names or not isinstance(cell := plain(cell), int):
            return cell
        return names[column][cell] if 0 <= cell < len(names[column]) else None

    return ({column: named(column, cell) for column, cell in row.items()} for row in rows) if names else iter(rows)


_READERS: dict[str, Callable[[Content], Iterable[Row]]] = {
    ".jsonl": _lines_or_list,
    ".ndjson": _lines_or_list,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".txt": _lines,
    ".parquet": _parquet,
}
FORMATS = tuple(_READERS)
