"""Texts of a stream for a scoring pass: checked and labelled some at a time, and then forgotten."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from wheretune import catalog
from wheretune.data.reading import Table, usable
from wheretune.data.streaming import stream
from wheretune.data.texts import TextData, take
from wheretune.errors import ConfigError, DataError
from wheretune.records.data import DataInfo, DataSpec, Streamed
from wheretune.support.files import add_rows, digest_rows
from wheretune.support.log import log
from wheretune.tasks.base import TextTask, task_of
from wheretune.tasks.classification import class_name, natural
from wheretune.tasks.loading import content, decided, load_data, texts_of, to_score
from wheretune.tasks.uneven import say_classes

if TYPE_CHECKING:
    from wheretune.data.spooled import Row
    from wheretune.tasks.base import LabelUse, TaskReader

FIRST = 1024  # rows by which the task and its classes are known


class StreamedTexts:
    """The texts of a stream, of which only what a pass asks for is read.

    Which task it is, its columns and its classes are those that the source names, or those of the first rows. A later
    row of another class cannot be used, where a scorer needs labels; where none does, labels are read no further. A row
    is known by its number among the rows that were read.

    Args:
        spec: Which source, with `streaming`.
        needs: What the scorers need.
        rows: As for `data.streaming.stream`.

    Attributes:
        beginning: The first rows.

    Raises:
        ConfigError: A scorer needs all rows at once.
        DataError: As for `load_data`, of the first rows.
    """

    def __init__(self, spec: DataSpec, needs: Collection[str], rows: Any = None) -> None:
        if whole := {"training", "language-model"}.intersection(needs):
            what = "trains" if "training" in whole else "asks a language model what follows each text"
            raise ConfigError(f"a scorer that {what} needs all rows at once", "leave streaming out", "streaming")
        self._spec, self._stream = spec, stream(spec, rows)
        self._rest: Iterator[Row] | None = iter(self._stream)
        self._first = list(islice(self._rest, min(FIRST, spec.max_samples or FIRST)))
        if not self._first:
            raise DataError(f"{spec.source} has no rows", "give some data")
        self.beginning = to_score(self._begin, needs)
        of_rows = self.beginning.labels is not None and task_of(self.beginning.info).places == "one"
        self._use: LabelUse = "required" if "labels" in needs else "ignored" if of_rows else "optional"
        self._start()

    def _begin(self, use: LabelUse) -> TextData:
        """The first rows, by which it is known how all are read."""
        table = Table(self._spec.source, self._first, range(len(self._first)))
        reader = decided(catalog.build("task", self._spec.task), table)
        classes = self._named(reader)
        faults = reader.faults(table, classes, use)
        data = _texts(reader, usable(table, faults, self._spec.bad_rows), self._spec, classes, use)
        if data.labels is not None and data.info.classes:
            say_classes(data, task_of(data.info).written(data.labels, data.info.classes))
        hashed, about = digest_rows(content(data)), Streamed(self._stream.identity, False, self._spec.streaming or 0)
        return replace(data, info=replace(data.info, hash=hashed, left_out=len(faults), stream=about))

    def _named(self, reader: TaskReader) -> tuple[str, ...] | None:
        """The classes that the source names."""
        column = reader.label_name if isinstance(reader, TextTask) else ""
        names = {class_name(name) for name in self._stream.classes.get(column, ())}
        return tuple(sorted(names, key=natural)) or None

    def _start(self) -> None:
        self._taken = self._read = 0
        self._ended = self._whole = False
        self._hash = hashlib.sha256()

    @property
    def info(self) -> DataInfo:
        """What the latest pass has read so far."""
        first = self.beginning.info
        assert first.stream is not None
        return replace(
            first,
            rows=self._read,
            hash=self._hash.hexdigest(),
            left_out=self._taken - self._read,
            stream=replace(first.stream, whole=self._whole),
        )

    @property
    def total(self) -> int | None:
        """How many texts there are; None as long as that is not known."""
        return self._read if self._ended else None

    def parts(self, size: int) -> Iterator[TextData]:
        """All texts from the first one on, those of `size` rows at a time.

        Raises:
            DataError: A row cannot be used, and such rows are refused; or the stream breaks off.
        """
        self._start()
        rest, self._rest = self._rest, None
        rows = iter(self._stream) if rest is None else chain(self._first, rest)
        most = self._spec.max_samples or sys.maxsize
        while not self._ended:
            wanted = min(size, most - self._read)
            taken = list(islice(rows, wanted))
            part = self._checked(Table(self._spec.source, taken, range(self._taken, self._taken + len(taken))))
            self._taken, self._read = self._taken + len(taken), self._read + (0 if part is None else len(part))
            self._whole = len(taken) < wanted
            self._ended = self._whole or self._read == most
            if part is not None:
                add_rows(self._hash, content(part))
                yield part
        if left_out := self._taken - self._read:
            log.warning("%d of all %d rows read of %s are left out", left_out, self._taken, self._spec.source)

    def _checked(self, table: Table) -> TextData | None:
        """The texts of rows, None where there are none; those that cannot be used go without a word, if they may."""
        if not len(table):
            return None
        info = self.beginning.info
        reader: TaskReader = catalog.build("task", info.task)
        classes = info.classes or None
        faults = reader.faults(table, classes, self._use)
        if self._spec.bad_rows == "skip":
            table = table.take([place for place in range(len(table)) if place not in faults])
            if not len(table):
                return None
        else:
            usable(table, faults, self._spec.bad_rows)
        return _texts(reader, table, self._spec, classes, self._use)


def _texts(
    reader: TaskReader, table: Table, spec: DataSpec, classes: tuple[str, ...] | None, use: LabelUse
) -> TextData:
    """What a reader makes of rows without faults, in memory."""
    return take(texts_of(reader, table, spec, classes, use, {}), range(len(table)))


def beginning_of(data: TextData | StreamedTexts) -> TextData:
    """The first texts of a stream, which say what the task is; all others as they are."""
    return data.beginning if isinstance(data, StreamedTexts) else data


def texts_to_score(data: Any, needs: Collection[str]) -> TextData | StreamedTexts:
    """Data to be scored by scorers with these needs: read whole, or streamed where a `DataSpec` says so.

    Args:
        data: As for `load_data`.
        needs: What the scorers need.
    """
    if isinstance(data, DataSpec) and data.streaming is not None:
        return StreamedTexts(data, needs)
    return to_score(lambda use: load_data(data, labels=use), needs)
