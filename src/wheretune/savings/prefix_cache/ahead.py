"""The states of the next batch are read by a thread while the batch before it trains."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.savings.prefix_cache.texts import Key


@dataclass(frozen=True, eq=False)
class _Reading:
    """A batch whose states are being read by a thread of its own."""

    keys: list[Key]
    thread: ThreadPoolExecutor
    states: Future[Tensor | None]

    def ended(self) -> Tensor | None:
        """The states, once the thread has ended."""
        with self.thread:
            return self.states.result()


class ReadAhead:
    """Reads the states of one announced batch at a time, in a thread that ends with it.

    A loader announces batches in the order in which they train, and asks for one before the one before it trains. What
    was not announced is not read here, so an order that was guessed wrong costs time and changes nothing.
    """

    def __init__(self) -> None:
        self._read: Callable[[list[Key]], Tensor | None] | None = None
        self._announced: deque[list[Key]] = deque()
        self._reading: _Reading | None = None

    def begin(self, read: Callable[[list[Key]], Tensor | None]) -> None:
        """From now on `read` gives the states of a batch by its keys, or None where it has not got all."""
        self.end()
        self._read = read

    def announce(self, keys: list[Key]) -> None:
        """Another batch will train, after those that were announced before."""
        if self._read is not None:
            self._announced.append(keys)
            self._go_on()

    def take(self, keys: list[Key]) -> Tensor | None:
        """The states of the batch that trains now, if they were read ahead; then the next one is read.

        Raises:
            OSError: They could not be read.
        """
        if keys not in self._announced:
            return None
        while self._announced.popleft() != keys:
            pass  # a batch that did not train
        reading, self._reading = self._reading, None
        states = None if reading is None else reading.ended()
        self._go_on()
        return states if reading is not None and reading.keys == keys else None

    def forget(self) -> None:
        """Nothing of what was announced will be taken."""
        self._announced.clear()
        reading, self._reading = self._reading, None
        if reading is not None:
            with suppress(Exception):  # what nobody takes may fail
                reading.ended()

    def end(self) -> None:
        """Reads no more; what is being read has ended by then."""
        self._read = None
        self.forget()

    def _go_on(self) -> None:
        if self._read is not None and self._reading is None and self._announced:
            thread = ThreadPoolExecutor(1, thread_name_prefix="prefix-cache")
            self._reading = _Reading(self._announced[0], thread, thread.submit(self._read, self._announced[0]))
            thread.shutdown(wait=False)  # it ends when it has read
