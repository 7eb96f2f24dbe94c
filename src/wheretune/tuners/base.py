"""Apply a plan to a model, prove afterwards that it was carried out, and undo it.

`apply` only sets `requires_grad`, so the model stays the user's own: it trains in an unmodified `Trainer`,
whose optimizer takes the parameters that require a gradient when it is made.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

from torch import nn

from wheretune.anatomy import check_plan, find_layers, head_parameters, tensor_hashes
from wheretune.errors import EngagementError, PlanError
from wheretune.types import LayerScore, LayerStack, ModelInfo, Plan


@runtime_checkable
class Tuner(Protocol):
    """A way of tuning chosen layers: a frozen object of settings."""

    name: ClassVar[str]
    needs_layers: ClassVar[bool]

    def parameters(self, stack: LayerStack, layers: Sequence[int]) -> list[nn.Parameter]:
        """The parameters that train below the head."""

    def count(self, model: ModelInfo, all_layers: Sequence[LayerScore], layers: Sequence[int]) -> int:
        """How many these are, told from the layers' sizes without the model."""


class Tuned:
    """A model to which a plan has been applied.

    Attributes:
        model: The user's model, changed in nothing but `requires_grad`.
        stack: Its layers.
        plan: The plan.
        trainable: The parameters that train, by name.
    """

    def __init__(self, model: nn.Module, plan: Plan, tuner: Tuner) -> None:
        self.model = model
        self.plan = plan
        self.stack = find_layers(model)
        check_plan(self.stack, plan)
        if not plan.layers and tuner.needs_layers:
            raise PlanError("the plan names no layer", "choose layers, or take the tuner head-only")
        top = {id(parameter) for parameter in head_parameters(self.stack)}
        ids = top | {id(parameter) for parameter in tuner.parameters(self.stack, plan.layers)}
        self._on_top = [name for name, parameter in model.named_parameters() if id(parameter) in top]
        self._before = {name: p.requires_grad for name, p in model.named_parameters()}
        self._hashes = tensor_hashes(model.state_dict().items())
        self.trainable: dict[str, nn.Parameter] = {}
        for name, parameter in model.named_parameters():
            parameter.requires_grad = id(parameter) in ids
            if parameter.requires_grad:
                self.trainable[name] = parameter

    @property
    def trainable_parameters(self) -> int:
        """How many parameters train, the head's included."""
        return sum(parameter.numel() for parameter in self.trainable.values())

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
        still = [part for part, path in parts.items() if not any(name.startswith(path) for name in changed)]
        if self._on_top and changed.isdisjoint(self._on_top):
            still.append("the head")
        if still:
            raise EngagementError(
                f"training did not change {', '.join(still)}",
                "check the learning rate, the number of steps, and that the optimizer was made after apply",
            )

    def undo(self) -> None:
        """Gives every parameter back the `requires_grad` it had; the trained weights stay."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad = self._before[name]
