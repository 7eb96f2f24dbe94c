"""FLOPs of a plan: what freezing and wheretune's savings make of full fine-tuning, computed without running it.

All follows from the linear maps of the layers (`LayerParts`), for texts of T tokens each. Per layer:

- forward: 2 FLOPs per weight of every linear map and token that runs through it, and 4 T w per token for attention
  itself (scores and weighted values; w is the width that goes into the map after attention);
- input gradients: the same for linear maps, and twice the forward of attention itself, which has two operands;
- weight gradients: the same as the forward of the linear maps, times the share of the weights that the tuner trains.

Full fine-tuning pays all three for all layers. A plan pays the forward for all layers, weight gradients for its chosen
ones, and input gradients from its lowest chosen layer p up; inside p all maps need one but those of queries, keys and
values, whose input is frozen (unless a norm that trains stands before them, as in decoders). Three savings come on top:

- the prefix cache: no forward below p, where the stored states enter;
- one token: in the last layer every map but those of keys and values runs for the tokens that the head reads (a map
  that makes queries, keys and values at once runs for all; attention itself is not cut); of a language model's head,
  which reads the tokens before those that are learned, so does the output matrix;
- quiet: frozen layers drop nothing out, which saves memory and no FLOPs.

A language model's output matrix counts as one more map, on all tokens unless it is cut, with an input gradient where
anything below it trains and a weight gradient where it trains itself.

Left out are norms, routers, activations, embeddings, other heads, the optimizer, what a tuner adds (LoRA's own maps),
padding, and that attention grows with the mean of T squared rather than with the square of the mean. Of a mixture of
experts those count through which a token runs; attention to an encoder counts by its maps alone. A layer whose
attention was not found is a list of plain maps; one in which no linear map was found counts as one square map of all
its parameters. So this is what the layers' arithmetic allows, not what a machine will show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wheretune.cost.training import Stages, Training, full_training, running
from wheretune.records.cost import Flops
from wheretune.records.model import LayerParts

TOKENS = 128.0  # taken for the length of a text where none was read
EPOCHS = 3  # over which making the cache is spread, unless the user says otherwise


@dataclass(frozen=True)
class Savings:
    """What wheretune leaves out of plain freezing.

    Attributes:
        cache: Nothing runs below the lowest trained layer.
        one_token: The last layer computes the tokens that the head reads, and keys and values for all.
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
    training: Training,
    tokens: float,
    savings: Savings = NOTHING,
    frozen: int | None = None,
) -> Flops:
    """The FLOPs of one training step for one text.

    Args:
        parts: Of every layer.
        training: What trains.
        tokens: T.
        savings: What is left out.
        frozen: The layer below which the cache reaches; the lowest that trains by default.
    """
    lowest = training.lowest(len(parts))
    frozen = lowest if frozen is None else frozen
    read = min(training.read, tokens) if savings.one_token else tokens
    forward = spoken = 2.0 * training.speech * read
    inputs = spoken if lowest < len(parts) else 0.0
    trained = spoken if training.speech_trains else 0.0
    for index, one in enumerate(running(parts, training)):
        linear, inner, attention = _layer(one, tokens, read if index == len(parts) - 1 else tokens)
        if index >= frozen or not savings.cache:
            forward += linear + attention
        if index >= lowest:
            whole = index > lowest or (training.norms and one.norm_first)
            inputs += (linear if whole else inner) + 2 * attention
        if index in training.layers:
            trained += training.share * linear
    return Flops(forward, inputs, trained)


def _layer(parts: LayerParts, tokens: float, read: float) -> tuple[float, float, float]:
    """Forward FLOPs of all linear maps, of those without queries, keys and values, and of attention itself."""
    of_all = {parts.key, parts.value}  # and of queries, where one map makes all three
    some = read if parts.key is not None else tokens
    each = {
        path: 2.0 * outputs * inputs * (tokens if path in of_all else some)
        for path, (outputs, inputs) in parts.maps.items()
    }
    running = 2.0 * parts.experts_per_token * some  # a token runs through a few experts
    each |= {path: running * rows * columns for path, (_, rows, columns) in parts.experts.items()}
    inner = sum(flops for path, flops in each.items() if path not in of_all | {parts.query})
    return sum(each.values()), inner, 4.0 * tokens**2 * attention_width(parts)


def attention_width(parts: LayerParts) -> int:
    """Of all heads together; 0 where no attention was found."""
    return 0 if parts.attention_output is None else parts.maps[parts.attention_output][1]


def full(parts: Sequence[LayerParts], tokens: float, speech: int = 0) -> Flops:
    """The FLOPs of one step of full fine-tuning for one text, with an output matrix of so many numbers."""
    return estimate(parts, full_training(len(parts), speech=speech), tokens)


def compute_share(parts: Sequence[LayerParts], training: Training, tokens: float, epochs: int = EPOCHS) -> float:
    """The share of full fine-tuning's FLOPs that a training costs over some epochs, with every saving.

    Making the cache counts as one forward pass of the layers below the lowest trained one.
    """
    making = estimate(parts, training, tokens).forward
    making -= estimate(parts, training, tokens, Savings(cache=True)).forward
    return (estimate(parts, training, tokens, EVERYTHING).total + making / epochs) / full(
        parts, tokens, training.speech
    ).total


def mean_estimate(parts: Sequence[LayerParts], stages: Stages, tokens: float, savings: Savings = NOTHING) -> Flops:
    """The FLOPs of one training step for one text, as `estimate`, the mean over a schedule's steps."""
    each = [
        (share, estimate(parts, one, tokens, savings, stages.frozen(one, len(parts)))) for share, one in stages.each
    ]
    return Flops(
        sum(share * one.forward for share, one in each),
        sum(share * one.input_gradients for share, one in each),
        sum(share * one.weight_gradients for share, one in each),
    )


def scheduled_share(parts: Sequence[LayerParts], stages: Stages, tokens: float, epochs: int = EPOCHS) -> float:
    """The share of full fine-tuning's FLOPs that a training under a schedule costs, as `compute_share`.

    Making the cache of all stages counts as one forward pass of the layers below the highest of their lowest; where
    that is more than it saves there is none.
    """
    making = sum(linear + attention for linear, _, attention in (
        _layer(one, tokens, tokens) for one in parts[: max(0, stages.made(len(parts)))]
    ))  # fmt: skip
    cached = mean_estimate(parts, stages, tokens, EVERYTHING).total + making / epochs
    plain = mean_estimate(parts, stages, tokens, Savings(one_token=True, quiet=True)).total
    return min(cached, plain) / full(parts, tokens, stages.each[0][1].speech).total
