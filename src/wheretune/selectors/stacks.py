"""A model of two stacks of layers: what is chosen is chosen of each, or of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wheretune.errors import PlanError
from wheretune.selectors.base import AdaptiveSelector, PairwiseSelector, check_selector, resolved
from wheretune.selectors.budget import Budget
from wheretune.selectors.fixed import Explicit

if TYPE_CHECKING:
    from wheretune.records.model import ModelInfo
    from wheretune.records.scores import LayerScores
    from wheretune.selectors.base import Selector, Values


@dataclass(frozen=True)
class OfStack:
    """A selector's choice among the layers of an encoder-decoder's one stack.

    Attributes:
        selector: Chooses there.
        stack: Which stack. Without this selector, every other chooses of both: k layers of each.
    """

    selector: Selector | AdaptiveSelector
    stack: Literal["encoder", "decoder"]
    name: ClassVar[str] = "of-stack"

    def __post_init__(self) -> None:
        if isinstance(self.selector, Explicit | OfStack):
            raise PlanError(
                f"{self.selector.name} says by itself which stack", "name layers as in decoder.3, or drop one", "stack"
            )

    @property
    def needs_scores(self) -> bool:
        """Whether the inner one does."""
        return self.selector.needs_scores

    def select(self, values: Values) -> tuple[int, ...]:
        """Nothing can be chosen without the model: see `bound`.

        Raises:
            PlanError: The layers are of one stack.
        """
        raise PlanError("the model has one stack of layers", "leave the stack out", "stack")


@dataclass(frozen=True)
class Within:
    """Selectors that choose each in its own stack.

    Attributes:
        parts: The first layer of a stack, the layer behind its last, and what chooses there.
        name: Of the selector as it was asked for.
        needs_scores: Whether it reads them.
    """

    parts: tuple[tuple[int, int, Any], ...]
    name: str
    needs_scores: bool

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        return tuple(first + layer for first, stop, one in self.parts for layer in one.select(values[first:stop]))

    def contests(self, values: Values) -> list[tuple[int, int, int]]:
        """The contests of every stack."""
        return [
            (first + winner, first + rival, sign)
            for first, stop, one in self.parts
            if isinstance(one, PairwiseSelector)
            for winner, rival, sign in one.contests(values[first:stop])
        ]


AnySelector = Any  # Selector | AdaptiveSelector, whose isinstance mypy cannot narrow through a union of protocols


def check_for(selector: AnySelector, model: ModelInfo) -> None:
    """Complains, before anything is scored, of what cannot choose among a model's layers.

    Raises:
        PlanError: k is below 1 or above the number of layers, a named layer does not exist, there is no such stack, or
            another setting is wrong.
    """
    if isinstance(selector, Explicit):
        _by_index(selector, model)
        return
    for _, own in _stacks_of(selector, model):
        check_selector(_inner(selector), len(own))


def choice_of(
    selector: AnySelector, model: ModelInfo, scores: LayerScores | None = None
) -> tuple[Any, Any, str | None]:
    """What chooses among all layers of a model; the selector with its numbers; and why, where it says so.

    Args:
        selector: The choice.
        model: The model.
        scores: Its scores, for a selector that adapts to them.

    Raises:
        PlanError: As for `check_for`.
    """
    if isinstance(selector, Explicit):
        made = _by_index(selector, model)
        return made, replace(made, layers=model.as_named(model.indices(made.layers))), None
    stacks = _stacks_of(selector, model)
    if stacks[0][0] == "":
        plain, why = _adapted(selector, scores)
        return plain, resolved(selector, len(model)), why
    inner, parts, reasons = _inner(selector), [], []
    if isinstance(inner, Budget):
        raise PlanError("budget prices the layers of one stack", "choose another selector", "selector")
    for name, own in stacks:
        plain, why = _adapted(inner, None if scores is None else of_stack(scores, own))
        parts.append((own.start, own.stop, plain))
        reasons += [] if why is None else [f"{name}: {why}"]
    numbers = {len(own) for _, own in stacks}
    settled = resolved(inner, numbers.pop()) if len(numbers) == 1 else inner
    settled = replace(selector, selector=settled) if isinstance(selector, OfStack) else settled
    return Within(tuple(parts), selector.name, selector.needs_scores), settled, "; ".join(reasons) or None


def _inner(selector: AnySelector) -> AnySelector:
    return selector.selector if isinstance(selector, OfStack) else selector


def _stacks_of(selector: AnySelector, model: ModelInfo) -> list[tuple[str, range]]:
    """The stacks in which a selector chooses, by name."""
    stacks = model.stacks
    if not isinstance(selector, OfStack):
        return list(stacks.items())
    if selector.stack not in stacks:
        raise PlanError("the model has one stack of layers", "leave the stack out", "stack")
    return [(selector.stack, stacks[selector.stack])]


def _by_index(selector: Explicit, model: ModelInfo) -> Explicit:
    named = replace(selector, layers=model.indices(selector.layers))
    return resolved(named, len(model))


def _adapted(selector: AnySelector, scores: LayerScores | None) -> tuple[Any, str | None]:
    if isinstance(selector, AdaptiveSelector) and scores is not None:
        return selector.adapt(scores)
    return selector, None


def of_stack(scores: LayerScores, own: range) -> LayerScores:
    """The scores of one stack, whose layers are counted from 0."""
    cut = slice(own.start, own.stop)
    model = scores.model
    infos = tuple(replace(one, index=i) for i, one in enumerate(model.layers[cut]))

    def inside(matrix: tuple[tuple[float, ...], ...] | None) -> tuple[tuple[float, ...], ...] | None:
        return None if matrix is None else tuple(row[cut] for row in matrix[cut])

    return replace(
        scores,
        model=replace(model, layers=infos),
        layers=tuple(replace(one, index=i) for i, one in enumerate(scores.layers[cut])),
        similarity=inside(scores.similarity),
        covariance=inside(scores.covariance),
        settlement=None,
        choice=None,
        deviations=None,
    )
