"""Which model it is: hashes of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from wheretune.errors import PlanError
from wheretune.model.finding import is_encoder_decoder
from wheretune.model.placement import quantized
from wheretune.records.model import ModelInfo

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.records.plan import Plan


def tensor_hashes(tensors: Iterable[tuple[str, Tensor]], *, as_fp32: bool = False) -> dict[str, str]:
    """SHA-256 of the bytes of every tensor, by name; of floating ones as fp32 where asked for."""

    def one(item: tuple[str, Tensor]) -> tuple[str, str]:
        name, tensor = item
        tensor = tensor.float() if as_fp32 and tensor.is_floating_point() else tensor
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return name, hashlib.sha256(raw.numpy().data).hexdigest()

    with ThreadPoolExecutor(max_workers=2) as pool:  # hashlib lets go of the interpreter lock
        return dict(pool.map(one, tensors))


def base_hash(stack: LayerStack) -> str:
    """SHA-256 over the weights of the base model as fp32, the pooler left out.

    It is the same with or without a head, and for a half-precision checkpoint however it was loaded.
    """
    left_out = ("pooler.", "lm_head.")  # T5 with its output matrix is its own base model
    weights = ((n, v) for n, v in stack.base.state_dict().items() if not n.startswith(left_out))
    each = tensor_hashes(weights, as_fp32=True)
    return hashlib.sha256("".join(f"{name}:{each[name]}\n" for name in sorted(each)).encode()).hexdigest()


def describe(stack: LayerStack, revision: str | None = None) -> ModelInfo:
    """Which model this is: its name as given to `from_pretrained`, the hub's commit, and a hash of its weights."""
    config = stack.base.config
    name = str(getattr(config, "_name_or_path", "") or type(stack.base).__name__)
    if Path(name).is_dir():
        name = str(Path(name).resolve())
    pooler = getattr(stack.base, "pooler", None)
    left_out = sum(p.numel() for p in pooler.parameters()) if isinstance(pooler, nn.Module) else 0
    return ModelInfo(
        name=name,
        revision=revision,
        hash=base_hash(stack),
        layers=len(stack),
        hidden_size=stack.hidden_size,
        parameters=sum(p.numel() for p in stack.base.parameters()) - left_out,
        causal=stack.causal,
        layers_attribute=stack.attribute,
        quantize=quantized(stack.base),
        prefix="" if is_encoder_decoder(stack.base) else str(getattr(stack.base, "base_model_prefix", "")),
    )


def check_plan(stack: LayerStack, plan: Plan) -> None:
    """Makes sure that `plan` was made for this very model.

    Raises:
        PlanError: It was made for another one, by the hash of the weights, or names a layer that is not there.
    """
    found = describe(stack)
    if found.hash != plan.model.hash:
        raise PlanError(
            f"the plan was made for {plan.model.name} (weights {plan.model.hash[:12]}), "
            f"but this is {found.name} (weights {found.hash[:12]})",
            "score this model and make a plan for it",
        )
    check_layers(stack, plan)


def check_layers(stack: LayerStack, plan: Plan) -> None:
    """Makes sure that a model has the layers that `plan` chose.

    Raises:
        PlanError: It has not; one is named.
    """
    missing = [layer for layer in plan.layers if not 0 <= layer < len(stack)]
    if missing:
        raise PlanError(f"the plan names layer {missing[0]}", f"the model has the layers 0 to {len(stack) - 1}")
