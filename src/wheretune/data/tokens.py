"""Texts -> token ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wheretune.data.examples import NOT_LEARNED
from wheretune.data.kept_tokens import Recipe, digest_of
from wheretune.data.reading import rows_in_words
from wheretune.data.stored import PART, kept_rows, lengths
from wheretune.data.texts import take
from wheretune.errors import DataError
from wheretune.support.log import log

if TYPE_CHECKING:
    from wheretune.data.texts import TextData


def encode(data: TextData, tokenizer: Any, max_length: int) -> Sequence[dict[str, Any]]:
    """Token ids of every row, cut to `max_length`, with its label as the task reads it (if any) and its row number.

    A pair goes to the tokenizer as a pair, so each model joins the two texts in its own way: BERT puts [SEP] between
    them, GPT-2 and Qwen2 put nothing. Many rows lie on disk (`stored.py`).

    Raises:
        DataError: A text makes no tokens, or no token of it has room beside the special ones.
    """
    said: list[str] = []

    def parts() -> Iterator[list[dict[str, Any]]]:
        cut = 0
        for start in range(0, len(data), PART):
            part = encode_part(data, tokenizer, max_length, start, min(start + PART, len(data)))
            cut += sum(len(row["input_ids"]) >= max_length for row in part)
            yield part
        if cut:
            said.append(
                f"{cut} of the {len(data)} texts of {data.info.spec.source} fill all {max_length} tokens and were "
                "probably cut; a greater max_length keeps more"
            )

    rows = kept_rows(parts(), Recipe(lambda: digest_of(data, tokenizer, max_length), said))
    for one in said:
        log.warning("%s", one)
    return rows


def encode_part(data: TextData, tokenizer: Any, max_length: int, start: int, stop: int) -> list[dict[str, Any]]:
    """Token ids of the rows from `start` to `stop`."""
    columns = [list(column) for column in zip(*data.texts[start:stop], strict=True)]
    special = tokenizer.num_special_tokens_to_add(pair=len(columns) == 2)
    if max_length <= special:  # Transformers would not cut them at all
        raise DataError(
            f"a length of {max_length} leaves no room for the text: this tokenizer adds {special} tokens of its own",
            f"give {special + 1} or more",
            "max_length",
        )
    encoded = tokenizer(*columns, truncation=True, max_length=max_length, padding=False)
    rows: list[dict[str, Any]] = []
    for i in range(start, stop):
        row = {key: encoded[key][i - start] for key in encoded} | {"row": data.rows[i]}
        if not row["input_ids"]:
            where = rows_in_words([i], data.rows)
            raise DataError(f"{data.info.spec.source} has a text that makes no tokens in {where}", "remove it")
        if data.labels is not None:
            row["labels"] = data.labels[i]
        rows.append(row)
    return rows


def with_tokens(data: TextData, tokenizer: Any) -> TextData:
    """The rows whose text makes a token; those of the others are named in `unread`.

    A tokenizer that adds tokens of its own makes some of every text.
    """
    if tokenizer.num_special_tokens_to_add(pair=len(data.texts[0]) == 2):
        return data
    columns = [list(column) for column in zip(*data.texts, strict=True)]
    found = tokenizer(*columns)["input_ids"]
    empty = {row: "a text that makes no tokens" for row, ids in zip(data.rows, found, strict=True) if not ids}
    if len(empty) == len(data):
        raise DataError(f"no text of {data.info.spec.source} makes a token", "check the texts and the tokenizer")
    kept = take(data, [place for place, ids in enumerate(found) if ids])
    return replace(kept, unread={**data.unread, **empty})


def learned_tokens(row: Mapping[str, Any]) -> int:
    """How many tokens of an encoded row are learned; 0 where its label is of the row as a whole."""
    labels = row.get("labels")
    return sum(label != NOT_LEARNED for label in labels) if isinstance(labels, list) else 0


def mean_learned(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean number of learned tokens of encoded rows; None where labels are of whole rows."""
    if not isinstance(rows[0].get("labels"), list):
        return None
    every = sum(map(learned_tokens, rows))
    return every / len(rows) if every else None


def mean_length(rows: Sequence[Mapping[str, Any]]) -> float:
    """The mean number of tokens of encoded rows, special ones included."""
    return int(lengths(rows).sum()) / len(rows)
