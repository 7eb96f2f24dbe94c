"""One scoring pass in several jobs: each reads a shard of the data, and together they give what one pass gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wheretune import catalog
from wheretune.errors import DataError, UnavailableError
from wheretune.session import Session
from wheretune.support.executors.base import Lost, started

if TYPE_CHECKING:
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

    Returns:
        The scores in the order of `scorers`.

    Raises:
        UnavailableError: The process that read a shard was lost each time.
        WheretuneError: Of every other kind, for what the user can mend.
    """
    work = Work(model, data, tuple(scorers), reading, session or Session())
    jobs = [Shard(number, shards) for number in range(1, shards + 1)]
    states = []
    try:
        with started(catalog.build("executor", executor), None, "wheretune.pipeline") as running:
            for shard, state in running.run(work, jobs):
                if isinstance(state, Lost):
                    problem = f"{shard} was not read: {state.why}"
                    raise UnavailableError(problem, "give each job more memory, or more shards")
                states.append(state)
    except DataError as error:
        if error.field != "shard":
            raise
        raise DataError(error.problem, error.remedy, "shards") from error
    from wheretune.scoring.gathered import finish, merge

    return finish(merge(states))
