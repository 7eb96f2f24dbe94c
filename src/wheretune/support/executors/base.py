"""What an executor is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Lost:
    """In place of a result: the process that worked on the job went away, each time it was tried.

    Attributes:
        why: What is known of it, in one line.
    """

    why: str


@runtime_checkable
class Executor(Protocol):
    """Runs jobs: a frozen object of settings."""

    name: ClassVar[str]

    def run(self, work: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result | Lost]]:
        """Every job with what `work` makes of it, each as soon as it is there, in any order.

        Args:
            work: Can be pickled, so that another process can run it. What it opens it keeps for its next job in the
                same process. It does not raise for a job that fails: the result says so. What it does raise ends all.
            jobs: Independent of one another.
        """


@runtime_checkable
class Starting(Protocol):
    """An executor that has something to start before its first job, and to end after its last."""

    def started(self, folder: Path | None, opens: str | None) -> AbstractContextManager[Executor]:
        """What runs the jobs while the context lasts; what cannot be had is refused at its beginning.

        Args:
            folder: What every process has to see, because the jobs write there; None where they write nothing.
            opens: A module that every job needs and that takes its time; processes may open it before their first job.

        Raises:
            WheretuneError: Something is not there, or the folder is not seen everywhere.
        """


def started(executor: Executor, folder: Path | None, opens: str | None = None) -> AbstractContextManager[Executor]:
    """An executor that is ready to run jobs while the context lasts; see `Starting`."""
    return executor.started(folder, opens) if isinstance(executor, Starting) else nullcontext(executor)
