"""Token ids -> batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wheretune.data.columns import MANY, Column, many
from wheretune.data.examples import NOT_LEARNED
from wheretune.data.eyes import seen_beside
from wheretune.data.stored import lengths
from wheretune.data.texts import take
from wheretune.errors import DataError

if TYPE_CHECKING:
    from wheretune.data.columns import Places
    from wheretune.data.texts import TextData
    from wheretune.records.data import Batch, Collate

CHUNK = 64  # batches that are tokenised and sorted by length together while streaming


def stream_batches(
    data: TextData,
    encode: Callable[[TextData], Sequence[dict[str, Any]]],
    batch_size: int,
    chunk: int = CHUNK,
    shard: tuple[int, int] = (1, 1),
) -> Iterator[list[dict[str, Any]]]:
    """The batches of `stream_chunks`, one after the other."""
    for batches in stream_chunks(data, encode, batch_size, chunk, shard):
        yield from batches


def stream_chunks(
    data: TextData,
    encode: Callable[[TextData], Sequence[dict[str, Any]]],
    batch_size: int,
    chunk: int = CHUNK,
    shard: tuple[int, int] = (1, 1),
    read: int = 0,
) -> Iterator[list[list[dict[str, Any]]]]:
    """All rows as `encode` gives them, in batches of like length, a chunk of the data at a time.

    Only one chunk is tokenised at once: beside the texts themselves, the memory does not grow with the data.

    Args:
        data: The texts.
        encode: Makes the encoded rows of some of them; of texts that are packed, of those of one chunk together.
        batch_size: Texts in a batch.
        chunk: Batches in a chunk.
        shard: Which of how many shards to read, counted from 1. The batches are those of one pass over everything, and
            the shards' numbers of batches differ by at most one. Full chunks are dealt out whole as far as they go
            round, so that a shard tokenises no other shard's; the batches of the chunks left are dealt out in turn.
        read: How many of the shard's chunks were read before: they come without batches, untokenised where they are
            dealt out whole.

    Yields:
        The batches of each chunk that are the shard's.
    """
    number, shards = shard
    starts = range(0, len(data), chunk * batch_size)
    whole = len(data) // (chunk * batch_size) // shards * shards  # chunks, all of them full
    turn = own = 0
    for place, start in enumerate(starts):
        if place < whole and place % shards != number - 1:
            continue
        own += 1
        if place < whole and own <= read:
            yield []
            continue
        some = take(data, range(start, min(start + chunk * batch_size, len(data))))
        batches = length_batches(encode(some), batch_size)
        if place >= whole:
            mine = [batch for i, batch in enumerate(batches, turn) if i % shards == number - 1]
            turn += len(batches)
            batches = mine
        yield [] if own <= read else batches


def collator(tokenizer: Any) -> Collate:
    """Pads a batch to its own longest row, on the tokenizer's side; whole numbers for labels become int64, others fp32.

    Raises:
        DataError: The tokenizer has no padding token.
    """
    if tokenizer.pad_token is None:
        raise DataError("the tokenizer has no padding token", "set tokenizer.pad_token = tokenizer.eos_token")

    def collate(rows: list[dict[str, Any]]) -> Batch:
        inputs = [{k: v for k, v in row.items() if k not in ("labels", "row")} for row in rows]
        batch: Batch = dict(tokenizer.pad(inputs, padding=True, return_tensors="pt"))
        if "labels" in rows[0]:
            labels = torch.tensor([row["labels"] for row in rows])
            batch["labels"] = labels.float() if labels.is_floating_point() else labels
        return batch

    return collate


def language_collator(tokenizer: Any) -> Collate:
    """Pads token ids and the labels of every token to a batch's own longest row, on the tokenizer's side.

    The labels are as many as the tokens, or of another text, which an encoder-decoder writes. Further columns of a row,
    such as `choices`, have the same length in every row. Images are opened here, and what the model reads of them
    stands in the batch under the names that its processor has; a batch without images has none.

    Raises:
        DataError: The tokenizer has no padding token.
    """
    if tokenizer.pad_token_id is None:
        raise DataError("the tokenizer has no padding token", "set tokenizer.pad_token = tokenizer.eos_token")
    fillers = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "labels": NOT_LEARNED}
    left = tokenizer.padding_side == "left"

    def collate(rows: list[dict[str, Any]]) -> Batch:
        def column(name: str) -> torch.Tensor:
            if name not in fillers:
                return torch.tensor([row[name] for row in rows])
            longest = max(len(row[name]) for row in rows)
            pads = [[fillers[name]] * (longest - len(row[name])) for row in rows]
            both = zip(rows, pads, strict=True)
            return torch.tensor([pad + list(row[name]) if left else list(row[name]) + pad for row, pad in both])

        batch = {name: column(name) for name in rows[0] if name not in ("row", "images")}
        images = [row.get("images", ()) for row in rows]
        return batch | seen_beside(batch["input_ids"], images, tokenizer) if any(images) else batch

    return collate


def spread(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A short text, a middling one and the longest, all different if there are as many: what two ways are tried on.

    Of many rows so many are looked at as lie in memory elsewhere, evenly over all lengths.
    """
    ordered = np.argsort(lengths(rows), kind="stable")
    if many(len(ordered)):
        ordered = ordered[np.linspace(0, len(ordered) - 1, MANY).astype(int)]
    different: dict[int, int] = {}
    for place in ordered.tolist():
        different[hash(tuple(rows[place]["input_ids"]))] = place
    every = list(different.values())
    return [dict(rows[every[place]]) for place in (0, len(every) // 2, -1)]


def length_batches(rows: Sequence[Mapping[str, Any]], batch_size: int) -> list[list[dict[str, Any]]]:
    """All rows in batches of like length, the longest first, so that little is padded."""
    return [[dict(rows[place]) for place in batch] for batch in length_places(rows, batch_size)]


def length_places(rows: Sequence[Mapping[str, Any]], batch_size: int) -> Sequence[list[int]]:
    """The places of the rows of each of `length_batches`."""
    ordered = np.argsort(-lengths(rows), kind="stable")
    starts = range(0, len(ordered), batch_size)
    return Column(starts, lambda start: ordered[start : start + batch_size].tolist())


def token_batches(rows: Sequence[Mapping[str, Any]], tokens: int) -> Sequence[list[dict[str, Any]]]:
    """All rows in batches of like length, the longest first, of at most `tokens` tokens with the padding."""
    return Column(filled(lengths(rows), tokens), lambda places: [dict(rows[place]) for place in places])


def filled(lengths: Places, tokens: int, order: Places | None = None) -> Sequence[list[int]]:
    """Places in batches whose size times longest length is at most `tokens` (a longer text stands alone)."""
    lengths = np.asarray(lengths)
    given = np.arange(len(lengths)) if order is None else np.asarray(order)
    ordered = given[np.argsort(-lengths[given], kind="stable")]
    edges = [0]
    while edges[-1] < len(ordered):
        longest = max(int(lengths[ordered[edges[-1]]]), 1)
        edges.append(min(edges[-1] + max(tokens // longest, 1), len(ordered)))
    return Column(range(len(edges) - 1), lambda batch: ordered[edges[batch] : edges[batch + 1]].tolist())
