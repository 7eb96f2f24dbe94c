"""One scoring pass in several jobs: each reads a shard of the data, and together they give what one pass gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wheretune import catalog
from wheretune.errors import DataError, OutputError, UnavailableError
from wheretune.records.base import to_json
from wheretune.session import Session
from wheretune.support.executors.base import Lost, started
from wheretune.support.files import digest
from wheretune.support.log import log

if TYPE_CHECKING:
    from pathlib import Path

    from wheretune.records.base import Spec
    from wheretune.records.data import DataSpec
    from wheretune.records.model import ModelSpec
    from wheretune.records.scores import LayerScores, Reading
    from wheretune.scoring.gathered import PassState


@dataclass(frozen=True)
class Shard:
    """One part of the data.

    Attributes:
        number: Which, counted from 1.
        of: How many there are.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"shard {self.number} of {self.of}"


@dataclass(frozen=True, eq=False)
class Work:
    """Reads shards in one process, which opens model and data once; another process opens its own.

    Attributes:
        model: Which model.
        data: All the data.
        scorers: Those that share the pass.
        reading: How the texts are read.
        session: What this process has opened.
    """

    model: ModelSpec
    data: DataSpec
    scorers: tuple[Spec, ...]
    reading: Reading
    session: Session = field(default_factory=Session)

    def __call__(self, shard: Shard) -> PassState:
        """What the pass over a shard has gathered."""
        from wheretune.scoring.by_name import pass_over

        made = [catalog.build("scorer", spec) for spec in self.scorers]
        place = (shard.number, shard.of)
        return pass_over(self.model, self.data, made, self.reading, session=self.session, shard=place)

    @property
    def asked(self) -> str:
        """What pass this is, as far as it is known before the model is opened, as a digest."""
        needs = {need for spec in self.scorers for need in catalog.find("scorer", spec.name).card.needs}
        scorers, texts = list(map(to_json, self.scorers)), self.session.texts(self.data, needs)
        asked = (to_json(self.model), to_json(self.data), texts.info.hash, scorers, to_json(self.reading))
        return digest(asked)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "session": Session()}  # a model is opened where it is used


def score(
    model: ModelSpec,
    data: DataSpec,
    scorers: Sequence[Spec],
    reading: Reading,
    shards: int,
    executor: Spec,
    *,
    session: Session | None = None,
    kept: Path | None = None,
) -> list[LayerScores]:
    """Scores the layers in jobs.

    Args:
        model: Which model.
        data: The data.
        scorers: Any number, none of which trains.
        reading: How the texts are read.
        shards: How many jobs there are.
        executor: What runs them.
        session: What is open already.
        kept: A folder for finished shards; those of the same pass that lie there are not read again. Whoever has
            written the scores removes it.

    Returns:
        The scores in the order of `scorers`.

    Raises:
        UnavailableError: The process that read a shard was lost each time.
        WheretuneError: Of every other kind, for what the user can mend.
    """
    from wheretune.scoring.gathered import finish, merge

    work = Work(model, data, tuple(scorers), reading, session or Session())
    jobs = [Shard(number, shards) for number in range(1, shards + 1)]
    found = _Found.of(work, jobs, kept)
    try:
        with started(catalog.build("executor", executor), None, "wheretune.pipeline") as running:
            while missing := [job for job in jobs if job not in found.states]:
                for shard, state in running.run(work, missing):
                    if isinstance(state, Lost):
                        problem = f"{shard} was not read: {state.why}"
                        raise UnavailableError(problem, "give each job more memory, or more shards")
                    found.add(shard, state)
    except DataError as error:
        if error.field != "shard":
            raise
        raise DataError(error.problem, error.remedy, "shards") from error
    return finish(merge([found.states[job] for job in jobs]))


@dataclass(frozen=True, eq=False)
class _Found:
    """What shards have given so far.

    Attributes:
        states: By shard.
        folder: Where they are kept; None keeps none.
        asked: What pass they are of: all that is known of it before the model is opened.
    """

    states: dict[Shard, PassState]
    folder: Path | None
    asked: str

    @classmethod
    def of(cls, work: Work, jobs: Sequence[Shard], folder: Path | None) -> _Found:
        """Nothing, or what was kept of the same pass."""
        if folder is None or not folder.is_dir():
            return cls({}, folder, work.asked if folder is not None else "")
        from wheretune.scoring.shards import kept_shard

        asked = work.asked
        there = {job: kept_shard(_file(folder, job), asked) for job in jobs}
        states = {job: state for job, state in there.items() if state is not None}
        if states:
            log.warning("%d of %d shards were read before, and lie in %s", len(states), len(jobs), folder)
        return cls(states, folder, asked)

    def add(self, shard: Shard, state: PassState) -> None:
        """One more; those of before go if they are of a model that has changed since."""
        from wheretune.scoring.shards import keep_shard

        for other, there in list(self.states.items()):
            if there.info.hash != state.info.hash:
                del self.states[other]
        self.states[shard] = state
        if self.folder is not None:
            try:
                keep_shard(state, _file(self.folder, shard), self.asked)
            except OutputError as error:
                log.warning("%s is not kept: %s", shard, error.problem)


def _file(folder: Path, shard: Shard) -> Path:
    return folder / f"shard-{shard.number}-of-{shard.of}.safetensors"


@contextmanager
def kept_beside(target: Path) -> Iterator[Path | None]:
    """A folder for finished shards beside the file that scores are written to inside.

    They go once the scores are there, or where the data is refused; a lost shard, a full disk and a stop leave them.

    Yields:
        None where that is no place for a folder.
    """
    if target.exists() and not target.is_file():  # /dev/null, a pipe
        yield None
        return
    folder = target.with_name(f"{target.stem}-unfinished")
    try:
        yield folder
    except DataError:
        _remove(folder)
        raise
    _remove(folder)


def _remove(folder: Path) -> None:
    """Removes finished shards, and their folder unless something else lies there."""
    for file in folder.glob("shard-*-of-*.safetensors"):
        file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
