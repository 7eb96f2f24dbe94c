"""The trained classifier of a checkpoint, as the linear maps that it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wheretune.model.classifier import SMALL
from wheretune.model.finding import base_of, causal, text_config
from wheretune.model.forward import evaluating, represent
from wheretune.model.inputs import accepted

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "gelu": nn.functional.gelu}
SINGLE, HALF = 1e-4, 5e-2  # of the highest logit: by how much rounding in fp32 and in half precision may change it


@dataclass(frozen=True, eq=False)
class OwnHead:
    """What a checkpoint has on top of its representative token.

    Attributes:
        kind: The class of the whole model.
        names: What its outputs are called.
        problem_type: What its config says that it was trained for; None where it does not say.
        maps: The weight and bias of each of its linear maps, in fp32; none where it is not made of them.
        activation: What stands between two maps; None where there is one.
    """

    kind: str
    names: tuple[str, ...]
    problem_type: str | None
    maps: tuple[tuple[Tensor, Tensor | None], ...]
    activation: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}, {len(self.names)} outputs: {', '.join(self.names)}"


def has_own_head(config: Any) -> bool:
    """Whether a checkpoint is one of Transformers' sequence classifiers."""
    return any(kind.endswith("ForSequenceClassification") for kind in config.architectures or ())


def own_head(model: nn.Module) -> OwnHead | None:
    """The head of one of Transformers' sequence classifiers; None of another model.

    Families lay it out in their own ways: one linear map, or a dense one, tanh (relu, gelu) and another, of which the
    first may be called a pooler. What is found is run beside the model, and must give the same logits.
    """
    config: Any = getattr(model, "config", None)
    if config is None or not type(model).__name__.endswith("ForSequenceClassification"):
        return None
    names = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    try:
        maps, activation = _seen(model, base_of(model))
    except Exception:  # it wants other inputs: then it cannot be seen what its head computes
        maps, activation = (), None
    found = _in_fp32(maps)
    if activation == "tanh" and (plain := _undone(*found)) is not None:
        found, activation = (plain,), None
    return OwnHead(type(model).__name__, names, config.problem_type, found, activation)


def _undone(
    dense: tuple[Tensor, Tensor | None], last: tuple[Tensor, Tensor | None]
) -> tuple[Tensor, Tensor | None] | None:
    """The one linear map that `plain_classifier` wrote as two, whose weights nothing could train on as they are."""
    (weight, bias), size = dense, len(dense[0])
    identity = weight.shape == (size, size) and torch.equal(weight, SMALL * torch.eye(size, device=weight.device))
    return (last[0] * SMALL, last[1]) if identity and bias is not None and not bias.any() else None


def _seen(model: nn.Module, base: nn.Module) -> tuple[tuple[nn.Linear, ...], str | None]:
    """The linear maps that are seen to give the logits of a model, and what stands between; none if there are none."""
    config: Any = model.config
    ids = _any_text(config).to(next(model.parameters()).device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    tried: list[tuple[float, tuple[nn.Linear, ...], str | None]] = []
    with torch.no_grad(), evaluating(model):
        logits = model(**accepted(model, inputs)).logits.float()
        states = represent(
            base(**accepted(base, inputs))[0], inputs["attention_mask"], "token", causal(text_config(base))
        )
        for maps, activation in _layouts(model, base):
            found = _computed(states, _in_fp32(maps), activation)
            if found.shape == logits.shape:
                tried.append((float((found - logits).abs().max()), maps, activation))
    half = next(model.parameters()).dtype != torch.float32
    room = (HALF if half else SINGLE) * (1 + float(logits.abs().max()))
    error, maps, activation = min(tried, key=lambda one: one[0], default=(room + 1, (), None))
    return (maps, activation) if error <= room else ((), None)


def _any_text(config: Any) -> Int[Tensor, "1 token"]:
    """A few tokens, none of which ends or pads a text."""
    text = config.get_text_config()
    ends = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
    special = {text.pad_token_id, text.bos_token_id, *ends}
    ids = [number for number in range(text.vocab_size - 1, -1, -1) if number not in special]
    return torch.tensor([ids[:7]])


def _layouts(model: nn.Module, base: nn.Module) -> list[tuple[tuple[nn.Linear, ...], str | None]]:
    """The ways in which the head may be made of the linear maps that stand where heads have them."""
    top = getattr(model, "classifier", None)
    last = [getattr(model, "score", None), top, getattr(top, "out_proj", None)]
    first = [
        getattr(getattr(base, "pooler", None), "dense", None),
        getattr(base, "pooler", None),  # ALBERT's is the map itself
        getattr(getattr(model, "pooler", None), "dense", None),
        getattr(top, "dense", None),
        getattr(model, "pre_classifier", None),
    ]
    lasts = [one for one in last if isinstance(one, nn.Linear)]
    firsts = [one for one in first if isinstance(one, nn.Linear)]
    alone: list[tuple[tuple[nn.Linear, ...], str | None]] = [((one,), None) for one in lasts]
    return alone + [((dense, one), name) for one in lasts for dense in firsts for name in ACTIVATIONS]


def _in_fp32(maps: Sequence[nn.Linear]) -> tuple[tuple[Tensor, Tensor | None], ...]:
    return tuple(
        (one.weight.detach().float().clone(), None if one.bias is None else one.bias.detach().float().clone())
        for one in maps
    )


def _computed(
    states: Float[Tensor, "text hidden"], maps: Sequence[tuple[Tensor, Tensor | None]], activation: str | None
) -> Float[Tensor, "text output"]:
    for weight, bias in maps[:-1]:
        assert activation is not None
        states = ACTIVATIONS[activation](nn.functional.linear(states, weight, bias))
    return nn.functional.linear(states, *maps[-1])
