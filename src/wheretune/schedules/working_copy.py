"""A smaller working copy of linear maps: some rows (or columns) run, and some of these train.

A parameter holds what trains, and nothing else, so gradients and the optimizer's state are as small. The whole tensor
is set aside (in the machine's own memory, where the model is on an accelerator), and is given back with what has been
learned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import linear

from wheretune.errors import TrainingError
from wheretune.model.calls import wrap_forward

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


class CutTensor:
    """A parameter of which, for a while, some rows (or columns) run and some of these train.

    Args:
        name: In the model.
        parameter: The parameter.
        dim: 0 for rows, 1 for columns.
        optimizer: Holds it.

    Attributes:
        removed: The rows that do not run.
        values: Theirs, as they were when they were removed.
        trained: The rows that train.
        canvas: The rows that run, if it is cut now.
    """

    def __init__(self, name: str, parameter: Tensor, dim: int, optimizer: Optimizer) -> None:
        self.name, self.parameter, self.dim, self._optimizer = name, parameter, dim, optimizer
        self.size, self.shape = parameter.shape[dim], parameter.shape
        self.removed = torch.zeros(0, dtype=torch.int64)
        self.trained = torch.arange(self.size)
        self.values: Tensor = self._some(parameter.data, self.removed)
        self.canvas: Tensor | None = None
        self._whole: Tensor = parameter.data
        self._slots: dict[str, Tensor] = {}

    def remove(self, places: Tensor) -> None:
        """Sets more rows to 0, and remembers what they were."""
        values = self._some(self.parameter.data, places)
        order = torch.cat([self.removed, places]).argsort()
        self.removed = torch.cat([self.removed, places])[order]
        self.values = self._some(torch.cat([self.values, values], self.dim), order)
        self._put(self.parameter.data, places, torch.zeros_like(values))

    def put_back(self) -> None:
        """Gives the rows that were removed their values again."""
        self._put(self.parameter.data, self.removed, self.values)

    def forget(self) -> None:
        """Everything runs and trains again."""
        self.removed, self.trained = torch.zeros(0, dtype=torch.int64), torch.arange(self.size)
        self.values = self._some(self.parameter.data, self.removed)

    def cut(self) -> None:
        """Leaves in the parameter only what trains, and of the optimizer's state likewise.

        Raises:
            TrainingError: The optimizer keeps something that cannot be cut so.
        """
        if len(self.trained) == self.size:
            return
        self.parameter.grad = None
        self._whole = self.parameter.data.cpu()
        self.canvas = self._some(self.parameter.data, self.kept)
        self.parameter.data = self._some(self.parameter.data, self.trained)
        self.parameter.requires_grad = len(self.trained) > 0
        self._slots = {}
        for slot, value in self._state().items():
            if isinstance(value, torch.Tensor) and value.numel() > 1:
                if value.shape != self.shape:
                    raise TrainingError(
                        f"the optimizer keeps {slot} of {self.name} in another shape than the weights have, and recap "
                        "trains a part of them",
                        "take an optimizer such as adamw_torch or sgd",
                    )
                self._slots[slot] = value.cpu()
                self._state()[slot] = self._some(value, self.trained)

    def mend(self) -> None:
        """Makes the parameter, and the optimizer's state, whole again, with what has been learned."""
        if self.canvas is None:
            return
        small, device = self.parameter.data, self.parameter.device
        self._put(self._whole, self.trained, small)
        self.parameter.grad = None
        self.parameter.data = self._whole.to(device)
        self.parameter.requires_grad = True
        state = self._state()
        for slot, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == small.shape:
                whole = self._slots.get(slot)
                whole = torch.zeros(self.shape, dtype=value.dtype) if whole is None else whole
                self._put(whole, self.trained, value)
                state[slot] = whole.to(value.device)
        self.canvas, self._slots = None, {}

    def keep_up(self) -> None:
        """Takes what a step has learned into what runs."""
        if self.canvas is not None:
            self._put(self.canvas, self.within, self.parameter.data)

    def fade(self) -> None:
        """Scales the moments of what did not train by beta1 and beta2, once."""
        groups = [g for g in self._optimizer.param_groups if any(p is self.parameter for p in g["params"])]
        betas = dict(zip(("exp_avg", "exp_avg_sq"), groups[0].get("betas", ()), strict=False))
        for slot, beta in betas.items():
            if slot in self._state():
                moments, places = self._state()[slot], outside(self.trained, self.size)
                self._put(moments, places, self._some(moments, places) * beta)

    @property
    def kept(self) -> Tensor:
        """The rows that run."""
        return outside(self.removed, self.size)

    @property
    def within(self) -> Tensor:
        """Where among the rows that run those stand that train."""
        return torch.searchsorted(self.kept, self.trained)

    def masked(self) -> Tensor:
        """What runs and does not train, if it is cut now."""
        assert self.canvas is not None
        return self._some(self.canvas, outside(self.within, len(self.kept)))

    def _state(self) -> dict[str, Any]:
        """The optimizer's; nothing is put into an optimizer that has none yet."""
        state: dict[str, Any] = self._optimizer.state.get(self.parameter, {})
        return state

    def _some(self, values: Tensor, places: Tensor) -> Tensor:
        return values.index_select(self.dim, places.to(values.device))

    def _put(self, values: Tensor, places: Tensor, given: Tensor) -> None:
        values.index_copy_(self.dim, places.to(values.device), given.to(values.device))


class CutMap:
    """A linear map of which, for a while, some rows (or columns) run and some of these train.

    Args:
        path: In the model.
        module: The map.
        dim: 0 for rows, with their biases; 1 for columns.
        optimizer: Holds its parameters.
    """

    def __init__(self, path: str, module: nn.Linear, dim: int, optimizer: Optimizer) -> None:
        self.module, self.dim = module, dim
        self.weight = CutTensor(f"{path}.weight", module.weight, dim, optimizer)
        self.tensors = [self.weight]
        if dim == 0 and module.bias is not None:
            self.tensors.append(CutTensor(f"{path}.bias", module.bias, dim, optimizer))
        self.coarse = False  # whether it put out numbers in half precision
        self._end: Callable[[], None] = lambda: None

    def train(self, places: Tensor) -> None:
        """Says which rows train."""
        for tensor in self.tensors:
            tensor.trained = places

    def cut(self) -> None:
        """Makes it small."""
        for tensor in self.tensors:
            tensor.cut()
        if self.weight.canvas is not None:
            self._within = self.weight.within.to(self.module.weight.device)
            self._end = wrap_forward(self.module, self._forward)

    def mend(self) -> None:
        """Makes it whole again."""
        for tensor in self.tensors:
            tensor.mend()
        self._end()

    def _forward(self, _: Callable[..., Any], states: Tensor) -> Tensor:
        bias, canvas = self.module.bias, self.weight.canvas
        runs = self.tensors[1].canvas if len(self.tensors) > 1 else bias
        apply: Callable[..., Tensor] = _Partly.apply
        made = apply(states, self.module.weight, bias, canvas, runs, self._within, self.dim)
        self.coarse = made.dtype in (torch.bfloat16, torch.float16)
        return made


class _Partly(torch.autograd.Function):
    """A linear map of which some rows, or columns, get a gradient; no more is kept and computed than these need."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        canvas: Tensor,
        runs: Tensor | None,
        within: Tensor,
        dim: int,
    ) -> Tensor:
        ctx.dim, ctx.lead = dim, states.shape[:-1]
        read = states if dim == 0 else states.index_select(-1, within)
        ctx.save_for_backward(read if ctx.needs_input_grad[1] else None, canvas, within)
        return linear(states, canvas, runs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (read, canvas, within) = gradients, ctx.saved_tensors
        of_states = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_states = gradient.matmul(canvas.to(gradient.dtype))
        some = gradient.index_select(-1, within) if ctx.dim == 0 else gradient
        if ctx.needs_input_grad[1]:
            of_weight = some.flatten(0, -2).T.matmul(read.flatten(0, -2).to(gradient.dtype)).to(canvas.dtype)
        if ctx.needs_input_grad[2]:
            of_bias = some.flatten(0, -2).sum(0).to(canvas.dtype)
        return of_states, of_weight, of_bias, None, None, None, None


def outside(places: Tensor, size: int) -> Tensor:
    """The numbers below `size` that are not among `places`, ascending."""
    found = torch.ones(size, dtype=torch.bool)
    found[places] = False
    return found.nonzero().flatten()
