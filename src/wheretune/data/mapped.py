"""Record batches of Arrow's in a file without a name, read through a memory map."""

from __future__ import annotations

import mmap
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from wheretune.support.files import refusal

if TYPE_CHECKING:
    import pyarrow
    from jaxtyping import Int

READS = 64  # after which what was read is dropped from memory
BLOCK = 2**22  # bytes that are copied at once


class MappedBatches:
    """Record batches on disk, of which little is in memory at any time.

    A page that was read counts as the process's own until the system needs room. So it is dropped every so often; the
    system still has it at hand.

    Args:
        file: Where they are written; it may be closed and removed afterwards.

    Attributes:
        batches: What was written, where it lies in the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        import pyarrow
        from pyarrow import ipc

        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._reads = 0
        reader = ipc.open_file(pyarrow.py_buffer(self._map))
        self.batches = []
        for place in range(reader.num_record_batches):
            self.let_go()
            self.batches.append(reader.get_batch(place))
        self._ends = list(accumulate(batch.num_rows for batch in self.batches))

    @classmethod
    def written(cls, batches: Iterable[pyarrow.RecordBatch], schema: pyarrow.Schema) -> MappedBatches:
        """Batches in a file without a name.

        Raises:
            OutputError: There is no room on the disk.
        """
        from pyarrow import ipc

        try:
            with tempfile.TemporaryFile(prefix="wheretune-") as file:
                with ipc.new_file(file, schema) as writer:
                    for batch in batches:
                        writer.write_batch(batch)
                file.flush()
                return cls(file)
        except OSError as error:
            raise refusal(Path(tempfile.gettempdir()), error, "name another folder (TMPDIR)") from error

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self._map)

    def content(self) -> Iterator[bytes]:
        """The bytes of the file, some at a time."""
        for start in range(0, len(self._map), BLOCK):
            yield self._map[start : start + BLOCK]
            self._drop()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def find(self, place: int) -> tuple[int, int]:
        """In which batch a row lies, and where there.

        Raises:
            IndexError: There is no such row.
        """
        wanted = range(len(self))[place]
        number = bisect_right(self._ends, wanted)
        self.let_go()
        return number, wanted - (self._ends[number - 1] if number else 0)

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """The batches in which some rows lie, and where there."""
        while start < stop:
            number, here = self.find(start)
            first = start - here
            end = min(stop, self._ends[number])
            yield number, slice(here, end - first)
            start = end

    def let_go(self) -> None:
        """Counts a read, and drops from memory what was read before if it is time."""
        self._reads += 1
        if self._reads % READS == 0:
            self._drop()

    def _drop(self) -> None:
        if (advice := getattr(mmap, "MADV_DONTNEED", None)) is not None:
            self._map.madvise(advice)


# `pyarrow.array` opens pandas, which takes more memory than all that is written here.


def numbers(values: Any, kind: pyarrow.DataType) -> pyarrow.Array:
    """An array of numbers of a kind that lie in a buffer of Python's."""
    import pyarrow

    return pyarrow.Array.from_buffers(kind, len(values), [None, pyarrow.py_buffer(values)])


def lists(values: pyarrow.Array, sizes: Iterable[int]) -> pyarrow.Array:
    """An array of lists of such sizes, one after the other."""
    import pyarrow

    edges = pyarrow.py_buffer(_edges(sizes).astype(np.int32))
    return pyarrow.Array.from_buffers(pyarrow.list_(values.type), edges.size // 4 - 1, [None, edges], children=[values])


def strings(texts: Iterable[str]) -> pyarrow.Array:
    """An array of texts."""
    import pyarrow

    every = [text.encode() for text in texts]
    buffers = [None, pyarrow.py_buffer(_edges(map(len, every))), pyarrow.py_buffer(b"".join(every))]
    return pyarrow.Array.from_buffers(pyarrow.large_string(), len(every), buffers)


def _edges(sizes: Iterable[int]) -> Int[np.ndarray, " edge"]:
    """Where each of some things of such sizes begins, one after the other, and where the last ends."""
    return np.cumsum([0, *sizes], dtype=np.int64)
