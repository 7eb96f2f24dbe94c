"""Apply a plan to a model, prove afterwards that it was carried out, and undo it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wheretune import catalog
from wheretune.errors import EngagementError, PlanError
from wheretune.model.finding import find_layers
from wheretune.model.freezing import exclude_frozen, head_parameters
from wheretune.model.identity import check_plan, tensor_hashes
from wheretune.model.recomputing import checkpoint_activations

if TYPE_CHECKING:
    from torch import nn

    from wheretune.records.plan import Plan
    from wheretune.tuners.base import Tuner


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
        self._let_go = exclude_frozen(self.stack, frozen_dropout)

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


def apply(model: nn.Module, plan: Plan, seed: int = 0, *, frozen_dropout: bool = False) -> Tuned:
    """Makes a model train as `plan` says: its layers and what sits on top, and nothing else.

    Whole layers need `requires_grad` alone; other tuners put modules of theirs into the plan's layers. `Tuned.undo`
    takes all of it back. Make the optimizer (or the Trainer) after.

    What is frozen stays in eval mode in an unmodified `Trainer`, and no gradient runs below the lowest trained layer,
    also with activation checkpointing.

    Args:
        model: Any Hugging Face transformer, with or without a head of its own.
        plan: Made for this model.
        seed: Of what the tuner draws at random.
        frozen_dropout: Frozen layers drop out as trained ones do (stock behaviour).

    Raises:
        PlanError: The plan was made for another model, or names no layer.
        ModelError: The tuner does not find in the layers what it attaches to.
    """
    return Tuned(model, plan, catalog.build("tuner", plan.tuner), seed, frozen_dropout)
