"""Texts that any tool has written, and the data they answer -> metrics. Opens no torch.

Outputs are JSON lines `{"row": 0, "text": "..."}`, as `wheretune predict` leaves them, joined to the data by `row`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wheretune import catalog
from wheretune.data.cells import kind, plain, whole_text
from wheretune.data.content import STANDARD_INPUT
from wheretune.data.files import read_file
from wheretune.data.memory import rows_in
from wheretune.data.reading import read_table
from wheretune.data.sources import located
from wheretune.data.spooled import Row
from wheretune.errors import ConfigError, DataError, UnavailableError
from wheretune.metrics.base import Predictions
from wheretune.metrics.text.pass_at_one import Problem
from wheretune.records.data import DataSpec
from wheretune.support.log import log

if TYPE_CHECKING:
    from wheretune.data.reading import Table
    from wheretune.metrics.base import Measure

SOURCES = ("mr", "source", "question", "prompt", "input")
REFERENCES = ("references", "reference", "ref", "target", "answer", "completion", "output")
EXAMPLE = 'write {"row": 0, "text": "..."}'
FIRST = "the first row is 0"


@dataclass(frozen=True)
class TextMetric:
    """How good outputs are, in one number.

    Attributes:
        name: Of the metric.
        value: The number; None where it cannot be had here.
        n: Rows that it is of.
        higher_is_better: Its direction.
        reason: Why there is no value; None where there is one.
    """

    name: str
    value: float | None
    n: int
    higher_is_better: bool
    reason: str | None = None

    def content(self) -> dict[str, Any]:
        """As JSON; the reason stands there only where there is one."""
        return {key: value for key, value in vars(self).items() if (key, value) != ("reason", None)}


def judge_texts(
    predictions: Any,
    references: Any,
    metrics: str | Sequence[str | Measure],
    *,
    source_column: str | None = None,
    references_column: str | None = None,
    each_source_once: bool = False,
) -> tuple[TextMetric, ...]:
    """The metrics of texts; for example `judge_texts(["a cat"], [["a cat", "the cat"]], ["bleu", "rouge-l"])`.

    Args:
        predictions: What was written, as for `read_outputs`: a file, texts, or rows.
        references: What was to be written: per row a text or a list of texts; or data with columns, which is a file, a
            data set of the hub, or what `load_data` takes as rows.
        metrics: Metrics that read texts or code, by name with options after colons (`exact-match:of=text`), or made.
        source_column: Of the data, what the model was given; rows with equal sources share their references. None: the
            first of `SOURCES` that there is, or else no rows share any.
        references_column: A text, or a list of texts. None: the first of `REFERENCES` that there is.
        each_source_once: Count rows with equal sources as one, with the first one's output, as the E2E challenge does.

    Raises:
        ConfigError: A metric is unknown, reads something else, is not allowed, or the only one cannot be had here.
        DataError: A row has no output or no reference, an output has no row, or a column is missing.
    """
    named = [metrics] if isinstance(metrics, str) else metrics
    measures: list[Measure] = [catalog.read("metric", one) if isinstance(one, str) else one for one in named]
    for measure in measures:
        if measure.reads not in ("text", "code"):
            raise ConfigError(
                f"the metric {measure.name} reads {measure.reads}, and outputs are text",
                "leave it out; `wheretune evaluate` knows it",
                "metrics",
            )
    data, outputs = _table(references), read_outputs(predictions)
    sources = _sources(data, source_column, needed=each_source_once)
    firsts: dict[object, int] = {}
    for row, source in enumerate(sources):
        firsts.setdefault(source, row)
    rows = list(firsts.values()) if each_source_once else list(range(len(data)))
    _check_rows(outputs, rows, data)
    written = _objects([outputs[row] for row in rows])
    judged = Predictions([outputs[row] for row in rows], {"text": written, "code": written})
    truths: dict[str, np.ndarray] = {}
    for reads in dict.fromkeys(measure.reads for measure in measures):
        every = _problems(data) if reads == "code" else _references(data, references_column, sources)
        truths[reads] = _objects([every[row] for row in rows])
    return tuple(_judged(measure, judged, truths[measure.reads], alone=len(measures) == 1) for measure in measures)


def _judged(measure: Measure, predictions: Predictions, truth: np.ndarray, alone: bool) -> TextMetric:
    """One metric; without a value where it cannot be had here, unless it is the only one."""
    try:
        value, reason = measure.compute(predictions, truth), None
    except UnavailableError as error:
        if alone:
            raise
        value, reason = None, str(error)
        log.warning("%s is left out: %s", measure.name, error)
    return TextMetric(measure.name, value, len(predictions), measure.higher_is_better, reason)


# --- outputs -------------------------------------------------------------------------------------


def read_outputs(given: Any) -> dict[int, str]:
    """What was written for each row, from 0. A text that is null is an empty one.

    Args:
        given: A file of JSON lines with `row` and `text`, `-` for standard input; or the same rows in memory, as for
            `rows_in`, which are counted where none says its row. Texts alone are such rows.

    Raises:
        DataError: There is no such file, a line is no output, or a row stands twice.
    """
    if isinstance(given, str | Path):
        name, lines = str(given), _lines(str(given))
    else:
        name, lines = "memory", rows_in(given)
        if not any("row" in line for line in lines):
            lines = [{**line, "row": place} for place, line in enumerate(lines)]
    outputs: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        row, text = line.get("row"), line.get("text")
        if not isinstance(row, int) or isinstance(row, bool) or row < 0:
            said = f"the row {row!r}" if "row" in line else "no row"
            raise DataError(f"{name} has {said} in output {number}", EXAMPLE)
        if row in outputs:
            raise DataError(f"{name} has row {row} twice", "give one output per row")
        wrong = _text_fault(text) if "text" in line else "no text"
        if wrong:
            raise DataError(f"{name} has {wrong} for row {row}", EXAMPLE)
        outputs[row] = text or ""
    if not outputs:
        raise DataError(f"{name} holds no output", EXAMPLE)
    return outputs


def _lines(name: str) -> Sequence[Row]:
    if name != STANDARD_INPUT and not Path(name).is_file():
        raise DataError(f"no such file: {name}", "give a file of JSON lines with row and text")
    return read_file(name)


def _text_fault(text: object) -> str | None:
    """Why something cannot be an output; None where it can."""
    if not isinstance(text, str | None):
        return f"{kind(text) or 'a number'} as text"
    return None if whole_text(text or "") else "half a character in its text"


def _check_rows(outputs: Mapping[int, str], rows: Sequence[int], data: Table) -> None:
    """Makes sure that every row has an output, and every output a row."""
    missing = [row for row in rows if row not in outputs]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"there is no output for row {missing[0]}{more} of {data.source}", f"add it ({FIRST})")
    beyond = max(outputs)
    if beyond >= len(data):
        raise DataError(
            f"there is an output for row {beyond}, and {data.source} has {len(data)} rows", f"check the data ({FIRST})"
        )


# --- what they are held against ------------------------------------------------------------------


def _table(references: Any) -> Table:
    """What outputs are held against, as a table."""
    if isinstance(references, str | Path):
        return read_table(DataSpec(located(str(references), "test", "validation")))
    if isinstance(references, list | tuple) and not any(isinstance(one, Mapping) for one in references):
        references = [{"references": one} for one in references]
    return read_table(DataSpec("memory"), references)


def _sources(data: Table, column: str | None, needed: bool) -> list[object]:
    """What each row was made from; the row's own number where that is not known."""
    name = column or next((name for name in SOURCES if data.has(name)), None)
    if name is not None:
        return [row if source is None else str(source) for row, source in enumerate(data.column(name, "source_column"))]
    if needed:
        raise DataError(f"{data.source} has no column with the source of a row", "name it", "source_column")
    return list(range(len(data)))


def _references(data: Table, column: str | None, sources: Sequence[object]) -> list[tuple[str, ...]]:
    """The references of each row: the list that stands in it, or the texts of all rows with the same source."""
    name = column or next((name for name in REFERENCES if data.has(name)), None)
    if name is None:
        there = ", ".join(data.rows[0])
        raise DataError(
            f"{data.source} has no column with references (its columns: {there})", "name it", "references_column"
        )
    cells = data.column(name, "references_column")
    lists = any(_is_list(cell) for cell in cells)
    found = [tuple(_reference(one, row, name) for one in _each(cell, row, name)) for row, cell in enumerate(cells)]
    if lists:
        return found
    shared: dict[object, list[str]] = {}
    for source, (reference,) in zip(sources, found, strict=True):
        shared.setdefault(source, []).append(reference)
    return [tuple(shared[source]) for source in sources]


def _is_list(cell: object) -> bool:
    return isinstance(cell, list | tuple | np.ndarray)


def _each(cell: Any, row: int, name: str) -> list[object]:
    """What a cell lists, or the cell alone."""
    every = list(cell) if _is_list(cell) else [cell]
    if not every:
        raise DataError(
            f"row {row} has an empty list in {name!r}", f"give it a reference ({FIRST})", "references_column"
        )
    return every


def _reference(cell: object, row: int, name: str) -> str:
    """One reference as a text."""
    found = plain(cell)
    wrong = "no reference" if found is None else f"{kind(found)} as a reference" if kind(found) else None
    text = str(found)
    if wrong is None and not whole_text(text):
        wrong = "half a character"
    if wrong:
        raise DataError(f"row {row} has {wrong} in {name!r}", f"mend the data ({FIRST})", "references_column")
    return text


def _problems(data: Table) -> list[Problem]:
    """HumanEval's problem of each row."""
    cells = [data.column(name, name) for name in Problem._fields]
    for name, column in zip(Problem._fields, cells, strict=True):
        for row, cell in enumerate(column):
            if not isinstance(cell, str):
                raise DataError(f"row {row} has no text in {name!r}", f"mend the data ({FIRST})")
    return [Problem(*map(str, row)) for row in zip(*cells, strict=True)]


def _objects(values: Sequence[Any]) -> np.ndarray:
    """An array of one object per row, tuples included."""
    made = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        made[row] = value
    return made
