"""One job after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from wheretune.support.executors.base import Job, Result


@dataclass(frozen=True)
class Serial:
    """Runs the jobs in their order."""

    name: ClassVar[str] = "serial"

    def run(self, work: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        for job in jobs:
            yield job, work(job)
