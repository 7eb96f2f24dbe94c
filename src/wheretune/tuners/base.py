"""Apply a plan to a model, prove afterwards that it was carried out, and undo it.

A tuner may put modules into the chosen layers; whatever it does, the model stays the user's own: it trains in an
unmodified `Trainer`, whose optimizer takes the parameters that require a gradient when it is made.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from wheretune.anatomy import check_plan, checkpoint_activations, find_layers, head_parameters, tensor_hashes
from wheretune.errors import EngagementError, MergeError, ModelError, PlanError
from wheretune.freezing import still
from wheretune.types import Layer, LayerScore, LayerStack, ModelInfo, Plan


@runtime_checkable
class Companion(Protocol):
    """What a tuner does while it trains, beside having its parameters stepped (AdaLoRA shares out its ranks)."""

    def begin(self, steps: int) -> None:
        """Says how many optimizer steps there will be."""

    def penalty(self) -> Tensor:
        """A term of the loss."""

    def after_step(self, step: int) -> None:
        """Called after optimizer step number `step` (from 1), while the gradients are still there."""

    def state(self) -> dict[str, Tensor]:
        """What it must remember to go on after a stop."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state` gave."""


@dataclass(frozen=True, eq=False)
class Attached:
    """What a tuner did to a model.

    Attributes:
        parameters: Those that train below the head.
        detach: Takes every module and hook off again and gives changed weights back.
        merge: Writes what was trained into the weights of the model and detaches, or says why it cannot.
        save: Writes a checkpoint of its own into a folder, for tuners whose parameters another library reads; of all
            others the delta holds the parameters.
        companion: What must happen while it trains, if anything.
    """

    parameters: list[nn.Parameter]
    detach: Callable[[], None] = lambda: None
    merge: Callable[[], None] = lambda: None
    save: Callable[[Path, ModelInfo], None] | None = None
    companion: Companion | None = None


@runtime_checkable
class Tuner(Protocol):
    """A way of tuning chosen layers: a frozen object of settings."""

    name: ClassVar[str]
    needs_layers: ClassVar[bool]

    def attach(self, stack: LayerStack, layers: Sequence[int], seed: int) -> Attached:
        """Puts into the chosen layers what is to train there; nothing else of the model is changed.

        Args:
            stack: The model's layers.
            layers: The chosen ones.
            seed: Of what is drawn at random.
        """

    def count(self, model: ModelInfo, all_layers: Sequence[LayerScore], layers: Sequence[int]) -> int:
        """How many parameters train below the head, told from the layers' sizes without the model."""


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Random draws inside hang on `seed` alone, and the global generators are left as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True, eq=False)
class Addition:
    """A module of ours inside a layer, and the hooks through which it is heard."""

    module: nn.Module
    owner: nn.Module
    name: str
    hooks: tuple[torch.utils.hooks.RemovableHandle, ...]


def added(additions: Sequence[Addition], why_not_merged: str) -> Attached:
    """`Attached` for modules of ours.

    Args:
        additions: All of them.
        why_not_merged: Why no weights of the model can do what they do.
    """

    def detach() -> None:
        for one in additions:
            for hook in one.hooks:
                hook.remove()
            delattr(one.owner, one.name)

    def merge() -> NoReturn:
        raise MergeError(why_not_merged, "keep the delta, and use wheretune evaluate and predict")

    return Attached([p for one in additions for p in one.module.parameters()], detach, merge)


def check_free(owners: Sequence[nn.Module], name: str) -> None:
    """Makes sure, before the first of them is touched, that no owner carries an addition of that name.

    Raises:
        ModelError: One does.
    """
    if any(name in dict(owner.named_children()) for owner in owners):
        raise ModelError(f"the model carries a {name} of wheretune already", "undo the plan that was applied before")


def add(owner: nn.Module, name: str, module: nn.Module, hooks: Sequence[torch.utils.hooks.RemovableHandle]) -> Addition:
    """Puts `module` into `owner`, on its device, so that it moves, saves and is counted with the layer."""
    owner.add_module(name, module.to(next(owner.parameters()).device))
    return Addition(module, owner, name, tuple(hooks))


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


class Tuned:
    """A model to which a plan has been applied.

    Attributes:
        model: The user's model, with what the tuner put into the plan's layers.
        stack: Its layers.
        plan: The plan.
        attached: What the tuner did.
        trainable: The parameters that train, by name.
    """

    def __init__(self, model: nn.Module, plan: Plan, tuner: Tuner, seed: int = 0, frozen_dropout: bool = False) -> None:
        self.model = model
        self.plan = plan
        self.stack = find_layers(model, plan.model.layers_attribute)
        check_plan(self.stack, plan)
        if not plan.layers and tuner.needs_layers:
            raise PlanError("the plan names no layer", "choose layers, or take the tuner head-only")
        top = {id(parameter) for parameter in head_parameters(self.stack)}
        self._before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self.attached = tuner.attach(self.stack, plan.layers, seed)
        whole = [parameter for parameter in self.attached.parameters if not parameter.is_floating_point()]
        if whole:
            self.attached.detach()
            raise PlanError(
                f"the tuner {tuner.name} would train weights that are quantised",
                "take lora or another that adds parameters of its own",
            )
        ids = top | {id(parameter) for parameter in self.attached.parameters}
        self._on_top = [name for name, parameter in model.named_parameters() if id(parameter) in top]
        self._hashes = tensor_hashes(model.state_dict().items())
        self.trainable: dict[str, nn.Parameter] = {}
        for name, parameter in model.named_parameters():
            parameter.requires_grad = id(parameter) in ids
            if parameter.requires_grad:
                self.trainable[name] = parameter
        self._let_go = still(self.stack, frozen_dropout)

    @property
    def trainable_parameters(self) -> int:
        """How many parameters train, the head's included."""
        return sum(parameter.numel() for parameter in self.trainable.values())

    def recompute(self) -> None:
        """Trades time for memory: the layers that see a gradient run again in the backward pass.

        Transformers' own switch also makes the embeddings' output require a gradient, and then a frozen prefix is
        recomputed and differentiated after all; here it stays out.

        Raises:
            ModelError: The family cannot do this.
        """
        checkpoint_activations(self.stack, min(self.plan.layers, default=len(self.stack)))

    def check(self) -> None:
        """Proves by hashes that every chosen layer changed and nothing that is frozen did.

        Raises:
            EngagementError: It was not so; the tensors are named.
        """
        state = self.model.state_dict()
        now = tensor_hashes(state.items())
        changed = {name for name in state if now[name] != self._hashes.get(name)}
        training = {parameter.data_ptr() for parameter in self.trainable.values()}
        allowed = {name for name, tensor in state.items() if tensor.data_ptr() in training}
        strays = sorted(changed - allowed)
        if strays:
            raise EngagementError(
                f"training changed {len(strays)} tensors that the plan freezes, {strays[0]} among them",
                "look for code that unfreezes or replaces parameters",
            )
        prefix = f"{self.stack.base_path}." if self.stack.base_path else ""
        parts = {f"layer {index}": f"{prefix}{self.stack.layers[index].path}." for index in self.plan.layers}
        unmoved = [part for part, path in parts.items() if not any(name.startswith(path) for name in changed)]
        if self._on_top and changed.isdisjoint(self._on_top):
            unmoved.append("the head")
        if unmoved:
            raise EngagementError(
                f"training did not change {', '.join(unmoved)}",
                "check the learning rate, the number of steps, and that the optimizer was made after apply",
            )

    def undo(self) -> None:
        """Takes off what the tuner put in, and gives every parameter back the `requires_grad` it had.

        What was trained of the model's own weights (whole layers, biases, the head) stays trained.
        """
        self.attached.detach()
        self._give_back()

    def merge(self) -> None:
        """Writes what was trained into the model's own weights and leaves a model without additions.

        Raises:
            MergeError: No weights of the model can do what the tuner's modules do.
        """
        self.attached.merge()
        self._give_back()

    def _give_back(self) -> None:
        self._let_go()
        for parameter, flag in self._before:
            parameter.requires_grad = flag
