"""Which data, and what was read of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from wheretune.records.base import record

if TYPE_CHECKING:
    from torch import Tensor

    Batch = dict[str, Tensor]
    Collate = Callable[[list[dict[str, Any]]], Batch]

Task = Literal["classification", "regression", "unlabelled"]


@record
class DataSpec:
    """Which data, and how it is read.

    Attributes:
        source: A local file, a hub data set as `name:config:split`, or a word for data in memory.
        text_column: The column with the (first) text.
        pair_column: The column with the second text of a pair.
        label_column: The column with the label; None means `label` if there is one.
        task: `auto` decides from the labels.
        max_samples: At most so many rows, drawn with `seed`; None means all.
        max_length: Tokens a text is cut to; None means what the model can read, at most 512.
        seed: Of the draw of `max_samples` rows.
        target_column: The column whose text follows; its first token is what a language model should say next.
        verbalizer: By class the word that a language model should say next; None takes the class's name.
    """

    source: str
    text_column: str = "text"
    pair_column: str | None = None
    label_column: str | None = None
    task: Literal["auto", "classification", "regression"] = "auto"
    max_samples: int | None = None
    max_length: int | None = None
    seed: int = 0
    target_column: str | None = None
    verbalizer: dict[str, str] | None = None


@record
class DataInfo:
    """What was read: the spec, the task it makes, its classes, its rows and a hash of its content."""

    spec: DataSpec
    rows: int
    task: Task
    classes: tuple[str, ...]
    hash: str
