"""An encoder-decoder: what it reads, how it runs, and each of its stacks of layers by itself.

The encoder reads one text; the decoder reads another, shifted by one token, and looks at the encoder's states. T5, BART
and families that are built like them call the two `encoder` and `decoder`, and give them arguments of the same names.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from wheretune.errors import ModelError
from wheretune.model.calls import watch_input, watch_output
from wheretune.model.finding import is_encoder_decoder, text_config
from wheretune.model.forward import Kept, represent
from wheretune.model.inputs import check_ids
from wheretune.records.model import STACKS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool, Float, Int
    from torch import Tensor, nn

    from wheretune.model.forward import Reduction
    from wheretune.model.stack import LayerStack
    from wheretune.records.data import Batch
    from wheretune.records.scores import LastState, Pooling


def parts_of_stack(stack: LayerStack) -> dict[str, LayerStack]:
    """By name, the stacks of layers of a model, each counted from 0; the one that most models have is called nothing.

    Raises:
        ModelError: Only some layers of an encoder-decoder are known.
    """
    if not is_encoder_decoder(stack.base):
        return {"": stack}
    if not stack.split:
        raise ModelError(
            f"{type(stack.base).__name__} is an encoder-decoder, and one of its two lists of layers was named",
            "let both be found",
            "layers_attribute",
        )
    both = zip(STACKS, (stack.layers[: stack.split], stack.layers[stack.split :]), strict=True)
    return {
        name: replace(
            stack,
            layers=tuple(replace(layer, index=i) for i, layer in enumerate(layers)),
            causal=name == "decoder",
            split=0,
        )
        for name, layers in both
    }


def state_names(stack: LayerStack) -> list[str]:
    """What puts out each of the states that `forward_apart` (of one stack, `forward_states`) gives."""
    named = []
    for name, part in parts_of_stack(stack).items():
        named.append(f"the {name}'s embeddings" if name else "the embeddings")
        named += [f"layer {name}.{index}" if name else f"layer {index}" for index in range(len(part))]
    return named


def start_and_padding(base: nn.Module) -> tuple[int, int]:
    """The token with which a decoder starts, and the one that pads.

    Raises:
        ModelError: The config does not name them.
    """
    config, named = text_config(base), ("decoder_start_token_id", "pad_token_id")
    start, pad = (getattr(config, name, None) for name in named)
    if start is None or pad is None:
        missing = named[start is not None]
        raise ModelError(f"the config of {type(base).__name__} has no {missing}", "set it and save the model again")
    return start, pad


def check_start(stack: LayerStack) -> None:
    """Makes sure that the decoder of an encoder-decoder can start.

    Raises:
        ModelError: As for `start_and_padding`.
    """
    if stack.split:
        start_and_padding(stack.base)


def written_before(base: nn.Module, tokens: Int[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """What a decoder reads to write `tokens`: its start token, then all but the last of them, as Transformers shifts.

    What is not learned (below 0) is read as padding.

    Raises:
        ModelError: As for `start_and_padding`.
    """
    start, pad = start_and_padding(base)
    read = torch.cat([torch.full_like(tokens[:, :1], start), tokens[:, :-1]], dim=1)
    return torch.where(read < 0, pad, read)


def run(base: nn.Module, inputs: Batch) -> Float[Tensor, "batch token hidden"]:
    """The last states of the decoder, the encoder having read `input_ids`.

    The decoder reads what stands before `labels`; without labels what stands before each token of the text itself, as
    in Transformers' own sequence classifiers. The parts are called themselves: T5 with an output matrix is its own base
    model, which would make logits of every place.

    Raises:
        ModelError: The model has no embedding for a token.
    """
    check_ids(base, inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    labels = inputs.get("labels")
    encoder: Any = base.get_submodule("encoder")
    decoder: Any = base.get_submodule("decoder")
    seen = encoder(input_ids=ids, attention_mask=mask)[0]
    states: Tensor = decoder(
        input_ids=written_before(base, ids if labels is None else labels),
        encoder_hidden_states=seen,
        encoder_attention_mask=mask,
        use_cache=False,
    )[0]
    return states


def forward_apart(
    stack: LayerStack,
    inputs: Batch,
    pooling: Pooling = "token",
    last: LastState = "normed",
    reductions: Mapping[str, Reduction] | None = None,
    places: Bool[Tensor, "batch token"] | None = None,
) -> tuple[Float[Tensor, "text state hidden"], dict[str, Float[Tensor, "text layer"]]]:
    """As `forward.forward_states`, of both stacks: the encoder's states, then the decoder's, likewise what is reduced.

    The encoder is read at its first unmasked token, or over all of them. The decoder is read at `places` of what it
    writes, or at the last token where nothing is written.

    Args:
        stack: The layers.
        inputs: As for `run`.
        pooling: Of the encoder, `targets` means its mean.
        last: Whether the last states of either stack are those after its final norm.
        reductions: As for `forward_states`.
        places: Of the decoder, the tokens that are read, the last of them or their mean.
    """
    mask, labels = inputs["attention_mask"], inputs.get("labels")
    written = mask if labels is None else (labels >= 0).long()
    masks = {"encoder": (mask, mask), "decoder": (written, written if places is None else places)}
    kept, hooks = [], []
    for name, part in parts_of_stack(stack).items():
        own, read = masks[name]
        one = Kept(part, own, partial(represent, mask=read, pooling=pooling, causal=part.causal), reductions or {})
        kept.append(one)
        hooks.append(watch_input(part.layers[0].module, partial(one.keep, 0)))
        unnormed = part.layers if last == "raw" else part.layers[:-1]
        hooks += [watch_output(layer.module, partial(one.keep, layer.index + 1)) for layer in unnormed]
        if last == "normed":
            whole = stack.base.get_submodule(name)
            hooks.append(whole.register_forward_hook(partial(_last, one, len(part))))
    try:
        run(stack.base, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    found = [one.states() for one in kept]
    reduced = {name: torch.cat([numbers[name] for _, numbers in found], dim=1) for name in reductions or {}}
    return torch.cat([states for states, _ in found], dim=1), reduced


def _last(kept: Kept, index: int, _: nn.Module, __: Any, output: Any) -> None:
    kept.keep(index, output[0])
