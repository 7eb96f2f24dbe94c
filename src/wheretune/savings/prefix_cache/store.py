"""Where cached states lie: in memory or in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from wheretune.savings.prefix_cache.job import FORMAT

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.savings.prefix_cache.machine import Machine

STATES, ABOUT = "states.bin", "cache.json"  # the files of a cache on disk


@dataclass(frozen=True, eq=False)
class InMemory:
    """States in a tensor."""

    rows: Tensor

    @classmethod
    def of(cls, computed: Iterable[Tensor], total: int, width: int, dtype: torch.dtype) -> InMemory:
        """All that is computed, in that order."""
        rows, start = torch.empty(total, width, dtype=dtype), 0
        for flat in computed:
            rows[start : start + len(flat)] = flat
            start += len(flat)
        return cls(rows)

    def read(self, spans: Sequence[tuple[int, int]]) -> Tensor:
        """The rows from start to stop of every span, one after the other."""
        return torch.cat([self.rows[start:stop] for start, stop in spans])

    def close(self) -> None:
        """Ends the reading."""


@dataclass(frozen=True, eq=False)
class OnDisk:
    """States in a file of raw numbers, mapped anew at every reading, so that what was read does not stay in memory.

    The file stays open: another process may take its name away.
    """

    file: BinaryIO
    width: int
    dtype: torch.dtype

    @classmethod
    def open(cls, folder: Path, width: int, dtype: torch.dtype) -> OnDisk:
        """What `write_states` wrote."""
        return cls((folder / STATES).open("rb"), width, dtype)

    def read(self, spans: Sequence[tuple[int, int]]) -> Tensor:
        """The rows from start to stop of every span, one after the other."""
        numbers = np.float32 if self.dtype == torch.float32 else np.int16  # NumPy has no bf16: the same bits
        mapped = np.memmap(self.file, numbers, mode="r").reshape(-1, self.width)
        found = np.concatenate([mapped[start:stop] for start, stop in spans])
        return torch.from_numpy(found).view(self.dtype)

    def close(self) -> None:
        """Ends the reading."""
        self.file.close()


Store = InMemory | OnDisk


def write_states(draft: Path, computed: Iterable[Tensor], dtype: torch.dtype, machine: Machine) -> None:
    """Writes a cache into a new folder: the states' bytes, and their hash with the seconds that they took."""
    draft.mkdir()
    started = machine.now()
    found = hashlib.sha256()
    with machine.create(draft / STATES) as file:
        for flat in computed:
            raw = flat.to("cpu", dtype).contiguous().view(torch.uint8).numpy().tobytes()
            found.update(raw)
            file.write(raw)
    about = {"format": FORMAT, "sha256": found.hexdigest(), "seconds": machine.now() - started}
    (draft / ABOUT).write_text(json.dumps(about), encoding="utf-8")


def seconds_or_fault(folder: Path, size: int) -> float | str:
    """The seconds it took to make a cache of `size` bytes that lies in a folder, or what is wrong with it."""
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        took = float(about["seconds"])
        if about["format"] != FORMAT:
            return "it has another format"
        if (folder / STATES).stat().st_size != size:
            return "it is not of the right size"
        with (folder / STATES).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about["sha256"]:
                return "its content was changed"
    except (OSError, ValueError, KeyError, TypeError):
        return "it cannot be read"
    return took
