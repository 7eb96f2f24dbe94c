"""What a layer is made of: its linear maps, and which of them does what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import nn

from wheretune.records.model import LayerParts

if TYPE_CHECKING:
    from torch import Tensor

# These fused maps put out q, k and v of the first head, then of the next; all others all q, then all k, then all v.
PER_HEAD = ("query_key_value", "in_proj")


def linear_maps(module: nn.Module) -> dict[str, tuple[int, int]]:
    """The linear maps below `module`: path -> (outputs, inputs); a map that PEFT adapted is the one that it was."""
    from transformers.pytorch_utils import Conv1D

    found: dict[str, tuple[int, int]] = {}
    adapted: list[str] = []
    for path, part in module.named_modules():
        if path.startswith(tuple(adapted)):
            continue
        own = getattr(part, "base_layer", part)
        if isinstance(own, nn.Linear):
            found[path] = (own.out_features, own.in_features)
        elif isinstance(own, Conv1D):
            found[path] = (own.nf, own.nx)
        if own is not part:
            adapted.append(f"{path}.")
    return found


def parts_of(layer: nn.Module, heads: int, causal: bool) -> LayerParts:
    """The linear maps of a layer, and which of them does what.

    Every family registers a layer's attention before its MLP, the attention's maps ending with its output. Decoders are
    taken to have their norm before attention, encoders behind it; ModernBERT, which has it before, calls it
    `attn_norm`.
    """
    maps = linear_maps(layer)
    attention = _self_attention(maps)
    rest = [path for path in maps if "att" not in path.lower()]
    query, key, value = _projections(attention, maps)
    experts, per_token = experts_of(layer)
    return LayerParts(
        maps=maps,
        query=query,
        key=key,
        value=value,
        attention_output=attention[-1] if query is not None else None,
        mlp_output=rest[-1] if rest and not experts else None,  # the experts' outputs are no map's
        heads=heads,
        biases=sum(parameter.numel() for parameter in biases(layer)),
        dropout=any(isinstance(part, nn.Dropout) and part.p > 0 for part in layer.modules()),
        kept=_kept_by_activation(layer),
        norm_first=causal or any(name.startswith("attn_norm.") for name, _ in layer.named_parameters()),
        experts=experts,
        experts_per_token=per_token,
    )


def experts_of(layer: nn.Module) -> tuple[dict[str, tuple[int, int, int]], int]:
    """The maps of a mixture of experts, by path, and through how many experts a token runs; none of any other layer.

    A mixture has a router, which says how many it takes (`top_k`); its experts' maps lie together in parameters of
    three dimensions.
    """
    counts = [getattr(part, "top_k", None) for part in layer.modules()]
    per_token = next((count for count in counts if isinstance(count, int)), 0)
    if not per_token:
        return {}, 0
    found = {path: tuple(one.shape) for path, one in layer.named_parameters() if one.ndim == 3 and ".conv" not in path}
    return {path: (shape[0], shape[1], shape[2]) for path, shape in found.items()}, per_token if found else 0


def _self_attention(maps: Mapping[str, tuple[int, int]]) -> list[str]:
    """The maps of self-attention.

    Every family calls it something with "att"; the decoders of encoder-decoders have a second one, to the encoder.
    """
    cross = ("EncDec", "encoder_attn", "cross")
    return [path for path in maps if "att" in path.lower() and not any(name in path for name in cross)]


def _projections(
    attention: Sequence[str], maps: Mapping[str, tuple[int, int]]
) -> tuple[str, str, str] | tuple[None, None, None]:
    """The maps that make queries, keys and values, by the first letter of their names; None of a lone map.

    One map that makes all three is the widest of its attention.
    """
    if len(attention) < 2:
        return None, None, None
    query, key, value = (next((p for p in attention if p.split(".")[-1].startswith(letter)), None) for letter in "qkv")
    if query is None or key is None or value is None:
        widest = max(attention, key=lambda path: maps[path][0])
        return widest, widest, widest
    return query, key, value


def _kept_by_activation(layer: nn.Module) -> int:
    """How many numbers the activation keeps for the backward pass of one: GPT-2's GELU, made of parts, keeps four."""
    from transformers.activations import ACT2CLS

    kinds = {kind[0] if isinstance(kind, tuple) else kind for kind in ACT2CLS.values()}
    activation = next((part for part in layer.modules() if type(part) in kinds), None)
    if activation is None or any(True for _ in activation.parameters()):
        return 1
    kept: dict[int, Tensor] = {}

    def keep(saved: Tensor) -> Tensor:
        kept[saved.data_ptr()] = saved  # held, so that no other gets its place
        return saved

    with torch.inference_mode(False), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        activation(torch.ones(1, device="cpu", requires_grad=True))
    return max(1, len(kept))


def biases(layer: nn.Module) -> list[nn.Parameter]:
    """The biases of a layer, those of its norms included."""
    return [parameter for name, parameter in layer.named_parameters() if name.split(".")[-1].endswith("bias")]


def queries(parts: LayerParts, made: Float[Tensor, "*lead out"]) -> Float[Tensor, "*lead heads size"]:
    """The queries of every head in what the query map put out, before any rotation."""
    assert parts.query is not None and parts.attention_output is not None
    width = parts.maps[parts.attention_output][1]
    size = width // parts.heads
    if parts.query != parts.key:
        return made.reshape(*made.shape[:-1], parts.heads, size)
    if parts.query.split(".")[-1] in PER_HEAD:
        return made.reshape(*made.shape[:-1], parts.heads, 3 * size)[..., :size]
    return made[..., :width].reshape(*made.shape[:-1], parts.heads, size)
