"""Asks the data which task it makes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from wheretune.data.cells import kind
from wheretune.errors import ConfigError, DataError
from wheretune.support.log import log
from wheretune.tasks.base import TextTask
from wheretune.tasks.chat import Chat, recognised
from wheretune.tasks.classification import Classification
from wheretune.tasks.generation import Generation
from wheretune.tasks.multi_label import MultiLabel
from wheretune.tasks.next_token import NextToken
from wheretune.tasks.regression import Regression, number
from wheretune.tasks.unlabelled import Unlabelled

if TYPE_CHECKING:
    from wheretune.data.cells import Fault
    from wheretune.data.reading import Table
    from wheretune.tasks.base import Labelled, LabelUse, TaskReader

OF_CHAT = (  # settings that no other task has
    "messages_column", "prompt_column", "completion_column", "instruction_column", "input_column", "output_column",
    "tools_column", "images_column", "turns", "train_on", "chat_template",
)  # fmt: skip
FEW = 20  # rows of which each may have a class of its own
LOOK = 1000  # labels that say whether it pays to look at all
COMMA = re.compile(r"[-+]?\d+,\d+")  # a number with a decimal comma
OF_LANGUAGE = (*OF_CHAT, "source_column", "template", "cut")


@final
@dataclass(frozen=True)
class Auto(TextTask):
    """A regression if every label is a number and some are not whole; multi-label if most are lists of labels.

    All else with labels is a classification.

    Without labels: chat where there are conversations, prompts and completions, or instructions and outputs; generation
    where there are sources and targets, or `source_column` is named.
    With a `template`, labels are said by the next token. The settings are those of the
    tasks; None leaves one open.
    """

    messages_column: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None
    instruction_column: str | None = None
    input_column: str | None = None
    output_column: str | None = None
    tools_column: str | None = None
    images_column: str | None = None
    turns: Literal["all", "last"] | None = None
    train_on: Literal["assistant", "all"] | None = None
    chat_template: str | None = None
    source_column: str | None = None
    template: str | None = None
    cut: Literal["end", "start"] | None = None
    name: ClassVar[str] = "auto"

    def decided(self, table: Table) -> TaskReader:
        kind, why = self._language(table)
        given = {name: getattr(self, name) for name in OF_LANGUAGE if getattr(self, name) is not None}
        if kind is None:
            if given:
                name = next(iter(given))
                raise ConfigError(f"{name} has no effect without a task of language models", "name the task", "task")
            return self
        fields = {one.name for one in dataclasses.fields(kind)}
        if unknown := [name for name in given if name not in fields]:
            raise ConfigError(f"{unknown[0]} is no setting of the task {kind.name}", "leave it out", unknown[0])
        texts = {one.name: getattr(self, one.name) for one in dataclasses.fields(TextTask)}
        shared = {name: value for name, value in texts.items() if name in fields and value is not None}
        log.warning("%s is read for the task %s: it has %s", table.source, kind.name, why)
        made: TaskReader = kind(**shared, **given)
        return made

    def _language(self, table: Table) -> tuple[Any, str]:
        """The task of a language model that the settings or the columns make, and by what; None where none."""
        if self.source_column is not None:
            return Generation, "a source column"
        if any(getattr(self, name) is not None for name in OF_CHAT):
            return Chat, "columns or settings of conversations"
        if self.template is not None:
            return NextToken, "labels and a template"
        labelled = self.label_column is not None or table.has("label")
        texts = self.text_column != "text" or self.pair_column is not None
        return (None, "") if labelled or texts else self._by_columns(table)

    def _by_columns(self, table: Table) -> tuple[Any, str]:
        """`_language` of a table without labels."""
        words = {
            "messages": "conversations",
            "prompt": "prompts and completions",
            "instruction": "instructions and outputs",
        }
        if (found := recognised(table)) is not None:
            return Chat, words[found]
        target = self.target_column or "target"
        both = table.has("source") and table.has(target)
        return (Generation, f"the columns source and {target}") if both else (None, "")

    def faults(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> dict[int, Fault]:
        if use == "required" and self.label_column is None and not table.has(self.label_name):
            alone = set(table.rows[0]) == {self.text_column}  # as of a file of lines: there is no other to be named
            remedy = "name one of them, or the task where there are no labels (text for raw text, chat, generation)"
            raise DataError(
                f"{table.source} has no column {self.label_name!r} (its columns: {table.columns})",
                "let a language model learn the texts (task=text), or give data with labels" if alone else remedy,
                "task" if alone else "label_column",
            )
        if self._lists(table, use):
            return self.become(MultiLabel).faults(table, classes, use)
        if not mostly_fractional(self.label_cells(table, use) or ()):
            return self.become(Classification).faults(table, classes, use)
        found = self.become(Regression).faults(table, classes, use)
        if found:
            log.warning("%s makes a regression, as most labels are numbers; name the task if not", table.source)
        return found

    def _lists(self, table: Table, use: LabelUse) -> bool:
        """Whether more than half of the rows have a list of labels, and some of these are not empty.

        A list that a data frame has written out is not enough: that may be an accident.
        """
        lists: list[Any] = [cell for cell in self.label_cells(table, use) or () if kind(cell) == "a list"]
        return 2 * len(lists) > len(table) and any(len(one) > 0 for one in lists)

    def further(self, table: Table, classes: tuple[str, ...]) -> tuple[str, ...]:
        return self.become(Classification).further(table, classes)

    def labels(self, table: Table, classes: tuple[str, ...] | None, use: LabelUse) -> Labelled:
        cells = self.label_cells(table, use)
        if cells is None:
            return self.become(Unlabelled).labels(table, classes, use)
        if self._lists(table, use):
            read = self.become(MultiLabel).labels(table, classes, use)
            log.warning(
                "the labels of %s are lists, so each text has any of %d labels (task multi-label)",
                table.source, len(read.classes),
            )  # fmt: skip
            return read
        if fractional(cells):
            return self.become(Regression).labels(table, classes, use)
        read = self.become(Classification).labels(table, classes, use)
        commas = [name for name in read.classes if COMMA.fullmatch(name)]
        if 2 * len(commas) > len(read.classes):
            raise DataError(
                f"the labels of {table.source} are numbers with commas, such as {commas[0]}",
                "write points, or name the task (task=classification) or what parts several (label_separator)",
                "task",
            )
        each_its_own = FEW < len(cells) == len(read.classes)
        if each_its_own or len(read.classes) > max(50, len(cells) // 2):
            raise DataError(
                f"{table.source} has {len(read.classes)} different values of {self.label_name} in {len(cells)} rows",
                "name the column of the labels, or say which task it is: regression or classification",
                "label_column",
            )
        return read


def mostly_fractional(cells: Sequence[object]) -> bool:
    """Whether more than half of the cells are numbers, and some of these are not whole.

    The first ones are asked before all are read.
    """
    for some in (islice(cells, LOOK), cells):
        numbers = [number(cell) for cell in some if cell is not None and not isinstance(cell, bool)]
        finite = [one for one in numbers if math.isfinite(one)]
        if 2 * len(finite) <= len(numbers):
            return False
    return any(one != round(one) for one in finite)


def fractional(cells: Sequence[object]) -> bool:
    """Whether all cells are numbers and some of these are not whole."""
    try:
        numbers = [float(str(cell)) for cell in cells if not isinstance(cell, bool)]
    except ValueError:
        return False
    some = any(math.isfinite(number) and number != round(number) for number in numbers)
    return some and len(numbers) == len(cells)
