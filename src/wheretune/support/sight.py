"""The processor that a tokenizer is part of, which makes of images what a model sees; a model that reads has none.

Tokenizers go everywhere; what belongs to one goes with it.
"""

from __future__ import annotations

from typing import Any

from wheretune.errors import ModelError

PROCESSOR, BLIND = "_wheretune_processor", "_wheretune_blind"


def give_processor(tokenizer: Any, processor: Any, why_not: str = "") -> None:
    """Notes the processor of a tokenizer or, of a model that sees, why it cannot be opened."""
    setattr(tokenizer, PROCESSOR, processor)
    setattr(tokenizer, BLIND, why_not)


def processor_of(tokenizer: Any) -> Any:
    """The processor that a tokenizer is part of; None where it is part of none."""
    return getattr(tokenizer, PROCESSOR, None)


def require_processor(tokenizer: Any) -> Any:
    """The processor that a tokenizer is part of.

    Raises:
        ModelError: The model reads text alone, or its processor could not be opened.
    """
    processor = processor_of(tokenizer)
    if processor is not None:
        return processor
    name, why_not = getattr(tokenizer, "name_or_path", "") or "the model", getattr(tokenizer, BLIND, "")
    if why_not:
        raise ModelError(
            f"the data has images, and the processor of {name} cannot be opened: {why_not}",
            "save the processor into the model's folder with processor.save_pretrained",
            "model",
        )
    raise ModelError(
        f"the data has images, and {name} has no eyes: it reads text alone",
        "give a model that sees (AutoModelForImageTextToText), or data without images",
        "model",
    )
