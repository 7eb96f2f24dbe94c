"""Which model, how it is opened, and what its layers are made of."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Literal

from wheretune.errors import ConfigError, ModelError, PlanError
from wheretune.records.base import record, require
from wheretune.records.placement import Placement
from wheretune.support.words import count, short_name

Dtype = Literal["auto", "fp32", "bf16", "fp16"]
Attention = Literal["eager", "sdpa", "flash_attention_2"]
Quantize = Literal["4bit", "8bit"]
LAYER = re.compile(r"\d+|(encoder|decoder)\.\d+")
STACKS = ("encoder", "decoder")  # of an encoder-decoder, in the order in which they run
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@record
class ModelSpec:
    """Which model, and how it is opened.

    Attributes:
        name: A local folder, or a name on the hub.
        revision: A commit, branch or tag on the hub.
        layers_attribute: The path of the list of layers in the headless model, where it is not found.
        dtype: `auto` takes the checkpoint's own; weights that train are held in fp32 whatever this says.
        device: `auto` takes a GPU if there is one; or `cpu`, `cuda`, `cuda:1`, `mps`.
        attention: Transformers' implementation; None takes Transformers' own choice.
        quantize: Hold the linear maps in 4 or 8 bits.
        placement: Where the weights lie, if not all on `device`.
    """

    name: str
    revision: str | None = None
    layers_attribute: str | None = None
    dtype: Dtype = "auto"
    device: str = "auto"
    attention: Attention | None = None
    quantize: Quantize | None = None
    placement: Placement | None = None

    def __post_init__(self) -> None:
        if self.placement is not None:
            for name, given in (("device", self.device != "auto"), ("quantize", self.quantize is not None)):
                if given:
                    raise ConfigError(f"{name} does not go with a device map or a memory limit", "drop one", name)
        if DEVICE.fullmatch(self.device) is None:
            raise ConfigError(f"there is no device {self.device!r}", "give auto, cpu, cuda, cuda:N or mps", "device")


def check_machine(spec: ModelSpec) -> None:
    """Refuses what is plainly not on this machine, without opening torch for that.

    Raises:
        ModelError: Flash attention is not installed, or there is no such device.
    """
    if spec.attention == "flash_attention_2" and not any(map(importlib.util.find_spec, ("flash_attn", "kernels"))):
        raise ModelError(
            "the package flash-attn is not installed", "install it (pip install flash-attn), or take sdpa", "attention"
        )
    lacking = {"cuda": not _cuda(), "mps": sys.platform != "darwin"}
    if lacking.get(spec.device.split(":")[0], False):
        raise ModelError(f"there is no {spec.device} on this machine", "take auto or cpu", "device")
    if spec.placement is not None:
        from wheretune.support.hub import is_adapter  # opened where it is asked for: most commands are quick
        from wheretune.support.processes import world_size

        spec.placement.places()
        if is_adapter(spec.name):
            raise ModelError(
                f"{spec.name} is a PEFT adapter, which is merged into weights that lie in one place",
                "merge it (merge_and_unload) and give that folder",
                "device_map",
            )
        if world_size() > 1:
            raise ModelError(
                f"a device map is for one process, and there are {world_size()}", "start one, or drop it", "device_map"
            )


def check_forward_only(spec: ModelSpec, needs: Iterable[str]) -> None:
    """Refuses what cannot be computed where weights come and go.

    Raises:
        ModelError: Gradients are needed, and there is a placement.
    """
    if spec.placement is not None and not {"gradients", "training"}.isdisjoint(needs):
        raise ModelError(
            "gradients need all weights at once, and with a device map or a memory limit they come and go",
            "take scorers of one forward pass, such as cosine-centrality or cka, or hold the model whole",
            "device_map",
        )


def check_trains(spec: ModelSpec) -> None:
    """Refuses a precision in which this machine cannot train.

    Raises:
        ModelError: It is fp16 on a CPU.
    """
    cpu = spec.device == "cpu" or (spec.device == "auto" and not _cuda() and sys.platform != "darwin")
    if spec.dtype == "fp16" and cpu:
        raise ModelError("a CPU trains slowly in fp16 and lacks operations for it", "take bf16 or fp32", "dtype")


def _cuda() -> bool:
    """Whether there may be a CUDA device, as far as can be seen without torch."""
    return sys.platform != "linux" or any(any(Path("/dev").glob(name)) for name in ("nvidia*", "dxg", "kfd"))


@record
class LayerParts:
    """What a tuner must know of a layer to attach to it, and to count what it trains without the model.

    Attributes:
        maps: The linear maps: path below the layer -> (outputs, inputs), in the order of their modules.
        query: The map that makes the queries of self-attention; None where it was not found, as below.
        key: Likewise; where one map makes queries, keys and values, its path stands in all three.
        value: Likewise.
        attention_output: The map at the end of self-attention.
        mlp_output: The map at the end of the MLP.
        heads: Attention heads.
        biases: How many numbers all biases of the layer hold.
        dropout: Whether it drops anything out in training.
        kept: What the MLP's activation keeps for the backward pass, in multiples of its input.
        norm_first: Whether a norm stands before the queries, keys and values.
        experts: The maps of a mixture of experts, each one parameter of three dimensions: path below the layer ->
            (experts, rows, columns).
        experts_per_token: Through how many of them a token runs.
    """

    maps: dict[str, tuple[int, int]] = field(default_factory=dict)
    query: str | None = None
    key: str | None = None
    value: str | None = None
    attention_output: str | None = None
    mlp_output: str | None = None
    heads: int = 0
    biases: int = 0
    dropout: bool = False
    kept: int = 1
    norm_first: bool = False
    experts: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    experts_per_token: int = 0

    def __post_init__(self) -> None:
        for path in (self.query, self.key, self.value, self.attention_output, self.mlp_output):
            require(path is None or path in self.maps, f"it has no linear map {path!r}")
        sizes = [size for shape in self.maps.values() for size in shape]
        require(min([*sizes, self.kept], default=1) >= 1, "a linear map has no rows or columns")
        sizes = [size for shape in self.experts.values() for size in shape]
        require(min(sizes, default=1) >= 1 and self.experts_per_token >= 0, "an expert has no rows or columns")
        require(min(self.heads, self.biases) >= 0, "heads and biases cannot be below 0")
        wide = None if self.attention_output is None else self.maps[self.attention_output][1]
        require(wide is None or wide >= self.heads, "it has more heads than its attention is wide")

    def targets(self, wanted: str) -> list[str]:
        """The maps that `wanted` names, each once.

        Args:
            wanted: `attention` (query and value, or the one map that makes both), `all-linear`, or names with commas
                or + between them, each the end of a path.

        Raises:
            ConfigError: A name fits no map of the layer.
        """
        if wanted == "attention":
            if self.query is None or self.value is None:
                known = ", ".join(self.maps) or "none"
                raise ConfigError("no query and value maps were found in the layers", f"name targets: {known}")
            return list(dict.fromkeys([self.query, self.value]))
        return list(self.maps) if wanted == "all-linear" else self._ending_with(wanted)

    def expert_targets(self, wanted: str) -> list[str]:
        """The experts that `wanted` names: all of them as `experts`, or by the ends of their paths.

        `all-linear` means none of them, as in PEFT.

        Raises:
            ConfigError: A name fits nothing in the layer.
        """
        return [] if wanted in ("attention", "all-linear") else self._named(wanted, self.experts)

    def _ending_with(self, wanted: str) -> list[str]:
        return self._named(wanted, self.maps)

    def _named(self, wanted: str, among: Mapping[str, object]) -> list[str]:
        names = [name.strip() for name in re.split("[,+]", wanted) if name.strip()]
        fitting = {name: self._fitting(name) for name in names}
        missing = [name for name, paths in fitting.items() if not paths]
        if missing or not names:
            others = ["experts", *self.experts] if self.experts else []
            raise ConfigError(
                f"targets={','.join(missing)} name no linear map of a layer",
                f"take attention, all-linear or some of {', '.join([*self.maps, *others]) or 'none'}",
            )
        chosen = {path for paths in fitting.values() for path in paths}
        return [path for path in among if path in chosen]

    def _fitting(self, name: str) -> list[str]:
        if name == "experts" and self.experts:
            return list(self.experts)
        return [path for path in [*self.maps, *self.experts] if f".{path}".endswith(f".{name}")]


def layer_names(text: str) -> tuple[int | str, ...]:
    """Layers with commas between them: indices, or of an encoder-decoder a stack and an index there.

    Raises:
        ValueError: One is neither.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if wrong := [part for part in parts if not is_layer_name(part)]:
        raise ValueError(wrong[0])
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def is_layer_name(value: object) -> bool:
    """Whether something can be what a layer is called; a number need not be one of a layer that is there."""
    if isinstance(value, str):
        return LAYER.fullmatch(value) is not None
    return isinstance(value, int) and not isinstance(value, bool)


@record
class LayerInfo:
    """One layer of a model.

    Attributes:
        index: Counted from 0.
        path: Its path below the base model.
        parameters: How many it has.
        parts: Its linear maps and what else a tuner counts by.
    """

    index: int
    path: str
    parameters: int
    parts: LayerParts = field(default_factory=LayerParts)

    def __post_init__(self) -> None:
        require(self.parameters >= 0, f"layer {self.index} has {self.parameters} parameters")


@record
class ModelInfo:
    """A model that was opened: its layers, and the SHA-256 over its base weights.

    Attributes:
        spec: How it was opened.
        hash: Over the weights of the headless model as fp32; empty where no weights were read.
        layers: All of them, first to last.
        hidden_size: d, the width of the hidden states.
        parameters: Of the headless model.
        causal: A decoder, whose representative token is the last one; otherwise the first.
        prefix: What stands before the names of the headless model's parameters in a model with a head.
        vocabulary: How many tokens it knows; 0 where that is not known.
        tied: Whether its embeddings are its output matrix too, as a language model.
        eyes: How many of the parameters are of what sees, which stays frozen.
    """

    spec: ModelSpec
    hash: str
    layers: tuple[LayerInfo, ...]
    hidden_size: int
    parameters: int
    causal: bool
    prefix: str = ""
    vocabulary: int = 0
    tied: bool = False
    eyes: int = 0

    def __post_init__(self) -> None:
        require(self.vocabulary >= 0, f"it knows {self.vocabulary} tokens")
        require(len(self.layers) > 0, "it has no layers")
        require([layer.index for layer in self.layers] == list(range(len(self.layers))), "its layers are out of order")
        require(self.hidden_size >= 1 and self.parameters >= 1, "it has no width or no parameters")
        own = sum(layer.parameters for layer in self.layers)
        require(self.eyes >= 0 and own + self.eyes <= self.parameters, "its layers have more than it has")

    @property
    def name(self) -> str:
        """As it was given to `from_pretrained`."""
        return self.spec.name

    @property
    def stacks(self) -> dict[str, range]:
        """The indices of its layers by stack: those of `encoder` and `decoder`, or all under an empty name."""
        found: dict[str, list[int]] = {}
        for layer in self.layers:
            found.setdefault(layer.path.split(".")[0], []).append(layer.index)
        if set(found) != set(STACKS):
            return {"": range(len(self.layers))}
        return {name: range(found[name][0], found[name][-1] + 1) for name in STACKS}

    def called(self, index: int) -> str:
        """What a layer is called: its index or, of an encoder-decoder, its stack and its index there (`decoder.3`)."""
        name, own = next((name, own) for name, own in self.stacks.items() if index in own)
        return f"{name}.{index - own.start}" if name else str(index)

    def named(self, layers: Iterable[int], between: str = ", ") -> str:
        """What some layers are called."""
        return between.join(map(self.called, layers))

    def as_named(self, layers: Sequence[int]) -> tuple[int | str, ...]:
        """Layers as people name them: by index or, of an encoder-decoder, by what they are called."""
        return tuple(layers) if len(self.stacks) == 1 else tuple(map(self.called, layers))

    def indices(self, names: Iterable[int | str]) -> tuple[int, ...]:
        """The indices of layers, in whichever way they are named.

        Raises:
            PlanError: There is no such layer.
        """
        known = {self.called(index): index for index in range(len(self))} | {str(i): i for i in range(len(self))}
        asked = [str(name) for name in names]
        if missing := [name for name in asked if name not in known]:
            each = [f"{name}.0 to {name}.{len(own) - 1}" if name else "" for name, own in self.stacks.items()]
            way = " and ".join(each) if all(each) else f"0 to {len(self) - 1}"
            raise PlanError(f"the model has no layer {missing[0]}", f"name layers from {way}", "layers")
        return tuple(known[name] for name in asked)

    @property
    def outside(self) -> int:
        """Parameters that are neither of a layer nor of what sees: embeddings, the final norm."""
        return self.parameters - self.eyes - sum(layer.parameters for layer in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        return f"{short_name(self.name)} ({len(self)} layers, {count(self.parameters)} parameters)"
