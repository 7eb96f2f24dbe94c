"""The bytes of training: weights, gradients, optimizer, activations and the prefix cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from wheretune.cost.flops import NOTHING, Savings, attention_width
from wheretune.cost.training import Training, running
from wheretune.records.cost import Memory
from wheretune.records.model import LayerParts

if TYPE_CHECKING:
    from wheretune.records.model import ModelInfo

FP32 = 4  # bytes of a number in fp32
BYTES = {"auto": 4, "fp32": 4, "bf16": 2, "fp16": 2}  # of a frozen weight
QUANTIZED_BYTES = {"4bit": 0.5, "8bit": 1.0}  # of a weight of a quantised linear map


def memory(model: ModelInfo, training: Training, activations: int, cache: int) -> Memory:
    """All bytes of a training.

    Args:
        model: Its size, and the precision it is held in, count.
        training: What trains.
        activations: From `activations`.
        cache: From `cached`.
    """
    trained = training.parameters
    return Memory(weights(model, training), FP32 * trained, 2 * FP32 * trained, activations, cache)


def weights(model: ModelInfo, training: Training) -> int:
    """The bytes of all weights, the head's included.

    Weights that train are held in fp32 (4 bytes), whatever the model is opened in; frozen ones in the model's dtype
    (fp32 4, bf16 and fp16 2). Where the model is quantised, the layers' linear maps are in 4 or 8 bits, without the
    scales that bitsandbytes keeps beside them (0.5 bits per weight at most), and the rest in the model's dtype.

    Decided: `auto`, the checkpoint's own dtype, which stands in no record, counts as fp32: an upper bound. What a tuner
    adds (LoRA) counts as if it stood in the place of as many frozen weights.
    """
    frozen = max(0, model.parameters + on_top(model, training) - training.parameters)
    maps = 0
    if model.spec.quantize is not None:
        maps = min(frozen, sum(prod(shape) for layer in model.layers for shape in layer.parts.maps.values()))
    quantized = QUANTIZED_BYTES.get(model.spec.quantize or "", 0.0) * maps
    return round(FP32 * training.parameters + BYTES[model.spec.dtype] * (frozen - maps) + quantized)


def copied(model: ModelInfo, training: Training) -> int:
    """The bytes of a working copy of the chosen layers and, once more, of what trains of it; 0 where there is none."""
    if training.runs is None:
        return 0
    parts = running([layer.parts for layer in model.layers], training)
    maps = sum(prod(shape) for place in training.layers for shape in parts[place].maps.values())
    return round(FP32 * (1 + training.share) * maps)


def on_top(model: ModelInfo, training: Training) -> int:
    """The parameters of the head, those of a language model's own included, unless these are the embeddings."""
    return max(training.on_top, 0 if model.tied else training.speech)


def activations(
    parts: Sequence[LayerParts], training: Training, tokens: float, batch_size: int, savings: Savings = NOTHING
) -> int:
    """The bytes that the layers keep for the backward pass of one batch, in fp32.

    From the lowest trained layer up, each layer keeps, for every token (w the width of attention, T tokens a text):

    - of attention: queries, keys, values, their outcome (4 w) and a mask (T); where dropout runs inside it no fused
      kernel of the CPU can do it, and it keeps queries, keys and values (3 w) and three T x T matrices per head;
    - what goes into its two norms: the outputs of attention and MLP; as much again where dropout runs after them;
    - what the MLP's activation keeps (its input; four times that for GPT-2's, see `LayerParts.kept`), and for a gated
      MLP both factors;
    - where it trains, what goes into its linear maps.

    With one token read, the last layer's MLP, its dropout and (without dropout) its query count for that one.

    On a CPU it is within 5 % of what autograd keeps of BERT, up to 10 % below it for GPT-2 and 15 % for Llama
    (`tests/cost/test_memory.py`; a third for Llama's last layer alone with one token read). It is rough where attention
    is composed of plain operations (DeBERTa, T5), where a layer has other norms (RMSNorm that trains keeps its outcome
    too, which makes the 15 %; Gemma 2 has four norms), and for tuners other than whole layers (taken to keep the
    inputs of all maps, an upper bound, and without what the tuner adds). On CUDA a mask of dropout takes 1 byte and
    not 4, and fused attention drops out without keeping T x T matrices: there it is an upper bound, and likewise for a
    model in half precision. Embeddings, final norm and head are left out.
    """
    lowest = training.lowest(len(parts))
    kept = 0.0
    for index, one in enumerate(running(parts, training)):
        if index >= lowest:
            trains = index in training.layers
            drops = one.dropout and (trains or not savings.quiet)
            read = min(training.read, tokens) if savings.one_token and index == len(parts) - 1 else tokens
            kept += _kept(one, tokens, read, trains, drops)
    return round(FP32 * batch_size * kept)


def _kept(parts: LayerParts, tokens: float, read: float, trains: bool, drops: bool) -> float:
    """The numbers that a layer keeps of one text of which `read` tokens go through its MLP."""
    widths = _widths(parts)
    if widths is None:
        each = [outputs + (inputs if trains else 0) for outputs, inputs in parts.maps.values()]
        each += [parts.experts_per_token * (a + (b if trains else 0)) for _, a, b in parts.experts.values()]
        return tokens * sum(each)
    norms = tokens * widths.outputs + (read * widths.outputs if drops else 0)
    mlp = read * widths.mlp * (parts.kept + (2 if widths.gated else 0))
    into_maps = tokens * widths.into_attention + read * (widths.mlp + widths.into_mlp)
    if drops:
        queries, matrices = tokens, 3 * parts.heads * tokens
        into_maps += read * widths.attention
    else:
        queries, matrices = (read if parts.query != parts.key else tokens), widths.attention + tokens
    attention = widths.attention * (queries + 2 * tokens) + tokens * matrices
    return attention + norms + mlp + (into_maps if trains else 0)


@dataclass(frozen=True)
class _Widths:
    """The widths of a layer whose attention and MLP were found.

    Attributes:
        attention: Of all heads together.
        outputs: Of attention and MLP, which go into the norms, together.
        mlp: Of the MLP's inside.
        gated: Whether the MLP is gated.
        into_attention: Of what the queries are made of.
        into_mlp: Of what the MLP reads.
    """

    attention: int
    outputs: int
    mlp: int
    gated: bool
    into_attention: int
    into_mlp: int


def _widths(parts: LayerParts) -> _Widths | None:
    """The widths of a layer; None where its attention or MLP was not found."""
    if parts.query is None or parts.attention_output is None or parts.mlp_output is None:
        return None
    named = (parts.query, parts.key, parts.value, parts.attention_output, parts.mlp_output)
    others = [shape for path, shape in parts.maps.items() if path not in named]
    outputs, mlp = parts.maps[parts.mlp_output]
    return _Widths(
        attention=attention_width(parts),
        outputs=outputs + parts.maps[parts.attention_output][0],
        mlp=mlp,
        gated=sum(wide for wide, _ in others) > mlp,
        into_attention=parts.maps[parts.query][1],
        into_mlp=max((inputs for _, inputs in others), default=0),
    )


def cached(model: ModelInfo, training: Training, tokens: float, texts: int) -> int:
    """The bytes of the prefix cache, in fp32.

    Args:
        model: Its layers and width count.
        training: Where no layer trains, only the token that the head reads is stored; where the head reads the token of
            every layer, those below the lowest trained one are stored too; where the embeddings train, nothing is.
        tokens: T.
        texts: How many; 0 where that is not known.
    """
    lowest = training.lowest(len(model))
    if lowest <= 0:
        return 0
    entering = tokens if training.layers else 1.0  # states that enter the lowest trained layer, or that the head reads
    below = lowest - 1 if training.all_states else 0
    return round(FP32 * model.hidden_size * texts * (entering + below))
