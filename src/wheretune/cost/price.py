"""What a plan costs beside full fine-tuning, saving by saving."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wheretune.cost.flops import EPOCHS, LINES, TOKENS, compute_share, estimate, full
from wheretune.cost.memory import activations, cached, memory, on_top
from wheretune.cost.training import Training, full_training, known_parts
from wheretune.records.cost import Cost, CostLine

if TYPE_CHECKING:
    from wheretune.records.model import ModelInfo

BATCH_SIZE = 16


def price(
    model: ModelInfo,
    training: Training,
    *,
    tokens: float = TOKENS,
    texts: int = 0,
    batch_size: int = BATCH_SIZE,
    epochs: int = EPOCHS,
) -> Cost:
    """What a training costs, beside full fine-tuning.

    Args:
        model: The model, with the parts and sizes of its layers.
        training: What trains.
        tokens: The mean length of a text, special tokens included.
        texts: How many texts there are; 0 where that is not known, and then so is the cache's size.
        batch_size: Texts in a batch.
        epochs: Over which making the cache is spread.
    """
    parts = [known_parts(layer) for layer in model.layers]
    total = model.parameters + on_top(model, training)
    reference, whole = full(parts, tokens, training.speech), full_training(len(parts), total, training.speech)
    kept = activations(parts, whole, tokens, batch_size)
    lines = [CostLine("full fine-tuning", reference, memory(model, whole, kept, 0), 1.0)]
    for name, savings in LINES.items():
        flops = estimate(parts, training, tokens, savings)
        kept = activations(parts, training, tokens, batch_size, savings)
        stored = cached(model, training, tokens, texts) if savings.cache else 0
        faster = reference.total / flops.total if flops.total else None
        lines.append(CostLine(name, flops, memory(model, training, kept, stored), faster))
    return Cost(
        trainable_parameters=training.parameters,
        total_parameters=total,
        expected_speed_up=1 / compute_share(parts, training, tokens, epochs),
        limit=lines[-1].speed_up,
        tokens=tokens,
        texts=texts,
        batch_size=batch_size,
        epochs=epochs,
        lines=tuple(lines),
        learned=training.read if training.speech else None,
    )
