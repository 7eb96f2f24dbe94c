"""Reads data as a tuned model was trained on it; opens no model, so that data is refused before that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wheretune.data.reading import SHOWN
from wheretune.data.sources import located
from wheretune.delta.folder import MANIFEST
from wheretune.errors import ConfigError, DataError, DeltaError
from wheretune.records import older
from wheretune.records.base import Spec, from_json
from wheretune.records.data import DataInfo
from wheretune.support.log import log
from wheretune.tasks.base import task_of
from wheretune.tasks.loading import load_data

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.tasks.base import LabelUse


def trained_on(content: Mapping[str, Any], folder: Path) -> DataInfo:
    """The training data's task, classes and columns.

    Args:
        content: The manifest, from `read_manifest`.
        folder: Where it was read.

    Raises:
        DeltaError: A user's own Trainer trained, and it is not known.
    """
    if content["data"] is None or content["max_length"] is None:
        raise DeltaError(
            f"{folder} was saved from a model of your own, whose class {MANIFEST} does not know",
            "make that model and call wheretune.load_delta(model, folder)",
        )
    data = older.data(content["data"]) if content["format"] == 1 else content["data"]
    return from_json(DataInfo, data, str(folder / MANIFEST))


BadRows = Literal["refuse", "skip"]


def read_like(
    trained: DataInfo,
    data: Any,
    labels: LabelUse,
    columns: Mapping[str, str] | None = None,
    bad_rows: BadRows = "skip",
) -> TextData:
    """Data with the task and classes of the training data; `unread` says which rows cannot be used, and why.

    Labels of classes that the training data has not count: the model cannot be right there. It is said.

    Args:
        trained: The training data.
        data: A source by its name, of whose splits `test` is read, or the data itself; see `load_data`.
        labels: As for `load_data`.
        columns: By setting of the task, columns that are called otherwise than in the training data.
        bad_rows: Refuse the data where a row cannot be used, or leave it out.

    Raises:
        DataError: As for `load_data`.
    """
    source = located(data, "test", "validation") if isinstance(data, str) else "memory"
    task = Spec(trained.spec.task.name, trained.spec.task.params | dict(columns or {}))
    spec = replace(trained.spec, source=source, task=task, max_samples=None, part=None, bad_rows=bad_rows)
    rows = None if isinstance(data, str) else data
    read = load_data(spec, like=trained, labels=labels, rows=rows, open_classes=labels == "required")
    if unknown := unknown_classes(read, trained):
        new = read.info.classes[len(trained.classes) :]
        log.warning(
            "%d of %d rows are of a class that the model was not trained on (%s): it cannot be right there, and they "
            "count as wrong", unknown, len(read), ", ".join(new[:SHOWN]) + (", ..." if len(new) > SHOWN else ""),
        )  # fmt: skip
    return read


def read_other(
    trained: DataInfo, source: str, columns: Mapping[str, str] | None = None, bad_rows: BadRows = "skip"
) -> TextData:
    """Data of whatever kind: of the training data's task if it can be read so, otherwise raw text.

    Raises:
        DataError: It is neither, or the model reads one token of a text and so can say nothing of raw text.
    """
    try:
        return read_like(trained, source, "required", columns, bad_rows)
    except (DataError, ConfigError) as error:
        if task_of(trained).places != "every":
            raise
        try:
            spec = replace(trained.spec, source=located(source, "test", "validation"), task=Spec("text"))
            return load_data(replace(spec, max_samples=None, part=None, bad_rows=bad_rows))
        except (DataError, ConfigError):
            raise error from None


def unknown_classes(read: TextData, trained: DataInfo) -> int:
    """How many rows have a class that the training data has not."""
    if read.labels is None or len(read.info.classes) <= len(trained.classes):
        return 0
    known = set(trained.classes)
    written = task_of(read.info).written(read.labels, read.info.classes)
    return sum(not known.issuperset(one if isinstance(one, tuple) else [one]) for one in written)
