"""How a model is held: precision, device, attention, quantisation."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from wheretune.errors import ModelError
from wheretune.model.calls import wrap_forward
from wheretune.records.model import check_machine
from wheretune.support.processes import local_rank, local_size, world_size

if TYPE_CHECKING:
    from torch import nn

    from wheretune.model.stack import LayerStack
    from wheretune.records.model import ModelSpec, Quantize

HALVES = (torch.bfloat16, torch.float16)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device_of(spec: ModelSpec) -> torch.device:
    """The device that a spec means on this machine; of several processes on it each has a CUDA device of its own.

    Raises:
        ModelError: It is not there, or it is one device for several processes.
    """
    device = torch.device(spec.device if spec.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if world_size() > 1 and device.type == "cuda":
        if device.index is not None:
            raise ModelError(
                f"{spec.device} is one device, and there are {world_size()} processes",
                "take cuda or auto, so that each has its own",
                "device",
            )
        device = torch.device("cuda", local_rank())
        if torch.cuda.is_available() and local_rank() >= torch.cuda.device_count():
            raise ModelError(
                f"{local_size()} processes share this machine's CUDA devices, of which there are "
                f"{torch.cuda.device_count()}",
                "start one process for each, or take the device cpu",
                "device",
            )
    lacking = {
        "cuda": not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count(),
        "mps": not torch.backends.mps.is_available(),
    }
    if lacking.get(device.type, False):
        raise ModelError(f"there is no {spec.device} on this machine", "take auto or cpu", "device")
    return device


def current(device: torch.device) -> AbstractContextManager[object]:
    """Inside, a CUDA device is torch's current one, whose memory and generator are meant where none is named."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def dtype_of(spec: ModelSpec, config: Any, device: torch.device) -> torch.dtype:
    """The precision that a spec means for a checkpoint.

    Decided: `auto` takes the checkpoint's own, but on a CPU fp32 for an fp16 checkpoint: there fp16 is slower, and it
    lacks operations.
    """
    if spec.dtype != "auto":
        return DTYPES[spec.dtype]
    own = getattr(config, "dtype", None)
    own = own if isinstance(own, torch.dtype) and own.is_floating_point else torch.float32
    return torch.float32 if own == torch.float16 and device.type == "cpu" else own


def placing(spec: ModelSpec, config: Any) -> dict[str, Any]:
    """What `from_pretrained` needs to hold a model as a spec says.

    Raises:
        ModelError: The device is not there, or this machine cannot quantise.
    """
    check_machine(spec)
    device = device_of(spec)
    given: dict[str, Any] = {"dtype": dtype_of(spec, config, device)}
    if spec.attention is not None:
        given["attn_implementation"] = spec.attention
    return given | ({} if spec.quantize is None else quantization(spec.quantize, device))


def quantization(quantize: Quantize, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` needs for a quantised base: 8 bits, or 4 as QLoRA has them (NF4, computing in bf16).

    Raises:
        ModelError: There is no CUDA device, or no bitsandbytes.
    """
    from transformers import BitsAndBytesConfig

    lacking = [] if device.type == "cuda" else ["a CUDA device"]
    lacking += [] if importlib.util.find_spec("bitsandbytes") else ["the package bitsandbytes"]
    if lacking:
        raise ModelError(
            f"holding weights in {quantize} needs {' and '.join(lacking)}", "leave it out here", "quantize"
        )
    made: Any = BitsAndBytesConfig
    if quantize == "8bit":
        config = made(load_in_8bit=True)
    else:
        config = made(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    return {"quantization_config": config, "device_map": {"": device.index or 0}}


def quantized(base: nn.Module) -> Quantize | None:
    """How a model is quantised, as Transformers marks it."""
    if getattr(base, "is_loaded_in_4bit", False):
        return "4bit"
    return "8bit" if getattr(base, "is_loaded_in_8bit", False) else None


def hold_masters(stack: LayerStack, parameters: Iterable[nn.Parameter]) -> Callable[[], None]:
    """Holds in fp32 what trains of a half-precision model; what is frozen stays as it is.

    Maps compute in bf16 all the same: the base model's forward pass runs under autocast, also for an fp16 checkpoint,
    since bf16 needs no scaling of the loss.

    Args:
        stack: The model.
        parameters: What trains; those that are in fp32 already are left alone.

    Returns:
        What undoes it: the parameters go back to their precision, rounded.
    """
    halves = [(p, p.dtype) for p in parameters if p.dtype in HALVES]
    if not halves:
        return lambda: None
    for parameter, _ in halves:
        parameter.data = parameter.data.float()
    give_back = compute_in_half(stack.base)

    def undo() -> None:
        give_back()
        for parameter, dtype in halves:
            parameter.data = parameter.data.to(dtype)

    return undo


def compute_in_half(base: nn.Module) -> Callable[[], None]:
    """Lets a base model compute in bf16 whatever its weights are held in; returns what ends it."""

    def computing(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        kind = next(base.parameters()).device.type  # a Trainer may have moved it meanwhile
        with torch.autocast(kind, torch.bfloat16):
            return forward(*args, **kwargs)

    return wrap_forward(base, computing)
