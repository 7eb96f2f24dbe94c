"""`preview`: what a language model would learn of some data, token by token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

from wheretune.cli.groups import option
from wheretune.cli.options import AsJson, Config, ModelOptions, Seed, TrainOptions
from wheretune.cli.printing import console, json_line, show, write_out
from wheretune.errors import ConfigError, ModelError
from wheretune.support.log import log

if TYPE_CHECKING:
    from rich.text import Text

    from wheretune.data.examples import Example
    from wheretune.data.texts import TextData
    from wheretune.records.model import ModelSpec

SHOWN = 3  # rows that are shown where nobody says how many


def preview(
    model: ModelOptions,
    data: TrainOptions,
    rows: Annotated[
        int | None,
        option("--rows", "Rows to show.", default="3; with --json all", rich_help_panel="Output", min=1),
    ] = None,
    json_: AsJson = False,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Show what a language model would learn of some data, before anything is scored.

    Learned tokens stand between [[ and ]]. With --json every row is one line: its tokens, which of them are learned,
    how many were cut away, and why it is left out if it is. No weights are opened.

    For example:

    wheretune preview --model M --train chat.jsonl --rows 5

    wheretune preview --model M --train gsm8k.jsonl --task chat --instruction-column question --output-column answer

    wheretune preview --model M --train train.jsonl --task next-token --json
    """
    from wheretune.tasks.base import task_of
    from wheretune.tasks.language import LanguageTask, check_apart, what_is_missing
    from wheretune.tasks.loading import load_data

    where = model.spec()
    texts = load_data(data.spec_of_train(seed))
    task: Any = task_of(texts.info)
    if not isinstance(task, LanguageTask):
        raise ConfigError(
            f"{task.name} learns labels with a head of its own, and no tokens of its texts",
            "name a task of language models: next-token, generation, chat or text",
            "task",
        )
    tokenizer, length = _reader(where, texts.info.spec.max_length)
    check_apart(task, tokenizer)
    every = list(task.examples(texts, tokenizer, length))
    unread = [_unread(row, why) for row, why in texts.unread.items()]
    if json_:
        lines = sorted((*every, *unread), key=lambda one: one.rows[0])
        write_out("".join(f"{json_line(as_json(one, tokenizer, task.name))}\n" for one in lines[:rows]))
    else:
        for one in every[: rows or SHOWN]:
            console().print(shown(one, tokenizer), soft_wrap=True)
        show(_counts(every, texts))
    for said in what_is_missing(texts, every, length):
        log.warning("%s", said)


def _unread(row: int, why: str) -> Example:
    from wheretune.data.examples import Example

    return Example((row,), (), (), left_out=why)


def _reader(model: ModelSpec, asked: int | None) -> tuple[Any, int]:
    """The tokenizer of a model, and how many tokens the model reads.

    Raises:
        ModelError: It is an encoder, its tokenizer cannot be opened, or it has too few positions.
    """
    from wheretune.model.apart import read_apart
    from wheretune.model.finding import causal
    from wheretune.model.opening import load_config, load_tokenizer
    from wheretune.model.reach import most_tokens

    config = load_config(model.name, model.revision)
    apart = bool(config.is_encoder_decoder)
    if not causal(config) and not apart:
        raise ModelError(
            f"{model.name} is an encoder ({config.model_type}), which predicts no next token",
            "give a causal language model",
            "model",
        )
    tokenizer = load_tokenizer(model.name, model.revision)
    if apart:
        read_apart(tokenizer)
    return tokenizer, most_tokens(config, tokenizer, asked)


def as_json(one: Example, tokenizer: Any, task: str) -> dict[str, Any]:
    """An example for a script."""
    return {
        **({"rows": list(one.rows)} if task == "text" else {"row": one.rows[0]}),
        "ids": list(one.ids),
        "learned": list(one.learned),
        "tokens": tokenizer.convert_ids_to_tokens(list(one.ids)),
        "cut": one.cut,
        "left_out": one.left_out,
        **({} if one.source is None else {"source": list(one.source)}),
    }


def shown(one: Example, tokenizer: Any) -> Text:
    """An example for a person: what is learned stands between brackets, and in colour where there is any."""
    from rich.text import Text

    numbers = ", ".join(str(row + 1) for row in one.rows[:5]) + (", ..." if len(one.rows) > 5 else "")
    made = Text(f"row{'s' if len(one.rows) > 1 else ''} {numbers}", style="bold")
    made.append(f": {len(one.ids)} tokens, {sum(one.learned)} learned", style="not bold")
    made.append(f", {one.cut} cut away" if one.cut else "", style="not bold")
    made.append(f"; left out: {one.left_out}" if one.left_out else "", style="not bold")
    made.append("\n")
    if one.source is not None:  # what an encoder reads
        (_, words), *_ = _runs(replace(one, ids=one.source, learned=(False,) * len(one.source)), tokenizer)
        made.append(f"{words}\n", style="not bold dim")
    for learned, words in _runs(one, tokenizer):
        made.append(f"[[{words}]]" if learned else words, style="not bold green" if learned else "not bold dim")
    return made.append("\n")


def _runs(one: Example, tokenizer: Any) -> Iterator[tuple[bool, str]]:
    """The text of an example in runs of what is learned and what is not; what cannot be printed is escaped."""
    for learned, pairs in groupby(zip(one.learned, one.ids, strict=True), key=lambda pair: pair[0]):
        text = tokenizer.decode([token for _, token in pairs], clean_up_tokenization_spaces=False)
        yield learned, "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def _counts(every: list[Example], texts: TextData) -> str:
    """How much there is, is learned, is cut away and is left out."""
    kept = [one for one in every if one.left_out is None]
    tokens = sum(len(one.ids) + len(one.source or ()) for one in kept)
    learned = sum(sum(one.learned) for one in kept)
    reasons = Counter([one.left_out for one in every if one.left_out is not None] + list(texts.unread.values()))
    lines = [
        f"{len(texts)} rows, {len(kept)} examples, {tokens} tokens, {learned} of them learned, "
        f"{sum(one.cut for one in kept)} cut away",
        *(f"{times} left out: {why}" for why, times in reasons.items()),
    ]
    return "\n".join(lines)
