"""Bottleneck adapters in the chosen layers: Houlsby et al. (ICML 2019), and Pfeiffer et al. (EACL 2021).

Ours, because the `adapters` library needs an older Transformers, and PEFT has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wheretune.errors import ConfigError
from wheretune.tuners.additions import add, added, check_free
from wheretune.tuners.base import drawing, part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.model.stack import Layer, LayerStack
    from wheretune.records.model import ModelInfo
    from wheretune.tuners.additions import Addition
    from wheretune.tuners.base import Attached


@dataclass(frozen=True)
class Adapter:
    """A bottleneck after attention and after the MLP of each chosen layer, before the residual is added (Houlsby 2.1).

    Decided where the paper is silent or a family has no such place: it reads what the last linear map of attention (of
    the MLP) puts out, so before that part's dropout and any norm behind it; in the decoder of an encoder-decoder, the
    self-attention's. Down is drawn as in Houlsby's section 3.1 (normal, 0.01, cut at two deviations), but up starts at
    zero, so that an untrained adapter changes nothing.

    Attributes:
        reduction: d over the width between (16, as `adapters` and AdapterHub have it: 48 for BERT-base).
        place: `houlsby`, or `pfeiffer`, which has the one after the MLP only.
    """

    reduction: int = 16
    place: Literal["houlsby", "pfeiffer"] = "houlsby"
    name: ClassVar[str] = "adapter"
    needs_layers: ClassVar[bool] = True
    trains_norms: ClassVar[bool] = False
    rate: ClassVar[float] = 2e-3
    needs_every_step: ClassVar[bool] = False
    trains_embeddings: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.reduction < 1 or self.place not in ("houlsby", "pfeiffer"):
            raise ConfigError(
                f"the adapter has reduction={self.reduction} and place={self.place}",
                "give a reduction of 1 or more, and houlsby or pfeiffer",
            )

    def size(self, hidden: int) -> int:
        """The width between."""
        return max(1, hidden // self.reduction)

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Puts the adapters in.

        Raises:
            ModelError: A layer's attention or MLP was not found.
        """
        owners = [owner for layer in layers for owner in self._owners(stack.layers[layer])]
        check_free(owners, "adapter")
        with drawing(seed):
            additions = [self._add(owner, stack.hidden_size) for owner in owners]
        return added(additions, "an adapter is not linear, so no weights of the model can do what it does")

    def _owners(self, layer: Layer) -> list[nn.Module]:
        after = [part(layer, layer.parts.mlp_output, "MLP output")]
        if self.place == "houlsby":
            after.insert(0, part(layer, layer.parts.attention_output, "attention output"))
        return after

    def _add(self, owner: nn.Module, hidden: int) -> Addition:
        from wheretune.tuners.modules import Bottleneck

        bottleneck = Bottleneck(hidden, self.size(hidden))

        def through(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
            adapted: Tensor = bottleneck(output)
            return adapted

        return add(owner, "adapter", bottleneck, [owner.register_forward_hook(through)])

    def count(self, model: ModelInfo, layers: Sequence[int]) -> int:
        """2 d m + m + d an adapter."""
        d, m = model.hidden_size, self.size(model.hidden_size)
        return len(layers) * (2 if self.place == "houlsby" else 1) * (2 * d * m + m + d)
