"""A model cut into shards, one per process, by torch's `fully_shard` (FSDP2); layers are its units.

A unit is gathered while it computes and is in shards otherwise, its gradients and what the optimizer keeps of it too.
A unit trains or is frozen. Where a layer trains in part (LoRA, adapters, biases), its frozen part is the unit, and what
trains, which is little, lies whole in every process, as without shards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from wheretune.errors import ModelError
from wheretune.model.placement import HALVES, compute_in_half, hold_masters
from wheretune.support.processes import part
from wheretune.support.words import first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.model.stack import LayerStack

DTYPES = {  # as safetensors calls them
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def shard(stack: LayerStack, device: torch.device) -> None:
    """Cuts a model into shards, in place; all processes must do so, and from then on run the model in step.

    What trains of a half-precision model is held in fp32, computes in bf16, and its gradients are summed in fp32. The
    model may lie in main memory: no device ever holds more of it than its shards and the units that compute.

    Args:
        stack: The layers; what trains is told by which parameters require a gradient.
        device: Where the shards go.

    Raises:
        ModelError: A parameter cannot be cut.
    """
    from torch.distributed.device_mesh import init_device_mesh

    model, layers = stack.model, [layer.module for layer in stack.layers]
    mesh = init_device_mesh(device.type, (part()[1],))
    in_part = any({p.requires_grad for p in layer.parameters()} == {True, False} for layer in layers)
    kept = {p for p in model.parameters() if p.requires_grad} if in_part else set[Any]()
    heads = [child for child in model.children() if all(inner is not stack.base for inner in child.modules())]
    units = (*layers, *heads, model)  # the root is the last, and has what no other unit has
    if any([_shard_one(unit, mesh, kept) for unit in units]):
        compute_in_half(stack.base)
    hold_masters(stack, kept)
    for parameter in kept:
        parameter.data = parameter.data.to(device)


def _shard_one(unit: nn.Module, mesh: Any, kept: set[nn.Parameter]) -> bool:
    """Makes a unit of what of a module is in none; returns whether it is held in fp32 and computes in bf16."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    own = [p for p in unit.parameters() if p.requires_grad and p not in kept and not is_sharded(p)]
    halves = [parameter for parameter in own if parameter.dtype in HALVES]
    for parameter in halves:  # not before: nowhere the whole model stands in fp32
        parameter.data = parameter.data.float()
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if halves:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    try:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, mp_policy=policy, ignored_params=kept)
    except (ValueError, NotImplementedError) as error:
        problem = f"{type(unit).__name__} cannot be cut into shards ({first_line(error)})"
        raise ModelError(problem, "train without", "fsdp") from error
    return bool(halves)


def is_sharded(tensor: object) -> bool:
    """Whether this process holds only a part of a tensor."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; all processes that hold a shard of it must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def as_held(value: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor what this process holds, where it holds `like`; nothing is sent."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in main memory, of any dtype."""
    flat = tensor.contiguous().reshape(-1)
    if flat.stride(0) != 1:  # one number alone is contiguous with any stride, but then has no view as bytes
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().data


def write_tensors(tensors: Mapping[str, Tensor], file: Path | None, metadata: Mapping[str, str] | None = None) -> None:
    """Writes the file that safetensors' `save_file` writes, one tensor after the other, each whole only meanwhile.

    All processes that hold shards of the tensors must do so; one that writes nothing gives no file.

    Args:
        tensors: By name.
        file: Where; None takes part in gathering alone.
        metadata: What else the file says.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        value = tensors[name]
        start, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
    said = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    said += b" " * (-len(said) % 8)
    if file is None:
        for name in order:
            whole(tensors[name].detach())
        return
    with file.open("wb") as written:
        written.write(len(said).to_bytes(8, "little") + said)
        for name in order:
            written.write(raw(whole(tensors[name].detach()).cpu()))
