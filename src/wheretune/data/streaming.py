"""Rows of a source that are read as they are asked for, in its order or shuffled, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune.data.content import STANDARD_INPUT
from wheretune.data.files import class_names, rows_of, with_classes
from wheretune.data.memory import dataset_classes
from wheretune.data.sources import HubData, from_hub, opened
from wheretune.data.spooled import Row
from wheretune.errors import DataError, WheretuneError
from wheretune.support.files import digest
from wheretune.support.words import first_line

if TYPE_CHECKING:
    from wheretune.records.data import DataSpec


@dataclass(frozen=True, eq=False)
class Stream:
    """Rows that are read as they are asked for, anew and in the same order each time that it is iterated.

    Attributes:
        source: What messages call it.
        identity: What tells the source from another without reading it: of a data set of the hub the hash of its files
            and settings (its commit), of files a digest of their names and sizes; empty for data in memory.
        rows: An `IterableDataset` of `datasets`, shuffled where that was asked for.
        classes: By column, the names of its classes, where the source says them.
    """

    source: str
    identity: str
    rows: Any
    classes: Mapping[str, Sequence[str]]

    def __iter__(self) -> Iterator[Row]:
        try:
            yield from with_classes(self.rows, dataset_classes(self.rows))
        except WheretuneError:
            raise
        except Exception as error:  # of the network, or of what stands in a file
            said = f"the stream of {self.source} broke off ({first_line(error)})"
            raise DataError(said, "start again: the pass goes on where it was; or check the source") from error


def stream(spec: DataSpec, rows: Any = None) -> Stream:
    """The source that `spec` names, opened to be streamed.

    Shuffled rows come through a buffer: `spec.streaming` rows are held, the next is drawn from these by `spec.seed`,
    and one more is read in its place. Of several files `datasets` also shuffles the order, and reads several at a time.

    Args:
        spec: Which source, and how many rows are held; 0 keeps its order.
        rows: An `IterableDataset`, where it is in memory and `spec.source` is only a word for it.

    Raises:
        DataError: It does not exist, or cannot be streamed.
    """
    if rows is None:
        identity, rows, classes = _opened(spec.source)
    else:
        identity, classes = "", dataset_classes(rows)
    if spec.streaming:
        rows = rows.shuffle(seed=spec.seed, buffer_size=spec.streaming)
    return Stream(spec.source, identity, rows, classes)


def _opened(source: str) -> tuple[str, Any, Mapping[str, Sequence[str]]]:
    """What tells a source from another, its rows, and the names of its classes."""
    from datasets import IterableDataset

    parts = [part for _, part in opened(source)]
    if STANDARD_INPUT in parts:
        raise DataError("standard input can be read once only, and is not streamed", "give a file", "streaming")
    if all(isinstance(part, str) for part in parts):
        sizes = [[Path(part).name, Path(part).stat().st_size] for part in parts]
        return (
            digest(sizes),
            IterableDataset.from_generator(_of_files, gen_kwargs={"names": parts}),
            class_names(parts[0]),
        )
    if len(parts) > 1:
        raise DataError(f"{source} is several data sets, and one is streamed at a time", "name one", "streaming")
    if isinstance(parts[0], HubData):
        if "[" in parts[0].split:
            raise DataError(f"a stream has no slice ({parts[0].split})", "name the split, and max_samples", "streaming")
        identity, rows = from_hub(parts[0], lambda: _streamed(parts[0]))
    else:
        identity, rows = parts[0]._fingerprint, parts[0].with_format(None).to_iterable_dataset()
    return identity, rows, dataset_classes(rows)


def _streamed(data: HubData) -> tuple[str, Any]:
    """The hash of a data set of the hub, and its rows, of which none is read."""
    from datasets import load_dataset_builder

    builder = load_dataset_builder(data.name, data.config or None)
    return str(builder.hash), builder.as_streaming_dataset(split=data.split)


def _of_files(names: list[str]) -> Iterator[Row]:
    for name in names:
        yield from rows_of(name)
