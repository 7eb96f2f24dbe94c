"""Which of several processes this one is."""

from __future__ import annotations

import os
import sys
from typing import Any

from wheretune.errors import ConfigError

# torchrun and accelerate, then Intel MPI and MPICH, Open MPI, MVAPICH: in this order accelerate reads them too
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_WORLD_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def rank() -> int:
    """The number of this process among those that a launcher started, from 0."""
    group = _group()
    return _read(_RANK, 0) if group is None else int(group.get_rank())


def world_size() -> int:
    """How many processes a launcher started; 1 without one."""
    group = _group()
    return _read(_WORLD_SIZE, 1) if group is None else int(group.get_world_size())


def is_main() -> bool:
    """Whether this process writes the files and shows the progress."""
    return rank() == 0


def barrier() -> None:
    """Waits until every process is here; returns at once if there is one alone."""
    if world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


def check_one_process() -> None:
    """Refuse to run as one of several processes.

    Raises:
        ConfigError: A launcher started several.
    """
    if world_size() > 1:
        raise ConfigError(
            f"started as {world_size()} processes", "start one process: several would write the same files"
        )


def forget_launcher() -> None:
    """Leaves aside what a launcher (srun, mpirun) told the processes of which this one is a descendant."""
    for name in (*_RANK, *_WORLD_SIZE):
        os.environ.pop(name, None)


def _group() -> Any:
    """`torch.distributed` if it has been initialised; torch is not opened to find out."""
    distributed = sys.modules.get("torch.distributed")
    return (
        distributed if distributed is not None and distributed.is_available() and distributed.is_initialized() else None
    )


def _read(names: tuple[str, ...], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), otherwise)
