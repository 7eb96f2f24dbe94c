"""What cannot be scored in one pass, said before the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wheretune.errors import ConfigError, DataError, ScoreError
from wheretune.scorers.base import GradientScorer, StackScorer, StreamScorer, TrainingScorer
from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.records.scores import Reading


def check(data: TextData, scorers: Sequence[Any], reading: Reading, settling: bool, shard: tuple[int, int]) -> None:
    """Refuses scorers and settings that do not go together.

    Args:
        data: The texts.
        scorers: What is offered as scorers.
        reading: How the texts are to be read.
        settling: Whether the pass is to stop as soon as a choice is settled.
        shard: Which of how many shards, counted from 1.

    Raises:
        ConfigError: Settings that do not go together, or a scorer that trains.
        DataError: A scorer needs labels and there are none.
        ScoreError: What is no scorer.
    """
    for scorer in scorers:
        _check_scorer(scorer)
    if (
        data.labels is None
        and task_of(data.info).places == "one"
        and any(isinstance(scorer, GradientScorer) for scorer in scorers)
    ):
        raise DataError(
            f"{data.info.spec.source} has no labels, and a gradient needs a loss",
            "name the label column",
            "label_column",
        )
    if reading.pooling == "targets" and task_of(data.info).places == "one":
        raise ConfigError(f"{task_of(data.info).name} has no target tokens to read", "take token or mean", "pooling")
    if shard != (1, 1) and data.info.spec.streaming is not None:
        raise ConfigError("a stream is read from its beginning, and has no shards", "drop one", "streaming")
    _check_shard(*shard, needs_whole="until_settled" if settling else "standardise" if reading.standardise else None)
    if settling:
        _check_settling(scorers, reading)
    if reading.standardise:
        _check_standardising(scorers)


def _check_scorer(offered: Any) -> None:
    if isinstance(offered, TrainingScorer):
        raise ConfigError(
            f"{offered.name} trains, which one pass over the data does not", "run it by itself (trials.score)", "scorer"
        )
    if not isinstance(offered, StackScorer | StreamScorer | GradientScorer) or type(offered).__hash__ is None:
        raise ScoreError(
            f"{type(offered).__name__} is no scorer: it needs name, card, kinds, reduction (or per_sample), init, "
            "update, merge and finish, or name, card and score, in a frozen dataclass",
            "see docs/scorers.md",
        )


def _check_shard(number: int, shards: int, needs_whole: str | None) -> None:
    if not 1 <= number <= shards:
        raise ConfigError(f"there is no shard {number}/{shards}", "give i/n with i from 1 to n", "shard")
    if shards > 1 and needs_whole is not None:
        raise ConfigError(f"a shard is a part of the data, and {needs_whole} needs the whole", "drop one", needs_whole)


def _check_settling(scorers: Sequence[Any], reading: Reading) -> None:
    if len(scorers) != 1 or not isinstance(scorers[0], StreamScorer):
        raise ConfigError(
            "a pass can stop early for one scorer that reads states, and no other", "name one scorer", "until_settled"
        )
    if reading.standardise:
        raise ConfigError("standardise reads all data first, and until_settled would not", "drop one", "until_settled")


def _check_standardising(scorers: Sequence[Any]) -> None:
    for scorer in scorers:
        if isinstance(scorer, StreamScorer) and scorer.reduction is not None:
            raise ConfigError(
                f"{scorer.name} reads all tokens, which standardise leaves alone", "drop one", "standardise"
            )
