"""Texts -> token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wheretune.data.texts import rows_in_words
from wheretune.errors import DataError
from wheretune.support.log import log

if TYPE_CHECKING:
    from wheretune.data.texts import TextData


def encode(data: TextData, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Token ids of every row, cut to `max_length`, with its label (if any) and its row number.

    A pair goes to the tokenizer as a pair, so each model joins the two texts in its own way: BERT puts [SEP] between
    them, GPT-2 and Qwen2 put nothing.

    Raises:
        DataError: A text makes no tokens.
    """
    rows = encode_part(data, tokenizer, max_length, 0, len(data))
    say_cut(data, sum(len(row["input_ids"]) >= max_length for row in rows), max_length)
    return rows


def next_tokens(data: TextData, tokenizer: Any) -> tuple[tuple[int, ...], dict[int, int]]:
    """The token that a language model should say after each text.

    It is the first token of the class's verbaliser, or of the target column's text, after a space.

    Returns:
        The tokens that occur as labels, and by row which of them is its own.

    Raises:
        DataError: There are no labels, or numbers for labels; the first tokens of two classes are the same; a word has
            no token; the verbaliser lacks a class or names one that is not there.
    """
    source = data.info.spec.source
    if data.continuations is not None:
        words = sorted(set(data.continuations))
        found = _first_tokens(tokenizer, words)
        tokens = sorted(set(found))
        if len(tokens) < 2:
            raise DataError(
                f"every {data.info.spec.target_column} in {source} begins with the same token", "name another column"
            )
        place = {word: tokens.index(token) for word, token in zip(words, found, strict=True)}
        return tuple(tokens), {row: place[word] for row, word in zip(data.rows, data.continuations, strict=True)}
    classes, verbalizer = data.info.classes, data.info.spec.verbalizer
    if data.labels is None or not classes:
        raise DataError(
            f"{source} has {'numbers for' if data.labels else 'no'} labels, and a language model says words",
            "name the --label-column, or the --target-column whose text follows",
        )
    if verbalizer is not None and set(verbalizer) != set(classes):
        wrong = sorted(set(verbalizer) ^ set(classes))[0]
        raise DataError(
            f"--verbalizer and the classes of {source} differ: {wrong!r} is in one only",
            f"give a word for each of {', '.join(classes)}",
        )
    words = [verbalizer[name] if verbalizer else name for name in classes]
    found = _first_tokens(tokenizer, words)
    for index, token in enumerate(found):
        if token in found[:index]:
            other = found.index(token)
            raise DataError(
                f"the classes {classes[other]!r} and {classes[index]!r} begin with the same token "
                f"({words[other]!r} and {words[index]!r} after a space)",
                "give words that differ with --verbalizer class=word,class=word",
            )
    return tuple(found), {row: int(label) for row, label in zip(data.rows, data.labels, strict=True)}


def _first_tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The first token of each word after another word and a space, however the tokenizer marks that.

    Decided: a token that is only the space (as many tokenizers split off before a digit) says nothing, and is passed
        over.
    """
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    tokens = []
    for word in words:
        both = tokenizer(f"a {word.strip()}", add_special_tokens=False)["input_ids"]
        rest = both[len(before) :] if both[: len(before)] == before else []
        while rest and not tokenizer.decode(rest[:1]).strip():
            rest = rest[1:]
        if not rest or rest[0] == tokenizer.unk_token_id:
            raise DataError(f"the tokenizer has no token for {word!r}", "give another word with --verbalizer")
        tokens.append(int(rest[0]))
    return tokens


def encode_part(data: TextData, tokenizer: Any, max_length: int, start: int, stop: int) -> list[dict[str, Any]]:
    """Token ids of the rows from `start` to `stop`."""
    columns = [list(column) for column in zip(*data.texts[start:stop], strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=max_length, padding=False)
    rows: list[dict[str, Any]] = []
    for i in range(start, stop):
        row = {key: encoded[key][i - start] for key in encoded} | {"row": data.rows[i]}
        if not row["input_ids"]:
            where = rows_in_words([i], data.rows)
            raise DataError(f"{data.info.spec.source} has a text that makes no tokens in {where}", "remove it")
        if data.labels is not None:
            row["labels"] = data.labels[i] if data.info.task == "regression" else int(data.labels[i])
        rows.append(row)
    return rows


def say_cut(data: TextData, full: int, max_length: int) -> None:
    """Says how many texts were probably cut."""
    if full:
        log.warning(
            "%d of the %d texts of %s fill all %d tokens and were probably cut (--max-length)",
            full, len(data), data.info.spec.source, max_length,
        )  # fmt: skip
