"""Reads data for a task: `load_data` reads rows through `data/` and asks the task what they mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import repeat
from os import PathLike
from typing import TYPE_CHECKING, Any

from wheretune import catalog
from wheretune.data.reading import drawn, read_table, usable
from wheretune.data.texts import TextData, kept, take
from wheretune.errors import ConfigError, DataError
from wheretune.records.base import Spec
from wheretune.records.data import DataInfo, DataSpec
from wheretune.support.files import digest_rows
from wheretune.support.log import log
from wheretune.tasks.base import Seeing, Undecided, brief, task_of
from wheretune.tasks.uneven import say_classes

if TYPE_CHECKING:
    from wheretune.data.reading import Table
    from wheretune.tasks.base import LabelUse, TaskReader


def load_data(
    what: Any,
    *,
    like: DataInfo | None = None,
    labels: LabelUse = "required",
    rows: Any = None,
    open_classes: bool = False,
) -> TextData:
    """Reads and checks data.

    Args:
        what: A `DataSpec`; or a source by its name; or the data itself, as for `rows`.
        like: The training data, whose task and classes this data must share; where the task of the spec leaves a
            setting out (a column), the training data's holds.
        labels: As for `TaskReader.labels`.
        rows: The data itself, where it is in memory and the spec's `source` is only a word for it: a list of dicts or
            of strings, a dict of columns, a `datasets.Dataset` or `DatasetDict`, a frame of pandas or polars.
        open_classes: Classes that the training data has not are no fault: they come behind its own.

    Raises:
        ConfigError: There is no such task, or it is not that of the training data.
        DataError: A column is missing, a row cannot be used and the spec does not skip such rows, or there is one class
            only.
    """
    if isinstance(what, str | PathLike):
        what = DataSpec(str(what))
    spec, rows = (what, rows) if isinstance(what, DataSpec) else (DataSpec("memory"), what)
    if spec.streaming is not None:
        raise ConfigError(
            "only scoring streams its rows; training and judging read them more than once",
            "leave streaming out: many rows lie on disk, not in memory, and max_samples draws some",
            "streaming",
        )
    reader: TaskReader = catalog.build("task", spec.task if like is None else _shared(spec, like))
    classes = None if like is None else like.classes
    every = read_table(spec, rows)
    reader = decided(reader, every)
    if open_classes and classes:
        classes = (*classes, *reader.further(every, classes))
    faults = reader.faults(every, classes, labels)
    table = usable(every, faults, spec.bad_rows)
    unread = {every.numbers[place]: fault.why.rstrip(",") for place, fault in faults.items()}
    read = texts_of(reader, table, spec, classes, labels, unread)
    places = drawn(spec, len(table), read.labels if read.info.classes else None)
    data = kept(take(read, places))
    if classes is None and data.labels is not None and read.info.classes:
        say_classes(data, task_of(read.info).written(data.labels, read.info.classes))
    return replace(data, info=replace(read.info, rows=len(places), hash=digest_rows(content(data))))


def decided(reader: TaskReader, table: Table) -> TaskReader:
    """The reader for the columns that are there, where it does not say which."""
    if isinstance(reader, Undecided):
        reader = reader.decided(table)
    return usual_label(usual_columns(reader, table), table)


def texts_of(
    reader: TaskReader,
    table: Table,
    spec: DataSpec,
    classes: tuple[str, ...] | None,
    labels: LabelUse,
    unread: Mapping[int, str],
) -> TextData:
    """What a reader makes of rows without faults, with their hash left open; see `TextData` and `TaskReader.labels`."""
    texts, continuations = reader.texts(table)
    read = reader.labels(table, classes, labels)
    info = DataInfo(spec, len(table), brief(read.task), read.classes, hash="", left_out=len(unread))
    images = reader.images(table) if isinstance(reader, Seeing) else None
    return TextData(info, texts, read.values, table.numbers, continuations, unread, images)


USUAL = (  # how public data sets call their texts, where there is no column `text`
    ("text_a", "text_b"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("question", "sentence"), ("sentence_A", "sentence_B"), ("text1", "text2"),
    ("sentence",), ("review",), ("content",),
)  # fmt: skip


def usual_columns(reader: TaskReader, table: Table) -> TaskReader:
    """The same reader for the columns of public data sets, where none was named and there is no column `text`."""
    settings = _settings(reader)
    if settings.get("text_column") != "text" or settings.get("pair_column") is not None or table.has("text"):
        return reader
    most = 2 if "pair_column" in settings else 1
    found = next((columns for columns in USUAL if len(columns) <= most and all(map(table.has, columns))), None)
    if found is None:
        return reader
    log.warning("the texts of %s are read from %s", table.source, " and ".join(found))
    named = dict(zip(("text_column", "pair_column"), found, strict=False))
    return dataclasses.replace(reader, **named)  # type: ignore[type-var]


def _settings(reader: TaskReader) -> dict[str, Any]:
    return {one.name: getattr(reader, one.name) for one in dataclasses.fields(reader)}  # type: ignore[arg-type]


def usual_label(reader: TaskReader, table: Table) -> TaskReader:
    """The same reader for a column `labels`, where none was named and there is no column `label`."""
    settings = _settings(reader)
    if settings.get("label_column", "") is not None or table.has("label") or not table.has("labels"):
        return reader
    log.warning("the labels of %s are read from labels", table.source)
    return dataclasses.replace(reader, label_column="labels")  # type: ignore[type-var]


def _shared(spec: DataSpec, like: DataInfo) -> Spec:
    """The task of data that must share that of the training data."""
    if spec.task.name not in ("auto", like.task.name):
        raise ConfigError(
            f"{spec.source} is to be read for {spec.task.name}, and the training data makes {like.task.name}",
            "name the same task for both, or leave it out",
            "task",
        )
    given = {name: value for name, value in spec.task.params.items() if value is not None}
    return Spec(like.task.name, like.task.params | given)


def content(data: TextData) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What the hash of data is made of: texts and labels; a class's index counts as a number, as it did in 0.1.0."""
    texts, follow, values = data.texts, data.continuations, data.labels
    parts = texts if follow is None else ((*text, more) for text, more in zip(texts, follow, strict=True))
    labels = repeat(None, len(texts)) if values is None else (float(v) if isinstance(v, int) else v for v in values)
    return zip(parts, labels, strict=True)


def from_texts(
    texts: Iterable[object],
    labels: Iterable[object] | None = None,
    *,
    task: str = "auto",
    max_length: int | None = None,
    name: str = "memory",
) -> TextData:
    """Data that is already in memory, as texts and labels; `load_data` takes data sets, frames and lists of dicts.

    Args:
        texts: One string per row, or a pair of strings per row.
        labels: Per row a class (string or whole number) or a number, also as an array or a tensor; scoring needs none.
        task: The name of a task; `auto` makes a regression of numbers that are not all whole.
        max_length: Tokens a text is cut to; None means what the model can read, at most 512.
        name: What to call the data in results.

    Raises:
        DataError: As for `load_data`, or the lengths differ, or some rows are pairs and some are not.
    """
    parts = [tuple(text) if isinstance(text, tuple | list) else (text,) for text in texts]
    values = None if labels is None else list(labels)
    if values is not None and len(values) != len(parts):
        raise DataError(f"{len(parts)} texts and {len(values)} labels", "give as many of the one as of the other")
    if not all(len(part) in (1, 2) for part in parts):
        raise DataError("a row has neither one text nor two", "give a string or a pair of strings per row")
    if len({len(part) for part in parts}) > 1:
        raise DataError("some rows are pairs of texts and some are not", "give the one or the other")
    columns = ("text", "pair")[: len(parts[0]) if parts else 1]
    rows: list[dict[str, object]] = [dict(zip(columns, part, strict=True)) for part in parts]
    if values is not None:
        rows = [{**row, "label": label} for row, label in zip(rows, values, strict=True)]
    params = {"pair_column": "pair"} if "pair" in columns else {}
    return load_data(DataSpec(name, Spec(task, params), max_length=max_length), labels="optional", rows=rows)


def to_score(load: Callable[[LabelUse], TextData], needs: Iterable[str]) -> TextData:
    """Data to be scored by scorers with these needs; labels that make no task are left aside if none needs them.

    Args:
        load: Loads the data with such a use of its labels.
        needs: What the scorers need.
    """
    if "labels" in needs:
        return load("required")
    try:
        return load("optional")
    except DataError as error:
        texts = load("ignored")  # says what is wrong if it is not the labels
        log.warning("the labels are left aside: %s", error.problem)
        return texts
