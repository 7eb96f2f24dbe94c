"""Scores and one choice on every axis -> a plan with its cost."""

from wheretune.confidence import how_sure
from wheretune.cost import expected_speed_up
from wheretune.errors import PlanError
from wheretune.heads import Head, LastToken, count
from wheretune.schedules.static import Static
from wheretune.selectors import Selector
from wheretune.tuners.base import Tuner
from wheretune.tuners.whole_layers import WholeLayers
from wheretune.types import Cost, LayerScores, Plan, Spec


def plan(
    scores: LayerScores,
    selector: Selector | None,
    *,
    tuner: Tuner | None = None,
    head: Head | None = None,
) -> Plan:
    """The plan that `selector` makes of `scores`.

    Args:
        scores: From `score`; selectors that need none (top, bottom, random, explicit) read only the
            model and its layers from it.
        selector: For example `BlockHighest(k=3)`; None only with the tuner `HeadOnly()`.
        tuner: How the layers are tuned; whole layers by default.
        head: What sits on top when wheretune trains (a model of the user's own keeps its head); the last
            token by default.

    Raises:
        PlanError: k is below 1 or above the number of layers, a named layer does not exist, or there is
            no selector.
    """
    tuner = tuner if tuner is not None else WholeLayers()
    head = head if head is not None else LastToken()
    if (selector is None) == tuner.needs_layers:
        raise PlanError(f"the tuner {tuner.name} does not go with {selector}", "choose layers, or head-only")
    model = scores.model
    layers = selector.select(scores.values) if selector is not None else ()
    outputs = max(len(scores.data.classes), 1)
    on_top = count(head, model.layers, model.hidden_size, outputs, model.causal)
    return Plan(
        layers=layers,
        selector=Spec.of(selector) if selector is not None else Spec("none"),
        tuner=Spec.of(tuner),
        head=Spec.of(head),
        schedule=Spec.of(Static()),
        model=model,
        scores_digest=scores.digest,
        cost=Cost(
            trainable_parameters=tuner.count(model, scores.layers, layers) + on_top,
            total_parameters=model.parameters + on_top,
            expected_speed_up=expected_speed_up(model.layers, layers),
        ),
        confidence=how_sure(scores, selector) if selector is not None else None,
        chosen=tuple(scores.layers[layer] for layer in layers),
        scorer=scores.scorer,
    )
