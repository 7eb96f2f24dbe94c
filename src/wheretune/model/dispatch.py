"""A model that is larger than one device, or than memory: its parts lie on several devices, in memory and on disk.

accelerate spreads them and brings the weights of each part to where it computes, for as long as it does. What lies on
disk is read from the checkpoint's own files, memory-mapped, at every pass through the part. Nothing is copied but what
Transformers makes anew when it opens a checkpoint (experts that are fused, files that are not safetensors).
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wheretune.errors import ModelError
from wheretune.support.words import first_line, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from wheretune.records.placement import Placement


def dispatching(placement: Placement, empty: nn.Module) -> dict[str, Any]:
    """What `from_pretrained` needs to spread a model as a placement says.

    Args:
        placement: Where its weights lie.
        empty: The model without weights, on the meta device.

    Raises:
        ModelError: A device is not there, a part of the model is unknown or has no place, or the largest does not fit.
    """
    given: dict[str, Any] = {"offload_folder": placement.offload_folder}
    if (places := placement.places()) is not None:
        return given | {"device_map": _fitted(places, empty, placement.device_map)}
    given["device_map"] = placement.device_map
    if (asked := placement.limits()) is not None:
        limits = _by_device(asked)
        _check_largest(empty, limits)
        given["max_memory"] = {device: max(left, 0) for device, left in limits.items()}
    return given


def _fitted(places: Mapping[str, str], empty: nn.Module, file: str) -> dict[str, int | str]:
    """The places by the names that the parts of this very model have, headless or not."""
    from accelerate.utils import check_device_map

    prefix, known = f"{getattr(empty, 'base_model_prefix', '')}.", {name for name, _ in empty.named_modules()}
    headed = {name.removeprefix(prefix): place for name, place in places.items() if name.startswith(prefix)}
    if headed and f"{prefix}{next(iter(headed))}" not in known:  # a map of the model with a head, which is not opened
        places = headed
    made = {name: _device(place) for name, place in places.items()}
    tensors = {name for name, _ in empty.named_parameters()}
    if unknown := [name for name in made if name not in known | tensors]:
        parts = ", ".join(name for name, _ in empty.named_children())
        raise ModelError(f"{file} names {unknown[0]!r}", f"name parts of the model: {parts}", "device_map")
    try:
        check_device_map(empty, made)
    except ValueError as error:
        missing = first_line(error).rpartition(": ")[2].split(", ")[0]
        raise ModelError(
            f"{file} gives no place for {missing}", "name every part of the model", "device_map"
        ) from error
    return made


def _device(place: str) -> int | str:
    """A place as accelerate names it.

    Raises:
        ModelError: There is no such device.
    """
    lacking = place == "mps" and not torch.backends.mps.is_available()
    if lacking or (place.isdecimal() and int(place) >= torch.cuda.device_count()):
        name = f"cuda:{place}" if place.isdecimal() else place
        raise ModelError(f"there is no {name} on this machine", "name devices that are there", "device_map")
    return int(place) if place.isdecimal() else place


def _by_device(limits: Mapping[str, int]) -> dict[int | str, int]:
    """The bytes that weights may take on each device: on the CPU, of what the process may have, what it has not yet.

    They are below 0 where it has more than it may.
    """
    from psutil import Process

    if "" in limits:
        limits = {name: limits[""] for name in [*map(str, range(torch.cuda.device_count())), "cpu"]}
    made = {_device(name): limit for name, limit in limits.items()}
    if "cpu" in made:
        made["cpu"] -= Process().memory_info().rss
    return made


def _check_largest(empty: nn.Module, limits: Mapping[int | str, int]) -> None:
    """Refuses a device on which what is brought there cannot compute: accelerate keeps room for the largest part."""
    from accelerate.utils import compute_module_sizes, get_max_layer_size

    parts = [*empty.named_parameters(recurse=False), *empty.named_children()]
    whole: Any = empty._no_split_modules or ()  # classes of parts that accelerate keeps in one place
    largest, names = get_max_layer_size(parts, compute_module_sizes(empty), list(whole))
    first = next((name for name in limits if name != "cpu"), "cpu")
    left = limits.get(first, 0)
    if largest <= left:
        return
    where = "of this process's memory" if first == "cpu" else f"on device {first}"
    raise ModelError(
        f"{names[0]} takes {size(largest)}, and weights may take {size(max(left, 0))} {where}",
        f"raise the limit by {size(largest - left)} or more",
        "memory_limit",
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Without what accelerate has to say of a model that it spreads; `places_in_words` says it."""
    logger = logging.getLogger("accelerate.big_modeling")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def places_in_words(model: nn.Module) -> str:
    """How much of a model that was spread lies where."""
    taken: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        place = str(parameter.device)
        if parameter.is_meta:  # until it is used: then it comes from memory or from disk
            mapped: Mapping[str, Any] = model.hf_device_map  # type: ignore[assignment]
            part = max((one for one in mapped if not one or f"{name}.".startswith(f"{one}.")), key=len)
            place = str(mapped[part])
        taken[place] += parameter.numel() * parameter.element_size()
    words = {"cpu": "in memory", "disk": f"on disk ({', '.join(_folders(model))}), read again for every batch"}
    each = [f"{size(bytes_)} {words.get(place, f'on {place}')}" for place, bytes_ in taken.items()]
    return f"of {size(sum(taken.values()))} of weights, {' and '.join(each)}"


def _folders(model: nn.Module) -> list[str]:
    """Where the files are from which weights come that lie on disk."""
    hooks = [found for module in model.modules() if (found := offloading(module)) is not None]
    indices = [getattr(getattr(hook.weights_map, "dataset", None), "index", {}) for hook in hooks]
    return sorted({str(Path(one["safetensors_file"]).parent) for index in indices for one in index.values()})


def offloading(module: nn.Module) -> Any:
    """Accelerate's hook that brings the weights of a module and takes them away again; None where they stay."""
    hook: Any = getattr(module, "_hf_hook", None)
    return hook if getattr(hook, "offload", False) else None


@contextmanager
def running(model: nn.Module) -> Iterator[None]:
    """Says in one line that a model cannot be run because weights are missing where it computes.

    Raises:
        ModelError: It reads the weights of a part that it does not call, for which accelerate does not bring them
            (DeBERTa's `rel_embeddings`).
    """
    try:
        yield
    except RuntimeError as error:
        if "meta" not in str(error) or all(offloading(module) is None for module in model.modules()):
            raise
        raise ModelError(
            f"{type(model).__name__} reads weights of a part that it does not call, for which they are not brought "
            f"from disk ({first_line(error)})",
            "keep that part on cpu, with a JSON file as the device map",
            "device_map",
        ) from error


def check_held(model: nn.Module, what: str) -> None:
    """Makes sure that the weights of a model stay where they are.

    Raises:
        ModelError: Some come and go.
    """
    if any(offloading(module) is not None for module in model.modules()):
        raise ModelError(
            f"{what} needs all weights of {type(model).__name__} at once, and some are offloaded",
            "hold the model whole, or take scorers of one forward pass",
        )


def weight(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer of a model by its name, read from where it lies if it is offloaded."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    found: Tensor = getattr(module, own)
    if found.is_meta and (hook := offloading(module)) is not None:
        found = hook.weights_map[own]
    return found.detach()
