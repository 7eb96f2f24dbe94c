"""The bytes of training: weights, gradients, optimizer, activations and the prefix cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wheretune.cost.flops import NOTHING, attention_width, lowest_layer

if TYPE_CHECKING:
    from wheretune.cost.flops import Savings
    from wheretune.records.model import LayerParts, ModelInfo

NUMBER = 4  # bytes, fp32


def activations(
    parts: Sequence[LayerParts],
    chosen: Sequence[int],
    *,
    tokens: float,
    batch_size: int,
    savings: Savings = NOTHING,
    embeddings: bool = False,
) -> int:
    """The bytes that the layers keep for the backward pass of one batch, in fp32.

    From the lowest trained layer up, each layer keeps, for every token (w the width of attention, T tokens a text):

    - of attention: queries, keys, values, their outcome (4 w) and a mask (T); where dropout runs inside it no fused
      kernel of the CPU can do it, and it keeps queries, keys and values (3 w) and three T x T matrices a head;
    - what goes into its two norms: the outputs of attention and MLP; as much again where dropout runs after them;
    - what the MLP's activation keeps (its input; four times that for GPT-2's, see `LayerParts.kept`), and for a gated
      MLP both factors;
    - where it trains, what goes into its linear maps.

    With one token read, the last layer's MLP, its dropout and (without dropout) its query count for that one.

    On a CPU it is within 5 % of what autograd keeps of BERT, up to 10 % below it for GPT-2 and 15 % for Llama
    (`tests/test_cost.py`; a third for Llama's last layer alone with one token read). It is rough where attention is
    composed of plain operations (DeBERTa, T5), where a layer has other norms (RMSNorm that trains keeps its outcome
    too, which makes the 15 %; Gemma 2 has four norms), and for tuners other than whole layers (taken to keep the
    inputs of all maps, an upper bound, and without what the tuner adds). On CUDA a mask of dropout takes 1 byte and
    not 4, and fused attention drops out without keeping T x T matrices: there it is an upper bound. Embeddings, final
    norm and head are left out.
    """
    lowest = lowest_layer(parts, chosen, embeddings)
    kept = 0.0
    for index, one in enumerate(parts):
        if index >= lowest:
            trains = index in chosen
            drops = one.dropout and (trains or not savings.quiet)
            kept += _kept(one, tokens, trains, drops, savings.one_token and index == len(parts) - 1)
    return round(NUMBER * batch_size * kept)


def _kept(parts: LayerParts, tokens: float, trains: bool, drops: bool, one_token: bool) -> float:
    """The numbers that a layer keeps of one text."""
    named = (parts.query, parts.key, parts.value, parts.attention_output, parts.mlp_output)
    query, *_, attention_output, mlp_output = named
    if query is None or attention_output is None or mlp_output is None:
        each = [outputs + (inputs if trains else 0) for outputs, inputs in parts.maps.values()]
        return tokens * sum(each)
    width, read = attention_width(parts), 1.0 if one_token else tokens
    into_mlp = [parts.maps[path] for path in parts.maps if path not in named]
    hidden, wide = parts.maps[mlp_output]
    gated = sum(outputs for outputs, _ in into_mlp) > wide
    outcomes = hidden + parts.maps[attention_output][0]
    queries = read if parts.query != parts.key and not drops else tokens
    attention = width * (queries + 2 * tokens) + tokens * (3 * parts.heads * tokens if drops else width + tokens)
    norms = tokens * outcomes + (read * outcomes if drops else 0)
    mlp = read * wide * (parts.kept + (2 if gated else 0))
    if not trains:
        return attention + norms + mlp
    inputs = tokens * parts.maps[query][1] + read * (wide + max((wanted for _, wanted in into_mlp), default=0))
    return attention + norms + mlp + inputs + (read * width if drops else 0)


def cached(model: ModelInfo, chosen: Sequence[int], tokens: float, texts: int, all_states: bool) -> int:
    """The bytes of the prefix cache, in fp32.

    Args:
        model: Its layers and width count.
        chosen: The layers that train; none means that only the token the head reads is stored.
        tokens: T.
        texts: How many; 0 where that is not known.
        all_states: The head reads the token of every layer, so those below the lowest trained one are stored too.
    """
    lowest = min(chosen, default=model.layers)
    if lowest == 0:
        return 0
    whole = tokens if chosen else 1.0  # of the states that enter the lowest trained layer, or that the head reads
    return round(NUMBER * model.hidden_size * texts * (whole + (lowest - 1 if all_states else 0)))
