"""Where cached states lie: in memory or in a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class InMemory:
    """States in a tensor."""

    rows: Tensor

    @classmethod
    def of(cls, computed: Iterable[Tensor], total: int, width: int, dtype: torch.dtype) -> InMemory:
        """All that is computed, in that order."""
        rows, at = torch.empty(total, width, dtype=dtype), 0
        for flat in computed:
            rows[at : at + len(flat)] = flat
            at += len(flat)
        return cls(rows)

    def read(self, spans: Sequence[tuple[int, int]]) -> Tensor:
        """The rows from start to stop of every span, one after the other."""
        return torch.cat([self.rows[start:stop] for start, stop in spans])


@dataclass(frozen=True, eq=False)
class OnDisk:
    """States in a file of raw numbers, mapped anew at every reading, so that what was read does not stay in memory.

    The file stays open: another process may take its name away.
    """

    file: BinaryIO
    width: int
    dtype: torch.dtype

    @classmethod
    def open(cls, path: Path, width: int, dtype: torch.dtype) -> OnDisk:
        """What `_write` wrote."""
        return cls((path / "states.bin").open("rb"), width, dtype)

    def read(self, spans: Sequence[tuple[int, int]]) -> Tensor:
        """The rows from start to stop of every span, one after the other."""
        mapped = np.memmap(self.file, numbers(self.dtype), mode="r").reshape(-1, self.width)
        found = np.concatenate([mapped[start:stop] for start, stop in spans])
        return torch.from_numpy(found).view(self.dtype)


Store = InMemory | OnDisk


def numbers(dtype: torch.dtype) -> Any:
    """The NumPy type that holds the bits of a torch type."""
    return np.float32 if dtype == torch.float32 else np.int16  # NumPy has no bf16: the same bits


@dataclass(frozen=True, eq=False)
class Layout:
    """What is stored of every text.

    First come the states of all its tokens that enter the lowest trained layer (none if no layer trains), then the
    representative token of the states that the head reads below it.

    Attributes:
        first: The lowest trained layer; L if only the head trains.
        layers: L.
        all_layers: Whether the head reads the representative token of every layer.
        width: The hidden size.
    """

    first: int
    layers: int
    all_layers: bool
    width: int

    @property
    def whole(self) -> bool:
        """Whether the states of all tokens are stored."""
        return self.first < self.layers

    @property
    def states(self) -> tuple[int, ...]:
        """The states (i + 1 is what layer i puts out) whose representative token is stored."""
        if self.all_layers:
            return tuple(range(1, self.first + (0 if self.whole else 1)))
        return () if self.whole else (self.first,)

    def rows(self, tokens: int) -> int:
        """How many rows of `width` numbers a text of so many tokens takes."""
        return (tokens if self.whole else 0) + len(self.states)
