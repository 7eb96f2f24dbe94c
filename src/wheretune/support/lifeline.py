"""Notices that another process of a run has died, or that this one was asked to end, and ends it with one line.

A process that waits for a dead one hears of it at once from gloo, but under NCCL not for minutes, and the main thread,
deep inside a wait, hears no signal. So a thread of its own looks: every process counts up a number of its own in the
store at which they met, and one whose number stands still is dead.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

BEAT = 1.0  # seconds between two looks
DEAD = 40.0  # seconds after which one whose number stands still is dead
LINGERING = 5.0  # seconds that the process with the store waits for the others to hear that the run is over
PATIENCE = 15.0  # seconds that the main thread has to end after Ctrl-C or SIGTERM
ENDED = "give the same command again to go on from what was kept"


class Lifeline:
    """Ends this process when another one of its run has died.

    The first process watches all others, and all others watch it, so that many processes ask no more than they must.

    Args:
        rank: The number of this process.
        size: How many there are.
    """

    def __init__(self, rank: int, size: int) -> None:
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        # a client of our own: one that waits for something would keep the other thread waiting
        client: Any = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False
        )
        self._store = PrefixStore(f"wheretune/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", client)
        self._rank, self._size, self._others = rank, size, range(1, size) if rank == 0 else range(1)
        self._hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        self._speaking, self._lock = False, threading.Lock()
        self._seen: dict[int, tuple[int, float]] = {}
        self._parting = self._stopped = False
        self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)
        self._signals, self._written = os.pipe()
        self._asked: tuple[int, float] | None = None  # by which signal, and until when the main thread may take

    def start(self) -> None:
        """Begins to look. Signals are heard too, if this is the main thread."""
        if threading.current_thread() is threading.main_thread():
            os.set_blocking(self._written, False)
            signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        self._thread.start()

    def part(self) -> None:
        """From now on the others may end: all work is done."""
        self._parting = True

    def stop(self) -> None:
        """Ends the looking."""
        self._stopped = True
        self._thread.join()
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        os.close(self._signals)
        os.close(self._written)

    def may_speak(self) -> bool:
        """Whether this process is the first to ask, and that for the first time; the others then end in silence.

        Where nobody can say any more who was first, the second process may speak.
        """
        with self._lock:
            if self._speaking:
                return False
            self._speaking = True
        try:
            return bool(self._store.add("spoken", 1) == 1)
        except RuntimeError:  # the store was in the first process, which is gone
            return self._rank == 1

    def over(self) -> None:
        """Called when this process is about to end before its work is done."""
        with suppress(RuntimeError):
            ended, until = self._store.add("ended", 1), time.monotonic() + LINGERING
            while self._hosts and ended < self._size and time.monotonic() < until:
                time.sleep(0.1)
                ended = self._store.add("ended", 0)

    def _watch(self) -> None:
        while not self._stopped:
            self._hear()
            try:
                dead = self._look()
            except RuntimeError:
                dead = 0
            if dead is not None and not self._parting:
                self._end(f"process {dead + 1} of this run has ended; {ENDED}", 2)

    def _hear(self) -> None:
        """Waits for a moment, and ends this process if it was asked to and its main thread does not."""
        heard = b""
        if select.select([self._signals], [], [], BEAT)[0]:
            heard = os.read(self._signals, 64)
        asked = [number for number in heard if number in (signal.SIGINT, signal.SIGTERM)]
        if asked and self._asked is None:
            self._asked = asked[0], time.monotonic() + PATIENCE
        if self._asked is not None and time.monotonic() > self._asked[1]:
            self._end(f"this run was asked to end; {ENDED}", 128 + self._asked[0])

    def _look(self) -> int | None:
        """Shows that this process lives, and returns one that does not; ends it if another has said why all end."""
        self._store.add(f"beat/{self._rank}", 1)
        if self._store.add("spoken", 0) and not (self._speaking or self._parting):
            self._quit(2)
        now = time.monotonic()
        for other in self._others:
            beat = self._store.add(f"beat/{other}", 0)
            if beat != self._seen.get(other, (-1, 0.0))[0]:
                self._seen[other] = (beat, now)
            elif now - self._seen[other][1] > DEAD:
                return other
        return None

    def _end(self, why: str, code: int) -> None:
        if self.may_speak():
            with suppress(OSError):
                sys.stderr.write(f"error: {why}\n")
                sys.stderr.flush()
        self._quit(code)

    def _quit(self, code: int) -> None:
        self.over()
        os._exit(code if self._asked is None else 128 + self._asked[0])  # files are written whole or not at all
