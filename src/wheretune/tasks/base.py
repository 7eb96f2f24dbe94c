"""What a task is, and what the tasks over labelled texts share. Nothing outside `tasks/` asks for its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from wheretune import catalog
from wheretune.data.cells import MAYBE_GAPS, Fault, is_number, written_kind
from wheretune.data.columns import Column
from wheretune.data.texts import TextData, read_texts, text_faults
from wheretune.errors import ConfigError, DataError
from wheretune.records.base import Spec
from wheretune.records.data import DataInfo

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Shaped
    from torch import Tensor

    from wheretune.data.reading import Table
    from wheretune.metrics.base import Predictions, Written
    from wheretune.records.data import Collate

LabelUse = Literal["required", "optional", "ignored", "asked"]
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
    values: Sequence[Any] | None = None
    classes: tuple[str, ...] = ()


@runtime_checkable
class TaskReader(Protocol):
    """What reads texts and labels out of rows: every task, and `auto`, which asks the data which task it is."""

    name: ClassVar[str]

    def faults(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> dict[int, Fault]:
        """By place in the table, why a row cannot be used; the arguments are those of `labels`.

        Raises:
            DataError: A column is missing.
        """

    def texts(self, table: Table) -> tuple[Sequence[tuple[str, ...]], Sequence[str] | None]:
        """One or two texts per row and, where the task names a column for it, what follows each row's text."""

    def further(self, table: Table, classes: tuple[str, ...]) -> tuple[str, ...]:
        """The classes of some rows that the training data has not; none where it has none of theirs."""

    def labels(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> Labelled:
        """The labels of rows without faults.

        Args:
            table: The rows.
            classes: The classes of the training data, where this data must share them.
            use: `optional` lets the default label column be missing; `ignored` does not look at labels; for `asked`,
                which a `Writing` task knows, what is to be answered is enough.

        Raises:
            DataError: The column is missing, or all labels are the same where they must differ.
        """


@runtime_checkable
class Undecided(Protocol):
    """What asks the data which task it is before anything is read."""

    def decided(self, table: Table) -> TaskReader:
        """The reader for a table.

        Raises:
            ConfigError: A setting was given that the task of this table has not.
        """


@runtime_checkable
class Seeing(Protocol):
    """A task whose rows may have images beside their texts."""

    def images(self, table: Table) -> Sequence[tuple[str, ...]]:
        """The files of the images of each row, of rows without faults."""


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

    def encode(self, data: TextData, tokenizer: Any, max_length: int) -> Sequence[dict[str, Any]]:
        """The rows that a model reads: `input_ids`, `attention_mask`, `row`, and `labels` where something is learned.

        A task that reads every token labels each of them (-100 where nothing is learned), leaves out rows that teach
        nothing, and may make of its texts more or fewer rows than they are; `row` is then that of the first.

        Args:
            data: The texts, with the task's labels if it reads any.
            tokenizer: The model's.
            max_length: Tokens that a text is cut to.

        Raises:
            DataError: No row is left, or a text makes no tokens.
        """

    def predicted(self, labels: Sequence[int]) -> int:
        """Of the labels of a row's tokens, which token is predicted at the place that represents the row.

        Asked only of tasks that read every token.
        """

    def equip(self, tokenizer: Any) -> None:
        """Gives the tokenizer of a merged model what its rows were written by: the chat template, if it is another."""

    def collator(self, tokenizer: Any) -> Collate:
        """What makes a batch of encoded rows."""

    def loss(self, logits: Float[Tensor, "batch output"], labels: Shaped[Tensor, "batch ..."]) -> Float[Tensor, ""]:
        """The mean loss of a batch."""

    def predict(self, logits: Float[np.ndarray, "row output"], classes: tuple[str, ...]) -> Predictions:
        """What a model predicts, from its outputs."""

    def written(self, labels: Sequence[Any], classes: Sequence[str]) -> Sequence[Written]:
        """Labels as a file of predictions says them: the name of a class, several, or a number."""

    def read_back(self, written: Any, classes: Sequence[str]) -> Any:
        """What `written` wrote as a label again, and what is predicted in the form of the first of `predicts`."""

    def calibrated(self, logits: Callable[[], Float[np.ndarray, "row output"]], labels: Sequence[Any]) -> Task:
        """The task with what it takes from held-out rows, such as thresholds; most take nothing.

        Args:
            logits: Gives a model's outputs for these rows.
            labels: Their labels.
        """


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
        return kind(**self.columns)

    @property
    def columns(self) -> dict[str, Any]:
        """The settings that all tasks over labelled texts share."""
        return {one.name: getattr(self, one.name) for one in dataclasses.fields(TextTask)}

    @property
    def text_columns(self) -> dict[str, str]:
        """By setting, the columns of texts."""
        named = ("text_column", "pair_column", "target_column")
        return {name: getattr(self, name) for name in named if getattr(self, name) is not None}

    def faults(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> dict[int, Fault]:
        if use != "ignored" and table.has(self.label_name) and self.label_name in (self.text_column, self.pair_column):
            problem = f"the column {self.label_name!r} of {table.source} would be both the text and its label"
            raise DataError(problem, "name another for the one or the other", "label_column")
        found = text_faults(table, self.text_columns)
        for place, cell in enumerate(self.label_cells(table, use) or ()):
            fault = self.cell_fault(cell) or self.unlike(cell, classes)
            if fault is not None:
                found.setdefault(place, fault)
        return found

    def texts(self, table: Table) -> tuple[Sequence[tuple[str, ...]], Sequence[str] | None]:
        texts = read_texts(table, self.text_columns)
        if self.target_column is None:
            return texts, None
        return Column(texts, lambda text: text[:-1]), Column(texts, lambda text: text[-1])

    @property
    def label_name(self) -> str:
        """The column of the labels."""
        return self.label_column or "label"

    def further(self, table: Table, classes: tuple[str, ...]) -> tuple[str, ...]:
        cells = self.label_cells(table, "required") or ()
        named = {name for cell in cells if self.cell_fault(cell) is None for name in self.named(cell)}
        return tuple(sorted(named - set(classes))) if named & set(classes) else ()

    def cell_fault(self, cell: object) -> Fault | None:
        """Why a cell is no label at all: by default, what is not one string or number."""
        return _label_fault(cell, self.label_name)

    def named(self, cell: object) -> tuple[str, ...]:
        """The classes that a label names; none where the task has no classes."""
        return ()

    def unlike(self, cell: object, classes: tuple[str, ...] | None) -> Fault | None:
        """Why a label that is one string or number is none of this task's; by default all are.

        Args:
            cell: As `label_cells` gives it.
            classes: As for `labels`.
        """
        return None

    def label_cells(self, table: Table, use: LabelUse) -> Sequence[object] | None:
        """The cells of the label column; None where they are not looked at, or may be missing and are.

        Among numbers, words such as NA are gaps.

        Raises:
            DataError: The column is missing.
        """
        column = self.label_name
        if use == "ignored" or (use == "optional" and self.label_column is None and not table.has(column)):
            return None
        cells = table.column(column, "label_column")
        others = (cell for cell in cells if isinstance(cell, str | int | float) and cell not in MAYBE_GAPS)
        first = next(others, None)
        if first is not None and is_number(first) and all(map(is_number, others)):
            return Column(cells, lambda cell: None if isinstance(cell, str) and cell in MAYBE_GAPS else cell)
        return cells

    def equip(self, tokenizer: Any) -> None:
        return None

    def predicted(self, labels: Sequence[int]) -> int:
        raise NotImplementedError(f"{type(self).__name__} learns no tokens")

    def encode(self, data: TextData, tokenizer: Any, max_length: int) -> Sequence[dict[str, Any]]:
        from wheretune.data.tokens import encode

        return encode(data, tokenizer, max_length)

    def calibrated(
        self: TaskOf, logits: Callable[[], Float[np.ndarray, "row output"]], labels: Sequence[Any]
    ) -> TaskOf:
        return self

    def collator(self, tokenizer: Any) -> Collate:
        from wheretune.data.batches import collator

        return collator(tokenizer)


def _label_fault(cell: object, column: str) -> Fault | None:
    """Why a cell is no label of any task."""
    if cell is None:
        return Fault(f"no {column}", "label_column")
    other = written_kind(cell)
    return None if other is None else Fault(f"{other} where one {column} belongs", "label_column")


def task_of(info: DataInfo) -> Task:
    """The task that some data makes."""
    task: Task = catalog.build("task", info.task)
    return task


def brief(task: Task) -> Spec:
    """The spec of a task with the settings that are not those by default."""
    defaults = {one.name: one.default for one in dataclasses.fields(task)}  # type: ignore[arg-type]
    params = {name: value for name, value in Spec.of(task).params.items() if value != defaults[name]}
    return Spec(task.name, params)
