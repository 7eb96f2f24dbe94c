"""FLOPs and memory of a plan: what freezing and wheretune's savings make of full fine-tuning, told without running it.

All is told from the linear maps of the layers (`LayerParts`), for texts of T tokens each. Per layer:

- forward: 2 FLOPs a weight of every linear map for every token that runs through it, and 4 T w a token for attention
  itself (scores and weighted values; w is the width that goes into the map after attention);
- input gradients: the same for linear maps, and twice the forward of attention itself, which has two operands;
- weight gradients: the same as the forward of the linear maps, times the share of the weights that the tuner trains.

Full fine-tuning pays all three for all layers. A plan pays the forward for all layers, weight gradients for its chosen
ones, and input gradients from its lowest chosen layer p up; inside p all maps need one but those of queries, keys and
values, whose input is frozen (unless a norm that trains stands before them, as in decoders). Three savings come on top:

- the prefix cache: no forward below p, where the stored states enter;
- one token: in the last layer every map but those of keys and values runs for the one token that the head reads (a map
  that makes queries, keys and values at once runs for all; attention itself is not cut);
- quiet: frozen layers drop nothing out, which saves memory and no FLOPs.

Left out are norms, activations, embeddings, the head, the optimizer, what a tuner adds (LoRA's own maps), padding, and
that attention grows with the mean of T squared rather than with the square of the mean. Experts that are no linear maps
are not counted, attention to an encoder only by its maps. A layer whose attention was not found is a list of plain
maps; one in which no linear map was found counts as one square map of all its parameters. So this is what the layers'
arithmetic allows, not what a machine will show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING

from wheretune.records.cost import Flops
from wheretune.records.model import LayerParts

if TYPE_CHECKING:
    from wheretune.records.scores import LayerScore

TOKENS = 128.0  # taken for the length of a text where none was read
EPOCHS = 3  # over which making the cache is spread, unless the user says otherwise


@dataclass(frozen=True)
class Savings:
    """What wheretune leaves out of plain freezing.

    Attributes:
        cache: Nothing runs below the lowest trained layer.
        one_token: The last layer computes the token that the head reads, and keys and values for all.
        quiet: Frozen layers drop nothing out.
    """

    cache: bool = False
    one_token: bool = False
    quiet: bool = False


NOTHING, EVERYTHING = Savings(), Savings(cache=True, one_token=True, quiet=True)
LINES = {
    "plain freezing": NOTHING,
    "with the prefix cache": Savings(cache=True),
    "reading one token only": Savings(one_token=True),
    "everything": EVERYTHING,
}


def estimate(
    parts: Sequence[LayerParts],
    chosen: Sequence[int],
    weights: float = 1.0,
    *,
    tokens: float,
    savings: Savings = NOTHING,
    norms: bool = True,
    embeddings: bool = False,
) -> Flops:
    """The FLOPs of one training step for one text.

    Args:
        parts: Of every layer.
        chosen: The layers that train, from 0; none means the head alone.
        weights: The share of their weights that the tuner trains; 1 for whole layers, near 0 for LoRA.
        tokens: T.
        savings: What is left out.
        norms: The norms of the chosen layers train, as with whole layers.
        embeddings: The embeddings train too, so gradients flow through all layers and nothing can be cached.
    """
    lowest = lowest_layer(parts, chosen, embeddings)
    forward = inputs = trained = 0.0
    for index, one in enumerate(parts):
        linear, inner, attention = _layer(one, tokens, savings.one_token and index == len(parts) - 1)
        if index >= lowest or not savings.cache:
            forward += linear + attention
        if index >= lowest:
            whole = index > lowest or (norms and one.norm_first)
            inputs += (linear if whole else inner) + 2 * attention
        if index in chosen:
            trained += weights * linear
    return Flops(forward, inputs, trained)


def lowest_layer(parts: Sequence[LayerParts], chosen: Sequence[int], embeddings: bool) -> int:
    """The lowest layer that trains: L if none does, below all layers if the embeddings do."""
    return -1 if embeddings else min(chosen, default=len(parts))


def _layer(parts: LayerParts, tokens: float, one_token: bool) -> tuple[float, float, float]:
    """Forward FLOPs of all linear maps, of those without queries, keys and values, and of attention itself."""
    of_all = {parts.key, parts.value}  # and of queries, where one map makes all three
    cut = one_token and parts.key is not None
    each = {
        path: 2.0 * outputs * inputs * (1.0 if cut and path not in of_all else tokens)
        for path, (outputs, inputs) in parts.maps.items()
    }
    inner = sum(flops for path, flops in each.items() if path not in of_all | {parts.query})
    return sum(each.values()), inner, 4.0 * tokens**2 * attention_width(parts)


def attention_width(parts: LayerParts) -> int:
    """Of all heads together; 0 where no attention was found."""
    return 0 if parts.attention_output is None else parts.maps[parts.attention_output][1]


def full(parts: Sequence[LayerParts], tokens: float) -> Flops:
    """The FLOPs of full fine-tuning, a text."""
    return estimate(parts, range(len(parts)), tokens=tokens, embeddings=True)


def compute_share(
    parts: Sequence[LayerParts],
    chosen: Sequence[int],
    weights: float = 1.0,
    *,
    tokens: float,
    epochs: int = EPOCHS,
    norms: bool = True,
    embeddings: bool = False,
) -> float:
    """The share of full fine-tuning's FLOPs that a plan costs over some epochs, with every saving.

    Making the cache counts as one forward pass of the layers below the lowest trained one.
    """

    def of(savings: Savings) -> Flops:
        return estimate(parts, chosen, weights, tokens=tokens, savings=savings, norms=norms, embeddings=embeddings)

    making = of(NOTHING).forward - of(Savings(cache=True)).forward
    return (of(EVERYTHING).total + making / epochs) / full(parts, tokens).total


def known_parts(layer: LayerScore) -> LayerParts:
    """The parts of a layer; one square map of all its parameters where no linear map was found."""
    if layer.parts.maps:
        return layer.parts
    side = max(1, isqrt(layer.parameters))
    return LayerParts(maps={"all": (side, side)})
