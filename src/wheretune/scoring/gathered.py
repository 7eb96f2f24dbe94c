"""What a pass over the data has gathered: the parts of shards merge into one, and `finish` makes scores of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from wheretune.errors import ConfigError
from wheretune.records.base import Spec
from wheretune.scorers.base import StackScorer
from wheretune.scoring.by_stack import by_stack
from wheretune.scoring.scored import layer_scores
from wheretune.support.log import log

if TYPE_CHECKING:
    from wheretune.records.data import DataInfo
    from wheretune.records.model import ModelInfo
    from wheretune.records.scores import LayerScores, Reading, Settlement
    from wheretune.scorers.base import Scorer


@dataclass(frozen=True, eq=False)
class PassState:
    """What a pass over the data, or over one shard of it, has gathered; shards merge, and `finish` makes scores of it.

    Attributes:
        states: By scorer its state; of a scorer that reads no text, its scores.
        info: The model.
        data: All the data.
        reading: How the texts were read.
        n_samples: Samples read.
        tokens: How many tokens the samples have together, special ones included.
        learned: How many of these are learned, where the task reads every token.
        seconds: Wall-clock time.
        versions: The packages that computed it.
        settlement: Whether the pass stopped early, and why.
        shard: Which of how many shards, counted from 1.
    """

    states: dict[Scorer, Any]
    info: ModelInfo
    data: DataInfo
    reading: Reading
    n_samples: int
    tokens: int
    seconds: float
    versions: dict[str, str]
    settlement: Settlement | None = None
    shard: tuple[int, int] = (1, 1)
    learned: int = 0


# --- shards ---------------------------------------------------------------------------------------


def merge(shards: Sequence[PassState]) -> PassState:
    """What one pass over the whole data would have gathered.

    Args:
        shards: All shards of one pass, in any order. They may come from other machines: models are compared by their
            weights and data by content, wherever they lie.

    Raises:
        ConfigError: They are of different passes, one is there twice, or one is missing.
    """
    _check_alike(shards)
    _check_complete(shards)
    first = shards[0]
    ordered = sorted(shards, key=lambda part: part.shard)
    states: dict[Scorer, Any] = {}
    for scorer in first.states:
        parts = [part.states[scorer] for part in ordered]
        states[scorer] = (
            parts[0] if isinstance(scorer, StackScorer) else reduce(by_stack(scorer, first.info).merge, parts)
        )
    return replace(
        first,
        states=states,
        n_samples=sum(part.n_samples for part in shards),
        tokens=sum(part.tokens for part in shards),
        learned=sum(part.learned for part in shards),
        seconds=sum(part.seconds for part in shards),
        shard=(1, 1),
    )


def _check_alike(shards: Sequence[PassState]) -> None:
    if not shards:
        raise ConfigError("there is no shard to merge", "give all shards of a pass")
    first, wanted = shards[0], common(shards[0])
    for other in shards:
        theirs = common(other)
        differs = [name for name, value in wanted.items() if theirs[name] != value]
        if differs:
            one, another = ("/".join(map(str, part.shard)) for part in (other, first))
            raise ConfigError(f"shards {one} and {another} are of different passes ({differs[0]})", "merge like shards")
        if other.versions != first.versions:
            log.warning("shards %d and %d were made with other versions of packages", other.shard[0], first.shard[0])


def _check_complete(shards: Sequence[PassState]) -> None:
    of, numbers = shards[0].shard[1], [part.shard[0] for part in shards]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise ConfigError(f"shard {twice[0]} of {of} is given twice", "give each once")
    missing = sorted(set(range(1, of + 1)) - set(numbers))
    if missing:
        raise ConfigError(f"shard {missing[0]} of {of} is missing", f"score shard {missing[0]}/{of} and merge all")


def common(state: PassState) -> dict[str, Any]:
    """What the shards of one pass must have in common, by name."""
    return {
        "number of shards": state.shard[1],
        "scorers": list(state.states),
        "model": state.info.hash,
        "layers": state.info.layers,
        "precision": (state.info.spec.dtype, state.info.spec.quantize),
        "data": state.data.hash,
        "how the data is read": (replace(state.data.spec, source=""), state.reading),
    }


# --- scores ---------------------------------------------------------------------------------------


def finish(state: PassState) -> list[LayerScores]:
    """The scores, one `LayerScores` per scorer, in order.

    Raises:
        ScoreError: A score is not finite, or there were too few samples.
    """
    scored = []
    for scorer, own in state.states.items():
        reads = not isinstance(scorer, StackScorer)
        made = layer_scores(
            Spec.of(scorer),
            by_stack(scorer, state.info).finish(own) if not isinstance(scorer, StackScorer) else own,
            state.info,
            state.data,
            state.reading if reads else replace(state.reading, max_length=None),
            n_samples=state.n_samples if reads else 0,
            tokens=state.tokens / state.n_samples if reads else None,
            seconds=state.seconds,
            versions=state.versions,
            settlement=state.settlement,
        )
        scored.append(replace(made, learned=state.learned / state.n_samples) if reads and state.learned else made)
    return scored
