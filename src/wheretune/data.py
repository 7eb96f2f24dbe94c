"""Files, tables and hub data sets -> checked texts and labels -> tokenised, length-bucketed batches."""

import csv
import gzip
import io
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from wheretune.anatomy import HUB_SECONDS, ask_hub
from wheretune.errors import DataError
from wheretune.files import digest_rows
from wheretune.types import DataInfo, DataSpec, Task

FORMATS = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet")
CHUNK = 64  # batches that are tokenised and sorted by length together while streaming
Row = Mapping[str, Any]
Batch = dict[str, Tensor]
Collate = Callable[[list[dict[str, Any]]], Batch]
LabelUse = Literal["required", "optional", "ignored"]
log = logging.getLogger("wheretune")


@dataclass(frozen=True)
class TextData:
    """Texts and labels that have been checked.

    Attributes:
        info: Where they came from and what task they make.
        texts: One or two strings a row.
        labels: Class indices (classification), numbers (regression) or None (unlabelled).
        rows: The row of each text in its source, from 0.
        continuations: What follows each text, where `target_column` names it.
    """

    info: DataInfo
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[float, ...] | None
    rows: tuple[int, ...]
    continuations: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)


# --- rows from anywhere -------------------------------------------------------------------------


def read_rows(source: str) -> list[Row]:
    """The rows of a local file or of a hub data set.

    Args:
        source: A file (`.jsonl`, `.jsonl.gz`, `.csv`, `.tsv`, `.parquet`) or `name:config:split`.

    Raises:
        DataError: It does not exist, or cannot be read as what its ending says.
    """
    path = Path(source)
    if path.is_file():
        kind = next((ending for ending in FORMATS if source.lower().endswith(ending)), None)
        if kind is None:
            raise DataError(f"{source} has an ending that is not known", f"give one of {', '.join(FORMATS)}")
        try:
            rows = _READERS[kind](path)
        except DataError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(f"{source} cannot be read as {kind} ({reason})", "check the file and its ending") from error
    elif source.count(":") == 2 and not source.lower().endswith(FORMATS):
        rows = _read_hub(*source.split(":"))
    else:
        raise DataError(f"no such file: {source}", "check the path, or name a hub data set as name:config:split")
    if not rows:
        raise DataError(f"{source} has no rows", "give a file with data")
    return rows


def _read_jsonl(path: Path) -> list[Row]:
    rows: list[Row] = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path} line {number} is not JSON ({error})", "mend the line") from error
            if not isinstance(row, dict):
                raise DataError(f"{path} line {number} is no JSON object", 'write {"text": ..., "label": ...}')
            rows.append(row)
    return rows


def _read_separated(separator: str) -> Callable[[Path], list[Row]]:
    def read(path: Path) -> list[Row]:
        csv.field_size_limit(2**31 - 1)
        text = path.read_text(encoding="utf-8-sig")
        try:
            return _parse(path, text, separator, csv.QUOTE_MINIMAL)
        except csv.Error:
            if separator != "\t":
                raise
            return _parse(path, text, separator, csv.QUOTE_NONE)  # as GLUE's files, where a quote is a character

    return read


def _parse(path: Path, text: str, separator: str, quoting: Literal[0, 3]) -> list[Row]:
    lines = io.StringIO(text, newline="")
    reader = csv.DictReader(lines, delimiter=separator, restval="", quoting=quoting, strict=True)
    rows: list[Row] = list(reader)
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise DataError(f"{path} row {number} has more cells than the header", "quote its text")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".csv": _read_separated(","),
    ".tsv": _read_separated("\t"),
    ".parquet": _read_parquet,
}


def _read_hub(name: str, config: str, split: str) -> list[Row]:
    from huggingface_hub import HfApi

    try:
        ask_hub(lambda: HfApi().dataset_info(name, timeout=HUB_SECONDS))
        from datasets import load_dataset

        loaded = load_dataset(name, config or None, split=split)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"the hub does not give the data set {name}:{config}:{split} ({reason})",
            "check the name and the network, or give a local file",
        ) from error
    names = {column: feature.names for column, feature in loaded.features.items() if hasattr(feature, "names")}
    return [
        {key: names[key][value] if key in names and value >= 0 else value for key, value in row.items()}
        for row in loaded
    ]


# --- rows -> checked data -----------------------------------------------------------------------


def load_data(
    spec: DataSpec,
    *,
    like: DataInfo | None = None,
    labels: LabelUse = "required",
    rows: Sequence[Row] | None = None,
) -> TextData:
    """Reads and checks what `spec` names.

    Args:
        spec: Where the data is and how to read it.
        like: The training data whose task and classes this data must share.
        labels: `optional` lets the default label column be missing; `ignored` does not look at labels.
        rows: The rows themselves, where they are in memory and `spec.source` is only a word for them.

    Raises:
        DataError: A column is missing, a text is empty, a label is missing, unknown, or there is one class only.
    """
    rows = read_rows(spec.source) if rows is None else rows
    if not rows:
        raise DataError(f"{spec.source} has no rows", "give some data")
    numbers = tuple(range(len(rows)))
    if spec.max_samples is not None:
        if spec.max_samples < 1:
            raise DataError(f"--max-samples is {spec.max_samples}", "give 1 or more")
        if spec.max_samples < len(rows):
            drawn = np.random.default_rng(spec.seed).choice(len(rows), spec.max_samples, replace=False)
            numbers = tuple(sorted(int(i) for i in drawn))
            rows = [rows[i] for i in numbers]
    columns = [spec.text_column, *([spec.pair_column] if spec.pair_column is not None else [])]
    columns += [spec.target_column] if spec.target_column is not None else []
    for column in columns:
        _require(spec.source, rows, column)
    texts = tuple(tuple(_text(row.get(column)) for column in columns) for row in rows)
    empty = [i for i, row in enumerate(texts) if not all(text.strip() for text in row)]
    if empty:
        raise DataError(
            f"{spec.source} has empty text in {_rows(empty, numbers)}", "remove these rows or give them a text"
        )
    broken = [i for i, row in enumerate(texts) if not all(_encodable(text) for text in row)]
    if broken:
        raise DataError(
            f"{spec.source} has half a character (a lone surrogate) in {_rows(broken, numbers)}", "mend these rows"
        )
    values, task, classes = _labels(spec, rows, numbers, like, labels)
    content = digest_rows(zip(texts, values or (None,) * len(texts), strict=True))
    info = DataInfo(spec=spec, rows=len(rows), task=task, classes=classes, hash=content)
    if spec.target_column is None:
        return TextData(info, texts, values, numbers)
    return TextData(info, tuple(text[:-1] for text in texts), values, numbers, tuple(text[-1] for text in texts))


def _require(source: str, rows: Sequence[Row], column: str) -> None:
    """Complains when no row has `column`."""
    if not any(column in row for row in rows):
        there = ", ".join(rows[0])
        raise DataError(
            f"{source} has no column {column!r} (its columns: {there})",
            "name the columns with --text-column, --pair-column and --label-column",
        )


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _text(value: object) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _rows(indices: Sequence[int], numbers: Sequence[int]) -> str:
    """Rows as a person counts them in the source, the first is 1."""
    shown = ", ".join(str(numbers[i] + 1) for i in indices[:5])
    more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
    return f"row{'s' if len(indices) > 1 else ''} {shown}{more} (the first row is 1)"


def _labels(
    spec: DataSpec, rows: Sequence[Row], numbers: Sequence[int], like: DataInfo | None, use: LabelUse
) -> tuple[tuple[float, ...] | None, Task, tuple[str, ...]]:
    column = spec.label_column or "label"
    absent = spec.label_column is None and not any(column in row for row in rows)
    if use == "ignored" or (use == "optional" and absent):
        return None, "unlabelled", ()
    _require(spec.source, rows, column)
    values = [row.get(column) for row in rows]
    missing = [i for i, value in enumerate(values) if not _text(value).strip()]
    if missing:
        raise DataError(
            f"{spec.source} has no {column} in {_rows(missing, numbers)}", "remove these rows or label them"
        )
    task: Task = like.task if like else _task(values) if spec.task == "auto" else spec.task
    if task == "regression":
        return _numbers(spec.source, column, values, numbers), task, ()
    names = [_class_name(value) for value in values]
    classes = like.classes if like else tuple(sorted(set(names), key=_natural))
    unknown = [i for i, name in enumerate(names) if name not in classes]
    if unknown:
        raise DataError(
            f"{spec.source} has the label {names[unknown[0]]!r}, which the training data has not, "
            f"in {_rows(unknown, numbers)}",
            f"use the labels {', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}",
        )
    if len(classes) < 2:
        raise DataError(
            f"{spec.source} has one class only ({column} is {classes[0]!r} in every row)",
            "give data with at least two classes, or name another --label-column",
        )
    if not like and spec.task == "auto" and len(classes) > max(50, len(names) // 2):
        raise DataError(
            f"{spec.source} has {len(classes)} different values of {column} in {len(names)} rows",
            "name the label column with --label-column, or say --task regression or --task classification",
        )
    index = {name: i for i, name in enumerate(classes)}
    return tuple(float(index[name]) for name in names), task, classes


def _task(values: Sequence[object]) -> Task:
    """Regression if every label is a number and some are not whole; classification otherwise."""
    try:
        numbers = [float(str(value)) for value in values if not isinstance(value, bool)]
    except ValueError:
        return "classification"
    fractional = any(math.isfinite(number) and number != round(number) for number in numbers)
    return "regression" if len(numbers) == len(values) and fractional else "classification"


def _numbers(source: str, column: str, values: Sequence[object], rows: Sequence[int]) -> tuple[float, ...]:
    numbers = []
    for i, value in enumerate(values):
        try:
            number = float(str(value))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"{source} has the {column} {value!r} in {_rows([i], rows)}, which is no number",
                "mend the row or say --task classification",
            )
        numbers.append(number)
    if min(numbers) == max(numbers):
        raise DataError(f"{source} has the same {column} in every row", "give data that varies")
    return tuple(numbers)


def _class_name(value: object) -> str:
    """A label as a string; 1.0 from a data frame and 1 from JSON are the same class."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _natural(name: str) -> tuple[int, int, str]:
    """Sorts whole numbers by value and everything else by its letters."""
    return (0, int(name), name) if name.removeprefix("-").isdecimal() else (1, 0, name)


# --- checked data -> batches --------------------------------------------------------------------


def encode(data: TextData, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Token ids of every row, cut to `max_length`, with its label (if any) and its row number.

    A pair goes to the tokenizer as a pair, so each model joins the two texts in its own way: BERT puts [SEP] between
    them, GPT-2 and Qwen2 put nothing.

    Raises:
        DataError: A text makes no tokens.
    """
    rows = _encode(data, tokenizer, max_length, 0, len(data))
    _say_cut(data, sum(len(row["input_ids"]) >= max_length for row in rows), max_length)
    return rows


def stream_batches(
    data: TextData, tokenizer: Any, max_length: int, batch_size: int, chunk: int = CHUNK
) -> Iterator[list[dict[str, Any]]]:
    """All rows as `encode` gives them, in batches of like length, a chunk of the data at a time.

    Only one chunk is tokenised at once: beside the texts themselves, the memory does not grow with the data.
    """
    full = 0
    for start in range(0, len(data), chunk * batch_size):
        rows = _encode(data, tokenizer, max_length, start, min(start + chunk * batch_size, len(data)))
        full += sum(len(row["input_ids"]) >= max_length for row in rows)
        yield from length_batches(rows, batch_size)
    _say_cut(data, full, max_length)


def shuffled(data: TextData, seed: int) -> TextData:
    """The same rows in a seeded random order, each with its row in the source."""
    return take(data, np.random.default_rng(seed).permutation(len(data)).tolist())


def take(data: TextData, places: Sequence[int]) -> TextData:
    """Some of the rows, in the order of `places`, each with its row in the source; `info` stays that of all."""
    return replace(
        data,
        texts=tuple(data.texts[i] for i in places),
        labels=None if data.labels is None else tuple(data.labels[i] for i in places),
        rows=tuple(data.rows[i] for i in places),
        continuations=None if data.continuations is None else tuple(data.continuations[i] for i in places),
    )


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


def _encode(data: TextData, tokenizer: Any, max_length: int, start: int, stop: int) -> list[dict[str, Any]]:
    columns = [list(column) for column in zip(*data.texts[start:stop], strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=max_length, padding=False)
    rows: list[dict[str, Any]] = []
    for i in range(start, stop):
        row = {key: encoded[key][i - start] for key in encoded} | {"row": data.rows[i]}
        if not row["input_ids"]:
            where = _rows([i], data.rows)
            raise DataError(f"{data.info.spec.source} has a text that makes no tokens in {where}", "remove it")
        if data.labels is not None:
            row["labels"] = data.labels[i] if data.info.task == "regression" else int(data.labels[i])
        rows.append(row)
    return rows


def _say_cut(data: TextData, full: int, max_length: int) -> None:
    if full:
        log.warning(
            "%d of the %d texts of %s fill all %d tokens and were probably cut (--max-length)",
            full, len(data), data.info.spec.source, max_length,
        )  # fmt: skip


def collator(tokenizer: Any) -> Collate:
    """Pads a batch to its own longest row, on the tokenizer's side; numbers become fp32, classes int64.

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


def spread(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A short text, a middling one and the longest, all different if there are as many: what two ways are tried on."""
    different = {tuple(row["input_ids"]): row for row in rows}.values()
    ordered = sorted(different, key=lambda row: len(row["input_ids"]))
    return [dict(ordered[place]) for place in (0, len(ordered) // 2, -1)]


def length_batches(rows: Sequence[Mapping[str, Any]], batch_size: int) -> list[list[dict[str, Any]]]:
    """All rows in batches of like length, the longest first, so that little is padded."""
    ordered = [dict(row) for row in sorted(rows, key=lambda row: -len(row["input_ids"]))]
    edges = [*range(0, len(ordered), batch_size), len(ordered)]
    return [ordered[start:stop] for start, stop in pairwise(edges)]


def token_batches(rows: Sequence[Mapping[str, Any]], tokens: int) -> list[list[dict[str, Any]]]:
    """All rows in batches of like length, the longest first, of at most `tokens` tokens with the padding."""
    return [
        [dict(rows[place]) for place in batch] for batch in _filled([len(row["input_ids"]) for row in rows], tokens)
    ]


def _filled(lengths: Sequence[int], tokens: int, order: Sequence[int] | None = None) -> list[list[int]]:
    """Places in batches whose size times longest length is at most `tokens` (a longer text stands alone)."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)) if order is None else order, key=lambda place: -lengths[place]):
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > tokens:
            batches.append([])
        batches[-1].append(place)
    return batches


class TokenBatches(torch.utils.data.Sampler[list[int]]):
    """Random batches of like length within a budget of tokens: a pure function of (seed, epoch).

    Every epoch has as many batches as any other, as Trainer expects: which lengths go together is fixed, which of the
    texts of one length is drawn anew, and so is the order of the batches.
    """

    def __init__(self, lengths: Sequence[int], tokens: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.tokens = tokens
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Trainer calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(_filled(self.lengths, self.tokens))

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        batches = _filled(self.lengths, self.tokens, random.permutation(len(self.lengths)).tolist())
        return iter([batches[place] for place in random.permutation(len(batches)).tolist()])


class EpochBuckets(torch.utils.data.Sampler[int]):
    """Rows in random batches of like length: a pure function of (seed, epoch).

    Transformers' own grouped sampler draws from the global generator, which dropout moves on: two methods
    would see different batches, and a resumed run others than an uninterrupted one. The grouping is theirs.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Trainer calls this before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        from transformers.trainer_pt_utils import get_length_grouped_indices

        drawn = int(np.random.default_rng([self.seed, self.epoch]).integers(2**63))
        generator = torch.Generator().manual_seed(drawn)
        indices: list[int] = get_length_grouped_indices(  # type: ignore[no-untyped-call]
            self.lengths, self.batch_size, generator=generator
        )
        return iter(indices)


def from_texts(
    texts: Sequence[str | tuple[str, str]],
    labels: Sequence[object] | None = None,
    *,
    task: Literal["auto", "classification", "regression"] = "auto",
    max_length: int | None = None,
    name: str = "memory",
) -> TextData:
    """Data that is already in memory.

    Args:
        texts: A string a row, or a pair of strings a row.
        labels: A class (string or whole number) or a number a row; scoring needs none.
        task: `auto` makes a regression of numbers that are not all whole.
        max_length: Tokens a text is cut to; None means what the model can read, at most 512.
        name: What to call the data in results.

    Raises:
        DataError: As for `load_data`, or the lengths differ, or some rows are pairs and some are not.
    """
    if labels is not None and len(labels) != len(texts):
        raise DataError(f"{len(texts)} texts and {len(labels)} labels", "give as many of the one as of the other")
    parts = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    if len({len(part) for part in parts}) > 1:
        raise DataError("some rows are pairs of texts and some are not", "give the one or the other")
    columns = ("text", "pair")[: len(parts[0]) if parts else 1]
    rows: list[Row] = [dict(zip(columns, part, strict=True)) for part in parts]
    if labels is not None:
        rows = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
    spec = DataSpec(name, pair_column="pair" if "pair" in columns else None, task=task, max_length=max_length)
    return load_data(spec, labels="optional", rows=rows)
