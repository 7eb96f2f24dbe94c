"""What goes into a model, and where the representative token of a text stands."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int, Shaped
from torch import nn

from wheretune.errors import ModelError
from wheretune.model.dispatch import offloading
from wheretune.model.finding import check_one_sequence, text_config
from wheretune.model.reach import most_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.records.data import Batch


def max_tokens(model: nn.Module, tokenizer: Any, asked: int | None) -> int:
    """The length a text is cut to: `asked`, or what model and tokenizer can read, at most 512.

    Raises:
        ModelError: More was asked for than the model has positions.
    """
    return most_tokens(text_config(model), tokenizer, asked, first_position(model))


def first_position(model: nn.Module) -> int:
    """The position of the first token: 0, but RoBERTa and its kin count from behind the padding index."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else int(module.padding_idx) + 1
    return 0


def accepted(base: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """The inputs that `base.forward` takes.

    With padding on the left, a model with learned positions reads wrong ones unless they are given: they are
    counted from the first unmasked token. Where images are read, the model makes its own. No key-value cache is built.

    Raises:
        ModelError: As for `check_one_sequence` and `check_ids`.
    """
    check_one_sequence(base)
    check_ids(base, inputs)
    takes = inspect.signature(base.forward).parameters
    given: dict[str, Any] = {name: value for name, value in inputs.items() if name in takes}
    if "use_cache" in takes:
        given["use_cache"] = False
    mask, shown = inputs["attention_mask"], any(value.is_floating_point() for value in inputs.values())
    if "position_ids" in takes and not shown and not mask.is_meta and not mask[:, 0].all():
        given["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0) + first_position(base)
    return given


def check_ids(base: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Makes sure that a model has an embedding for every token of a batch, those that pad included.

    Raises:
        ModelError: It has none: tokens were added to the tokenizer, or it is another model's.
    """
    embeddings: Any = getattr(base, "get_input_embeddings", lambda: None)()
    types = getattr(text_config(base), "type_vocab_size", None)
    sizes = {"input_ids": getattr(embeddings, "num_embeddings", None), "token_type_ids": types or None}
    words = {"input_ids": "token id", "token_type_ids": "token type id"}
    for name, size in sizes.items():
        if size is None or name not in inputs or inputs[name].is_meta:
            continue
        if (highest := int(inputs[name].max())) >= size:
            raise ModelError(
                f"the tokenizer gives the {words[name]} {highest}, and "
                f"{type(base).__name__} has {size} embeddings for them: its vocabulary is smaller",
                "give the model's own tokenizer, or model.resize_token_embeddings(len(tokenizer)) and save it again",
            )


def packed(base: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """The inputs of a padded batch without its padding: all texts one after the other, in a batch of one.

    Positions begin anew with every text. By them alone Transformers tells the texts apart, in the masks of decoders and
    in flash attention, and only where it is given neither a mask nor a key-value cache.

    Raises:
        ModelError: As for `check_one_sequence` and `check_ids`, or the model takes no positions.
    """
    check_one_sequence(base)
    check_ids(base, inputs)
    takes = inspect.signature(base.forward).parameters
    if "position_ids" not in takes:
        raise ModelError(
            f"{type(base).__name__} takes no position_ids, and nothing else tells packed texts apart",
            "do not pack them",
            "packed",
        )
    unmasked = inputs["attention_mask"] != 0
    positions = unmasked.cumsum(1) - 1 + first_position(base)
    columns = {name: value for name, value in inputs.items() if name in takes and name != "attention_mask"}
    given: dict[str, Any] = {
        name: value[unmasked].unsqueeze(0) for name, value in {**columns, "position_ids": positions}.items()
    }
    if "use_cache" in takes or "kwargs" in takes:  # a vision model hands it on to its language model
        given["use_cache"] = False
    return given


def base_inputs(base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a call of the base model was given, by name: a classifier may give the tokens by their place."""
    bound = inspect.signature(base.forward).bind_partial(*args, **kwargs)
    return dict(zip(bound.signature.parameters, bound.args, strict=False)) | bound.kwargs


def representative_positions(mask: Shaped[Tensor, "batch token"], causal: bool) -> Int[Tensor, " batch"]:
    """Where the representative token of each sample stands (P 3.1, T 3.1).

    An encoder's is the first unmasked position ([CLS]); a decoder's is the last unmasked position,
    taken from the attention mask on either padding side (comparing ids with the padding token is wrong
    where end-of-text pads).
    """
    steps = torch.arange(mask.shape[1], device=mask.device)
    unmasked = mask != 0
    if causal:
        return torch.where(unmasked, steps, -1).argmax(1)
    return torch.where(unmasked, steps, mask.shape[1]).argmin(1)


def model_device(model: nn.Module) -> torch.device:
    """Where a model lies; of one that was spread, where weights lie that stay there, or else where it computes."""
    for parameter in model.parameters():
        if not parameter.is_meta:
            return parameter.device
    hooks = [found for module in model.modules() if (found := offloading(module)) is not None]
    return torch.device(hooks[0].execution_device) if hooks else torch.device("meta")


def unlabelled(batch: Batch, device: torch.device) -> Batch:
    """What a model reads of a batch, where it lies."""
    return {name: value.to(device) for name, value in batch.items() if name != "labels"}
