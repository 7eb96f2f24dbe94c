"""What `auto` means: how many layers, and which learning rate. docs/log.md has the runs that decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from wheretune import catalog
from wheretune.selectors.base import Selector, TakesK
from wheretune.selectors.upwards import Upwards
from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from wheretune.planning import AnySelector
    from wheretune.records.base import Spec
    from wheretune.records.data import DataInfo
    from wheretune.records.model import ModelInfo
    from wheretune.records.plan import Plan
    from wheretune.records.runs import TrainSettings
    from wheretune.tuners.base import Tuner

OPEN = (None, None)  # k and ratio, where it is not said how many layers
MANY = 2000  # texts with labels, from which on layers above the lowest chosen one are worth training
WIDTH, STEPS = 768, 225  # what the tuners' rates are told for


def with_layers_above(selector: AnySelector, data: DataInfo) -> AnySelector:
    """The selector; where it leaves open how many layers, and many texts have labels, also all above its lowest.

    Decided by runs: gradients pass the layers above anyway, and with many texts they are worth their weights'
    gradients; docs/log.md has the numbers. A language model's default stays a quarter of the layers.

    Args:
        selector: What chooses.
        data: What will be trained on.
    """
    labelled = data.task.name != "unlabelled" and task_of(data).places != "every"
    many = labelled and data.rows >= MANY
    if not (many and isinstance(selector, TakesK) and selector.needs_scores and (selector.k, selector.ratio) == OPEN):
        return selector
    return Upwards(selector) if isinstance(selector, Selector) else selector


def learning_rate(tuner: Tuner, model: ModelInfo, layers: Sequence[int], steps: int) -> float:
    """The peak learning rate that suits a tuner on some layers, to one digit.

    Decided: rate * (768 / width) / sqrt(share of the layers) * sqrt(225 / steps), where `rate` is the tuner's and the
    last factor lies between 2/3 and 2: a narrow model, few layers and few steps bear, and need, more. docs/log.md has
    what was tried.
    """
    share = len(layers) / len(model) or 1.0
    few = min(max((STEPS / steps) ** 0.5, 2 / 3), 2.0)
    return float(f"{tuner.rate * WIDTH / model.hidden_size / share**0.5 * few:.1g}")


def steps_of(settings: TrainSettings, texts: int, tokens: float) -> int:
    """How many optimizer steps there will be for texts of so many tokens; with batches of tokens, about so many."""
    most = settings.tokens_per_batch
    batch = settings.batch_size if most is None else max(1, int(most / tokens))
    return settings.max_steps or settings.epochs * -(-texts // (batch * settings.gradient_accumulation_steps))


def settled(settings: TrainSettings, plan: Plan, texts: int) -> tuple[TrainSettings, str | None]:
    """The settings with the learning rate that suits the plan, where they leave it open, and what was taken in words.

    Args:
        settings: How it trains.
        plan: What trains.
        texts: How many texts it trains on.

    Raises:
        ConfigError: The plan's tuner is not known.
    """
    if settings.learning_rate is not None:
        return settings, None
    steps = steps_of(settings, texts, plan.cost.tokens)
    rate = learning_rate(catalog.build("tuner", plan.tuner), plan.model, plan.layers, steps)
    where = f"{len(plan.layers)} of {len(plan.model)} layers" if plan.layers else "no layer"
    width = plan.model.hidden_size
    many = f"{steps} step{'s' if steps != 1 else ''}"
    why = f"learning rate {rate:g}: what suits {plan.tuner.name} on {where} of width {width} in {many}"
    return replace(settings, learning_rate=rate), why


def count_in_words(selector: Spec, plan: Plan) -> str:
    """How many layers were chosen, where the selector leaves it open; nothing where it says so itself."""
    made = catalog.build("selector", selector)
    if not isinstance(made, TakesK) or (made.k, made.ratio) != OPEN:
        return ""
    above = f", and with {MANY} texts or more all above the lowest" if plan.selector.name == Upwards.name else ""
    return f"{len(plan.layers)} of {len(plan.model)} layers: a quarter, rounded up{above}; "
