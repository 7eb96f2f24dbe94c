"""Which of several processes of one run this one is, and what they tell one another.

torchrun, `accelerate launch` or a cluster start the same command several times. All processes go the same way; what is
decided by looking at a disk or a clock is decided by the first one and told to the others (`from_first`), and the first
one alone writes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from wheretune.errors import ConfigError, OutputError, ProcessError, WheretuneError
from wheretune.support.files import SHOWN, differences
from wheretune.support.lifeline import Lifeline
from wheretune.support.words import first_line

Value = TypeVar("Value")

# torchrun and accelerate, then Intel MPI and MPICH, Open MPI, MVAPICH: in this order accelerate reads them too
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_WORLD_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
_LOCAL_SIZE = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
MEETING = timedelta(minutes=5)  # how long processes wait for one another at the start
LONGEST = timedelta(
    days=1
)  # how long for what one of them computes alone; one that has died is noticed by its lifeline
SHARING = 20.0  # seconds that a file may take to be seen by another machine
LOST = ("by peer", "Broken pipe", "remote process exited", "TCPStore")  # in what torch says of a process that is gone

_joined = False
_lifeline: Lifeline | None = None


def rank() -> int:
    """The number of this process among those that a launcher started, from 0."""
    group = _group()
    return _read(_RANK, 0) if group is None else int(group.get_rank())


def world_size() -> int:
    """How many processes a launcher started; 1 without one."""
    group = _group()
    return _read(_WORLD_SIZE, 1) if group is None else int(group.get_world_size())


def local_rank() -> int:
    """The number of this process among those on the same machine, from 0."""
    return _read(_LOCAL_RANK, 0)


def local_size() -> int:
    """How many of the processes run on this machine."""
    return _read(_LOCAL_SIZE, 1)


def is_main() -> bool:
    """Whether this process shows the progress and speaks to the user."""
    return rank() == 0


def part() -> tuple[int, int]:
    """Which of how many processes that act together this one is, from 0: (0, 1) unless it has joined others.

    Processes of a user's own script, which a launcher started for another purpose, each act alone.
    """
    return (rank(), world_size()) if _joined else (0, 1)


def writes() -> bool:
    """Whether this process writes the files: it is alone, or the first of those that act together."""
    return part()[0] == 0


def check_one_process() -> None:
    """Refuse to run as one of several processes.

    Raises:
        ConfigError: A launcher started several.
    """
    if world_size() > 1:
        raise ConfigError(
            f"started as {world_size()} processes, and several would do the same work",
            "start one process; tune, run and score can be several",
        )


def forget_launcher() -> None:
    """Leaves aside what a launcher (srun, mpirun) told the processes of which this one is a descendant."""
    for name in (*_RANK, *_WORLD_SIZE):
        os.environ.pop(name, None)


# --- meeting and parting --------------------------------------------------------------------------


def join() -> None:
    """Waits until all processes of the run are here; from then on they act together, and the death of one ends all.

    Does nothing in a process that is alone or has joined. A process group that somebody else made is taken as it is.

    Raises:
        ConfigError: Where the others are is not said.
        ProcessError: They do not come.
    """
    global _joined, _lifeline
    if _joined or world_size() == 1:
        return
    if _group() is not None:
        _joined = True
        return
    if not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ConfigError(
            f"started as {world_size()} processes that know nothing of one another (there is no MASTER_ADDR)",
            "start them with torchrun or accelerate launch",
        )
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else stacks of C++ are printed when another process ends
    import torch
    from torch import distributed

    size, own = world_size(), rank()
    on_gpu = torch.cuda.is_available() and distributed.is_nccl_available()
    if torch.cuda.is_available() and local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    try:
        store, _, _ = next(iter(torch.distributed.rendezvous("env://", own, size, timeout=MEETING)))  # type: ignore[attr-defined]
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=own, world_size=size, timeout=LONGEST
        )
    except (RuntimeError, ValueError) as error:
        raise ProcessError(
            f"process {own + 1} of {size} did not find the others ({first_line(error)})", "start all of them"
        ) from error
    _joined, _lifeline = True, Lifeline(own, size)
    _lifeline.start()


def leave() -> None:
    """Parts from the other processes, all of which have done their work."""
    global _joined, _lifeline
    if _lifeline is None:
        _joined = False
        return
    _lifeline.part()
    barrier()
    _lifeline.stop()
    barrier()  # nobody looks any more when the first process goes, and the store with it
    _joined, _lifeline = False, None
    import torch.distributed

    torch.distributed.destroy_process_group()


def may_speak() -> bool:
    """Whether this process is the one that tells the user why the run ends: the first that asks."""
    return is_main() if _lifeline is None else _lifeline.may_speak()


def over() -> None:
    """Lets the others hear that this process is about to end before its work is done."""
    if _lifeline is not None:
        _lifeline.over()


# --- what they tell one another -------------------------------------------------------------------


@contextmanager
def talking() -> Iterator[None]:
    """Inside, processes exchange something.

    Raises:
        ProcessError: One of them is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() > 1 and any(word in str(error) for word in LOST):
            raise gone() from error
        raise


def gone() -> ProcessError:
    """What to say when another process has ended."""
    return ProcessError(
        "another process of this run has ended", "give the same command again to go on from what was kept"
    )


def barrier() -> None:
    """Waits until every process is here; returns at once if there is one alone."""
    gathered(None)


def gathered(own: Value) -> list[Value]:
    """What every process has, in their order; all of them must ask."""
    size = part()[1]
    if size == 1:
        return [own]
    from torch import distributed

    found: list[Any] = [None] * size
    with talking():
        distributed.all_gather_object(found, own)
    return found


def from_first(work: Callable[[], Value]) -> Value:
    """What `work` gives in the first process, which alone does it; all of them must ask.

    Raises:
        WheretuneError: It raised one, in every process.
    """
    if part()[1] == 1:
        return work()
    from torch import distributed

    outcome: list[Any] = [None, None]
    if writes():
        try:
            outcome[0] = work()
        except WheretuneError as error:
            outcome[1] = type(error), (error.problem, error.remedy, error.field)
    with talking():
        distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        kind, said = outcome[1]
        raise kind(*said)
    found: Value = outcome[0]
    return found


def check_alike(settings: Mapping[str, Any]) -> None:
    """Makes sure that all processes were started for the same thing; all of them must ask.

    Args:
        settings: What for, as JSON has it.

    Raises:
        ConfigError: One differs from the first.
    """
    here = list(differences(from_first(lambda: settings), settings))[:SHOWN]
    for other, found in enumerate(gathered(here)):
        if found:
            raise ConfigError(
                f"process {other + 1} of {part()[1]} was started for another run than process 1 ({'; '.join(found)})",
                "give all of them the same command",
            )


def check_sees(path: Path) -> None:
    """Makes sure that every process sees a file that the first one has written; all of them must ask.

    Raises:
        OutputError: One does not.
    """
    if part()[1] == 1:
        return
    until = time.monotonic() + SHARING
    while not path.is_file() and time.monotonic() < until:
        time.sleep(0.1)
    for other, sees in enumerate(gathered(path.is_file())):
        if not sees:
            raise OutputError(
                f"process {other + 1} of {world_size()} does not see {path}, which process 1 has written",
                "give a folder that all machines share",
                "output",
            )


def _group() -> Any:
    """`torch.distributed` if it has been initialised; torch is not opened to find out."""
    distributed = sys.modules.get("torch.distributed")
    return (
        distributed if distributed is not None and distributed.is_available() and distributed.is_initialized() else None
    )


def _read(names: tuple[str, ...], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), otherwise)
