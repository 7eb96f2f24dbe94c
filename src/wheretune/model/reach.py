"""How many tokens a model can read, from its config alone."""

from __future__ import annotations

from typing import Any

from wheretune.errors import ModelError
from wheretune.support.sight import processor_of

MOST_TOKENS = 512  # the cut that applies when the user names none: attention's cost is quadratic
MOST_SEEN = 2048  # of a model that sees: one image takes hundreds of tokens


def most_tokens(config: Any, tokenizer: Any, asked: int | None, first: int = 0) -> int:
    """The length a text is cut to: `asked`, or what model and tokenizer can read, at most 512 or, where it sees, 2048.

    Args:
        config: The text part of the model's config.
        tokenizer: The model's tokenizer.
        asked: What was asked for, if anything.
        first: The position of the first token.

    Raises:
        ModelError: More was asked for than the model has positions.
    """
    limits = [int(tokenizer.model_max_length)]
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - first)
    if asked is None:
        return min(*limits, MOST_TOKENS if processor_of(tokenizer) is None else MOST_SEEN)
    if asked > limits[-1]:
        raise ModelError(
            f"a length of {asked} is more than the {limits[-1]} tokens the model has positions for",
            f"give {limits[-1]} or less",
            "max_length",
        )
    return asked
