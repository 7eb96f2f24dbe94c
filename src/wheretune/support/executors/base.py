"""What an executor is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")


@runtime_checkable
class Executor(Protocol):
    """Runs jobs: a frozen object of settings."""

    name: ClassVar[str]

    def run(self, work: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """Every job with what `work` makes of it, each as soon as it is there, in any order.

        Args:
            work: Can be pickled, so that another process can run it. What it opens it keeps for its next job in the
                same process. It does not raise for a job that fails: the result says so. What it does raise ends all.
            jobs: Independent of one another.
        """
