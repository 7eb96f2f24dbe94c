"""Only the tokens that are read: the last layer makes keys and values of all tokens, and the rest for these alone.

A head reads one token of the last layer, or those before the tokens that are learned. So the inputs of its query map,
of the map after attention and of the MLP's first maps are cut to these. Where the layer adds its input again, the one
is added to all: right in the one place that is read. Where several are read, they run one after the other, whatever
text they are of, and what comes out is put back in their places. Whether this holds for a family's layer is seen by
running it both ways.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

from wheretune.model.forward import represent
from wheretune.model.inputs import accepted, base_inputs, model_device, representative_positions, unlabelled
from wheretune.savings.both_ways import BothWays

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.model.stack import LayerStack
    from wheretune.records.data import Batch

CLOSE = 1e-5  # how far the token that is read may be from that of a whole layer in fp32, of its length


@runtime_checkable
class Reader(Protocol):
    """A model that reads several tokens of a text.

    Attributes:
        read: While its base model runs, the places (batch, token) that are read; None where all may be.
    """

    read: Tensor | None

    def features(self, inputs: Batch, pack: bool = False) -> Tensor:
        """What is read of a batch with its labels, (place, feature)."""
        ...


@contextmanager
def one_token(stack: LayerStack, batch: Batch, reader: Reader | None = None) -> Iterator[bool]:
    """Inside, only the tokens that are read are right in what the base model puts out, and it costs less.

    Args:
        stack: The layers, what a tuner puts into them included.
        batch: Some texts of different lengths, to try it on; with labels, where what is read hangs on them.
        reader: Says which tokens are read; by default it is the representative one.

    Yields:
        Whether the last layer can be cut so; otherwise it is left as it is.
    """
    device = model_device(stack.base)
    inputs = unlabelled(batch, device)

    def read() -> Tensor:
        if reader is not None:
            return reader.features({name: value.to(device) for name, value in batch.items()})
        return represent(stack.base(**accepted(stack.base, inputs))[0], inputs["attention_mask"], "token", stack.causal)

    both = BothWays(stack.base, read, CLOSE)
    for with_query in (True, False):
        cut: _Cut = _ToOne(stack, with_query) if reader is None else _ToSeveral(stack, with_query, reader)
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
    """The hooks, as long as they hold: some maps of the last layer run for the tokens that are read alone; abstract."""

    def __init__(self, stack: LayerStack, with_query: bool) -> None:
        self._stack = stack
        self.ran: dict[str, int] = {}  # how often each map was cut
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []
        parts, last = stack.layers[-1].parts, stack.layers[-1].module
        if parts.attention_output is None or parts.mlp_output is None:
            return
        maps = list(parts.maps)
        behind = maps[maps.index(parts.attention_output) + 1 :]
        for path in (parts.attention_output, *(path for path in behind if path != parts.mlp_output)):
            self._hang(path, last.get_submodule(path))
        for path in (parts.attention_output, parts.mlp_output):
            self.hooks.append(last.get_submodule(path).register_forward_hook(self._leave))
        if with_query and parts.query is not None and parts.query != parts.key:
            query = last.get_submodule(parts.query)
            self._hang(parts.query, query)
            self.hooks.append(query.register_forward_hook(self._query, prepend=True))
        self.hooks.append(stack.base.register_forward_pre_hook(self._begin, with_kwargs=True))
        self.hooks.append(stack.base.register_forward_hook(self._end, always_call=True))

    def _hang(self, path: str, module: nn.Module) -> None:
        self.ran[path] = 0
        self.hooks.append(module.register_forward_pre_hook(partial(self._enter, path)))

    def _end(self, *_: Any) -> None:
        last = self._stack.layers[-1].module
        if not getattr(last, "gradient_checkpointing", False):  # it runs again in the backward pass, just as now
            self.forget()

    def undo(self) -> None:
        """Takes the hooks off."""
        for hook in self.hooks:
            hook.remove()

    @abstractmethod
    def forget(self) -> None:
        """Nothing is cut any more."""

    @abstractmethod
    def _begin(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Notes what is read of the batch that runs now."""

    @abstractmethod
    def _enter(self, path: str, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Cuts what enters a map."""

    @abstractmethod
    def _leave(self, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Brings what leaves attention or MLP into the shape that the layer adds to its own."""

    @abstractmethod
    def _query(self, _: nn.Module, __: tuple[Any, ...], query: Tensor) -> Tensor | None:
        """Brings the queries into the shape that attention wants: as many as keys."""


class _ToOne(_Cut):
    """One token of every text runs."""

    _positions: Tensor | None = None
    _tokens = 0

    def forget(self) -> None:
        self._positions = None

    def _begin(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = base_inputs(base, args, kwargs)
        self._tokens = given["input_ids"].shape[1]
        self._positions = representative_positions(given["attention_mask"], self._stack.causal)

    def _enter(self, path: str, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._positions is None or args[0].ndim != 3:
            return None
        self.ran[path] += 1
        if args[0].shape[1] == 1:
            return None
        rows = torch.arange(len(args[0]), device=args[0].device)
        return (args[0][rows, self._positions].unsqueeze(1), *args[1:])

    def _leave(self, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return None  # the one is added to all

    def _query(self, _: nn.Module, __: tuple[Any, ...], query: Tensor) -> Tensor | None:
        """The one, again and again."""
        return query.expand(-1, self._tokens, -1) if self._positions is not None and query.ndim == 3 else None


class _ToSeveral(_Cut):
    """Some tokens of every text run, one after the other in a batch of one."""

    _places: Tensor | None = None

    def __init__(self, stack: LayerStack, with_query: bool, reader: Reader) -> None:
        super().__init__(stack, with_query)
        self._reader = reader

    def forget(self) -> None:
        self._places = None

    def _begin(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._places = self._reader.read

    def _enter(self, path: str, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._places is None or args[0].ndim != 3:
            return None
        self.ran[path] += 1
        if args[0].shape[:2] != self._places.shape:  # an earlier map has cut it
            return None
        return (args[0][self._places].unsqueeze(0), *args[1:])

    def _leave(self, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor | None:
        places = self._places
        if places is None or output.ndim != 3 or output.shape[:2] == places.shape:
            return None
        whole = output.new_zeros(*places.shape, output.shape[-1])
        whole[places] = output[0]
        return whole

    def _query(self, module: nn.Module, args: tuple[Any, ...], query: Tensor) -> Tensor | None:
        """Back in their places; nothing is read where there are none."""
        return self._leave(module, args, query)
