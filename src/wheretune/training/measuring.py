"""A few steps of a plan and of full fine-tuning, timed on this machine with the user's texts."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from wheretune import catalog
from wheretune.applying import apply
from wheretune.data.batches import collator
from wheretune.data.samplers import EpochBuckets
from wheretune.data.tokens import encode
from wheretune.errors import ConfigError
from wheretune.heads.headed import HeadedModel
from wheretune.model.inputs import max_tokens
from wheretune.model.opening import load_model, load_tokenizer
from wheretune.records.base import Spec
from wheretune.records.cost import Measured
from wheretune.records.runs import TrainSettings, check_settings
from wheretune.savings.together import saving
from wheretune.support.provenance import provenance
from wheretune.tasks.base import load_data
from wheretune.training.loop import train
from wheretune.tuners.whole_layers import WholeLayers

if TYPE_CHECKING:
    from wheretune.records.data import DataSpec
    from wheretune.records.plan import Plan
    from wheretune.savings.prefix_cache.deciding import CacheReport

STEPS = 8  # timed at a stretch


def measure(
    plan: Plan, data: DataSpec, model: str | None = None, *, settings: TrainSettings | None = None, steps: int = STEPS
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
    settings = settings or TrainSettings()
    check_settings(settings)
    if steps < 2:
        raise ConfigError(f"{steps} step cannot be timed: the first one warms up", "time 2 or more")
    name = plan.model.name if model is None else model
    tokenizer = load_tokenizer(name, plan.model.revision)
    texts = load_data(data, labels="ignored")
    every = encode(texts, tokenizer, max_tokens(load_model(name, plan.model.revision), tokenizer, data.max_length))
    some = _drawn(every, settings, steps)
    share = sum(len(row["input_ids"]) for row in some) / sum(len(row["input_ids"]) for row in every)
    everything = replace(
        plan,
        layers=tuple(range(plan.model.layers)),
        tuner=Spec.of(WholeLayers(embeddings=True)),
        model=replace(plan.model, quantize=None),  # quantised weights cannot train
    )

    if len(some) <= settings.batch_size or len(every) < 2 * settings.batch_size:
        raise ConfigError(
            f"{len(every)} texts in batches of {settings.batch_size} make no two steps to time",
            "give more --data or a smaller --batch-size",
        )

    def timed(what: Plan, description: str) -> tuple[float, CacheReport]:
        gc.collect()  # the model before
        base = load_model(name, what.model.revision, what.model.quantize)
        head = catalog.build("head", what.head)
        made = HeadedModel(base, head, 2, "classification", settings.seed, 0.0, what.model.layers_attribute)
        tuned = apply(made, what, settings.seed, frozen_dropout=settings.frozen_dropout)
        once, collate = replace(settings, epochs=1), collator(tokenizer)
        with (
            TemporaryDirectory() as folder,
            saving(tuned.stack, what.model.hash, some, collate, settings, Path(folder)) as saved,
        ):
            log = train(made, some, collate, once, None, description, tuned.attached.companion)
        return log.step, saved.cache

    before, _ = timed(everything, "timing full fine-tuning")
    step, cache = timed(plan, "timing the plan")
    after, _ = timed(everything, "timing full fine-tuning again")
    steps_an_epoch = -(-len(every) // settings.batch_size)
    machine = provenance()["machine"]
    return Measured(
        (before + after) / 2,
        step,
        cache.seconds / share,
        str(cache),
        steps_an_epoch,
        settings.epochs,
        -(-len(some) // settings.batch_size) - 1,
        machine,
    )


def _drawn(rows: list[dict[str, Any]], settings: TrainSettings, steps: int) -> list[dict[str, Any]]:
    """The texts of one batch to warm up and `steps` more, drawn from those of the first epoch, with made-up labels."""
    size = settings.batch_size
    order = list(EpochBuckets([len(row["input_ids"]) for row in rows], size, settings.seed))
    starts = range(0, len(order), size)
    drawn = np.random.default_rng(settings.seed).permutation(len(starts))[: steps + 1]
    places = [place for one in sorted(drawn.tolist()) for place in order[starts[one] : starts[one] + size]]
    return [{**rows[place], "labels": place % 2} for place in places]
