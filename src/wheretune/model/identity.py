"""Which model it is: hashes of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from wheretune.errors import PlanError
from wheretune.model.dispatch import weight
from wheretune.model.finding import eyes_of, is_encoder_decoder, text_config
from wheretune.model.placement import quantized
from wheretune.model.sharding import is_sharded, raw, whole
from wheretune.records.model import LayerInfo, ModelInfo, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.records.plan import Plan

PART = 2**20  # numbers that are copied at a time: an embedding table in fp32 would be a large part of a bf16 model


def tensor_hashes(
    tensors: Iterable[tuple[str, Tensor | Callable[[], Tensor]]], *, as_fp32: bool = False
) -> dict[str, str]:
    """SHA-256 of the bytes of every tensor, by name; of floating ones as fp32 where asked for.

    A tensor may be what reads it, and is then read when its turn comes. All processes that hold shards of the tensors
    must ask.
    """

    def one(item: tuple[str, Tensor | Callable[[], Tensor]]) -> tuple[str, str]:
        name, tensor = item
        tensor = tensor if isinstance(tensor, torch.Tensor) else tensor()
        found = hashlib.sha256()
        for part in torch.split(whole(tensor.detach()).reshape(-1), PART):
            part = part.cpu()
            part = part.float() if as_fp32 and part.is_floating_point() else part
            found.update(raw(part))
        return name, found.hexdigest()

    tensors = list(tensors)
    if any(is_sharded(tensor) for _, tensor in tensors):
        return dict(map(one, tensors))  # in one order, as all processes gather them
    with ThreadPoolExecutor(max_workers=2) as pool:  # hashlib lets go of the interpreter lock
        return dict(pool.map(one, tensors))


def fingerprints(stack: LayerStack) -> dict[str, str]:
    """SHA-256 of every tensor of the headless model as fp32, by name; the pooler and an output matrix are left out.

    They are the same with or without a head, and for a half-precision checkpoint however it was loaded.
    """
    left_out = ("pooler.", "lm_head.")  # T5 with its output matrix is its own base model
    names = [name for name in stack.base.state_dict() if not name.startswith(left_out)]
    return tensor_hashes(((name, partial(weight, stack.base, name)) for name in names), as_fp32=True)


def base_hash(hashes: Mapping[str, str]) -> str:
    """SHA-256 over the fingerprints of a model's tensors."""
    return hashlib.sha256("".join(f"{name}:{hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()


def describe(stack: LayerStack, hashes: Mapping[str, str] | None = None) -> ModelInfo:
    """Which model this is, by its name as given to `from_pretrained`, its layers and a hash of its weights.

    Args:
        stack: Its layers.
        hashes: Its fingerprints, where they are known; none where it has no weights.
    """
    if hashes is None:
        hashes = fingerprints(stack)
    name = str(getattr(stack.base.config, "_name_or_path", "") or type(stack.base).__name__)
    if Path(name).is_dir():
        name = str(Path(name).resolve())
    config, pooler = text_config(stack.base), getattr(stack.base, "pooler", None)
    left_out = sum(p.numel() for p in pooler.parameters()) if isinstance(pooler, nn.Module) else 0
    return ModelInfo(
        spec=ModelSpec(name, layers_attribute=stack.attribute, quantize=quantized(stack.base)),
        hash=base_hash(hashes) if hashes else "",
        layers=tuple(
            LayerInfo(layer.index, layer.path, sum(p.numel() for p in layer.module.parameters()), layer.parts)
            for layer in stack.layers
        ),
        hidden_size=stack.hidden_size,
        parameters=sum(p.numel() for p in stack.base.parameters()) - left_out,
        causal=stack.causal,
        prefix="" if is_encoder_decoder(stack.base) else str(getattr(stack.base, "base_model_prefix", "")),
        vocabulary=getattr(config, "vocab_size", None) or 0,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        eyes=sum(p.numel() for p in eyes_of(stack.base)),
    )


def check_plan(info: ModelInfo, plan: Plan) -> None:
    """Makes sure that `plan` was made for this very model.

    Raises:
        PlanError: It was made for another one, by the hash of the weights.
    """
    if info.hash != plan.model.hash:
        raise PlanError(
            f"the plan was made for {plan.model.name} (weights {plan.model.hash[:12]}), "
            f"but this is {info.name} (weights {info.hash[:12]})",
            "score this model and make a plan for it",
        )


def check_layers(info: ModelInfo, plan: Plan) -> None:
    """Makes sure, without the weights, that a model has the layers that `plan` was made for.

    Raises:
        PlanError: They are others.
    """
    theirs, ours = plan.model, info
    if ours.layers == theirs.layers and ours.hidden_size == theirs.hidden_size:
        return
    shape, there = (len(theirs), theirs.hidden_size), (len(ours), ours.hidden_size)
    what = f"{there[0]} layers of width {there[1]}" if there != shape else "layers of other maps"
    raise PlanError(
        f"the plan was made for {theirs.name} ({shape[0]} layers of width {shape[1]}), but {ours.name} has {what}",
        "give the plan's model, or score this one and make a plan for it",
    )
