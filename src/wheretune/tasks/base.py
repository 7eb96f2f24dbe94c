"""What a task makes of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from wheretune.data.reading import read_rows
from wheretune.data.texts import TextData, as_text, encodable, require_column, rows_in_words
from wheretune.errors import DataError
from wheretune.records.data import DataInfo, DataSpec
from wheretune.support.files import digest_rows

if TYPE_CHECKING:
    from wheretune.data.reading import Row
    from wheretune.records.data import Task

LabelUse = Literal["required", "optional", "ignored"]


def load_data(
    spec: DataSpec,
    *,
    like: DataInfo | None = None,
    labels: LabelUse = "required",
    rows: Sequence[Row] | None = None,
) -> TextData:
    """Reads and checks what `spec` names.

    Args:
        spec: Where the data is and how to read it.
        like: The training data whose task and classes this data must share.
        labels: `optional` lets the default label column be missing; `ignored` does not look at labels.
        rows: The rows themselves, where they are in memory and `spec.source` is only a word for them.

    Raises:
        DataError: A column is missing, a text is empty, a label is missing, unknown, or there is one class only.
    """
    rows = read_rows(spec.source) if rows is None else rows
    if not rows:
        raise DataError(f"{spec.source} has no rows", "give some data")
    numbers = tuple(range(len(rows)))
    if spec.max_samples is not None:
        if spec.max_samples < 1:
            raise DataError(f"--max-samples is {spec.max_samples}", "give 1 or more")
        if spec.max_samples < len(rows):
            drawn = np.random.default_rng(spec.seed).choice(len(rows), spec.max_samples, replace=False)
            numbers = tuple(sorted(int(i) for i in drawn))
            rows = [rows[i] for i in numbers]
    columns = [spec.text_column, *([spec.pair_column] if spec.pair_column is not None else [])]
    columns += [spec.target_column] if spec.target_column is not None else []
    for column in columns:
        require_column(spec.source, rows, column)
    texts = tuple(tuple(as_text(row.get(column)) for column in columns) for row in rows)
    empty = [i for i, row in enumerate(texts) if not all(text.strip() for text in row)]
    if empty:
        raise DataError(
            f"{spec.source} has empty text in {rows_in_words(empty, numbers)}", "remove these rows or give them a text"
        )
    broken = [i for i, row in enumerate(texts) if not all(encodable(text) for text in row)]
    if broken:
        raise DataError(
            f"{spec.source} has half a character (a lone surrogate) in {rows_in_words(broken, numbers)}",
            "mend these rows",
        )
    values, task, classes = _labels(spec, rows, numbers, like, labels)
    content = digest_rows(zip(texts, values or (None,) * len(texts), strict=True))
    info = DataInfo(spec=spec, rows=len(rows), task=task, classes=classes, hash=content)
    if spec.target_column is None:
        return TextData(info, texts, values, numbers)
    return TextData(info, tuple(text[:-1] for text in texts), values, numbers, tuple(text[-1] for text in texts))


def _labels(
    spec: DataSpec, rows: Sequence[Row], numbers: Sequence[int], like: DataInfo | None, use: LabelUse
) -> tuple[tuple[float, ...] | None, Task, tuple[str, ...]]:
    column = spec.label_column or "label"
    absent = spec.label_column is None and not any(column in row for row in rows)
    if use == "ignored" or (use == "optional" and absent):
        return None, "unlabelled", ()
    require_column(spec.source, rows, column)
    values = [row.get(column) for row in rows]
    missing = [i for i, value in enumerate(values) if not as_text(value).strip()]
    if missing:
        raise DataError(
            f"{spec.source} has no {column} in {rows_in_words(missing, numbers)}", "remove these rows or label them"
        )
    task: Task = like.task if like else _task(values) if spec.task == "auto" else spec.task
    if task == "regression":
        return _numbers(spec.source, column, values, numbers), task, ()
    names = [_class_name(value) for value in values]
    classes = like.classes if like else tuple(sorted(set(names), key=_natural))
    unknown = [i for i, name in enumerate(names) if name not in classes]
    if unknown:
        raise DataError(
            f"{spec.source} has the label {names[unknown[0]]!r}, which the training data has not, "
            f"in {rows_in_words(unknown, numbers)}",
            f"use the labels {', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}",
        )
    if len(classes) < 2:
        raise DataError(
            f"{spec.source} has one class only ({column} is {classes[0]!r} in every row)",
            "give data with at least two classes, or name another --label-column",
        )
    if not like and spec.task == "auto" and len(classes) > max(50, len(names) // 2):
        raise DataError(
            f"{spec.source} has {len(classes)} different values of {column} in {len(names)} rows",
            "name the label column with --label-column, or say --task regression or --task classification",
        )
    index = {name: i for i, name in enumerate(classes)}
    return tuple(float(index[name]) for name in names), task, classes


def _task(values: Sequence[object]) -> Task:
    """Regression if every label is a number and some are not whole; classification otherwise."""
    try:
        numbers = [float(str(value)) for value in values if not isinstance(value, bool)]
    except ValueError:
        return "classification"
    fractional = any(math.isfinite(number) and number != round(number) for number in numbers)
    return "regression" if len(numbers) == len(values) and fractional else "classification"


def _numbers(source: str, column: str, values: Sequence[object], rows: Sequence[int]) -> tuple[float, ...]:
    numbers = []
    for i, value in enumerate(values):
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"{source} has the {column} {value!r} in {rows_in_words([i], rows)}, which is no number",
                "mend the row or say --task classification",
            )
        numbers.append(number)
    if min(numbers) == max(numbers):
        raise DataError(f"{source} has the same {column} in every row", "give data that varies")
    return tuple(numbers)


def _class_name(value: object) -> str:
    """A label as a string; 1.0 from a data frame and 1 from JSON are the same class."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _natural(name: str) -> tuple[int, int, str]:
    """Sorts whole numbers by value and everything else by its letters."""
    return (0, int(name), name) if name.removeprefix("-").isdecimal() else (1, 0, name)


def from_texts(
    texts: Sequence[str | tuple[str, str]],
    labels: Sequence[object] | None = None,
    *,
    task: Literal["auto", "classification", "regression"] = "auto",
    max_length: int | None = None,
    name: str = "memory",
) -> TextData:
    """Data that is already in memory.

    Args:
        texts: A string a row, or a pair of strings a row.
        labels: A class (string or whole number) or a number a row; scoring needs none.
        task: `auto` makes a regression of numbers that are not all whole.
        max_length: Tokens a text is cut to; None means what the model can read, at most 512.
        name: What to call the data in results.

    Raises:
        DataError: As for `load_data`, or the lengths differ, or some rows are pairs and some are not.
    """
    if labels is not None and len(labels) != len(texts):
        raise DataError(f"{len(texts)} texts and {len(labels)} labels", "give as many of the one as of the other")
    parts = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    if len({len(part) for part in parts}) > 1:
        raise DataError("some rows are pairs of texts and some are not", "give the one or the other")
    columns = ("text", "pair")[: len(parts[0]) if parts else 1]
    rows: list[Row] = [dict(zip(columns, part, strict=True)) for part in parts]
    if labels is not None:
        rows = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
    spec = DataSpec(name, pair_column="pair" if "pair" in columns else None, task=task, max_length=max_length)
    return load_data(spec, labels="optional", rows=rows)
