"""Feeds the lowest trained layer from stored states.

Nothing is sliced and no module replaced: hooks, and a `forward` that lets states pass, so a model that reads settings
by the index of a layer works as ever. All of it comes off again.

The cache is addressed by content: a hook on the base model looks up the tokens of every text of a batch. A text that
is not there (a user's own augmentation, other data) makes the batch run as ever, so the cache can only save time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wheretune.model.calls import pass_by, wrap_forward
from wheretune.model.freezing import outside
from wheretune.model.inputs import base_inputs, model_device
from wheretune.model.placement import current
from wheretune.savings.prefix_cache.texts import COLUMNS, batch_keys, packed_lengths

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.savings.prefix_cache.ahead import ReadAhead
    from wheretune.savings.prefix_cache.layout import Layout
    from wheretune.savings.prefix_cache.store import Store
    from wheretune.savings.prefix_cache.texts import Key

# What a call may be given beside what a text is known by: no state depends on it, or follows from the tokens.
HARMLESS = ("attention_mask", "position_ids", "labels", "num_items_in_batch")


class PrefixCache:
    """Feeds the lowest trained layer from stored states, so that nothing below it runs.

    Attributes:
        hits: Batches that were fed.
        misses: Batches of the training that ran as ever: a text of theirs was not stored, or more was asked for.
    """

    def __init__(self, stack: LayerStack, layout: Layout, ahead: ReadAhead) -> None:
        self.hits = self.misses = 0
        self._base, self._layout, self._ahead = stack.base, layout, ahead
        self._store: Store | None = None
        self._spans: dict[Key, tuple[int, int]] = {}
        self._now: dict[int, Tensor] | None = None  # by layer: what it puts out, while a batch is fed
        below = [layer.module for layer in stack.layers[: layout.first]]
        self._frozen = [p for part in (*below, *outside(stack)) for p in part.parameters()]
        self._undo = [pass_by(below, self._stored)]
        table = _table(stack.base)
        if table is not None:
            self._undo.append(wrap_forward(table, partial(self._embed, table)))
        self._hooks = [
            stack.base.register_forward_pre_hook(self._look, with_kwargs=True),
            stack.base.register_forward_hook(self._forget, always_call=True),
        ]

    def fill(self, store: Store | None, spans: dict[Key, tuple[int, int]]) -> None:
        """Begins to feed, or ends it."""
        self._ahead.end()
        if self._store is not None:
            self._store.close()
        self._store, self._spans = store, spans
        if store is not None:
            self._ahead.begin(partial(self._by_keys, store))

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Inside, every batch runs as ever."""
        store, self._store = self._store, None
        try:
            yield
        finally:
            self._store = store

    def _stored(self, layer: int, hidden: Tensor) -> Tensor | None:
        """What a layer puts out of the batch that is fed, or its input where nothing reads it; None if none is fed."""
        return None if self._now is None else self._now.get(layer, hidden).to(hidden.dtype)

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
        keys = batch_keys(given) if self._may_feed(base, given) else []
        spans = self._find(keys)
        if not spans:
            if base.training:
                self.misses += 1
                self._ahead.forget()
            return
        self.hits += 1
        states = self._ahead.take(keys)
        self._now = self._output(self._read(self._store, spans) if states is None else states, spans, given)

    def _may_feed(self, base: nn.Module, given: Mapping[str, Any]) -> bool:
        """Whether stored states are all that a call needs: they hang on token ids alone, and nothing below trains."""
        names = ("output_hidden_states", "output_attentions")
        everything = any(given.get(name, getattr(base.config, name, None)) for name in names)
        others = any(isinstance(value, Tensor) for name, value in given.items() if name not in (*COLUMNS, *HARMLESS))
        mask = given.get("attention_mask")
        plain = mask is None or (isinstance(mask, Tensor) and mask.ndim == 2)
        known = given.get("input_ids") is not None and given.get("past_key_values") is None
        return known and plain and not everything and not others and not any(p.requires_grad for p in self._frozen)

    def _find(self, keys: Sequence[Key]) -> list[tuple[int, int]]:
        """Where the texts of a batch stand; nothing if one of them is not there."""
        found = [self._spans.get(key) for key in keys]
        spans = [span for span in found if span is not None]
        return spans if len(spans) == len(found) else []

    def _by_keys(self, store: Store, keys: Sequence[Key]) -> Tensor | None:
        spans = self._find(keys)
        return self._read(store, spans) if spans else None

    def _read(self, store: Store, spans: Sequence[tuple[int, int]]) -> Tensor:
        """Some states, for a GPU in page-locked memory, from where it copies them while this process goes on."""
        flat, device = store.read(spans), model_device(self._base)
        if device.type != "cuda":
            return flat
        with current(device):  # a thread of its own begins with the first one
            return flat.pin_memory()

    def _output(self, flat: Tensor, spans: Sequence[tuple[int, int]], given: Mapping[str, Any]) -> dict[int, Tensor]:
        """What the layers put out: the last of them all tokens, others the one that is read, at every place."""
        ids: Tensor = given["input_ids"]
        mask, lengths = given.get("attention_mask"), packed_lengths(given)
        layout, count = self._layout, len(self._layout.states)
        flat = flat.to(ids.device, non_blocking=True)
        out: dict[int, Tensor] = {}
        if count:
            ends = torch.tensor([stop - start for start, stop in spans], device=ids.device).cumsum(0)
            places = ends.unsqueeze(1) - count + torch.arange(count, device=ids.device)
            for column, state in enumerate(layout.states):
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
        for take_off in self._undo:
            take_off()
        self.fill(None, {})
        self._now = None


def _table(base: nn.Module) -> nn.Embedding | None:
    """The embeddings of the tokens, where the model says which they are."""
    try:
        table = base.get_input_embeddings()  # type: ignore[operator]
    except (NotImplementedError, AttributeError):
        return None
    return table if isinstance(table, nn.Embedding) else None
