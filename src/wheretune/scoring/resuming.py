"""A pass that is interrupted goes on: what it has gathered so far is written down every so often, whole or not at all.

The file has the format of a shard, and says beside it how far the pass is. Sums go on from the very numbers that they
had, over the very batches that are left, so an interrupted pass ends in the scores of one that was not. The file goes
when the scores are written (`kept_beside`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from wheretune.errors import ConfigError, OutputError
from wheretune.records.base import Spec, from_json, to_json
from wheretune.records.scores import Settlement
from wheretune.scorers.sums import Moments
from wheretune.scoring.gathered import PassState, common
from wheretune.scoring.reading import START, Place
from wheretune.scoring.shards import UNREADABLE, pack, packed, read_packed, unpack, unpacked, write_packed
from wheretune.support.files import sweep
from wheretune.support.log import log
from wheretune.support.processes import part

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.scorers.base import Scorer

SHARE = 0.05  # of the time that writing may take, where the states are large
UNFINISHED = "-unfinished.safetensors"
KEY = "wheretune.unfinished pass"
PHASES = ("standardising", "scoring", "scoring by gradients")


@dataclass(frozen=True)
class Keep:
    """Where and how often an unfinished pass is written down.

    Attributes:
        path: The file of one process; of several each has one of its own beside it.
        every: Seconds from one write to the next, or more where writing takes more than `SHARE` of the time.
        clock: Says the time in seconds.
    """

    path: Path
    every: float = 30.0
    clock: Callable[[], float] = time.monotonic

    @property
    def file(self) -> Path:
        """The file of this process."""
        number, size = part()
        return self.path if size == 1 else self.path.with_stem(f"{self.path.stem}-{number + 1}-of-{size}")


@contextmanager
def kept_beside(target: Path) -> Iterator[Keep | None]:
    """Where a pass is kept whose scores are written to `target` inside: beside it. The file goes once they are there.

    Yields:
        None where that is no place for a file.
    """
    if target.exists() and not target.is_file():  # /dev/null, a pipe
        yield None
        return
    keep = Keep(target.with_name(f"{target.stem}{UNFINISHED}"))
    yield keep
    keep.file.unlink(missing_ok=True)


@dataclass(eq=False)
class Going:
    """A pass that goes on: what it has gathered, and how far it is.

    Attributes:
        about: The pass, with nothing gathered.
        scorers: All that are asked for, also those whose phase has not begun.
        settings: What ends the pass early, in words; another one is another pass.
        keep: Where it is written down; None writes nothing.
        started: When it began, by `time.perf_counter`; the time before an interruption is taken off.
        states: What has been gathered, by scorer.
        settlement: What was last said of the choice.
        phase: Which of `PHASES` it is in; those before are over.
        place: What that phase has read.
        moments: What the states are standardised by.
        watch: What its watch had seen when it was written down.
        due: When it is to be written down next, by the clock of `keep`.
    """

    about: PassState
    scorers: Sequence[Scorer]
    settings: str
    keep: Keep | None
    started: float
    states: dict[Scorer, Any] = field(default_factory=dict)
    settlement: Settlement | None = None
    phase: str = PHASES[0]
    place: Place = START
    moments: Moments | None = None
    watch: dict[str, Any] = field(default_factory=dict)
    due: float = 0.0

    @classmethod
    def of(cls, about: PassState, scorers: Sequence[Scorer], settings: str, keep: Keep | None, started: float) -> Going:
        """A pass that begins, or goes on from what was kept of the same pass; after another one it starts over."""
        fresh = cls(about, scorers, settings, keep, started)
        if keep is None:
            return fresh
        fresh.due = keep.clock() + keep.every
        file = keep.file
        sweep(file.parent, file.name)
        if not file.is_file():
            return fresh
        try:
            found = fresh._read(file)
        except ConfigError as error:
            log.warning("the pass starts over: %s", error.problem)
            return fresh
        log.warning("the pass goes on after %d texts, from %s", found.place.samples, file)
        return found

    def _read(self, path: Path) -> Going:
        """What was kept of this pass.

        Raises:
            ConfigError: It cannot be read, or is of another pass.
        """
        content, tensors = read_packed(path, KEY)
        try:
            more = content["unfinished"]
            asked = [to_json(Spec.of(scorer)) for scorer in self.scorers]
            theirs = [self.scorers[asked.index(spec)] for spec in content["scorers"] if spec in asked]
            if more["scorers"] != asked:
                raise ConfigError(f"{path} is of another pass (scorers)", "remove it")
            there = unpacked(content, tensors, str(path), theirs)
            ours = _about(self.about, self.settings)
            differs = [name for name, value in _about(there, more["settings"]).items() if ours[name] != value]
            if differs:
                raise ConfigError(f"{path} is of another pass ({differs[0]})", "remove it")
            if there.versions != self.about.versions:
                log.warning("%s was made with other versions of packages", path)
            settled = None if more["settlement"] is None else from_json(Settlement, more["settlement"], str(path))
            return replace(
                self,
                states=there.states,
                settlement=settled,
                phase=PHASES[PHASES.index(more["phase"])],
                place=Place(*map(int, more["place"])),
                moments=unpack(more["moments"], tensors, {Moments.__name__: Moments}),
                watch=unpack(more["watch"], tensors, {}),
                started=self.started - there.seconds,
            )
        except UNREADABLE as error:
            raise ConfigError(f"{path} is not what a pass wrote", "remove it") from error

    @property
    def seconds(self) -> float:
        """How long the pass took, before it was interrupted and since."""
        return time.perf_counter() - self.started

    @contextmanager
    def during(self, phase: str) -> Iterator[Place | None]:
        """A phase, with the place from which it reads on; None where it is over."""
        if PHASES.index(self.phase) > PHASES.index(phase):
            yield None
            return
        if self.phase != phase:
            self.phase, self.place = phase, START
        yield self.place
        self.phase, self.place = PHASES[min(PHASES.index(phase) + 1, len(PHASES) - 1)], START

    def at(self, place: Place, watch: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Notes that all before `place` is gathered, and writes it down if it is time."""
        self.place = place
        if self.keep is None or self.keep.clock() < self.due:
            return
        self.watch = dict(watch)
        began = self.keep.clock()
        try:
            self._write()
        except OutputError as error:
            log.warning("what the pass has gathered is not kept: %s", error.problem)
            self.keep = None
            return
        now = self.keep.clock()
        self.due = now + max(self.keep.every, (now - began) / SHARE)

    def _write(self) -> None:
        assert self.keep is not None
        place = self.place
        state = replace(
            self.about,
            states=self.states,
            n_samples=place.samples,
            tokens=place.tokens,
            learned=place.learned,
            seconds=self.seconds,
        )
        content, tensors = packed(state)
        content["unfinished"] = self._content(tensors)
        write_packed(self.keep.file, KEY, content, tensors)

    def _content(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        settlement, place = self.settlement, self.place
        return {
            "scorers": [to_json(Spec.of(scorer)) for scorer in self.scorers],
            "settings": self.settings,
            "phase": self.phase,
            "place": [place.chunks, place.batches, place.samples, place.tokens, place.learned],
            "moments": pack(self.moments, tensors),
            "watch": pack(self.watch, tensors),
            "settlement": None if settlement is None else to_json(settlement),
        }


def _about(state: PassState, settings: str) -> dict[str, Any]:
    about = {**common(state), "shard": state.shard, "when its choice is settled": settings}
    del about["scorers"]  # of those whose phase has not begun there is nothing yet
    return about
