"""What a tuner is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from wheretune.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from wheretune.model.stack import Layer, LayerStack
    from wheretune.model.steps import Follower
    from wheretune.records.model import ModelInfo


@dataclass(frozen=True, eq=False)
class Attached:
    """What a tuner did to a model.

    Attributes:
        parameters: Those that train below the head.
        detach: Takes every module and hook off again and gives changed weights back.
        merge: Writes what was trained into the weights of the model and detaches, or says why it cannot.
        save: Writes a checkpoint of its own into a folder, for tuners whose parameters another library reads; of all
            others the delta holds the parameters.
        followers: What must happen while it trains, if anything.
    """

    parameters: list[nn.Parameter]
    detach: Callable[[], None] = lambda: None
    merge: Callable[[], None] = lambda: None
    save: Callable[[Path, ModelInfo], None] | None = None
    followers: tuple[Follower, ...] = ()


@runtime_checkable
class Tuner(Protocol):
    """A way of tuning chosen layers: a frozen object of settings.

    Attributes:
        name: In the catalog.
        needs_layers: Whether layers must be chosen.
        trains_norms: Whether the norms of the chosen layers train, so that gradients flow to what enters them.
        rate: The peak learning rate that suits it on all layers of a model of width 768 in 225 steps; see
            `automatic.learning_rate`.
        needs_every_step: Whether `Attached.followers` change its modules as training goes, so that weights of an
            earlier step do not fit them.
    """

    name: ClassVar[str]
    needs_layers: ClassVar[bool]
    trains_norms: ClassVar[bool]
    rate: ClassVar[float]
    needs_every_step: ClassVar[bool]

    @property
    def trains_embeddings(self) -> bool:
        """Whether the embeddings train, so that gradients flow through all layers."""

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Puts into the chosen layers what is to train there; nothing else of the model is changed.

        Args:
            stack: The model's layers.
            layers: The chosen ones.
            seed: Of what is drawn at random.
        """

    def count(self, model: ModelInfo, layers: Sequence[int]) -> int:
        """How many parameters train below the head, computed from the layers' sizes without the model."""


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Random draws inside hang on `seed` alone, and the global generators are left as they were."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def part(layer: Layer, path: str | None, what: str) -> nn.Module:
    """The module at `path` in a layer.

    Raises:
        ModelError: Anatomy did not find it.
    """
    if path is None:
        raise ModelError(
            f"layer {layer.index} ({layer.path}) has no {what} that wheretune finds "
            f"(linear maps: {', '.join(layer.parts.maps) or 'none'})",
            "take a tuner that needs none: full, bias, or lora with targets=all-linear",
        )
    return layer.module.get_submodule(path)
