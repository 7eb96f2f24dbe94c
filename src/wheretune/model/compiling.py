"""`torch.compile` of single layers, which leaves all that hangs around them as it is.

A layer's own `forward` is compiled and no more: its hooks, what passes it by and what recomputes it stay around it, no
module is replaced, and parameters keep their names. Layers of one class share what is compiled, whatever the lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from wheretune.errors import ModelError
from wheretune.model.calls import wrap_forward
from wheretune.support.words import counted

if TYPE_CHECKING:
    from torch import nn

GRAPHS = 32  # per class of layers, before PyTorch gives up: with a mask and without, trained, frozen, of one text ...
EXACT: dict[str, Any] = {"inductor": {"fallback_random": True}}  # dropout draws the numbers that it draws without


class Compiled:
    """Layers that run compiled wherever gradients are made, until `end`; where a model is judged they run as written.

    Layers of one class share their graphs, which PyTorch by default does not ask for hooks inside the layer: here it
    does, since layers differ in these.

    Args:
        layers: The layers by what they are called.
        backend: As `torch.compile` knows it.
        whole: The model's last layer runs whole. Hooks that cut single tokens out of it have it compiled again and
            again, so then it is not among the layers.
    """

    def __init__(self, layers: Mapping[str, nn.Module], backend: str, whole: bool) -> None:
        import torch._dynamo

        self._said = f"{', '.join(layers) or 'none'} by torch.compile ({backend})"
        if not whole:
            self._said += ", not the last, of which only what is read is computed"
        self._undo, self._before, self._after = ExitStack(), _graphs(), -1
        for layer in layers.values():
            made = torch.compile(type(layer).forward, backend=backend, dynamic=True, options=EXACT.get(backend))
            self._undo.callback(wrap_forward(layer, partial(_run, layer, made)))
        self._undo.callback(torch.compiler.reset)
        changes = {"skip_nnmodule_hook_guards": False, "cache_size_limit": GRAPHS}
        self._undo.enter_context(torch._dynamo.config.patch(changes))

    def description(self) -> dict[str, str]:
        """Which layers are compiled, and how many graphs were made of them, in words for the result of a run."""
        graphs = (_graphs() if self._after < 0 else self._after) - self._before
        return {"compiled layers": f"{self._said}: {counted(graphs, 'graph')}"}

    def end(self) -> None:
        """Lets the layers run as they did, and forgets what was compiled."""
        self._after = _graphs() if self._after < 0 else self._after
        self._undo.close()


def _run(layer: nn.Module, made: Callable[..., Any], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    from torch._dynamo.exc import TorchDynamoException

    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    try:
        return made(layer, *args, **kwargs)
    except TorchDynamoException as error:
        why = " ".join(str(error).splitlines()[:2])  # what raised, and what it said
        raise ModelError(
            f"{type(layer).__name__} cannot be compiled here: {why}", "leave compile out", "compile"
        ) from error


def _graphs() -> int:
    """How many graphs this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
