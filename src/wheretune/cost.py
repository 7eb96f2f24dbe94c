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

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

from wheretune.types import Cost, CostLine, Flops, LayerParts, LayerScore, Memory, ModelInfo

TOKENS = 128.0  # taken for the length of a text where none was read
EPOCHS = 3  # over which making the cache is spread, unless the user says otherwise
BATCH_SIZE = 16
NUMBER = 4  # bytes, fp32


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


# --- FLOPs --------------------------------------------------------------------------------------


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
    lowest = _lowest(parts, chosen, embeddings)
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


def _lowest(parts: Sequence[LayerParts], chosen: Sequence[int], embeddings: bool) -> int:
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
    return sum(each.values()), inner, 4.0 * tokens**2 * _width(parts)


def _width(parts: LayerParts) -> int:
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


# --- memory -------------------------------------------------------------------------------------


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
    lowest = _lowest(parts, chosen, embeddings)
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
    width, read = _width(parts), 1.0 if one_token else tokens
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


# --- a plan -------------------------------------------------------------------------------------


def price(
    model: ModelInfo,
    layers: Sequence[LayerScore],
    chosen: Sequence[int],
    *,
    below: int,
    on_top: int,
    norms: bool = True,
    embeddings: bool = False,
    all_states: bool = False,
    tokens: float | None = None,
    texts: int = 0,
    batch_size: int = BATCH_SIZE,
    epochs: int = EPOCHS,
) -> Cost:
    """What a plan costs, beside full fine-tuning.

    Args:
        model: The model.
        layers: All its layers, with their parts and sizes; whether they were scored does not matter.
        chosen: The layers that train.
        below: Parameters that train below the head.
        on_top: Parameters of the head.
        norms: The norms of the chosen layers train, as with whole layers.
        embeddings: The embeddings train too.
        all_states: The head reads the token of every layer.
        tokens: The mean length of a text, special tokens included; 128 where it is not known.
        texts: How many texts there are; 0 where that is not known, and then the cache's size is not told.
        batch_size: Texts in a batch.
        epochs: Over which making the cache is spread.
    """
    parts = [known_parts(layer) for layer in layers]
    length = TOKENS if tokens is None else tokens
    whole = sum(layers[layer].parameters for layer in chosen)
    weights = min(1.0, below / whole) if whole else 0.0
    total, reference = model.parameters + on_top, full(parts, length)

    def memory(trained: int, kept: int, stored: int) -> Memory:
        return Memory(NUMBER * total, NUMBER * trained, 2 * NUMBER * trained, kept, stored)

    kept = activations(parts, range(len(parts)), tokens=length, batch_size=batch_size, embeddings=True)
    lines = [CostLine("full fine-tuning", reference, memory(total, kept, 0), 1.0)]
    for name, savings in LINES.items():
        flops = estimate(parts, chosen, weights, tokens=length, savings=savings, norms=norms, embeddings=embeddings)
        kept = activations(parts, chosen, tokens=length, batch_size=batch_size, savings=savings, embeddings=embeddings)
        stored = cached(model, chosen, length, texts, all_states) if savings.cache and not embeddings else 0
        faster = reference.total / flops.total if flops.total else None
        lines.append(CostLine(name, flops, memory(below + on_top, kept, stored), faster))
    share = compute_share(parts, chosen, weights, tokens=length, epochs=epochs, norms=norms, embeddings=embeddings)
    return Cost(
        trainable_parameters=below + on_top,
        total_parameters=total,
        expected_speed_up=1 / share,
        limit=lines[-1].speed_up,
        tokens=length,
        batch_size=batch_size,
        epochs=epochs,
        lines=tuple(lines),
    )


def known_parts(layer: LayerScore) -> LayerParts:
    """The parts of a layer; one square map of all its parameters where no linear map was found."""
    if layer.parts.maps:
        return layer.parts
    side = max(1, isqrt(layer.parameters))
    return LayerParts(maps={"all": (side, side)})
