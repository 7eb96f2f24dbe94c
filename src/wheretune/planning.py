"""Scores and one choice on every axis -> a plan with its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wheretune import catalog
from wheretune.cost.flops import EPOCHS, TOKENS
from wheretune.cost.price import BATCH_SIZE, price
from wheretune.cost.training import Training, share_of
from wheretune.errors import ConfigError, PlanError, WheretuneError
from wheretune.records.base import Spec, to_json
from wheretune.records.plan import Plan
from wheretune.records.scores import Choice, LayerScores
from wheretune.schedules.base import WorkingCopy
from wheretune.schedules.static import Static
from wheretune.scheduling import check_schedule, scheduled, stages_of
from wheretune.selectors.base import AdaptiveSelector, Selector, check_selector
from wheretune.selectors.budget import Budget
from wheretune.selectors.stacks import check_for, choice_of
from wheretune.tuners.whole_layers import WholeLayers

if TYPE_CHECKING:
    from wheretune.heads.base import Head
    from wheretune.records.cost import Cost
    from wheretune.records.data import DataInfo
    from wheretune.records.model import ModelInfo, ModelSpec
    from wheretune.records.runs import TrainSettings
    from wheretune.schedules.base import Schedule
    from wheretune.tuners.base import Tuner

AnySelector = Selector | AdaptiveSelector
NOTHING = Choice(Spec("none"), (), None, None)  # what no selector chooses


def check(selector: AnySelector, model: ModelInfo | int) -> None:
    """Refuses, before anything is scored, a selector that cannot choose among a model's layers, or among so many.

    Raises:
        PlanError: k is below 1 or above the number of layers, a named layer does not exist, or another setting is
            wrong.
    """
    if isinstance(model, int):
        check_selector(selector, model)
    else:
        check_for(selector, model)


def choose(scores: LayerScores, selector: AnySelector) -> Choice:
    """The layers that `selector` makes of `scores`, how sure that is, and what an adaptive one went by.

    Raises:
        PlanError: k is below 1 or above the number of layers, or a named layer does not exist.
    """
    from wheretune.scoring.confidence import how_sure

    plain, settled, reason = choice_of(selector, scores.model, scores)
    return Choice(Spec.of(settled), plain.select(scores.values), how_sure(scores, plain), reason)


def choose_unscored(model: ModelInfo, selector: AnySelector) -> Choice:
    """The layers that a selector chooses of a model that was not scored.

    Raises:
        PlanError: It chooses by scores, or cannot choose among so many layers.
    """
    if selector.needs_scores or isinstance(selector, AdaptiveSelector):
        raise PlanError(
            f"{selector.name} chooses by scores, and there are none",
            "score the layers first, or choose without scores (explicit, top, bottom, random)",
            "selector",
        )
    plain, settled, _ = choice_of(selector, model)
    return Choice(Spec.of(settled), plain.select(np.zeros(len(model))), None, None)


# --- plans ---------------------------------------------------------------------------------------


def head_of(asked: Spec | None, data: DataInfo | None) -> Head:
    """The head that was asked for, or that of the task that some data makes; the last token where neither is known.

    Raises:
        ConfigError: It does not read what the task needs.
    """
    from wheretune.tasks.base import task_of

    task = None if data is None else task_of(data)
    head: Head = catalog.build("head", asked or Spec("last-token" if task is None else task.head))
    if task is not None and head.speaks != (task.places == "every"):
        raise ConfigError(
            f"the head {head.name} reads {'every token' if head.speaks else 'one token per text'}, and {task.name} "
            f"needs {'every one' if task.places == 'every' else 'one per text'}",
            f"take {task.head}, or leave it out",
            "head",
        )
    return head


def check_head(head: Head, settings: TrainSettings) -> None:
    """Refuses settings of Trainer's that a head cannot bear.

    Raises:
        ConfigError: Trainer would need the logits of all tokens.
    """
    if head.speaks and settings.trainer_args.get("label_smoothing_factor"):
        raise ConfigError(
            "Trainer smooths labels by the logits of all tokens, which are never made here",
            "leave it out",
            "trainer_args",
        )


def plan(
    scores_or_model: LayerScores | ModelInfo,
    selector: AnySelector | None,
    *,
    tuner: Tuner | None = None,
    head: Head | None = None,
    schedule: Schedule | None = None,
    data: DataInfo | None = None,
    tokens: float | None = None,
    learned: float | None = None,
) -> Plan:
    """The plan that `selector` makes of scores or, if it needs none, of a model alone.

    Args:
        scores_or_model: From `score`; or a model's layers, for selectors that read no scores (explicit, top, bottom,
            random) and for the tuner `HeadOnly()`.
        selector: For example `BlockHighest(k=3)`; None only with a tuner that tunes no layers.
        tuner: How the layers are tuned; whole layers by default.
        head: What sits on top when wheretune trains (a model of the user's own keeps its head); by default that of
            the task that the data makes, and the last token where no data is known.
        schedule: When they train; always, by default.
        data: What will be trained on, which says how many outputs the head has; what was scored on by default. Where
            neither is known, the head has one output.
        tokens: The mean length of a text of it, for the cost; as the scores know it by default.
        learned: How many tokens of a text are learned, likewise; all where it is not known.

    Raises:
        PlanError: k is below 1 or above the number of layers, a named layer does not exist, there is no selector, or it
            chooses by scores and there are none; or nothing would train.
        ConfigError: The schedule cannot serve the tuner, or so few layers.
        ModelError: The schedule makes a smaller copy of the layers, and these do not show how.
    """
    data = _data_of(scores_or_model) if data is None else data
    if isinstance(selector, Budget) and selector.schedules:
        given: dict[str, Any] = {"tuner": tuner, "head": head, "data": data, "tokens": tokens, "learned": learned}
        return _with_schedule(scores_or_model, selector, schedule, given)
    head, schedule = head or head_of(None, data), schedule or Static()
    tuner = scheduled(tuner or WholeLayers(), schedule)
    if (selector is None) == tuner.needs_layers:
        what = "needs layers to be chosen" if selector is None else "tunes no layers"
        raise PlanError(f"the tuner {tuner.name} {what}", "choose layers, or take head-only without a selector")
    if not isinstance(scores_or_model, LayerScores):
        choice = NOTHING if selector is None else choose_unscored(scores_or_model, selector)
        return _planned(scores_or_model, choice, tuner, head, schedule, data, (tokens, learned))
    scores = scores_or_model
    choice = NOTHING if selector is None else choose(scores, selector)
    made = _planned(
        scores.model, choice, tuner, head, schedule, data, (tokens or scores.tokens, learned or scores.learned)
    )
    chosen = tuple(scores.layers[layer] for layer in choice.layers)
    return replace(made, scorer=scores.scorer, scores_digest=scores.digest, chosen=chosen)


def _data_of(scores_or_model: LayerScores | ModelInfo) -> DataInfo | None:
    """What was scored on; None where nothing was."""
    return scores_or_model.data if isinstance(scores_or_model, LayerScores) else None


def _with_schedule(
    scores: LayerScores | ModelInfo, budget: Budget, schedule: Schedule | None, given: dict[str, Any]
) -> Plan:
    """The plan whose schedule a budget chooses; `given` is what else `plan` was given.

    Raises:
        PlanError: A schedule is named besides, or there are no scores.
    """
    if not isinstance(scores, LayerScores):
        raise PlanError(f"{budget.name} chooses by scores, and there are none", "score the layers first", "selector")
    if schedule is not None and schedule.moves:
        raise PlanError(
            f"the budget is to choose a schedule, and {schedule.name} is named", "name no schedule", "schedule"
        )
    tuner = given["tuner"] or WholeLayers()
    from wheretune import budgeting  # opened where it is asked for: `plan SCORES` is quick

    return budgeting.best(budget, scores, tuner, lambda chosen, when: plan(scores, chosen, schedule=when, **given))


def _planned(
    model: ModelInfo,
    choice: Choice,
    tuner: Tuner,
    head: Head,
    schedule: Schedule,
    data: DataInfo | None,
    tokens: tuple[float | None, float | None],
) -> Plan:
    """The plan of a choice, with its cost, without what was scored; `tokens` are those of a text, all and learned."""
    from wheretune.tasks.base import task_of

    check_schedule(schedule, tuner, len(choice.layers))
    if isinstance(schedule, WorkingCopy):
        schedule.check_model([model.layers[layer] for layer in choice.layers])
    outputs = 1 if data is None else task_of(data).outputs(data.classes)
    on_top = head.count(model, outputs)
    length, learned = tokens[0] or TOKENS, tokens[1]
    training = _training(model, choice.layers, tuner, head, on_top, learned or length)
    if training.parameters == 0:
        raise PlanError(
            f"nothing would train: the tuner {tuner.name} tunes no layer, and the head {head.name} stays frozen",
            "tune layers, or train the head where it can be (lm:train=true)",
            "tuner",
        )
    stages = stages_of(
        schedule,
        len(model),
        training,
        lambda some: _training(model, some, tuner, head, on_top, learned or length),
    )
    return Plan(
        layers=choice.layers,
        selector=choice.selector,
        tuner=Spec.of(tuner),
        head=Spec.of(head),
        schedule=Spec.of(schedule),
        model=model,
        cost=price(model, training, stages=stages, tokens=length, texts=0 if data is None else data.rows),
        confidence=choice.confidence,
        reason=choice.reason,
    )


def cost(
    plan: Plan,
    *,
    tokens: float | None = None,
    learned: float | None = None,
    texts: int | None = None,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
) -> Cost:
    """What a plan costs on other data, or for other epochs and batches; needs neither the model nor the data.

    Args:
        plan: The plan.
        tokens: The mean length of a text; as the plan knows it by default.
        learned: How many tokens of a text are learned; likewise.
        texts: How many texts there are; likewise.
        epochs: Passes over them.
        batch_size: Texts in a batch.

    Raises:
        ConfigError: There is no epoch or nothing in a batch, or the plan's tuner or head is not known.
        PlanError: The plan's parameters are fewer than its tuner trains.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name.replace('_', ' ')} is {value}", "give 1 or more", name)
    tuner, head = catalog.build("tuner", plan.tuner), catalog.build("head", plan.head)
    on_top = plan.cost.trainable_parameters - tuner.count(plan.model, plan.layers)
    if on_top < 0:
        raise PlanError(f"the plan contradicts itself: {plan.tuner} trains more than it says", "make it again")
    length = plan.cost.tokens if tokens is None else tokens
    read = learned or plan.cost.learned or length
    training = _training(plan.model, plan.layers, tuner, head, on_top, read)
    schedule = catalog.build("schedule", plan.schedule)
    stages = stages_of(
        schedule, len(plan.model), training, lambda some: _training(plan.model, some, tuner, head, on_top, read)
    )
    return price(
        plan.model,
        training,
        stages=stages,
        tokens=length,
        texts=plan.cost.texts if texts is None else texts,
        batch_size=batch_size,
        epochs=epochs,
    )


def _training(
    model: ModelInfo, layers: Sequence[int], tuner: Tuner, head: Head, on_top: int, learned: float
) -> Training:
    below = tuner.count(model, layers)
    return Training(
        layers=layers,
        below=below,
        on_top=on_top,
        share=share_of(model.layers, layers, below),
        norms=tuner.trains_norms,
        embeddings=tuner.trains_embeddings,
        all_states=head.all_layers,
        read=learned if head.speaks else 1.0,
        speech=model.vocabulary * model.hidden_size if head.speaks else 0,
        speech_trains=head.speaks and (on_top > 0 or (tuner.trains_embeddings and model.tied)),
    )


# --- a model without a plan ----------------------------------------------------------------------


def inspect(model: ModelSpec) -> dict[str, Any]:
    """The layers of a model, without its weights: index, path, parameters, and what each tuner would train there.

    Returns:
        Plain data: `model`, `hidden_size`, `causal`, `parameters` and `layers` with their names, whose `tuners` have
        the count of every tuner with its default settings, or None where it has nothing to attach to.

    Raises:
        ModelError: The model cannot be opened, or its layers are not found.
    """
    from wheretune.model.opening import outline

    _, info = outline(model)
    tuners = {name: made() for name, made in catalog.every("tuner").items() if made.needs_layers}

    def trained(tuner: Any, layer: int) -> int | None:
        try:
            count: int = tuner.count(info, (layer,))
        except WheretuneError:
            return None
        return count

    return {
        "model": info.name,
        "hidden_size": info.hidden_size,
        "causal": info.causal,
        "parameters": info.parameters,
        "layers": [
            to_json(one)
            | {
                "name": info.called(one.index),
                "tuners": {name: trained(tuner, one.index) for name, tuner in tuners.items()},
            }
            for one in info.layers
        ],
    }
