"""What trains, as the arithmetic of FLOPs and bytes needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt

from wheretune.records.model import LayerInfo, LayerParts


@dataclass(frozen=True)
class Training:
    """What trains in a model.

    Attributes:
        layers: The chosen layers, from 0; none means the head alone.
        below: Parameters that train below the head.
        on_top: Parameters of the head.
        share: The share of the chosen layers' weights that trains: 1 for whole layers, near 0 for LoRA.
        norms: The norms of the chosen layers train, as with whole layers.
        embeddings: The embeddings train too, so gradients flow through all layers and nothing can be cached.
        all_states: The head reads the token of every layer.
        read: How many tokens of a text the head reads, on average.
        speech: Numbers of the output matrix that makes logits of what is read; 0 where the head is another.
        speech_trains: That matrix trains, on its own or because it is the embeddings too.
        runs: The share of the chosen layers' heads and MLPs that is in a working copy, which runs in their place; None
            where they run themselves.
    """

    layers: Sequence[int]
    below: int = 0
    on_top: int = 0
    share: float = 1.0
    norms: bool = True
    embeddings: bool = False
    all_states: bool = False
    read: float = 1.0
    speech: int = 0
    speech_trains: bool = False
    runs: float | None = None

    @property
    def parameters(self) -> int:
        """All that train."""
        return self.below + self.on_top

    def lowest(self, layers: int) -> int:
        """The lowest of `layers` layers that trains: `layers` if none does, -1 if the embeddings do."""
        return -1 if self.embeddings else min(self.layers, default=layers)


@dataclass(frozen=True)
class Stages:
    """What trains when, where a schedule moves it.

    Attributes:
        each: What trains, and in which share of the steps; the shares make 1.
        rises: The lowest layer that trains only goes up, so that the prefix cache can follow.
        keeps: The optimizer keeps the state of what is frozen.
        looks: How often a schedule looks at some batches of its own, all of the model forward and back.
        looked_at: How many batches these are.
    """

    each: Sequence[tuple[float, Training]]
    rises: bool = False
    keeps: bool = False
    looks: int = 0
    looked_at: int = 0

    def looking(self, texts: int, batch_size: int, epochs: int) -> float:
        """What looking costs, as a share of full fine-tuning; 0 where it is not known how many texts there are."""
        return self.looks * min(self.looked_at * batch_size, texts) / (texts * epochs) if texts else 0.0

    def frozen(self, training: Training, layers: int) -> int:
        """The layer below which the prefix cache reaches in a stage."""
        return training.lowest(layers) if self.rises else min(one.lowest(layers) for _, one in self.each)

    def made(self, layers: int) -> int:
        """The layer below which the cache is made, all stages together."""
        return max(self.frozen(one, layers) for _, one in self.each)


def full_training(layers: int, parameters: int = 0, speech: int = 0) -> Training:
    """Full fine-tuning of a model of so many layers and, with its head, so many parameters."""
    return Training(range(layers), parameters, embeddings=True, speech=speech, speech_trains=True)


def share_of(layers: Sequence[LayerInfo], chosen: Sequence[int], trained: int) -> float:
    """The share of the chosen layers' parameters that `trained` parameters are; 0 where nothing is chosen."""
    available = sum(layers[layer].parameters for layer in chosen)
    return min(1.0, trained / available) if available else 0.0


def known_parts(layer: LayerInfo) -> LayerParts:
    """The parts of a layer; one square map of all its parameters where no linear map was found."""
    if layer.parts.maps:
        return layer.parts
    side = max(1, isqrt(layer.parameters))
    return LayerParts(maps={"all": (side, side)})


def running(parts: Sequence[LayerParts], training: Training) -> list[LayerParts]:
    """What runs of every layer: of a chosen one so many heads and so much of its MLP as the training says."""
    runs = training.runs
    if runs is None:
        return list(parts)
    return [_pruned(one, runs) if place in training.layers else one for place, one in enumerate(parts)]


def _pruned(parts: LayerParts, runs: float) -> LayerParts:
    """A layer with a share of its heads, and of its MLP's units."""

    def some(size: int) -> int:
        return max(1, round(runs * size))

    read, width = (parts.attention_output, parts.mlp_output), 0
    if parts.mlp_output is not None:
        width = parts.maps[parts.mlp_output][1]
    cut = {}
    for path, (outputs, inputs) in parts.maps.items():
        made = path in (parts.query, parts.key, parts.value) or (path not in read and outputs == width)
        cut[path] = (some(outputs) if made else outputs, some(inputs) if path in read else inputs)
    return replace(parts, maps=cut, heads=some(parts.heads))
