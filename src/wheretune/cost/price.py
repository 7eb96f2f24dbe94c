"""What a plan costs beside full fine-tuning, saving by saving."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wheretune.cost.flops import EPOCHS, LINES, TOKENS, Savings, compute_share, full, mean_estimate, scheduled_share
from wheretune.cost.memory import activations, cached, copied, memory, on_top
from wheretune.cost.training import Stages, Training, full_training, known_parts
from wheretune.records.cost import Cost, CostLine, Memory

if TYPE_CHECKING:
    from wheretune.records.model import ModelInfo

BATCH_SIZE = 16


def price(
    model: ModelInfo,
    training: Training,
    *,
    stages: Stages | None = None,
    tokens: float = TOKENS,
    texts: int = 0,
    batch_size: int = BATCH_SIZE,
    epochs: int = EPOCHS,
) -> Cost:
    """What a training costs, beside full fine-tuning.

    Of an encoder-decoder nothing is saved but by freezing. Every layer is taken to see texts of the same length, and
    none below the lowest that trains to see a gradient, encoder first: so a decoder's see one if an encoder's train.

    Args:
        model: The model, with the parts and sizes of its layers.
        training: What trains, now or later.
        stages: What of it trains when, where a schedule moves it.
        tokens: The mean length of a text, special tokens included.
        texts: How many texts there are; 0 where that is not known, and then so is the cache's size.
        batch_size: Texts in a batch.
        epochs: Over which making the cache is spread.
    """
    parts = [known_parts(layer) for layer in model.layers]
    when = Stages([(1.0, training)]) if stages is None else stages
    total = model.parameters + on_top(model, training)
    reference, whole = full(parts, tokens, training.speech), full_training(len(parts), total, training.speech)
    kept = activations(parts, whole, tokens, batch_size)
    lines = [CostLine("full fine-tuning", reference, memory(model, whole, kept, 0), 1.0)]
    apart = len(model.stacks) > 1
    for name, savings in list(LINES.items())[: 1 if apart else None]:
        flops = mean_estimate(parts, when, tokens, savings)
        faster = reference.total / flops.total if flops.total else None
        lines.append(CostLine(name, flops, _most(model, training, when, tokens, texts, batch_size, savings), faster))
    spent = (
        compute_share(parts, training, tokens, epochs)
        if stages is None
        else scheduled_share(parts, stages, tokens, epochs) + stages.looking(texts, batch_size, epochs)
    )
    return Cost(
        trainable_parameters=training.parameters,
        total_parameters=total,
        expected_speed_up=reference.total / lines[-1].flops.total if apart else 1 / spent,
        limit=lines[-1].speed_up,
        tokens=tokens,
        texts=texts,
        batch_size=batch_size,
        epochs=epochs,
        lines=tuple(lines),
        learned=training.read if training.speech else None,
    )


def _most(
    model: ModelInfo, training: Training, when: Stages, tokens: float, texts: int, batch_size: int, savings: Savings
) -> Memory:
    """The memory of the stage that takes the most; all that may ever train is held in fp32."""
    parts = [known_parts(layer) for layer in model.layers]
    weights = memory(model, training, 0, 0).weights + max(copied(model, stage) for _, stage in when.each)
    optimizer = memory(model, training, 0, 0).optimizer if when.keeps else None
    found = []
    for _, stage in when.each:
        kept = activations(parts, stage, tokens, batch_size, savings)
        below = replace(stage, layers=range(len(parts))[max(0, when.frozen(stage, len(parts))) :])
        stored = cached(model, below, tokens, texts) if savings.cache else 0
        one = memory(model, stage, kept, stored)
        found.append(replace(one, weights=weights, optimizer=one.optimizer if optimizer is None else optimizer))
    return max(found, key=lambda one: one.total)
