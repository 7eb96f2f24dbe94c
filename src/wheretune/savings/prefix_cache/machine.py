"""What a prefix cache asks of the machine: free memory, free disk, the time and a file to write to."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wheretune.support.processes import local_size


def free_memory() -> int:
    """Bytes free on this machine or, where it is less, in the container; of several processes on it each has a part."""
    import psutil

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no container, or none with a limit
        free = min(free, int((group / "memory.max").read_bytes()) - int((group / "memory.current").read_bytes()))
    return max(0, free) // local_size()


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is or will be."""
    there = next(place for place in (folder, *folder.resolve().parents) if place.is_dir())
    return shutil.disk_usage(there).free


def create(path: Path) -> BinaryIO:
    """A new file to write bytes to."""
    return path.open("wb")


@dataclass(frozen=True)
class Machine:
    """The machine as a prefix cache sees it; another one may be handed in.

    Attributes:
        free_memory: Bytes that are free in memory.
        free_disk: Bytes that are free on the disk of a folder.
        now: Seconds on a clock.
        create: Opens a new file.
    """

    free_memory: Callable[[], int] = free_memory
    free_disk: Callable[[Path], int] = free_disk
    now: Callable[[], float] = time.perf_counter
    create: Callable[[Path], BinaryIO] = create
