"""What a text is known by in a prefix cache: its tokens, whatever the padding, or packed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int

if TYPE_CHECKING:
    from torch import Tensor

Key = bytes  # the hash of a text's tokens
COLUMNS = ("input_ids", "token_type_ids")  # what a text is known by


def unpadded_length(row: Mapping[str, Any]) -> int:
    """How many tokens of an encoded row are no padding."""
    return sum(map(bool, row["attention_mask"])) if "attention_mask" in row else len(row["input_ids"])


def unpadded(row: Mapping[str, Any]) -> dict[str, list[int]]:
    """The tokens of an encoded row and, where it has them, their types, without padding."""
    columns = {name: row[name] for name in COLUMNS if name in row}
    mask = row.get("attention_mask")
    if mask is None or all(mask):
        return columns
    return {name: [value for value, kept in zip(column, mask, strict=True) if kept] for name, column in columns.items()}


def batch_keys(given: Mapping[str, Any]) -> list[Key]:
    """What every text of a batch is known by."""
    ids: Int[Tensor, "batch token"] = given["input_ids"].cpu()
    mask, types, lengths = given.get("attention_mask"), given.get("token_type_ids"), packed_lengths(given)
    columns = [ids, *([] if types is None else [types.cpu()])]
    if lengths is not None:
        return [key_of(parts) for parts in zip(*(column[0].split(lengths) for column in columns), strict=True)]
    kept = torch.ones_like(ids).bool() if mask is None else mask.cpu().bool()
    return [key_of([column[row][kept[row]].numpy() for column in columns]) for row in range(len(ids))]


def packed_lengths(given: Mapping[str, Any]) -> list[int] | None:
    """How long the texts of a packed batch are, as positions begin anew with each; None with one text per row."""
    positions: Tensor | None = given.get("position_ids")
    if given.get("attention_mask") is not None or positions is None:
        return None
    if len(positions) != 1 or positions.shape != given["input_ids"].shape:
        return None
    starts = (positions[0] == positions[0, 0]).nonzero().flatten().tolist()
    return [stop - start for start, stop in pairwise([*starts, positions.shape[1]])]


def key_of(columns: Sequence[Any]) -> Key:
    """The hash of a text's tokens and, where the model reads them, of their types."""
    found = hashlib.blake2b(digest_size=16)
    for column in columns:
        found.update(np.asarray(column, dtype=np.int64).tobytes())
    return found.digest()
