"""Finds the layers of a model by its structure."""

from __future__ import annotations

from typing import Any

from torch import nn

from wheretune.errors import ModelError
from wheretune.model.parts import parts_of
from wheretune.model.stack import Layer, LayerStack


def find_layers(model: Any, attribute: str | None = None) -> LayerStack:
    """The layers of `model`, in the order in which they run.

    The base model (of a model that also sees, its language model) is searched for module lists as long as its config
    says it has layers; the outermost one is the stack. An encoder-decoder has two: the encoder's layers come first and
    the decoder's are counted on from there.

    Args:
        model: Any Hugging Face transformer, with or without a head, and whatever holds just one; see `base_of`.
        attribute: The path of the list of layers below the base model, for a model that cannot be read.

    Raises:
        ModelError: There is none (ALBERT shares one layer among all), naming the lists that were found; or `model`
            holds several transformers.
    """
    base = base_of(model)
    config = text_config(base)
    if attribute is not None:
        stacks = [(attribute, _named_list(base, attribute))]
    else:
        stacks = [_outermost_list(base, root, expected) for root, expected in _roots(base, config)]
    modules = [(f"{path}.{i}", layer) for path, stack in stacks for i, layer in enumerate(stack)]
    owners: dict[int, int] = {}
    for index, (_, layer) in enumerate(modules):
        for parameter in layer.parameters():
            other = owners.setdefault(id(parameter), index)
            if other != index:
                raise ModelError(
                    f"layers {other} and {index} of {type(base).__name__} share their weights",
                    "use a model whose layers have weights of their own",
                )
    base_path = next((found for found, module in model.named_modules() if module is base), "")
    hidden, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", 0)
    if not isinstance(hidden, int):
        raise ModelError(f"the config of {type(base).__name__} has no hidden_size", "give a Hugging Face transformer")
    decodes = causal(config)
    return LayerStack(
        model=model,
        base=base,
        base_path=base_path,
        layers=tuple(_layer(i, path, layer, heads, decodes) for i, (path, layer) in enumerate(modules)),
        hidden_size=hidden,
        causal=decodes,
        attribute=attribute,
        split=len(stacks[0][1]) if len(stacks) == 2 else 0,
    )


def base_of(model: Any) -> nn.Module:
    """The headless transformer inside `model`, however it is wrapped.

    It is the base of the one outermost Transformers model among the modules: of a classifier, a module written by hand,
    a SentenceTransformer, what PEFT, `torch.compile` or DDP made of them.

    Raises:
        ModelError: There are several, side by side, PEFT puts a prompt before the text, or it is no module.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, nn.Module):
        raise ModelError(f"a {type(model).__name__} is no model", "give what from_pretrained of a model returns")
    outermost: dict[str, PreTrainedModel] = {}
    for path, part in model.named_modules():
        if isinstance(part, PreTrainedModel) and not any(
            f"{path}.".startswith(f"{p}." if p else "") for p in outermost
        ):
            outermost[path] = part
        if getattr(getattr(part, "active_peft_config", None), "is_prompt_learning", False):
            raise ModelError(
                f"{type(part).__name__} puts a trained prompt before the text, which is no part of the transformer",
                "give the model without it (get_base_model)",
            )
    if len(outermost) > 1:
        raise ModelError(
            f"{type(model).__name__} holds {len(outermost)} transformers ({', '.join(outermost)})",
            f"give one of them, for example model.{next(iter(outermost))}",
        )
    holder: nn.Module = next(iter(outermost.values()), model)
    base: nn.Module = getattr(holder, "base_model", holder)
    return base


def _layer(index: int, path: str, module: nn.Module, heads: int, decodes: bool) -> Layer:
    try:
        return Layer(index, path, module, parts_of(module, heads, decodes))
    except ValueError as error:  # for example of an adapter that wheretune put in already
        raise ModelError(
            f"layer {index} ({path}) cannot be read: {error}", "undo the plan that was applied before, if there is one"
        ) from error


def _named_list(base: nn.Module, attribute: str) -> nn.ModuleList | nn.Sequential:
    """The list of layers at the path that the user gave."""
    try:
        found = base.get_submodule(attribute)
    except AttributeError as error:
        raise ModelError(
            f"{type(base).__name__} has no module {attribute!r} (module lists found: {_lists_of(base)})",
            "give the path of one of them",
            "layers_attribute",
        ) from error
    if not isinstance(found, nn.ModuleList | nn.Sequential) or not len(found):
        raise ModelError(
            f"{attribute} of {type(base).__name__} is a {type(found).__name__}, not a list of layers "
            f"(module lists found: {_lists_of(base)})",
            "give the path of one of them",
            "layers_attribute",
        )
    return found


def _roots(base: nn.Module, config: Any) -> list[tuple[str, int | None]]:
    """Where the layers are to be looked for, as paths below the base model, and how many the config says there are."""
    expected = getattr(config, "num_hidden_layers", None)
    if is_encoder_decoder(base):
        decoder = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", expected)
        return [("encoder", expected), ("decoder", decoder)]
    return [(_language_part(base), expected)]


def _language_part(base: nn.Module) -> str:
    """Where the language model is below the base model: of a vision model, the part with the text's config."""
    config = text_config(base)
    if config is getattr(base, "config", None):
        return ""
    return next((path for path, one in base.named_modules() if type(getattr(one, "config", None)) is type(config)), "")


def eyes_of(base: nn.Module) -> list[nn.Parameter]:
    """The parameters of what sees and of what translates it into states: all outside the language model."""
    part = _language_part(base)
    return [parameter for name, parameter in base.named_parameters() if part and not name.startswith(f"{part}.")]


def _outermost_list(base: nn.Module, root: str, expected: int | None) -> tuple[str, nn.ModuleList]:
    """The one list of `expected` modules that lies least deep below `root`."""
    name = type(base).__name__
    lists = [(path, module) for path, module in _module_lists(base) if path.startswith(f"{root}." if root else "")]
    fitting = [(path, module) for path, module in lists if len(module) == expected]
    if not fitting:
        raise ModelError(
            f"{name} has no list of {expected} layers of its own (module lists found: {_lists_of(base)})",
            "give the path of the list, or use a model whose layers have weights of their own",
            "layers_attribute",
        )
    outermost = min(path.count(".") for path, _ in fitting)
    fitting = [(path, module) for path, module in fitting if path.count(".") == outermost]
    if len(fitting) > 1:
        raise ModelError(
            f"{name} spreads its layers over several lists ({', '.join(path for path, _ in fitting)})",
            "give the path of the list of layers, or use a model whose layers are modules of their own",
            "layers_attribute",
        )
    return fitting[0]


def _module_lists(base: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    return [(path, part) for path, part in base.named_modules() if isinstance(part, nn.ModuleList) and len(part) > 0]


def _lists_of(base: nn.Module) -> str:
    return ", ".join(f"{path} with {len(module)}" for path, module in _module_lists(base)) or "none"


def is_encoder_decoder(base: nn.Module) -> bool:
    """Whether a model has two stacks of layers."""
    return bool(getattr(text_config(base), "is_encoder_decoder", False))


def text_config(model: nn.Module) -> Any:
    """The config of a model's text part."""
    config = getattr(model, "config", None)
    if config is None:
        raise ModelError(f"{type(model).__name__} has no config", "give a Hugging Face transformer")
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def causal(config: Any) -> bool:
    """Whether a model of this config is a decoder: it predicts the next token and fills no masks."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    if getattr(config, "is_decoder", False):
        return True
    kind = type(config)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING


def check_one_sequence(base: nn.Module) -> None:
    """Makes sure that a model reads one sequence, whose states can be scored and topped with a head.

    Raises:
        ModelError: It is an encoder-decoder.
    """
    if is_encoder_decoder(base):
        raise ModelError(
            f"{type(base).__name__} is an encoder-decoder: it has no one sequence of states",
            "leave out what needs one",
        )
