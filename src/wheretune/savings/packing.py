"""The texts of a batch one after the other, without padding, where the attention keeps them apart.

Most decoders do so by the positions, which begin anew with every text: through the mask, and with flash attention by
running texts of any lengths at once. Encoders, and OPT, make their masks without positions and read across. Which of
the two a model does is seen by running it both ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from wheretune.errors import ConfigError
from wheretune.model.inputs import model_device
from wheretune.savings.both_ways import BothWays

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.records.data import Batch

CLOSE = 1e-4  # how far packed features may be from padded ones in fp32, of their length


@runtime_checkable
class WithHead(Protocol):
    """What savings need of a model with a head on top.

    Attributes:
        base_model: The headless transformer; not `base`, which Python 3.12 does not see among a module's own.
        packed: Whether in training mode the texts of a batch run one after the other.
        all_layers: Whether the head reads the representative token of every layer.
        several: Whether it reads several tokens of a text.
        read: While the base model runs, the places (batch, token) that are read, where these are several.
    """

    packed: bool
    all_layers: bool
    read: Tensor | None

    @property
    def several(self) -> bool: ...

    @property
    def base_model(self) -> nn.Module: ...

    def features(self, inputs: Batch, pack: bool = False) -> Tensor:
        """What the head reads, (text, feature), of texts that run padded or, with `pack`, one after the other."""
        ...


@contextmanager
def packing(model: WithHead, batch: Batch) -> Iterator[None]:
    """Inside, the model trains on packed texts; it evaluates on padded ones as ever.

    Args:
        model: What is trained.
        batch: Some texts that differ, to try it on.

    Raises:
        ConfigError: The texts are not kept apart.
        ModelError: The base model takes no positions.
    """
    device = model_device(model.base_model)
    inputs = {name: value.to(device) for name, value in batch.items()}
    both = BothWays(model.base_model, lambda: model.features(inputs), CLOSE)
    if not both.agree(lambda: model.features(inputs, pack=True)):
        config: Any = model.base_model.config
        attention = getattr(config, "_attn_implementation", None) or "its own"
        raise ConfigError(
            f"{type(model.base_model).__name__} with {attention} attention reads across packed texts",
            "do not pack them; most decoders keep them apart, and so does flash attention",
            "packed",
        )
    model.packed = True
    try:
        yield
    finally:
        model.packed = False
