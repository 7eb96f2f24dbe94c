"""The two stacks of an encoder-decoder, each scored by itself: their states are of different texts and spaces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from wheretune.scorers.base import Finished, StreamScorer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wheretune.model.stack import LayerStack
    from wheretune.model.states import States
    from wheretune.records.model import ModelInfo

AnyScorer = TypeVar("AnyScorer")


def by_stack(scorer: AnyScorer, model: ModelInfo) -> AnyScorer | ByStack:
    """What drives a scorer: of states of a model with two stacks, once for each; otherwise the scorer itself."""
    stacks = model.stacks
    if len(stacks) == 1 or not isinstance(scorer, StreamScorer):
        return scorer
    return ByStack(scorer, tuple(map(len, stacks.values())))


@dataclass(frozen=True)
class ByStack:
    """A scorer of states, with a state of its own for each stack.

    Attributes:
        scorer: The scorer.
        sizes: The layers of each stack.
    """

    scorer: StreamScorer
    sizes: tuple[int, ...]

    def init(self, stack: LayerStack) -> tuple[Any, ...]:
        """The empty state of every stack."""
        from wheretune.model.two_stacks import parts_of_stack

        return tuple(self.scorer.init(part) for part in parts_of_stack(stack).values())

    def update(self, state: tuple[Any, ...], states: States) -> tuple[Any, ...]:
        """The states after one more batch."""
        made, first = [], 0
        for place, (own, size) in enumerate(zip(state, self.sizes, strict=True)):
            begin = first + place  # each stack has one state more than layers
            part = replace(
                states,
                tokens=states.tokens[:, begin : begin + size + 1],
                reduced={name: numbers[:, first : first + size] for name, numbers in states.reduced.items()},
            )
            made.append(self.scorer.update(own, part))
            first += size
        return tuple(made)

    def merge(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
        """The states of two shards of the data."""
        return tuple(map(self.scorer.merge, one, other))

    def finish(self, state: tuple[Any, ...]) -> Finished:
        """The scores of all layers; no pair of layers of different stacks is compared: there similarities are 0."""
        return joined([self.scorer.finish(own) for own in state])


def joined(parts: Sequence[Finished]) -> Finished:
    """The scores of several stacks, one after the other."""
    excluded: dict[int, str] = {}
    first = 0
    for part in parts:
        excluded |= {first + index: why for index, why in part.excluded.items()}
        first += len(part.values)
    stds = [part.stds for part in parts if part.stds is not None]
    return Finished(
        values=np.concatenate([part.values for part in parts]),
        stds=np.concatenate(stds) if len(stds) == len(parts) else None,
        covariance=_blocks([part.covariance for part in parts]),
        similarity=_blocks([part.similarity for part in parts]),
        excluded=excluded,
    )


def _blocks(matrices: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Square matrices along the diagonal of a large one; None where one is missing."""
    known = [matrix for matrix in matrices if matrix is not None]
    if len(known) < len(matrices):
        return None
    size = sum(map(len, known))
    made, first = np.zeros((size, size)), 0
    for matrix in known:
        made[first : first + len(matrix), first : first + len(matrix)] = matrix
        first += len(matrix)
    return made
