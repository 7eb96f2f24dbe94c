"""How a model is held: precision, device, quantisation."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import torch

from wheretune.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from wheretune.records.model import Quantize


def quantization(quantize: Quantize) -> dict[str, Any]:
    """What `from_pretrained` needs for a quantised base.

    Raises:
        ModelError: There is no CUDA device, or no bitsandbytes.
    """
    from transformers import BitsAndBytesConfig

    lacking = [] if torch.cuda.is_available() else ["a CUDA device"]
    lacking += [] if importlib.util.find_spec("bitsandbytes") else ["the package bitsandbytes"]
    if lacking:
        raise ModelError(f"--quantize {quantize} needs {' and '.join(lacking)}", "leave --quantize out here")
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
    return {"quantization_config": config, "device_map": {"": 0}}


def quantized(base: nn.Module) -> Quantize | None:
    """How a model is quantised, as Transformers marks it."""
    if getattr(base, "is_loaded_in_4bit", False):
        return "4bit"
    return "8bit" if getattr(base, "is_loaded_in_8bit", False) else None
