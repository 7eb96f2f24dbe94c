"""Opens models and tokenizers by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wheretune.errors import ModelError
from wheretune.model.finding import causal, find_layers
from wheretune.model.placement import quantization
from wheretune.support.hub import resolve
from wheretune.support.words import first_line

if TYPE_CHECKING:
    from wheretune.records.model import Quantize


def load_config(name: str, revision: str | None = None) -> Any:
    """The text part of a model's config.

    Raises:
        ModelError: It cannot be found or opened.
    """
    from transformers import AutoConfig

    arguments = resolve(name, revision)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **arguments)
    except Exception as error:
        raise ModelError(f"cannot open the model {name}: {first_line(error)}", "check its config.json") from error
    return config.get_text_config()


def load_model(name: str, revision: str | None = None, quantize: Quantize | None = None) -> nn.Module:
    """The headless transformer `name`, fp32, on the GPU if there is one, without the pooler (no head reads it).

    Args:
        name: A local folder or a name on the hub.
        revision: A commit, branch or tag on the hub.
        quantize: Hold the linear maps in 4 bits (NF4, as QLoRA has them, computing in bf16) or in 8.

    Raises:
        ModelError: It cannot be found or opened, or this machine cannot quantise.
    """
    from transformers import AutoModel

    arguments = dict(resolve(name, revision))
    if quantize is not None:
        arguments |= quantization(quantize)
    with _opening(name, "AutoModel"):
        model: nn.Module = AutoModel.from_pretrained(name, dtype=torch.float32, trust_remote_code=False, **arguments)
    _drop_pooler(model)
    if quantize is not None:
        return model  # it lies on the device already, and cannot be moved
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def skeleton(name: str, revision: str | None = None) -> nn.Module:
    """The headless transformer `name` without its weights: modules and shapes, at the price of its config.

    Raises:
        ModelError: It cannot be found or made.
    """
    from transformers import AutoConfig, AutoModel

    arguments = resolve(name, revision)
    with _opening(name, "AutoModel"), torch.device("meta"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **arguments)
        model: nn.Module = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    _drop_pooler(model)
    return model


@contextmanager
def _opening(name: str, kind: str) -> Iterator[None]:
    """Says in one line why Transformers cannot open a model."""
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"cannot open the model {name}: {first_line(error)}",
            f"give a folder or hub name that transformers.{kind} opens",
        ) from error


def _drop_pooler(model: nn.Module) -> None:
    if isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None  # type: ignore[assignment]


def load_language_model(name: str, revision: str | None = None, quantize: Quantize | None = None) -> nn.Module:
    """The causal language model `name` with its output matrix, fp32, on the GPU if there is one.

    Args:
        name: A local folder or a name on the hub.
        revision: A commit, branch or tag on the hub.
        quantize: As for `load_model`; the output matrix is left as it is.

    Raises:
        ModelError: It is an encoder, cannot be opened, its checkpoint has no output matrix, or this machine cannot
            quantise.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(name, revision)
    if not causal(config):
        raise ModelError(
            f"{name} is an encoder, which predicts no next token", "give a causal language model, or another --scorer"
        )
    arguments = dict(resolve(name, revision)) | ({} if quantize is None else quantization(quantize))
    with _opening(name, "AutoModelForCausalLM"):
        opened: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, trust_remote_code=False, output_loading_info=True, **arguments
        )
        model, loaded = opened
    if loaded["missing_keys"]:  # Transformers would draw them at random
        raise ModelError(
            f"the checkpoint {name} lacks {sorted(loaded['missing_keys'])[0]}, which a causal language model needs",
            "give the language model, not a headless one or a classifier",
        )
    made: nn.Module = model
    return made if quantize is not None else made.to("cuda" if torch.cuda.is_available() else "cpu")


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of the model `name`; where it has no padding token, the end-of-text token pads.

    Raises:
        ModelError: It cannot be opened.
    """
    from transformers import AutoTokenizer

    arguments = resolve(name, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **arguments)
    except Exception as error:
        raise ModelError(
            f"cannot open the tokenizer of {name}: {first_line(error)}",
            "save the tokenizer into the model's folder with tokenizer.save_pretrained",
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # Transformers makes an empty one where no file is
        raise ModelError(
            f"{name} holds no tokenizer",
            "save the tokenizer into the model's folder with tokenizer.save_pretrained",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(f"the tokenizer of {name} has no padding token", "set one and save it again")
    return tokenizer


@cache
def layer_count(name: str, layers_attribute: str | None = None) -> int:
    """How many layers a model has, without its weights."""
    return len(find_layers(skeleton(name), layers_attribute))


def is_causal(name: str) -> bool:
    """Whether a model is a decoder, read from its config alone."""
    return causal(load_config(name))
