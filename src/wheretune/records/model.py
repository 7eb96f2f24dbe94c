"""Which model: how it is opened, its layers and what they are made of."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from wheretune.errors import ConfigError
from wheretune.records.base import record
from wheretune.support.words import count, short_name

Quantize = Literal["4bit", "8bit"]


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

    def targets(self, wanted: str) -> list[str]:
        """The maps that `wanted` names, each once.

        Args:
            wanted: `attention` (query and value, or the one map that makes both), `all-linear`, or names with commas
                between them, each the end of a path.

        Raises:
            ConfigError: A name fits no map of the layer.
        """
        if wanted == "attention":
            found = [self.query, self.value]
            if None in found:
                raise ConfigError("no query and value maps were found in the layers", f"name targets: {self._known}")
            return list(dict.fromkeys(path for path in found if path is not None))
        if wanted == "all-linear":
            return list(self.maps)
        names = [name.strip() for name in wanted.split(",") if name.strip()]
        fitting = {name: [path for path in self.maps if f".{path}".endswith(f".{name}")] for name in names}
        missing = [name for name, paths in fitting.items() if not paths]
        if missing or not names:
            raise ConfigError(
                f"targets={','.join(missing)} name no linear map of a layer",
                f"take attention, all-linear or some of {self._known}",
            )
        chosen = {path for paths in fitting.values() for path in paths}
        return [path for path in self.maps if path in chosen]

    @property
    def _known(self) -> str:
        return ", ".join(self.maps) or "none (the scores were made by an older version: score again)"


@record
class ModelInfo:
    """Which model: what it was called, which revision, and the SHA-256 over its base weights.

    Attributes:
        layers_attribute: Where the user said the layers are, if they had to.
        quantize: How its linear maps were held when it was hashed, if not as they are.
        prefix: What stands before the names of the headless model's parameters in a model with a head.
    """

    name: str
    revision: str | None
    hash: str
    layers: int
    hidden_size: int
    parameters: int
    causal: bool
    layers_attribute: str | None = None
    quantize: Quantize | None = None
    prefix: str = ""

    def __str__(self) -> str:
        return f"{short_name(self.name)} ({self.layers} layers, {count(self.parameters)} parameters)"
