"""Opens models and tokenizers by name: once, hashed once, and handed on as `Opened`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wheretune.errors import ModelError
from wheretune.model.adapted import merged
from wheretune.model.apart import read_apart
from wheretune.model.dispatch import dispatching, places_in_words, quietly
from wheretune.model.finding import base_of, causal, find_layers, is_encoder_decoder
from wheretune.model.identity import describe, fingerprints
from wheretune.model.own_head import has_own_head, own_head
from wheretune.model.placement import device_of, placing
from wheretune.model.sight import opened_by, sees, with_processor
from wheretune.records.model import ModelSpec
from wheretune.support.hub import below_adapter, is_adapter, resolve
from wheretune.support.log import log
from wheretune.support.words import first_line

if TYPE_CHECKING:
    from wheretune.model.own_head import OwnHead
    from wheretune.model.stack import LayerStack
    from wheretune.records.model import ModelInfo


@dataclass(frozen=True, eq=False)
class Opened:
    """A model that was opened by name.

    Attributes:
        stack: Its layers; `stack.base` is the headless model, `stack.model` the language model where one was asked for.
        tokenizer: Its tokenizer.
        info: Which model it is.
        fingerprints: SHA-256 of every tensor of the headless model as fp32, by name.
        own_head: The classifier that the checkpoint has besides; None where it has none.
    """

    stack: LayerStack
    tokenizer: Any
    info: ModelInfo
    fingerprints: dict[str, str]
    own_head: OwnHead | None = None

    def hashes_below(self, path: str) -> dict[str, str]:
        """The fingerprints by their names in a model that has this one at `path`."""
        return {f"{path}.{name}": found for name, found in self.fingerprints.items()}


def open_model(spec: ModelSpec, *, language: bool = False, on_host: bool = False) -> Opened:
    """Opens a model with its tokenizer, finds its layers and hashes its weights.

    Args:
        spec: Which model, and how it is held.
        language: Open the language model with its output matrix, in place of the headless model.
        on_host: Leave it in main memory, in the precision that suits its device: weights that are in this precision in
            the checkpoint are read from its mapped file, of which processes of one machine share what is in memory.

    Raises:
        ModelError: It cannot be found or opened, its layers are not found, it has no tokenizer, or this machine cannot
            hold it as asked. With `language`: it is an encoder, or its checkpoint has no output matrix.
    """
    spec = pinned(spec)
    device = torch.device("cpu") if on_host else None
    model, head = (load_language_model(spec, device), None) if language else _load(spec, device)
    stack = find_layers(model, spec.layers_attribute)
    tokenizer = load_tokenizer(spec.name, spec.revision)
    if is_encoder_decoder(stack.base):
        read_apart(tokenizer)
    hashes = fingerprints(stack)
    info = replace(describe(stack, hashes), spec=replace(spec, placement=None))  # which model it is, wherever it lay
    return Opened(stack, tokenizer, info, hashes, head)


def outline(spec: ModelSpec) -> tuple[LayerStack, ModelInfo]:
    """The layers of a model without its weights, at the price of its config; its hash is empty.

    Raises:
        ModelError: It cannot be found or made, or its layers are not found.
    """
    from transformers import AutoConfig, AutoModel

    spec = pinned(spec)
    name, revision = below_adapter(spec.name, spec.revision)
    with _opening(spec.name, "AutoModel"), torch.device("meta"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **resolve(name, revision))
        model: nn.Module = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    _drop_pooler(model)
    stack = find_layers(model, spec.layers_attribute)
    return stack, replace(describe(stack, {}), spec=spec)


def pinned(spec: ModelSpec) -> ModelSpec:
    """The same model by its absolute path, or by the commit that the hub has of it now.

    Raises:
        ModelError: There is no such folder, and no such model on the hub.
    """
    found = resolve(*below_adapter(spec.name, spec.revision))
    if Path(spec.name).is_dir():
        return replace(spec, name=str(Path(spec.name).resolve()))
    return replace(spec, revision=found.get("revision"))


def load_config(name: str, revision: str | None = None) -> Any:
    """The text part of a model's config.

    Raises:
        ModelError: It cannot be found or opened.
    """
    return _config(name, revision).get_text_config()


def _config(name: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    name, revision = below_adapter(name, revision)
    arguments = resolve(name, revision)
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False, **arguments)
    except Exception as error:
        raise ModelError(f"cannot open the model {name}: {first_line(error)}", "check its config.json") from error


def load_model(spec: ModelSpec) -> nn.Module:
    """The headless transformer, without the pooler (no fresh head of ours reads it).

    Raises:
        ModelError: It cannot be found or opened, or this machine cannot hold it as asked.
    """
    return _load(spec)[0]


def _load(spec: ModelSpec, device: torch.device | None = None) -> tuple[nn.Module, OwnHead | None]:
    """The headless transformer and, where the checkpoint is a classifier, what it had on top; on the spec's device.

    Of a model that is spread over several places the head is left aside: it is not scored.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification

    config = _config(spec.name, spec.revision)
    given = placing(spec, config)
    missing: list[str] = []
    if is_adapter(spec.name):
        whole = merged(spec, given)
    else:
        classifies = has_own_head(config) and spec.placement is None
        whole, lacking = _from_pretrained(spec, AutoModelForSequenceClassification if classifies else AutoModel, given)
        missing = [name for name in lacking if not name.startswith(f"{whole.base_model_prefix}.")]
    whole = _moved(whole, spec, device)
    model = base_of(whole)
    head = None if missing else own_head(whole)  # what is missing was drawn at random
    _drop_pooler(model)
    return model, head


def predicts(spec: ModelSpec) -> bool:
    """Whether a model predicts next tokens, by its config: a decoder or an encoder-decoder.

    Raises:
        ModelError: It cannot be found.
    """
    text = load_config(spec.name, spec.revision)
    return bool(text.is_encoder_decoder) or causal(text)


def load_language_model(spec: ModelSpec, device: torch.device | None = None) -> nn.Module:
    """The language model with its output matrix, which is never quantised; of a model that sees, with its eyes.

    Args:
        spec: Which model, and how it is held.
        device: Where it lies; on the spec's by default.

    Raises:
        ModelError: It is an encoder, cannot be opened, its checkpoint has no output matrix, or this machine cannot
            hold it as asked.
    """
    import transformers

    name, config = spec.name, _config(spec.name, spec.revision)
    if not predicts(spec):
        raise ModelError(
            f"{name} is an encoder, which predicts no next token",
            "give a causal language model, or a task and a scorer that need none",
            "model",
        )
    given, kind = placing(spec, config), opened_by(config)
    if is_adapter(name):
        return merged(spec, given, language=kind).to(device or device_of(spec))
    model, missing = _from_pretrained(spec, getattr(transformers, kind), given)
    if missing:  # Transformers would draw them at random
        raise ModelError(
            f"the checkpoint {name} lacks {sorted(missing)[0]}, which a language model needs",
            "give the language model, not a headless one or a classifier",
            "model",
        )
    return _moved(model, spec, device)


def _from_pretrained(spec: ModelSpec, kind: Any, given: dict[str, Any]) -> tuple[Any, set[str]]:
    """A model as one of Transformers' classes opens it, and the weights that its checkpoint lacks."""
    with _opening(spec.name, kind.__name__), quietly():
        if spec.placement is not None:
            with torch.device("meta"):
                empty = kind.from_config(_config(spec.name, spec.revision), dtype=given["dtype"])
            given = given | dispatching(spec.placement, empty)
        safely = {"trust_remote_code": False, "use_safetensors": True}
        made, loaded = kind.from_pretrained(
            spec.name, output_loading_info=True, **safely, **resolve(spec.name, spec.revision), **given
        )
    if spec.placement is not None:
        log.warning("%s", places_in_words(made))
    return made, set(loaded["missing_keys"])


def _moved(model: nn.Module, spec: ModelSpec, device: torch.device | None) -> nn.Module:
    """The model on a device, the spec's by default; one that is quantised or spread lies where it is to be."""
    return model.to(device or device_of(spec)) if spec.quantize is None and spec.placement is None else model


@contextmanager
def _opening(name: str, kind: str) -> Iterator[None]:
    """Says in one line why Transformers cannot open a model."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if "offload_folder" in str(error):
            raise ModelError(
                f"some weights of {name} cannot be read from its files as they are: they are fused when it is opened, "
                "or are not safetensors",
                "name a folder to write them to (offload_folder)",
                "offload_folder",
            ) from error
        why = first_line(error).replace(". Please do not set `use_safetensors=True`", "")  # which nobody here has set
        raise ModelError(f"cannot open the model {name}: {why}", _way_out(error, name, kind), "model") from error


def _way_out(error: Exception, name: str, kind: str) -> str:
    """What to do about a model that Transformers cannot open."""
    if "deserializing header" in str(error):  # as safetensors says it
        return "copy or download its weights again, whole (of a clone: git lfs pull)"
    pickled = "model.safetensors" in str(error) and any(Path(name).glob("*.bin"))
    if pickled or "use_safetensors" in str(error):  # as Transformers says it of a folder, and of a model on the hub
        once = f"{kind}.from_pretrained({name!r}).save_pretrained(FOLDER)"
        return f"pickled weights can run code and are not opened; if you trust them, convert them once: {once}"
    return f"give a folder or hub name that transformers.{kind} opens, with its weights as safetensors"


def _drop_pooler(model: nn.Module) -> None:
    if isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None  # type: ignore[assignment]


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a model, with its processor where it sees; without a padding token, the end-of-text token pads.

    Raises:
        ModelError: It cannot be opened.
    """
    from transformers import AutoTokenizer

    if is_adapter(name) and not (Path(name) / "tokenizer_config.json").is_file():
        name, revision = below_adapter(name, revision)
    arguments = {"local_files_only": True} if is_adapter(name) else resolve(name, revision)
    saving = "save the tokenizer into the model's folder with tokenizer.save_pretrained"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **arguments)
    except Exception as error:
        raise ModelError(f"cannot open the tokenizer of {name}: {first_line(error)}", saving) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # Transformers makes an empty one where no file is
        raise ModelError(f"{name} holds no tokenizer", saving)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(f"the tokenizer of {name} has no padding token", "set one and save it again")
    if not _sees(name, revision):
        return tokenizer
    below, its = below_adapter(name, revision)
    return with_processor(tokenizer, below, resolve(below, its))


def _sees(name: str, revision: str | None) -> bool:
    """Whether a folder or hub name is of a model that sees; not where it holds no model."""
    try:
        return sees(_config(name, revision))
    except ModelError:
        return False
