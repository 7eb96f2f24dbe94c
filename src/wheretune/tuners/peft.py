"""What PEFT does for us: adapters on modules named in full, saved as plain PEFT checkpoints."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wheretune.errors import ConfigError, DeltaError, ModelError
from wheretune.tuners.base import Attached, drawing

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

    from wheretune.model.stack import LayerStack
    from wheretune.records.model import LayerInfo, ModelInfo

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
LANGUAGE = ("CAUSAL_LM", "SEQ_2_SEQ_LM")  # PEFT's words for what it opens on a language model
_BELOW_PEFT = "base_model.model."  # what PeftModel puts before every name
_ADAPTER = "default"


@contextmanager
def quietly() -> Iterator[None]:
    """PEFT warns that it sets for itself how GPT-2's maps lie in memory, which is what it should do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        yield


def attach(stack: LayerStack, config: Any, seed: int) -> tuple[Any, Attached]:
    """Lets PEFT put an adapter into the base model.

    Args:
        stack: Whose base is adapted, in place: `stack.model` stays the user's own.
        config: Names every module in full.
        seed: Seed for what PEFT draws.

    Returns:
        PEFT's tuner, and what can be done with it.

    Raises:
        ModelError: The model carries a PEFT adapter already, or PEFT adapted other modules than the config names.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = stack.base
    if any(isinstance(part, BaseTunerLayer) for part in base.modules()):
        raise ModelError("the model carries a PEFT adapter already", "undo or merge it first")
    plain = copy.deepcopy(config)  # PEFT shortens the names in its own copy
    wanted = set(plain.target_modules)
    parameters_wanted = set(getattr(plain, "target_parameters", None) or ())
    weights = {name: _data(base.get_submodule(name)) for name in wanted}
    flags = [(parameter, parameter.requires_grad) for parameter in base.parameters()]
    with drawing(seed), quietly():
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](base, config, _ADAPTER)
    for parameter, flag in flags:
        parameter.requires_grad = flag
    replaced = _replaced(base, weights)
    del weights

    def unload() -> None:
        _take_off(base, tuner.unload)
        for name, weight in replaced.items():
            rest: Any = base.get_submodule(name).weight
            rest.data = weight.to(rest.device)  # the model may have been moved meanwhile

    def merge() -> None:
        _take_off(base, tuner.merge_and_unload)

    def save(folder: Path, model: ModelInfo) -> None:
        plain.fan_in_fan_out = config.fan_in_fan_out
        write_adapter(folder, plain, adapter_state(base), model)

    adapted = set(tuner.targeted_module_names), set(getattr(tuner, "targeted_parameter_names", ()))
    if adapted != (wanted, parameters_wanted):
        unload()
        raise ModelError("PEFT adapted other modules than the plan names", "report this with the name of the model")
    own = {id(parameter) for parameter, _ in flags}
    parameters = [p for n, p in base.named_parameters() if id(p) not in own and p.requires_grad]
    return tuner, Attached(parameters, unload, merge, save)


def _replaced(base: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the weights that an adapted map no longer holds: PiSSA's; of all others nothing need be kept."""
    return {
        name: weight
        for name, weight in weights.items()
        if _data(base.get_submodule(f"{name}.base_layer")).data_ptr() != weight.data_ptr()
    }


def _take_off(base: nn.Module, unload: Callable[[], object]) -> None:
    with quietly():
        unload()
    vars(base).pop("peft_config", None)  # PEFT's newer versions take it off themselves


def _data(linear: nn.Module) -> Tensor:
    weight: Any = linear.weight
    data: Tensor = weight.data
    return data


def adapter_state(base: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by PEFT's names."""
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(base, save_embedding_layers=False)
    return state


def write_adapter(folder: Path, config: PeftConfig, state: dict[str, Tensor], model: ModelInfo) -> None:
    """A checkpoint as PeftModel writes it for the headless base model."""
    from safetensors.torch import save_file

    config = copy.deepcopy(config)
    config.inference_mode = True
    config.base_model_name_or_path = model.name
    config.revision = model.spec.revision
    for name, value in vars(config).items():
        if isinstance(value, set):  # PEFT would write it in another order in every process
            setattr(config, name, sorted(value))
    folder.mkdir()
    tensors = {_BELOW_PEFT + name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(tensors, folder / TENSORS, {"format": "pt"})
    config.save_pretrained(str(folder))


def for_language_model(folder: Path, stack: LayerStack) -> None:
    """Makes of a checkpoint for the headless base model one that PEFT opens on the language model.

    Args:
        folder: What `write_adapter` wrote.
        stack: The layers of the language model.
    """
    from safetensors.torch import load_file, save_file

    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(
        json.dumps({**content, "task_type": LANGUAGE[stack.split > 0]}, indent=2), encoding="utf-8"
    )
    tensors = {name.removeprefix(_BELOW_PEFT): value for name, value in load_file(folder / TENSORS).items()}
    prefix = "" if _own_base(stack) else f"{stack.base.base_model_prefix}."
    moved = {f"{_BELOW_PEFT}{prefix}{name}": value.clone() for name, value in tensors.items()}
    save_file(moved, folder / TENSORS, {"format": "pt"})


def _own_base(stack: LayerStack) -> bool:
    """Whether a language model is its own base model, as T5 is."""
    return getattr(stack.base, "get_output_embeddings", lambda: None)() is not None


def attach_saved(stack: LayerStack, folder: Path) -> Attached:
    """Puts a saved PEFT checkpoint on the base model.

    Raises:
        DeltaError: The checkpoint cannot be read or does not fit the model.
    """
    from peft import PeftConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    try:
        config = PeftConfig.from_pretrained(str(folder))
        saved = load_file(folder / TENSORS)
    except (OSError, ValueError, TypeError) as error:
        raise DeltaError(f"{folder} holds no PEFT checkpoint ({error})", "tune again, or restore the folder") from error
    _, attached = attach(stack, config, seed=0)
    prefix = f"{getattr(stack.base, 'base_model_prefix', '')}." if config.task_type in LANGUAGE else ""
    state = {name.removeprefix(_BELOW_PEFT).removeprefix(prefix): value for name, value in saved.items()}
    result: Any = set_peft_model_state_dict(stack.base, state)
    if result.unexpected_keys or set(state) != set(adapter_state(stack.base)):
        attached.detach()
        raise DeltaError(f"{folder} does not fit the model", "open the model that it was made from")
    return attached


def map_names(stack: LayerStack, layers: Sequence[int], targets: str, *, experts: bool = False) -> list[str]:
    """The full names, below the base, of the maps that `targets` means in the chosen layers.

    Raises:
        ConfigError: It names experts, and the tuner knows none.
    """
    every = [stack.layers[layer] for layer in layers]
    if not experts and any(layer.parts.expert_targets(targets) for layer in every):
        raise ConfigError(f"targets={targets} name experts, which lora alone can adapt", "take lora, or other targets")
    return [f"{layer.path}.{path}" for layer in every for path in layer.parts.targets(targets)]


def expert_names(stack: LayerStack, layers: Sequence[int], targets: str) -> list[str]:
    """The full names, below the base, of the experts' parameters that `targets` means in the chosen layers."""
    every = [stack.layers[layer] for layer in layers]
    return [f"{layer.path}.{path}" for layer in every for path in layer.parts.expert_targets(targets)]


def map_shapes(layers: Sequence[LayerInfo], chosen: Sequence[int], targets: str) -> list[tuple[int, int]]:
    """(outputs, inputs) of the maps that `targets` means in the chosen layers."""
    every = [layers[layer].parts for layer in chosen]
    return [parts.maps[path] for parts in every for path in parts.targets(targets)]
