"""Which data, and what was read of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

from wheretune.errors import ConfigError
from wheretune.records.base import Spec, record, require

if TYPE_CHECKING:
    from torch import Tensor

    Batch = dict[str, Tensor]
    Collate = Callable[[list[dict[str, Any]]], Batch]

SEEDS = 2**32  # a seed is a whole number from 0 to below this, as NumPy and Trainer take it


def check_seed(seed: int, field: str = "seed") -> None:
    """Refuses a seed that a generator would not take.

    Raises:
        ConfigError: It is no whole number, below 0 or above 4294967295.
    """
    if not (isinstance(seed, Integral) and 0 <= seed < SEEDS):
        raise ConfigError(f"the seed is {seed}", f"give a whole number from 0 to {SEEDS - 1}", field)


@record
class DataSpec:
    """Which data, and how it is read.

    Attributes:
        source: A local file, several with commas, a pattern such as `data/*.parquet`, `-` for standard input, a folder
            of splits or a hub data set as `place:config:split`, or a word for data in memory.
        task: What is to be learned; its columns and templates are the task's own settings. `auto` asks the data.
        max_samples: At most so many rows, drawn with `seed`; None means all.
        max_length: Tokens a text is cut to; None means what the model can read, at most 512 (or, where it sees, 2048).
        seed: Seed for the draw of `max_samples` rows, and for the order in which `part` takes them.
        bad_rows: What becomes of rows that cannot be used: `refuse` all the data, or `skip` them.
        part: Where a part of the rows begins and ends, as shares of all in a seeded order that spreads the classes
            evenly: (0, 0.1) and (0.1, 1) are a tenth for validation and the rest. None means all.
        streaming: None reads all rows before anything is done with them. A number streams them, which scoring alone
            does: so many are held, and the next is drawn from these with `seed`; 0 keeps the source's order. The
            first `max_samples` of the stream are then taken.
    """

    source: str
    task: Spec = field(default_factory=lambda: Spec("auto"))
    max_samples: int | None = None
    max_length: int | None = None
    seed: int = 0
    bad_rows: Literal["refuse", "skip"] = "refuse"
    part: tuple[float, float] | None = None
    streaming: int | None = None

    def __post_init__(self) -> None:
        if self.part is not None and not 0 <= self.part[0] < self.part[1] <= 1:
            raise ConfigError(f"part is {self.part}", "give two shares from 0 to 1, the lower first", "part")
        for name, value in (("max_samples", self.max_samples), ("max_length", self.max_length)):
            if value is not None and value < 1:
                raise ConfigError(f"{name.replace('_', ' ')} is {value}", "give 1 or more", name)
        if self.streaming is not None and self.streaming < 0:
            raise ConfigError(f"streaming is {self.streaming}", "give 0 or more rows to be held", "streaming")
        check_seed(self.seed)


@record
class Streamed:
    """How far a stream was read.

    Attributes:
        source: What tells the source from another without reading it; see `data.streaming.Stream.identity`.
        whole: Whether its rows were read to the end.
        buffer: How many rows the next one was drawn from; 0 kept the source's order.
    """

    source: str
    whole: bool
    buffer: int

    def __str__(self) -> str:
        order = f"shuffled through a buffer of {self.buffer} rows" if self.buffer else "in its order"
        return f"the stream was read {'to its end' if self.whole else 'in part'}, {order}"


@record
class DataInfo:
    """What was read.

    Attributes:
        spec: How.
        rows: How many; of a stream, how many were read.
        task: The task that the data makes, with its settings; `unlabelled` where no labels were read.
        classes: The names of the classes; none where the task has none.
        hash: SHA-256 over texts and labels; of a stream, over those that were read, in that order.
        left_out: How many rows could not be used.
        stream: How far a stream was read; None where all rows were read first.
    """

    spec: DataSpec
    rows: int
    task: Spec
    classes: tuple[str, ...]
    hash: str
    left_out: int = 0
    stream: Streamed | None = None

    def __post_init__(self) -> None:
        require(self.rows >= 0, f"it has {self.rows} rows")
        require(len(set(self.classes)) == len(self.classes), "a class is named twice")
