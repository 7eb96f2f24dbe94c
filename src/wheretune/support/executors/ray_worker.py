"""What a Ray worker does with one job; it is opened by its name in the worker's process."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wheretune.errors import OutputError, WheretuneError
from wheretune.support.log import log
from wheretune.support.processes import forget_launcher

_kept: dict[str, Callable[[Any], Any]] = {}  # by its digest the work of this process, with all that it has opened


@dataclass(frozen=True)
class Place:
    """Where the jobs were asked for.

    Attributes:
        here: The working directory; relative paths in the work are meant from it.
        token: A file in the folder that all processes share; None where they share none.
    """

    here: str
    token: str | None

    def enter(self) -> str:
        """Works from here in this process as well.

        Returns:
            The version of wheretune.

        Raises:
            OutputError: The shared folder is not the one in which the token was put.
        """
        forget_launcher()
        if self.token is not None and not Path(self.token).is_file():
            problem = f"the folder {Path(self.token).parents[1]} is not shared: {socket.gethostname()} does not see it"
            raise OutputError(problem, "choose a folder that all machines of the cluster share", "output")
        if Path(self.here).is_dir():
            os.chdir(self.here)
        return version("wheretune")


@dataclass(frozen=True)
class Done:
    """What came of a job.

    Attributes:
        result: What the work made of it.
        error: What was refused instead, for the user to mend.
        said: What the rooms had to say meanwhile.
    """

    result: Any
    error: WheretuneError | None
    said: tuple[str, ...]


def do(act: Callable[[], Any]) -> Done:
    """Acts; what the user can mend is handed back like a result, so that Ray takes it for no fault."""
    with _listening() as said:
        try:
            return Done(act(), None, tuple(said))
        except WheretuneError as error:
            return Done(None, error, tuple(said))


def run(place: Place, digest: str, read: Callable[[], bytes], job: Any) -> Done:
    """Does a job by a work that is unpickled once per process.

    Args:
        place: Where it was asked for.
        digest: Of the pickled work.
        read: Fetches the pickled work.
        job: What is to be done.
    """

    def act() -> Any:
        place.enter()
        if digest not in _kept:
            _kept.clear()
            _kept[digest] = pickle.loads(read())
        return _kept[digest](job)

    return do(act)


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What is logged meanwhile."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener()
    log.addHandler(listener)
    try:
        yield said
    finally:
        log.removeHandler(listener)
