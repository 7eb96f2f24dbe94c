"""The texts of a batch one after the other, without padding, where the attention keeps them apart.

Most decoders do so by the positions, which begin anew with every text: through the mask, and with flash attention by
running texts of any lengths at once. Encoders, and OPT, make their masks without positions and read across. Which of
the two a model does is seen by running it both ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from wheretune.errors import ConfigError
from wheretune.model.forward import closeness, evaluating
from wheretune.model.inputs import unlabelled

if TYPE_CHECKING:
    from wheretune.heads.headed import HeadedModel
    from wheretune.records.data import Batch

CLOSE = 1e-4  # how far packed features may be from padded ones in fp32


@contextmanager
def packing(model: HeadedModel, batch: Batch) -> Iterator[None]:
    """Inside, the model trains on packed texts; it evaluates on padded ones as ever.

    Args:
        model: What is trained.
        batch: Some texts that differ, to try it on.

    Raises:
        ConfigError: The texts are not kept apart.
        ModelError: The base model takes no positions.
    """
    inputs = unlabelled(batch, next(model.base.parameters()).device)
    close = closeness(model.base, CLOSE)
    with torch.no_grad(), evaluating(model):
        padded = model.features(inputs)
        try:
            apart = torch.allclose(model.features(inputs, pack=True), padded, atol=close, rtol=close)
        except (RuntimeError, IndexError, ValueError):  # its mask is not made for this
            apart = False
    if not apart:
        attention = getattr(model.config, "_attn_implementation", None) or "its own"
        raise ConfigError(
            f"--pack: {type(model.base).__name__} with {attention} attention reads across packed texts",
            "leave --pack out; most decoders keep them apart, and so does flash attention",
        )
    model.packed = True
    try:
        yield
    finally:
        model.packed = False
