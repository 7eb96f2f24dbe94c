"""Feeds the lowest trained layer from stored states."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from wheretune.model.calls import as_output, layer_input, output_kind, replace_forward
from wheretune.model.inputs import base_inputs
from wheretune.savings.prefix_cache.store import OnDisk

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.savings.prefix_cache.store import Layout, Store

Key = bytes  # the hash of a text's tokens


class PrefixCache:
    """Feeds the lowest trained layer from stored states, so that nothing below it runs.

    Attributes:
        hits: Batches that were fed.
        misses: Batches that ran as ever, because a text of theirs was not stored or all states were asked for.
    """

    def __init__(self, stack: LayerStack, layout: Layout) -> None:
        self.hits = self.misses = 0
        self._layout = layout
        self._store: Store | None = None
        self._spans: dict[Key, tuple[int, int]] = {}
        self._now: dict[int, Tensor] | None = None  # by layer: what it puts out, while a batch is fed
        self._kind: int | None = None  # how long a tuple a layer puts out, None for a plain tensor
        self._base = stack.base
        below = [layer.module for layer in stack.layers[: layout.first]]
        self._restore = [replace_forward(m, partial(self._pass, i, m.forward)) for i, m in enumerate(below)]
        table = _table(stack.base)
        if table is not None:
            self._restore.append(replace_forward(table, partial(self._embed, table, table.forward)))
        self._hooks = [
            stack.base.register_forward_pre_hook(self._look, with_kwargs=True),
            stack.base.register_forward_hook(self._forget, always_call=True),
        ]

    def fill(self, store: Store | None, spans: dict[Key, tuple[int, int]]) -> None:
        """Begins to feed, or ends it."""
        self._store, self._spans = store, spans

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Inside, every batch runs as ever."""
        store, self._store = self._store, None
        try:
            yield
        finally:
            self._store = store

    def _pass(self, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._now is None:
            output = forward(*args, **kwargs)
            self._kind = output_kind(output)
            return output
        given = layer_input(args, kwargs)
        hidden = self._now[index].to(given.dtype) if index in self._now else given
        return as_output(hidden, self._kind)

    def _embed(self, table: nn.Embedding, forward: Callable[..., Any], ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Nothing that is fed depends on the embeddings: their table is not read."""
        if self._now is None:
            return forward(ids, *args, **kwargs)
        return table.weight.new_zeros(*ids.shape, table.embedding_dim)

    def _look(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._now = None
        if self._store is None:
            return
        given = base_inputs(base, args, kwargs)
        spans = None if _asks_for_more(base, given) else self._find(given)
        if spans is None:
            self.misses += 1
            return
        self.hits += 1
        self._now = self._output(self._store, spans, given)

    def _find(self, given: Mapping[str, Any]) -> list[tuple[int, int]] | None:
        found = [self._spans.get(key) for key in _keys(given)]
        spans = [span for span in found if span is not None]
        return spans if len(spans) == len(found) else None

    def _output(self, store: Store, spans: Sequence[tuple[int, int]], given: Mapping[str, Any]) -> dict[int, Tensor]:
        """What the layers put out: the last of them all tokens, others the one that is read, at every place."""
        ids: Tensor = given["input_ids"]
        mask, lengths = given.get("attention_mask"), packed_lengths(given)
        count, layout = len(layout_states := self._layout.states), self._layout
        flat = store.read(spans).to(ids.device, non_blocking=True)
        out: dict[int, Tensor] = {}
        if count:
            ends = torch.tensor([stop - start for start, stop in spans], device=ids.device).cumsum(0)
            places = ends.unsqueeze(1) - count + torch.arange(count, device=ids.device)
            for column, state in enumerate(layout_states):
                read = flat[places[:, column]]
                if lengths is None:
                    out[state - 1] = read.unsqueeze(1).expand(-1, ids.shape[1], -1)
                else:
                    out[state - 1] = read.repeat_interleave(torch.tensor(lengths, device=ids.device), 0).unsqueeze(0)
            token = torch.ones(len(flat), dtype=torch.bool, device=ids.device)
            token[places.flatten()] = False
            flat = flat[token]
        if layout.whole and lengths is not None:
            out[layout.first - 1] = flat.unsqueeze(0)
        elif layout.whole:
            padded = flat.new_zeros(*ids.shape, layout.width)
            padded[torch.ones_like(ids).bool() if mask is None else mask.bool()] = flat
            out[layout.first - 1] = padded
        return out

    def _forget(self, *_: Any) -> None:
        self._now = None

    def undo(self) -> None:
        """Lets every layer run again."""
        for hook in self._hooks:
            hook.remove()
        for give_back in self._restore:
            give_back()
        if isinstance(self._store, OnDisk):
            self._store.file.close()
        self._store, self._now = None, None


def _table(base: nn.Module) -> nn.Embedding | None:
    """The embeddings of the tokens, where the model says which they are."""
    try:
        table = base.get_input_embeddings()  # type: ignore[operator]
    except (NotImplementedError, AttributeError):
        return None
    return table if isinstance(table, nn.Embedding) else None


def _asks_for_more(base: nn.Module, given: Mapping[str, Any]) -> bool:
    """Whether a batch is given as no token ids, or all states or attentions are wanted of it."""
    names = ("output_hidden_states", "output_attentions")
    wanted = (given.get(name, getattr(base.config, name, None)) for name in names)
    return given.get("input_ids") is None or any(wanted) or given.get("past_key_values") is not None


def packed_lengths(given: Mapping[str, Any]) -> list[int] | None:
    """How long the texts of a packed batch are: positions begin anew with each; None of a batch with a text a row."""
    positions: Tensor | None = given.get("position_ids")
    if given.get("attention_mask") is not None or positions is None:
        return None
    if len(positions) != 1 or positions.shape != given["input_ids"].shape:
        return None
    starts = (positions[0] == positions[0, 0]).nonzero().flatten().tolist()
    return [stop - start for start, stop in pairwise([*starts, positions.shape[1]])]


def _keys(given: Mapping[str, Any]) -> list[Key]:
    """What every text of a batch is known by, whatever the padding, or packed."""
    ids: Int[Tensor, "batch token"] = given["input_ids"].cpu()
    mask, types, lengths = given.get("attention_mask"), given.get("token_type_ids"), packed_lengths(given)
    columns = [ids, *([] if types is None else [types.cpu()])]
    if lengths is not None:
        return [key_of(parts) for parts in zip(*(column[0].split(lengths) for column in columns), strict=True)]
    kept = torch.ones_like(ids).bool() if mask is None else mask.cpu().bool()
    return [key_of([column[row][kept[row]].numpy() for column in columns]) for row in range(len(ids))]


def key_of(columns: Sequence[Any]) -> Key:
    """The hash of a text's tokens and, where the model reads them, of their types."""
    found = hashlib.blake2b(digest_size=16)
    for column in columns:
        found.update(np.asarray(column, dtype=np.int64).tobytes())
    return found.digest()
