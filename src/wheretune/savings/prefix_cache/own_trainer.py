"""The prefix cache for a training loop of the user's own."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from wheretune.data.batches import collator
from wheretune.errors import ConfigError, DataError
from wheretune.model.finding import find_layers, is_encoder_decoder
from wheretune.model.freezing import lowest_trained, outside
from wheretune.model.identity import tensor_hashes
from wheretune.records.runs import CacheSettings, Where
from wheretune.savings.prefix_cache.deciding import CacheReport
from wheretune.savings.prefix_cache.job import CacheJob
from wheretune.savings.prefix_cache.layout import Layout
from wheretune.savings.prefix_cache.making import cached

if TYPE_CHECKING:
    from wheretune.model.stack import LayerStack
    from wheretune.records.data import Batch, Collate

LABELS = ("label", "labels", "label_ids")  # as Trainer keeps them beside what the model takes


@runtime_checkable
class EncodedRows(Protocol):
    """Encoded rows that can be counted and read one by one: a list, a `datasets.Dataset`, a torch data set."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@contextmanager
def cache_prefix(
    model: nn.Module,
    rows: EncodedRows,
    collate: Any,
    *,
    epochs: int = 3,
    where: Where = "auto",
    dtype: Literal["fp32", "bf16"] = "fp32",
    folder: str | Path | None = None,
    limit: int | None = None,
    layers_attribute: str | None = None,
) -> Iterator[CacheReport]:
    """Inside, your own training runs the frozen layers below the lowest trained one once only.

        tuned = wt.apply(model, plan)
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate)
        with wt.cache_prefix(model, rows, collate, epochs=3) as report:
            trainer.train()

    TRL's SFTTrainer makes rows and collator itself: give its `train_dataset` and `data_collator`.

    The states of all tokens that enter the lowest trained layer are computed when the block is entered, so make the
    Trainer before: it moves the model to its device. If no layer trains they are those that leave the last layer,
    whatever the head reads of them. A batch with a text that is not among `rows`, one that asks for all hidden states,
    and every batch after a parameter below has begun to train run as ever. The model is run both ways on a few texts
    first: one that gives other states or outputs when it is fed (a head that reads lower layers, a decoder that is
    padded on the left and given no positions) gets no cache, and `report.reason` says so.

    Nothing drops out in layers that do not run. A collator that changes tokens (random masking) gets no cache, for a
    text is known by its tokens; nor does one that makes several texts of a row (packing without padding). Start one
    process: several would each make the cache.

    Args:
        model: Any Hugging Face transformer of one sequence, with a head of its own, what is frozen set to require no
            gradient: `wt.apply` does so.
        rows: The encoded rows that it trains on, with `input_ids`; padded or not.
        collate: What makes a batch of a list of rows, or a tokenizer that pads.
        epochs: How often every row is read; `auto` decides by it.
        where: `auto` decides by size, free memory and disk, and measured speed; or `memory`, `disk` or `off`.
        dtype: `fp32` gives the same result, `bf16` takes half the room.
        folder: Where a cache on disk lies, and stays for the next training; by default a temporary folder, removed.
        limit: Bytes it may take at most; half of what is free by default.
        layers_attribute: The path of the list of layers below the base model, for a model that cannot be read.

    Yields:
        What was decided, and why.

    Raises:
        ConfigError: The settings contradict one another.
        DataError: The rows hold no token ids, or the tokenizer has no padding token.
        ModelError: The layers cannot be found.
    """
    if dtype not in ("fp32", "bf16"):
        raise ConfigError(f"a prefix cache holds no {dtype}", "give fp32 or bf16", "cache_dtype")
    kept = None if folder is None else Path(folder)
    settings = CacheSettings(where, folder=kept, limit=limit, keep=kept is not None)
    stack = find_layers(model, layers_attribute)
    if is_encoder_decoder(stack.base):
        yield CacheReport("off", "an encoder-decoder has two stacks of layers")
        return
    first = lowest_trained(stack)
    layout = Layout(first, len(stack), stack.hidden_size, all_tokens=True)
    job = CacheJob(stack, layout, _columns(model, rows), _collate(collate), dtype)
    weights_hash = "" if kept is None else _prefix_hash(stack, first)
    with (
        TemporaryDirectory(prefix="wheretune-") as scratch,
        cached(job, weights_hash, epochs, settings, Path(scratch)) as report,
    ):
        yield report


def _columns(model: nn.Module, rows: EncodedRows) -> list[dict[str, Any]]:
    """The rows as Trainer hands them to the collator: what the model takes, and the labels; tensors as lists."""
    takes = inspect.signature(type(model).forward).parameters  # Trainer wraps the instance's own

    def used(name: str) -> bool:
        return "input_ids" not in takes or name in takes or name in LABELS

    found = []
    for index in range(len(rows)):
        row: Mapping[str, Any] = rows[index]
        if not isinstance(row, Mapping) or "input_ids" not in row:
            raise DataError(f"row {index + 1} has no input_ids (the first row is 1)", "give rows that are tokenised")
        lists = ((name, value.tolist() if hasattr(value, "tolist") else value) for name, value in row.items())
        found.append({name: value for name, value in lists if used(name)})
    if not found:
        raise DataError("there are no rows", "give the rows that the model trains on")
    return found


def _collate(collate: Any) -> Collate:
    """A collator as ours are: tensors by name, with a mask."""
    from transformers import PreTrainedTokenizerBase

    make: Callable[[list[dict[str, Any]]], Any] = (
        collator(collate) if isinstance(collate, PreTrainedTokenizerBase) else collate
    )

    def batch(rows: list[dict[str, Any]]) -> Batch:
        made = {name: value for name, value in make([dict(row) for row in rows]).items() if isinstance(value, Tensor)}
        return {"attention_mask": torch.ones_like(made["input_ids"]), **made}

    return batch


def _prefix_hash(stack: LayerStack, first: int) -> str:
    """SHA-256 over the weights of everything below the lowest trained layer."""
    parts = [*(layer.module for layer in stack.layers[:first]), *outside(stack)]
    tensors = ((f"{i}.{n}", v) for i, part in enumerate(parts) for n, v in part.state_dict().items())
    hashes = tensor_hashes(tensors, as_fp32=True)
    return hashlib.sha256("".join(f"{name}:{hashes[name]}\n" for name in sorted(hashes)).encode()).hexdigest()
