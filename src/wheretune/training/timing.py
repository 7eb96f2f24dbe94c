"""A few steps of a plan and of full fine-tuning, timed on this machine with the user's texts."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from wheretune import catalog
from wheretune.applying import apply
from wheretune.data.samplers import EpochBuckets
from wheretune.data.stored import lengths
from wheretune.errors import ConfigError
from wheretune.heads.headed import headed
from wheretune.model.identity import check_plan
from wheretune.model.inputs import max_tokens
from wheretune.model.opening import open_model
from wheretune.planning import head_of
from wheretune.records.base import Spec
from wheretune.records.cost import Measured
from wheretune.records.runs import TrainSettings
from wheretune.savings.together import saving
from wheretune.schedules.static import Static
from wheretune.support.provenance import provenance
from wheretune.tasks.base import task_of
from wheretune.tasks.loading import load_data
from wheretune.training.clock import Clock
from wheretune.training.loop import train
from wheretune.tuners.whole_layers import WholeLayers

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.records.data import DataSpec
    from wheretune.records.model import ModelSpec
    from wheretune.records.plan import Plan
    from wheretune.savings.prefix_cache.deciding import CacheReport

STEPS = 8  # timed at a stretch
RATE = 5e-5  # any learning rate takes the same time


def time_steps(
    plan: Plan,
    data: DataSpec,
    model: ModelSpec | None = None,
    *,
    settings: TrainSettings | None = None,
    steps: int = STEPS,
) -> Measured:
    """Times a few steps of the plan between a few of full fine-tuning, as `wheretune tune` would run them.

    The batches are drawn from the first epoch's, so their lengths are those of the whole training. Full fine-tuning
    is timed before and after the plan, and the mean taken, for a machine that grows slower meanwhile. Labels are not
    looked at: any will do for the time.

    Args:
        plan: The plan.
        data: The texts.
        model: Where the plan's model is now, if not where it was.
        settings: How the training would go.
        steps: How many to time at a stretch.

    Raises:
        ConfigError: A setting cannot train anything.
        WheretuneError: As `wheretune tune` raises for model, data and plan.
    """
    settings = replace(settings or TrainSettings(), learning_rate=RATE)
    if steps < 2:
        raise ConfigError(f"{steps} step cannot be timed: the first one warms up", "time 2 or more")
    if catalog.build("schedule", plan.schedule).moves:
        raise ConfigError(
            f"the schedule {plan.schedule.name} moves, and a few steps do not show what it costs",
            "leave the measuring out: the cost by FLOPs is the mean over its steps",
            "measure",
        )
    speaks = catalog.find("head", plan.head.name).speaks
    texts = load_data(data, labels="required" if speaks else "ignored")
    head = head_of(plan.head, texts.info)
    opened = open_model(model or plan.model.spec, language=head.speaks)
    check_plan(opened.info, plan)
    labelled = texts if head.speaks else _with_made_up_labels(texts)
    task = task_of(labelled.info)
    every = task.encode(labelled, opened.tokenizer, max_tokens(opened.stack.base, opened.tokenizer, data.max_length))
    some = _drawn(every, settings, steps)
    share = int(lengths(some).sum()) / int(lengths(every).sum())
    if len(some) <= settings.batch_size or len(every) < 2 * settings.batch_size:
        raise ConfigError(
            f"{len(every)} texts in batches of {settings.batch_size} make no two steps to time",
            "give more texts or smaller batches",
            "batch_size",
        )
    everything = replace(
        plan,
        layers=tuple(range(len(plan.model))),
        chosen=(),
        tuner=Spec.of(WholeLayers(embeddings=True)),
        schedule=Spec.of(Static()),
    )
    collate, once = task.collator(opened.tokenizer), replace(settings, epochs=1)

    def timed(what: Plan, description: str) -> tuple[float, CacheReport]:
        gc.collect()  # the optimizer before
        whole = what is everything and opened.info.spec.quantize is not None  # quantised weights cannot train
        plain = replace(opened.info.spec, quantize=None)
        stack = open_model(plain, language=head.speaks).stack if whole else opened.stack
        model = headed(stack, head, labelled, settings.seed)
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            tuned = apply(model, what, settings.seed, frozen_dropout=settings.frozen_dropout, before={}, masters=True)
            lent, saved = (
                tuned.temporarily(folder),
                saving(tuned.stack, what.model.hash, some, collate, settings, folder),
            )
            with lent, saved as report:
                log = train(model, some, report.collate, once, None, Clock(description), tuned.followers)
        return log.step, report.cache

    before, _ = timed(everything, "timing full fine-tuning")
    step, cache = timed(plan, "timing the plan")
    after, _ = timed(everything, "timing full fine-tuning again")
    return Measured(
        full_step=(before + after) / 2,
        step=step,
        making=cache.seconds / share,
        cache=str(cache),
        steps=-(-len(every) // settings.batch_size),
        epochs=settings.epochs,
        timed=-(-len(some) // settings.batch_size) - 1,
        machine=provenance()["machine"],
    )


def _with_made_up_labels(texts: TextData) -> TextData:
    """The texts in two classes; any labels will do for the time."""
    info = replace(texts.info, task=Spec("classification"), classes=("0", "1"))
    return replace(texts, labels=tuple(place % 2 for place in range(len(texts))), info=info)


def _drawn(rows: Sequence[dict[str, Any]], settings: TrainSettings, steps: int) -> list[dict[str, Any]]:
    """The texts of one batch to warm up and `steps` more, drawn from those of the first epoch."""
    size = settings.batch_size
    order = list(EpochBuckets(lengths(rows), size, settings.seed))
    starts = range(0, len(order), size)
    drawn = np.random.default_rng(settings.seed).permutation(len(starts))[: steps + 1]
    places = [place for one in sorted(drawn.tolist()) for place in order[starts[one] : starts[one] + size]]
    return [rows[place] for place in places]
