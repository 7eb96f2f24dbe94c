"""Only the token that is read: the last layer makes keys and values of all tokens, and the rest for the one alone.

Both heads read one token of the last layer. So the inputs of its query map, of the map after attention and of the MLP's
first maps are cut to that token. Where the layer adds its input again, the one is added to all: right in the one place
that is read. Whether this holds for a family's layer is seen by running it both ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from wheretune.model.forward import represent
from wheretune.model.inputs import accepted, base_inputs, model_device, representative_positions, unlabelled
from wheretune.savings.both_ways import BothWays

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.model.stack import LayerStack
    from wheretune.records.data import Batch

CLOSE = 1e-5  # how far the token that is read may be from that of a whole layer in fp32, of its length


@contextmanager
def one_token(stack: LayerStack, batch: Batch) -> Iterator[bool]:
    """Inside, only the representative token of what the base model puts out is right, and costs less.

    Args:
        stack: The layers, what a tuner puts into them included.
        batch: Some texts of different lengths, to try it on.

    Yields:
        Whether the last layer can be cut so; otherwise it is left as it is.
    """
    inputs = unlabelled(batch, model_device(stack.base))

    def read() -> Tensor:
        return represent(stack.base(**accepted(stack.base, inputs))[0], inputs["attention_mask"], "token", stack.causal)

    both = BothWays(stack.base, read, CLOSE)
    for with_query in (True, False):
        cut = _Cut(stack, with_query)
        holds = bool(cut.hooks) and both.agree(read)
        holds = holds and set(cut.ran.values()) == {1}  # DeBERTa's query map also reads its table of positions
        if holds:
            break
        cut.undo()
    try:
        yield holds
    finally:
        cut.undo()


class _Cut:
    """The hooks, as long as they hold."""

    def __init__(self, stack: LayerStack, with_query: bool) -> None:
        self._stack = stack
        self._positions: Tensor | None = None
        self._tokens = 0
        self.ran: dict[str, int] = {}  # how often each map was cut
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []
        parts, last = stack.layers[-1].parts, stack.layers[-1].module
        if parts.attention_output is None or parts.mlp_output is None:
            return
        maps = list(parts.maps)
        behind = maps[maps.index(parts.attention_output) + 1 :]
        for path in (parts.attention_output, *(path for path in behind if path != parts.mlp_output)):
            self._hang(path, last.get_submodule(path))
        if with_query and parts.query is not None and parts.query != parts.key:
            query = last.get_submodule(parts.query)
            self._hang(parts.query, query)
            self.hooks.append(query.register_forward_hook(self._at_every_place, prepend=True))
        self.hooks.append(stack.base.register_forward_pre_hook(self._begin, with_kwargs=True))
        self.hooks.append(stack.base.register_forward_hook(self._end, always_call=True))

    def _hang(self, path: str, module: nn.Module) -> None:
        self.ran[path] = 0
        self.hooks.append(module.register_forward_pre_hook(partial(self._cut, path)))

    def _begin(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = base_inputs(base, args, kwargs)
        self._tokens = given["input_ids"].shape[1]
        self._positions = representative_positions(given["attention_mask"], self._stack.causal)

    def _end(self, *_: Any) -> None:
        last = self._stack.layers[-1].module
        if not getattr(last, "gradient_checkpointing", False):  # it runs again in the backward pass, just as now
            self._positions = None

    def _cut(self, path: str, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._positions is None or args[0].ndim != 3:
            return None
        self.ran[path] += 1
        if args[0].shape[1] == 1:
            return None
        rows = torch.arange(len(args[0]), device=args[0].device)
        return (args[0][rows, self._positions].unsqueeze(1), *args[1:])

    def _at_every_place(self, _: nn.Module, __: tuple[Any, ...], query: Tensor) -> Tensor | None:
        """Attention wants as many queries as keys: the one, again and again."""
        return query.expand(-1, self._tokens, -1) if self._positions is not None and query.ndim == 3 else None

    def undo(self) -> None:
        """Takes the hooks off."""
        for hook in self.hooks:
            hook.remove()
