"""In which order a training reads its rows: pure functions of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, overload, runtime_checkable

import numpy as np
import torch

from wheretune.data.batches import filled

if TYPE_CHECKING:
    from wheretune.data.columns import Places


@runtime_checkable
class Batches(Protocol):
    """The places of the rows of every batch, in the order in which they are read."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[int]]: ...


class Arranged(Sequence[dict[str, Any]]):
    """Rows with the batches in which they are to be read, once, in that order.

    Attributes:
        batches: The places of the rows of every batch.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], batches: Batches) -> None:
        self._rows = rows
        self.batches = batches

    @property
    def late(self) -> bool:
        """Whether a batch may follow from the training before it, so that none is asked for ahead."""
        return not isinstance(self.batches, Sequence)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        found = self._rows[place]
        return dict(found) if isinstance(found, Mapping) else [dict(row) for row in found]


class TokenBatches(torch.utils.data.Sampler[list[int]]):
    """Random batches of like length within a budget of tokens: a pure function of (seed, epoch).

    Every epoch has as many batches as any other, as Trainer expects: which lengths go together is fixed, which of the
    texts of one length is drawn anew, and so is the order of the batches.
    """

    def __init__(self, lengths: Places, tokens: int, seed: int) -> None:
        self.lengths: np.ndarray = np.asarray(lengths)
        self.tokens = tokens
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Trainer calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(filled(self.lengths, self.tokens))

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        batches = filled(self.lengths, self.tokens, random.permutation(len(self.lengths)))
        return (batches[place] for place in random.permutation(len(batches)).tolist())


class Shared(torch.utils.data.Sampler[list[int]]):
    """The share of one process in batches that several read together: every batch is dealt out row by row.

    All processes have as many batches; a share is empty where a batch has fewer rows than there are processes, though
    never that of the first process.

    Args:
        batches: The batches of one process alone, a pure function of (seed, epoch).
        number: Which of the processes, from 0.
        size: How many there are.
    """

    def __init__(self, batches: torch.utils.data.Sampler[list[int]] | list[list[int]], number: int, size: int) -> None:
        self.batches, self._number, self._size = batches, number, size

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[self._number :: self._size] for batch in self.batches)


class EpochBuckets(torch.utils.data.Sampler[int]):
    """Rows in random batches of like length: a pure function of (seed, epoch).

    Transformers' own grouped sampler draws from the global generator, which dropout moves on: two methods
    would see different batches, and a resumed run others than an uninterrupted one. The grouping is theirs
    (`get_length_grouped_indices`), without lists of all rows: random groups of up to 50 batches, a quarter of the rows
    at most, each in the order of its lengths; the longest text of all comes first.
    """

    def __init__(self, lengths: Places, batch_size: int, seed: int) -> None:
        self.lengths: np.ndarray = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Trainer calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        drawn = int(np.random.default_rng([self.seed, self.epoch]).integers(2**63))
        rows = len(self.lengths)
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(drawn)).numpy()
        group = max(min(rows // (self.batch_size * 4), 50), 1) * self.batch_size
        starts = range(0, rows, group)
        for start in starts:
            some = order[start : start + group]
            order[start : start + group] = some[np.argsort(-self.lengths[some], kind="stable")]
        firsts = torch.from_numpy(self.lengths[order[::group]]).long()
        longest = starts[int(torch.argmax(firsts))]  # of several as long the one that theirs takes, not NumPy's
        order[[0, longest]] = order[[longest, 0]]
        return chain.from_iterable(order[start : start + group].tolist() for start in starts)
