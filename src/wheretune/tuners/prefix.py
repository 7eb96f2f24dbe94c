"""Trainable keys and values in the attention of the chosen layers (Li and Liang, ACL 2021), behind a gate at zero.

A plain prefix shares one softmax with the text, so an untrained one already changes the output. Here its attention is
taken apart and added through a gate per head that starts at zero (LLaMA-Adapter, Zhang et al., ICLR 2024, equations 5
to 7), so that training starts from the model as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wheretune.errors import ConfigError
from wheretune.tuners.additions import add, added, check_free
from wheretune.tuners.base import drawing, part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.model.stack import Layer, LayerStack
    from wheretune.records.model import LayerParts, ModelInfo
    from wheretune.tuners.additions import Addition
    from wheretune.tuners.base import Attached


@dataclass(frozen=True)
class Prefix:
    """A gated prefix in the self-attention of each chosen layer.

    Decided where the papers are silent: the query is taken before rotary embedding, since a prefix stands at no
    position; keys and values are drawn from the standard normal, as LLaMA-Adapter's prompts are, and trained as they
    are (Li and Liang's MLP around them is a remedy for unstable training, which the gate is as well); the gate goes
    through tanh, as in LLaMA-Adapter's code.

    Attributes:
        length: Trainable keys and values a layer.
    """

    length: int = 16
    name: ClassVar[str] = "prefix"
    needs_layers: ClassVar[bool] = True
    trains_norms: ClassVar[bool] = False
    rate: ClassVar[float] = 4e-3
    needs_every_step: ClassVar[bool] = False
    trains_embeddings: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ConfigError(f"the prefix has length={self.length}", "give 1 or more")

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Puts the prefixes in.

        Raises:
            ModelError: A layer's attention was not found.
        """
        chosen = [stack.layers[layer] for layer in layers]
        check_free([part(layer, layer.parts.attention_output, "self-attention") for layer in chosen], "prefix")
        with drawing(seed):
            additions = [self._add(layer) for layer in chosen]
        return added(additions, "a prefix is read beside the text, so no weights of the model can do what it does")

    def _add(self, layer: Layer) -> Addition:
        from wheretune.model.parts import queries
        from wheretune.tuners.modules import PrefixAttention

        parts = layer.parts
        query, output = (layer.module.get_submodule(str(path)) for path in (parts.query, parts.attention_output))
        prefix = PrefixAttention(self.length, *_shape(parts))
        seen: list[Tensor] = []  # the queries, from the map that makes them to the map that reads the context

        def keep(_: nn.Module, __: tuple[Any, ...], made: Tensor) -> None:
            seen[:] = [made]

        def read(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            found = prefix(queries(parts, seen.pop()))
            return (given[0] + found.flatten(-2).reshape(given[0].shape), *given[1:])

        return add(
            output, "prefix", prefix, [query.register_forward_hook(keep), output.register_forward_pre_hook(read)]
        )

    def count(self, model: ModelInfo, layers: Sequence[int]) -> int:
        """2 length d_kv + heads a layer.

        Raises:
            ConfigError: The scores do not say how the layers are made.
        """
        total = 0
        for layer in layers:
            heads, kv_heads, size = _shape(model.layers[layer].parts)
            total += 2 * self.length * kv_heads * size + heads
        return total


def _shape(parts: LayerParts) -> tuple[int, int, int]:
    """Query heads, key and value heads, and the width of a head."""
    if parts.query is None or parts.key is None or parts.attention_output is None or not parts.heads:
        raise ConfigError("no self-attention was found in the layers", "take another tuner, such as full or bias")
    width = parts.maps[parts.attention_output][1]
    size = width // parts.heads
    made = parts.maps[parts.key][0]
    return parts.heads, ((made - width) // 2 if parts.key == parts.query else made) // size, size
