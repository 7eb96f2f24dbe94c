"""What is to be cached, and how it is computed."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float

from wheretune.data.batches import spread, token_batches
from wheretune.model.calls import pass_by, watch_output
from wheretune.model.forward import evaluating, forward_states
from wheretune.model.inputs import model_device, unlabelled
from wheretune.savings.prefix_cache.ahead import ReadAhead
from wheretune.savings.prefix_cache.texts import COLUMNS, batch_keys, key_of, unpadded, unpadded_length

if TYPE_CHECKING:
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.records.data import Batch, Collate
    from wheretune.savings.one_token import Reader
    from wheretune.savings.prefix_cache.layout import Layout
    from wheretune.savings.prefix_cache.texts import Key

FORMAT = 1
TOKENS = {"cuda": 32768}  # padded tokens in a forward pass while the cache is filled, by kind of device
FEW = 1024  # on the others: more do not make a CPU faster, and take memory


@dataclass(frozen=True, eq=False)
class CacheJob:
    """What is to be cached.

    Attributes:
        stack: The layers.
        layout: What is stored of a text.
        rows: The texts.
        collate: Makes a batch of them.
        kind: The precision of the stored states.
        reader: What reads several tokens of a text and says which; by default a head reads the representative one, or
            a user's own may read any.
        ahead: Reads the states of the next batch while one trains.
    """

    stack: LayerStack
    layout: Layout
    rows: Sequence[Mapping[str, Any]]
    collate: Collate
    kind: Literal["fp32", "bf16"]
    reader: Reader | None = None
    ahead: ReadAhead = field(default_factory=ReadAhead)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the stored states, as torch calls it."""
        return torch.float32 if self.kind == "fp32" else torch.bfloat16

    @property
    def total(self) -> int:
        """Rows in the store."""
        return sum(self.layout.rows(unpadded_length(row)) for row in self.rows)

    @property
    def size(self) -> int:
        """Bytes of the store."""
        return self.total * self.layout.width * self.dtype.itemsize

    def batches(self) -> Sequence[list[dict[str, Any]]]:
        """The texts in the order in which they are stored, which is the same for batches of every size."""
        return token_batches(self.rows, TOKENS.get(model_device(self.stack.base).type, FEW))

    def few(self) -> Batch:
        """A batch of a few texts of different lengths, with their labels, where the model lies."""
        device = model_device(self.stack.base)
        return {name: value.to(device) for name, value in self.collate(spread(self.rows)).items()}

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """What a text is known by: its tokens and, where batches have them and the model reads them, their types."""
        few, takes = self.few(), inspect.signature(self.stack.base.forward).parameters
        return tuple(name for name in COLUMNS if name in few and name in takes)

    def key(self, row: Mapping[str, Any]) -> Key:
        """What a text is known by, hashed."""
        found = unpadded(row)
        return key_of([found[name] for name in self.columns if name in found])

    def keeps_tokens(self) -> bool:
        """Whether a batch holds the very tokens of its texts: a collator that masks some at random is not cached."""
        return self.keys(self.few()) == [self.key(row) for row in spread(self.rows)]

    def keys(self, batch: Batch) -> list[Key]:
        """What every text of a batch is known by."""
        return batch_keys({name: batch[name] for name in (*self.columns, "attention_mask") if name in batch})

    def collate_next(self, rows: list[dict[str, Any]]) -> Batch:
        """Makes the batch that trains next, and lets its states be read until then."""
        batch = self.collate(rows)
        self.ahead.announce(self.keys(batch))
        return batch

    def spans(self) -> dict[Key, tuple[int, int]]:
        """Where every text stands in the store."""
        spans: dict[Key, tuple[int, int]] = {}
        start = 0
        for row in chain.from_iterable(self.batches()):
            stop = start + self.layout.rows(unpadded_length(row))
            spans[self.key(row)] = (start, stop)
            start = stop
        return spans

    def digest(self, weights_hash: str) -> str:
        """What a cache is known by: weights, layer, what the head reads, precision, and the tokens of every text."""
        found = hashlib.sha256(repr((FORMAT, weights_hash, self.layout, self.kind)).encode())
        for row in self.rows:
            found.update(repr(list(unpadded(row).items())).encode())
        return found.hexdigest()[:16]


def compute(job: CacheJob, rows: list[dict[str, Any]]) -> Float[Tensor, "row hidden"]:
    """What is stored of some texts, one after the other. The layers above let the states pass."""
    stack, layout = job.stack, job.layout
    inputs = unlabelled(job.collate(rows), model_device(stack.base))
    mask = inputs["attention_mask"].bool()
    leaving: list[Tensor] = []
    with torch.no_grad(), evaluating(stack.base):
        hook = watch_output(stack.layers[layout.first - 1].module, leaving.append)
        undo = pass_by([layer.module for layer in stack.layers], _above(layout.first))
        try:
            tokens = forward_states(stack, inputs, last="raw")[0]
        finally:
            undo()
            hook.remove()
    read = tokens[:, list(layout.states)]
    if not layout.whole:
        return read.flatten(0, 1)
    kept = torch.cat([mask, mask.new_ones(read.shape[:2])], dim=1)
    return torch.cat([leaving[0].float(), read], dim=1)[kept]


def _above(first: int) -> Callable[[int, Tensor], Tensor | None]:
    """The layers from `first` up put out what enters them."""
    return lambda place, hidden: hidden if place >= first else None
