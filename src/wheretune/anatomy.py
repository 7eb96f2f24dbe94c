"""The layers of a model: the only file that knows how Hugging Face lays models out.

It loads models, finds their layers, says which inputs a model takes and where the representative token
of a sample stands, and names the parts (embeddings, pooler, output matrix) that the other rooms must treat
apart.
"""

import copy
import hashlib
import importlib.util
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wheretune.errors import ModelError, PlanError
from wheretune.types import Layer, LayerParts, LayerStack, ModelInfo, Plan, Quantize

Answer = TypeVar("Answer")
HUB_SECONDS = 6.0  # how long the hub may take to say whether it has a model
ROWS_AT_ONCE = 8192  # of an output matrix, while it is multiplied with itself in fp64
MOST_TOKENS = 512  # the cut that applies when the user names none: attention's cost is quadratic


# --- loading ------------------------------------------------------------------------------------


def ask_hub(question: Callable[[], Answer]) -> Answer:
    """What the hub answers, or an error after a few seconds, whatever the network does.

    Raises:
        Exception: What `question` raises, or TimeoutError.
    """
    answers: list[Answer] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            answers.append(question())
        except Exception as error:
            errors.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # a name server that never answers must not hold us
    asking.start()
    asking.join(HUB_SECONDS)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer in {HUB_SECONDS:g} seconds")
    return answers[0]


@cache
def resolve(name: str, revision: str | None = None) -> Mapping[str, Any]:
    """The keyword arguments with which `from_pretrained` opens `name` without a surprise.

    A local folder never touches the network. A hub name is asked for once, briefly, and pinned to the commit it has
    now; where the hub does not answer, what is cached will do.

    Raises:
        ModelError: No such folder, and no such model on the hub (or no network to ask it).
    """
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ModelError(
                f"the folder {name} holds no config.json",
                "give the folder that save_pretrained wrote",
            )
        return {"local_files_only": True}
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        raise ModelError(f"no such model folder: {name!r}", "check the path given as --model")
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        commit = ask_hub(lambda: HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS).sha)
    except Exception as error:
        try:
            cached = try_to_load_from_cache(name, "config.json", revision=revision)
        except ValueError:  # no name that the hub could have
            cached = None
        if isinstance(cached, str):
            return {"local_files_only": True, "revision": Path(cached).parent.name}
        raise ModelError(
            f"no folder {name!r} here, and the hub does not give a model of that name ({_first_line(error)})",
            "check the name and the network, or give a local folder",
        ) from error
    return {"revision": commit}


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
        raise ModelError(f"cannot open the model {name}: {_first_line(error)}", "check its config.json") from error
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
        arguments |= _quantization(quantize)
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
            f"cannot open the model {name}: {_first_line(error)}",
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
    arguments = dict(resolve(name, revision)) | ({} if quantize is None else _quantization(quantize))
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


def _quantization(quantize: Quantize) -> dict[str, Any]:
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


def _quantized(base: nn.Module) -> Quantize | None:
    """How a model is quantised, as Transformers marks it."""
    if getattr(base, "is_loaded_in_4bit", False):
        return "4bit"
    return "8bit" if getattr(base, "is_loaded_in_8bit", False) else None


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
            f"cannot open the tokenizer of {name}: {_first_line(error)}",
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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def max_tokens(model: nn.Module, tokenizer: Any, asked: int | None) -> int:
    """The length a text is cut to: `asked`, or what model and tokenizer can read, at most 512.

    Raises:
        ModelError: More was asked for than the model has positions.
    """
    limits = [int(tokenizer.model_max_length)]
    config = _text_config(model)
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - _first_position(model))
    if asked is None:
        return min(*limits, MOST_TOKENS)
    if asked > limits[-1]:
        raise ModelError(
            f"--max-length {asked} is more than the {limits[-1]} tokens the model has positions for",
            f"give {limits[-1]} or less",
        )
    return asked


def _first_position(model: nn.Module) -> int:
    """The position of the first token: 0, but RoBERTa and its kin count from behind the padding index."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else int(module.padding_idx) + 1
    return 0


# --- finding the layers -------------------------------------------------------------------------


def find_layers(model: nn.Module, attribute: str | None = None) -> LayerStack:
    """The layers of `model`, in the order in which they run.

    The base model (of a model that also sees, its language model) is searched for module lists as long as its config
    says it has layers; the outermost one is the stack. An encoder-decoder has two: the encoder's layers come first and
    the decoder's are counted on from there.

    Args:
        model: Any Hugging Face transformer, with or without a head.
        attribute: The path of the list of layers below the base model, for a model that cannot be read.

    Raises:
        ModelError: There is none (ALBERT shares one layer among all), naming the lists that were found.
    """
    base: nn.Module = getattr(model, "base_model", model)
    config = _text_config(base)
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
        layers=tuple(Layer(i, path, layer, _parts(layer, heads, decodes)) for i, (path, layer) in enumerate(modules)),
        hidden_size=hidden,
        causal=decodes,
        attribute=attribute,
    )


def _named_list(base: nn.Module, attribute: str) -> nn.ModuleList | nn.Sequential:
    """The list of layers at the path that the user gave."""
    try:
        found = base.get_submodule(attribute)
    except AttributeError as error:
        raise ModelError(
            f"{type(base).__name__} has no module {attribute!r} (module lists found: {_lists_of(base)})",
            "give one of them as --layers-attribute",
        ) from error
    if not isinstance(found, nn.ModuleList | nn.Sequential) or not len(found):
        raise ModelError(
            f"{attribute} of {type(base).__name__} is a {type(found).__name__}, not a list of layers "
            f"(module lists found: {_lists_of(base)})",
            "give one of them as --layers-attribute",
        )
    return found


def _roots(base: nn.Module, config: Any) -> list[tuple[str, int | None]]:
    """Where the layers are to be looked for, as paths below the base model, and how many the config says there are."""
    expected = getattr(config, "num_hidden_layers", None)
    if is_encoder_decoder(base):
        decoder = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", expected)
        return [("encoder", expected), ("decoder", decoder)]
    if _text_config(base) is base.config:
        return [("", expected)]
    # a vision model: the part with the text's config, so that the vision tower is left alone
    paths = (path for path, part in base.named_modules() if type(getattr(part, "config", None)) is type(config))
    return [(next(paths, ""), expected)]


def _outermost_list(base: nn.Module, root: str, expected: int | None) -> tuple[str, nn.ModuleList]:
    """The one list of `expected` modules that lies least deep below `root`."""
    name = type(base).__name__
    lists = [(path, module) for path, module in _module_lists(base) if path.startswith(f"{root}." if root else "")]
    fitting = [(path, module) for path, module in lists if len(module) == expected]
    if not fitting:
        raise ModelError(
            f"{name} has no list of {expected} layers of its own (module lists found: {_lists_of(base)})",
            "name the list with --layers-attribute, or use a model whose layers have weights of their own",
        )
    outermost = min(path.count(".") for path, _ in fitting)
    fitting = [(path, module) for path, module in fitting if path.count(".") == outermost]
    if len(fitting) > 1:
        raise ModelError(
            f"{name} spreads its layers over several lists ({', '.join(path for path, _ in fitting)})",
            "name the list of layers with --layers-attribute, or use a model whose layers are modules of their own",
        )
    return fitting[0]


def _module_lists(base: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    return [(path, part) for path, part in base.named_modules() if isinstance(part, nn.ModuleList) and len(part) > 0]


def _lists_of(base: nn.Module) -> str:
    return ", ".join(f"{path} with {len(module)}" for path, module in _module_lists(base)) or "none"


def is_encoder_decoder(base: nn.Module) -> bool:
    """Whether a model has two stacks of layers."""
    return bool(getattr(_text_config(base), "is_encoder_decoder", False))


# --- what a layer is made of --------------------------------------------------------------------

# These fused maps put out q, k and v of the first head, then of the next; all others all q, then all k, then all v.
PER_HEAD = ("query_key_value", "in_proj")


def linear_maps(module: nn.Module) -> dict[str, tuple[int, int]]:
    """The linear maps below `module`: path -> (outputs, inputs)."""
    from transformers.pytorch_utils import Conv1D

    found = {}
    for path, part in module.named_modules():
        if isinstance(part, nn.Linear):
            found[path] = (part.out_features, part.in_features)
        elif isinstance(part, Conv1D):
            found[path] = (part.nf, part.nx)
    return found


def _parts(layer: nn.Module, heads: int, causal: bool) -> LayerParts:
    """The linear maps of a layer, and which of them does what.

    Every family registers a layer's attention before its MLP, the attention's maps ending with its output, and calls it
    something with "att"; the decoders of encoder-decoders have a second attention, to the encoder. One map that makes
    queries, keys and values is the widest of its attention. Decoders are taken to have their norm before attention,
    encoders behind it; ModernBERT, which has it before, calls it `attn_norm`.
    """
    maps = linear_maps(layer)
    attention = [path for path in maps if "att" in path.lower()]
    attention = [path for path in attention if not any(other in path for other in ("EncDec", "encoder_attn", "cross"))]
    rest = [path for path in maps if "att" not in path.lower()]
    first = {letter: next((p for p in attention if p.split(".")[-1].startswith(letter)), None) for letter in "qkv"}
    if None in first.values() and attention:
        first = dict.fromkeys("qkv", max(attention, key=lambda path: maps[path][0]))
    known = len(attention) > 1
    return LayerParts(
        maps=maps,
        query=first["q"] if known else None,
        key=first["k"] if known else None,
        value=first["v"] if known else None,
        attention_output=attention[-1] if known else None,
        mlp_output=rest[-1] if rest else None,
        heads=heads,
        biases=sum(parameter.numel() for parameter in biases(layer)),
        dropout=any(isinstance(part, nn.Dropout) and part.p > 0 for part in layer.modules()),
        kept=_kept_by_activation(layer),
        norm_first=causal or any(name.startswith("attn_norm.") for name, _ in layer.named_parameters()),
    )


def _kept_by_activation(layer: nn.Module) -> int:
    """How many numbers the activation keeps for the backward pass of one: GPT-2's GELU, made of parts, keeps four."""
    from transformers.activations import ACT2CLS

    kinds = {kind[0] if isinstance(kind, tuple) else kind for kind in ACT2CLS.values()}
    activation = next((part for part in layer.modules() if type(part) in kinds), None)
    if activation is None or any(True for _ in activation.parameters()):
        return 1
    kept: dict[int, Tensor] = {}

    def keep(saved: Tensor) -> Tensor:
        kept[saved.data_ptr()] = saved  # held, so that no other gets its place
        return saved

    with torch.inference_mode(False), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        activation(torch.ones(1, device="cpu", requires_grad=True))
    return max(1, len(kept))


def biases(layer: nn.Module) -> list[nn.Parameter]:
    """The biases of a layer, those of its norms included."""
    return [parameter for name, parameter in layer.named_parameters() if name.split(".")[-1].endswith("bias")]


def queries(parts: LayerParts, made: Float[Tensor, "*lead out"]) -> Float[Tensor, "*lead heads size"]:
    """The queries of every head in what the query map put out, before any rotation."""
    assert parts.query is not None and parts.attention_output is not None
    width = parts.maps[parts.attention_output][1]
    size = width // parts.heads
    if parts.query != parts.key:
        return made.reshape(*made.shape[:-1], parts.heads, size)
    if parts.query.split(".")[-1] in PER_HEAD:
        return made.reshape(*made.shape[:-1], parts.heads, 3 * size)[..., :size]
    return made[..., :width].reshape(*made.shape[:-1], parts.heads, size)


def _text_config(model: nn.Module) -> Any:
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
            f"{type(base).__name__} is an encoder-decoder: it has no one sequence of states to score or to top",
            "score it by its weights (--scorer weight-snr) and apply the plan to your own model in Python",
        )


# --- what goes in -------------------------------------------------------------------------------


def accepted(base: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """The inputs that `base.forward` takes.

    With padding on the left, a model with learned positions reads wrong ones unless they are given: they are
    counted from the first unmasked token. No key-value cache is built.

    Raises:
        ModelError: As for `check_one_sequence`.
    """
    check_one_sequence(base)
    takes = inspect.signature(base.forward).parameters
    given: dict[str, Any] = {name: value for name, value in inputs.items() if name in takes}
    if "use_cache" in takes:
        given["use_cache"] = False
    mask = inputs["attention_mask"]
    if "position_ids" in takes and not mask[:, 0].all():
        given["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0) + _first_position(base)
    return given


def packed(base: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """The inputs of a padded batch without its padding: all texts one after the other, in a batch of one.

    Positions begin anew with every text. By them alone Transformers tells the texts apart, in the masks of decoders and
    in flash attention, and only where it is given neither a mask nor a key-value cache.

    Raises:
        ModelError: As for `check_one_sequence`, or the model takes no positions.
    """
    check_one_sequence(base)
    takes = inspect.signature(base.forward).parameters
    if "position_ids" not in takes:
        raise ModelError(
            f"{type(base).__name__} takes no position_ids, and nothing else tells packed texts apart",
            "leave --pack out",
        )
    unmasked = inputs["attention_mask"] != 0
    positions = unmasked.cumsum(1) - 1 + _first_position(base)
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


def representative_positions(mask: Int[Tensor, "batch token"], causal: bool) -> Int[Tensor, " batch"]:
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


# --- which parameters are whose -----------------------------------------------------------------


def head_parameters(stack: LayerStack) -> list[nn.Parameter]:
    """The parameters of what sits on top: outside the base model, and the pooler inside it.

    The output matrix of a language model is none of them: it stays frozen (T 3.2).
    """
    inside = {id(parameter) for parameter in stack.base.parameters()}
    output = getattr(stack.model, "get_output_embeddings", lambda: None)()
    inside |= {id(parameter) for parameter in output.parameters()} if output is not None else set()
    top = [parameter for parameter in stack.model.parameters() if id(parameter) not in inside]
    pooler = getattr(stack.base, "pooler", None)
    return top + (list(pooler.parameters()) if isinstance(pooler, nn.Module) else [])


def checkpoint_activations(stack: LayerStack, lowest: int) -> None:
    """Non-reentrant activation checkpointing in the layers from `lowest` up, and in no other part of the base.

    Raises:
        ModelError: Transformers has none for this family.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in stack.layers[lowest:]:
        if not isinstance(layer.module, GradientCheckpointingLayer):
            raise ModelError(f"{type(stack.base).__name__} has no activation checkpointing", "train without it")
        layer.module.gradient_checkpointing = True
        layer.module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]


def semantic_bases(stack: LayerStack, tokens: Sequence[int]) -> Float[Tensor, "label hidden"]:
    """What each token means in the last latent space: its row of the pseudo-inverse of the output matrix (S 2.1).

    With W the V x d output matrix, W_o = W' maps states to logits, and

        base(v) = e_v W_o^+ = W_v (W'W)^+

    so only d x d is inverted, in fp64, and only the rows of `tokens` are formed, whatever the size of the vocabulary
    and the precision of the weights.

    Raises:
        ModelError: The model has no output matrix, or is an encoder.
    """
    output = getattr(stack.model, "get_output_embeddings", lambda: None)()
    if output is None or not stack.causal:
        what = "has no output matrix" if stack.causal else "is an encoder, which predicts no next token"
        raise ModelError(
            f"{type(stack.model).__name__} {what}", "open a causal language model with AutoModelForCausalLM"
        )
    weight: Tensor = output.weight.detach()
    gram = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=weight.device)
    for part in torch.split(weight, ROWS_AT_ONCE):
        gram += part.double().T @ part.double()
    inverse = torch.linalg.pinv(gram, hermitian=True)
    bases: Tensor = (weight[list(tokens)].double() @ inverse).float()
    return bases


# --- which model it is --------------------------------------------------------------------------


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
        quantize=_quantized(stack.base),
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
    missing = [layer for layer in plan.layers if not 0 <= layer < len(stack)]
    if missing:
        raise PlanError(f"the plan names layer {missing[0]}", f"the model has the layers 0 to {len(stack) - 1}")


# --- back to plain Transformers -----------------------------------------------------------------

SMALL = 2.0**-14  # tanh(SMALL h) / SMALL is h within 2e-6 of its size for |h| up to 40, and W / SMALL fits fp16


def plain_classifier(
    base: nn.Module, linear: nn.Linear, classes: tuple[str, ...], pad_token_id: int
) -> nn.Module | None:
    """Transformers' own sequence classifier that computes `linear` on the representative token.

    Decoders have just that linear map. BERT, RoBERTa, MPNet and their kin put tanh(dense(h)) before it;
    with a dense map of SMALL times the identity, tanh is linear to fp32's precision, and the classifier
    undoes the factor. Other families' classifiers cannot say it.

    Args:
        base: The headless model with its tuned weights.
        linear: The head.
        classes: The class names; none for a regression.
        pad_token_id: Of the tokenizer: by it a decoder's classifier tells where a padded text ends.

    Returns:
        The classifier, or None where the family's cannot compute the same. The caller must still compare.
    """
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(cast(Any, base.config))
    config.num_labels = linear.out_features
    config.pad_token_id = pad_token_id
    if classes:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: i for i, name in enumerate(classes)}
    config.problem_type = "single_label_classification" if classes else "regression"
    try:
        model: nn.Module = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    except ValueError:
        return None
    inner: nn.Module = model.base_model  # type: ignore[assignment]
    inner.load_state_dict(base.state_dict(), strict=False)
    with torch.no_grad():
        score = getattr(model, "score", None)
        if isinstance(score, nn.Linear) and score.bias is None and linear.bias is None:
            score.weight.copy_(linear.weight)
            return model.eval()
        top = getattr(model, "classifier", None)
        dense = getattr(getattr(inner, "pooler", None), "dense", None) or getattr(top, "dense", None)
        final = top if isinstance(top, nn.Linear) else getattr(top, "out_proj", None)
        if not isinstance(dense, nn.Linear) or not isinstance(final, nn.Linear) or linear.bias is None:
            return None
        if dense.weight.shape != (linear.in_features, linear.in_features):
            return None
        dense.weight.copy_(SMALL * torch.eye(linear.in_features))
        dense.bias.zero_()
        final.weight.copy_(linear.weight / SMALL)
        final.bias.copy_(linear.bias)
    return model.eval()
