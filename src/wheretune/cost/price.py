"""What a plan costs beside full fine-tuning, saving by saving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wheretune.cost.flops import EPOCHS, LINES, TOKENS, compute_share, estimate, full, known_parts
from wheretune.cost.memory import NUMBER, activations, cached
from wheretune.records.cost import Cost, CostLine, Memory

if TYPE_CHECKING:
    from wheretune.records.model import ModelInfo
    from wheretune.records.scores import LayerScore

BATCH_SIZE = 16


def price(
    model: ModelInfo,
    layers: Sequence[LayerScore],
    chosen: Sequence[int],
    *,
    below: int,
    on_top: int,
    norms: bool = True,
    embeddings: bool = False,
    all_states: bool = False,
    tokens: float | None = None,
    texts: int = 0,
    batch_size: int = BATCH_SIZE,
    epochs: int = EPOCHS,
) -> Cost:
    """What a plan costs, beside full fine-tuning.

    Args:
        model: The model.
        layers: All its layers, with their parts and sizes; whether they were scored does not matter.
        chosen: The layers that train.
        below: Parameters that train below the head.
        on_top: Parameters of the head.
        norms: The norms of the chosen layers train, as with whole layers.
        embeddings: The embeddings train too.
        all_states: The head reads the token of every layer.
        tokens: The mean length of a text, special tokens included; 128 where it is not known.
        texts: How many texts there are; 0 where that is not known, and then the cache's size is not told.
        batch_size: Texts in a batch.
        epochs: Over which making the cache is spread.
    """
    parts = [known_parts(layer) for layer in layers]
    length = TOKENS if tokens is None else tokens
    whole = sum(layers[layer].parameters for layer in chosen)
    weights = min(1.0, below / whole) if whole else 0.0
    total, reference = model.parameters + on_top, full(parts, length)

    def memory(trained: int, kept: int, stored: int) -> Memory:
        return Memory(NUMBER * total, NUMBER * trained, 2 * NUMBER * trained, kept, stored)

    kept = activations(parts, range(len(parts)), tokens=length, batch_size=batch_size, embeddings=True)
    lines = [CostLine("full fine-tuning", reference, memory(total, kept, 0), 1.0)]
    for name, savings in LINES.items():
        flops = estimate(parts, chosen, weights, tokens=length, savings=savings, norms=norms, embeddings=embeddings)
        kept = activations(parts, chosen, tokens=length, batch_size=batch_size, savings=savings, embeddings=embeddings)
        stored = cached(model, chosen, length, texts, all_states) if savings.cache and not embeddings else 0
        faster = reference.total / flops.total if flops.total else None
        lines.append(CostLine(name, flops, memory(below + on_top, kept, stored), faster))
    share = compute_share(parts, chosen, weights, tokens=length, epochs=epochs, norms=norms, embeddings=embeddings)
    return Cost(
        trainable_parameters=below + on_top,
        total_parameters=total,
        expected_speed_up=1 / share,
        limit=lines[-1].speed_up,
        tokens=length,
        batch_size=batch_size,
        epochs=epochs,
        lines=tuple(lines),
    )
