"""What a task is, what the tasks over labelled texts share, and how data is read for one.

`load_data` reads rows through `data/` and asks the task what they mean. Nothing outside `tasks/` asks for its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from wheretune import catalog
from wheretune.data.reading import read_table
from wheretune.data.texts import TextData, as_text, read_texts
from wheretune.errors import ConfigError, DataError
from wheretune.records.base import Spec
from wheretune.records.data import DataInfo, DataSpec
from wheretune.support.files import digest_rows

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Shaped
    from torch import Tensor

    from wheretune.data.reading import Row, Table
    from wheretune.metrics.base import Predictions
    from wheretune.records.data import Collate

LabelUse = Literal["required", "optional", "ignored"]
Places = Literal["one", "every"]
TaskOf = TypeVar("TaskOf", bound="TextTask")


@dataclass(frozen=True)
class Labelled:
    """What a task reads of the labels of some rows.

    Attributes:
        task: The task that they make, `unlabelled` where none are read.
        values: The label of each row, in the form in which `Task.collator` takes it; None where there are none.
        classes: The names of the classes; none where the task has none.
    """

    task: Task
    values: tuple[Any, ...] | None = None
    classes: tuple[str, ...] = ()


@runtime_checkable
class TaskReader(Protocol):
    """What reads texts and labels out of rows: every task, and `auto`, which asks the data which task it is."""

    name: ClassVar[str]

    def texts(self, table: Table) -> tuple[list[tuple[str, ...]], list[str] | None]:
        """One or two texts per row and, where the task names a column for it, what follows each row's text.

        Raises:
            DataError: A column is missing, or a text cannot be used.
        """

    def labels(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> Labelled:
        """The labels.

        Args:
            table: The rows.
            classes: The classes of the training data, where this data must share them.
            use: `optional` lets the default label column be missing; `ignored` does not look at labels.

        Raises:
            DataError: A label is missing, of the wrong kind or unknown, or all are the same.
        """


@runtime_checkable
class Task(TaskReader, Protocol):
    """What is learned: a frozen object of settings.

    Attributes:
        name: In the catalog.
        metrics: The names of its metrics; the first is the one that is compared.
        predicts: Which kinds of predictions `predict` gives, for metrics to read.
        head: The name of the head that it has by default.
        places: Whether `one` token per text is read, the representative one, or `every` token.
        problem_type: What Transformers' own sequence classifiers call it; None where they cannot learn it.
    """

    metrics: ClassVar[tuple[str, ...]]
    predicts: ClassVar[tuple[str, ...]]
    head: ClassVar[str]
    places: ClassVar[Places]
    problem_type: ClassVar[str | None]

    def describe(self, classes: Sequence[str]) -> str:
        """The task of some data in words, such as "classification into 2 classes"."""

    def outputs(self, classes: Sequence[str]) -> int:
        """How many outputs a head has."""

    def start(self, labels: Sequence[Any]) -> float | None:
        """Where the bias of a fresh head starts, given the training labels; None leaves it as it is drawn."""

    def collator(self, tokenizer: Any) -> Collate:
        """What makes a batch of encoded rows."""

    def loss(self, logits: Float[Tensor, "batch output"], labels: Shaped[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The mean loss of a batch."""

    def predict(self, logits: Float[np.ndarray, "row output"], classes: tuple[str, ...]) -> Predictions:
        """What a model predicts, from its outputs."""

    def written(self, labels: Sequence[Any], classes: Sequence[str]) -> list[str | float]:
        """Labels as a file of predictions says them: the name of a class, or a number."""


@dataclass(frozen=True)
class TextTask:
    """What the tasks over a text (or a pair of texts) and one label per row share: their columns.

    Attributes:
        text_column: The column of the texts.
        pair_column: The column of the second texts, where two are compared.
        label_column: The column of the labels; `label` by default.
        target_column: The column of what follows each text, for scorers that ask what a language model would say.
        verbalizer: The word that stands for each class there; the class's name by default.
    """

    text_column: str = "text"
    pair_column: str | None = None
    label_column: str | None = None
    target_column: str | None = None
    verbalizer: dict[str, str] | None = field(default=None, hash=False)
    head: ClassVar[str] = "last-token"
    places: ClassVar[Places] = "one"

    def __post_init__(self) -> None:
        if self.verbalizer and self.target_column is not None:
            raise ConfigError(
                "verbalizer and target_column both say what follows a text", "give the one or the other", "verbalizer"
            )

    def become(self, kind: type[TaskOf]) -> TaskOf:
        """Another task with the same columns."""
        return kind(**{one.name: getattr(self, one.name) for one in dataclasses.fields(TextTask)})

    def texts(self, table: Table) -> tuple[list[tuple[str, ...]], list[str] | None]:
        named = ("text_column", "pair_column", "target_column")
        columns = {name: getattr(self, name) for name in named if getattr(self, name) is not None}
        texts = read_texts(table, columns)
        if self.target_column is None:
            return texts, None
        return [text[:-1] for text in texts], [text[-1] for text in texts]

    @property
    def label_name(self) -> str:
        """The column of the labels."""
        return self.label_column or "label"

    def label_cells(self, table: Table, use: LabelUse) -> list[object] | None:
        """The cells of the label column; None where they are not looked at, or may be missing and are.

        Raises:
            DataError: The column is missing, or a cell is empty.
        """
        column = self.label_name
        if use == "ignored" or (use == "optional" and self.label_column is None and not table.has(column)):
            return None
        cells = table.column(column, "label_column")
        missing = [place for place, cell in enumerate(cells) if not as_text(cell).strip()]
        if missing:
            raise DataError(
                f"{table.source} has no {column} in {table.where(missing)}", "remove these rows or label them"
            )
        return cells

    def collator(self, tokenizer: Any) -> Collate:
        from wheretune.data.batches import collator

        return collator(tokenizer)


def task_of(info: DataInfo) -> Task:
    """The task that some data makes."""
    task: Task = catalog.build("task", info.task)
    return task


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
        like: The training data, whose task and classes this data must share; where the task of `spec` leaves a setting
            out (a column), the training data's holds.
        labels: `optional` lets the default label column be missing; `ignored` does not look at labels.
        rows: The rows themselves, where they are in memory and `spec.source` is only a word for them.

    Raises:
        ConfigError: There is no such task, or it is not that of the training data.
        DataError: A column is missing, a text is empty, a label is missing, unknown, or there is one class only.
    """
    reader: TaskReader = catalog.build("task", spec.task if like is None else _shared(spec, like))
    table = read_table(spec, rows)
    texts, continuations = reader.texts(table)
    read = reader.labels(table, like.classes if like is not None else None, labels)
    info = DataInfo(spec, len(table), _brief(read.task), read.classes, _digest(texts, continuations, read.values))
    return TextData(
        info, tuple(texts), read.values, table.numbers, None if continuations is None else tuple(continuations)
    )


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


def _brief(task: Task) -> Spec:
    """The spec of a task with the settings that are not those by default."""
    defaults = {one.name: one.default for one in dataclasses.fields(task)}  # type: ignore[arg-type]
    params = {name: value for name, value in Spec.of(task).params.items() if value != defaults[name]}
    return Spec(task.name, params)


def _digest(texts: Sequence[tuple[str, ...]], continuations: Sequence[str] | None, values: Sequence[Any] | None) -> str:
    """SHA-256 over texts and labels; the index of a class counts as a number, as it did in 0.1.0."""
    parts = texts if continuations is None else [(*text, more) for text, more in zip(texts, continuations, strict=True)]
    labels = [None] * len(texts) if values is None else [float(v) if isinstance(v, int) else v for v in values]
    return digest_rows(zip(parts, labels, strict=True))


def from_texts(
    texts: Sequence[str | tuple[str, str]],
    labels: Sequence[object] | None = None,
    *,
    task: str = "auto",
    max_length: int | None = None,
    name: str = "memory",
) -> TextData:
    """Data that is already in memory.

    Args:
        texts: One string per row, or a pair of strings per row.
        labels: Per row a class (string or whole number) or a number; scoring needs none.
        task: The name of a task; `auto` makes a regression of numbers that are not all whole.
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
    params = {"pair_column": "pair"} if "pair" in columns else {}
    return load_data(DataSpec(name, Spec(task, params), max_length=max_length), labels="optional", rows=rows)
