"""What a language model would say of a text: the token that stands for its label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wheretune.errors import DataError

if TYPE_CHECKING:
    from wheretune.data.texts import TextData


def next_tokens(data: TextData, tokenizer: Any) -> tuple[tuple[int, ...], dict[int, int]]:
    """The token that a language model should say after each text.

    It is the first token of the class's verbaliser, or of the target column's text, after a space.

    Returns:
        The tokens that occur as labels, and by row which of them is its own.

    Raises:
        DataError: There are no labels, or numbers for labels; the first tokens of two classes are the same; a word has
            no token; the verbaliser lacks a class or names one that is not there.
    """
    return _of_classes(data, tokenizer) if data.continuations is None else _of_continuations(data, tokenizer)


def _of_continuations(data: TextData, tokenizer: Any) -> tuple[tuple[int, ...], dict[int, int]]:
    """`next_tokens` of the texts that follow."""
    assert data.continuations is not None
    words = sorted(set(data.continuations))
    found = _first_tokens(tokenizer, words)
    tokens = sorted(set(found))
    if len(tokens) < 2:
        raise DataError(
            f"every {data.info.task.params['target_column']} in {data.info.spec.source} begins with the same token",
            "name another column",
            "target_column",
        )
    index = {word: tokens.index(token) for word, token in zip(words, found, strict=True)}
    return tuple(tokens), {row: index[word] for row, word in zip(data.rows, data.continuations, strict=True)}


def _of_classes(data: TextData, tokenizer: Any) -> tuple[tuple[int, ...], dict[int, int]]:
    """`next_tokens` of the classes."""
    source, classes = data.info.spec.source, data.info.classes
    verbalizer: dict[str, str] | None = data.info.task.params.get("verbalizer")
    if data.labels is None or not classes:
        raise DataError(
            f"{source} has {'numbers for' if data.labels else 'no'} labels, and a language model says words",
            "name a column of classes, or a column whose text follows (target_column)",
            "label_column",
        )
    if not isinstance(data.labels[0], int):
        raise DataError(
            f"{source} has several labels per row, and a language model says one word next",
            "take another scorer, or name a column whose text follows (target_column)",
            "target_column",
        )
    if verbalizer is not None and set(verbalizer) != set(classes):
        wrong = sorted(set(verbalizer) ^ set(classes))[0]
        raise DataError(
            f"the verbalizer and the classes of {source} differ: {wrong!r} is in one only",
            f"give a word for each of {', '.join(classes)}",
            "verbalizer",
        )
    words = [verbalizer[name] if verbalizer else name for name in classes]
    tokens = _first_tokens(tokenizer, words)
    for index, token in enumerate(tokens):
        other = tokens.index(token)
        if other < index:
            raise DataError(
                f"the classes {classes[other]!r} and {classes[index]!r} begin with the same token "
                f"({words[other]!r} and {words[index]!r} after a space)",
                "give words that differ",
                "verbalizer",
            )
    return tuple(tokens), dict(zip(data.rows, data.labels, strict=True))


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
            raise DataError(f"the tokenizer has no token for {word!r}", "give another word", "verbalizer")
        tokens.append(int(rest[0]))
    return tokens
