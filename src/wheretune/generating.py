"""A language model and rows -> texts, through Transformers' own `generate`, in batches of like length.

Which prompts stand in a batch hangs on the data and the batch size alone, so what is written after a stop is what would
have been written without. Rows with the same prompt are answered once, unless tokens are drawn.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from wheretune.data.batches import length_batches
from wheretune.data.eyes import seen_beside
from wheretune.data.images import known_by
from wheretune.data.reading import rows_in_words
from wheretune.errors import ConfigError, TrainingError
from wheretune.model.finding import find_layers, is_encoder_decoder, text_config
from wheretune.model.forward import evaluating
from wheretune.model.inputs import check_ids, max_tokens
from wheretune.records.base import to_json
from wheretune.support.files import digest_rows
from wheretune.support.log import log
from wheretune.support.progress import progress
from wheretune.tasks.base import task_of
from wheretune.tasks.language import check_apart

if TYPE_CHECKING:
    from torch import nn

    from wheretune.data.examples import Prompt
    from wheretune.data.texts import TextData
    from wheretune.records.decoding import Decoding

Line = dict[str, Any]
BLANK_LINE = "\n\n"
WARPERS: Mapping[str, tuple[Callable[[Any], LogitsProcessor], float | None]] = {  # by setting, in Transformers' order,
    "temperature": (TemperatureLogitsWarper, 1.0),  # and the value with which it does nothing
    "top_k": (TopKLogitsWarper, 0),
    "top_p": (TopPLogitsWarper, 1.0),
    "min_p": (MinPLogitsWarper, None),
    "typical_p": (TypicalLogitsWarper, 1.0),
}


# --- what is to be written -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Job:
    """Rows that are to be answered.

    Attributes:
        prompts: Of the rows that can be.
        unread: By row, why the others cannot.
        decoding: How; every setting is said.
        ends: The tokens that end a text.
    """

    prompts: tuple[Prompt, ...]
    unread: Mapping[int, str]
    decoding: Decoding
    ends: frozenset[int] = field(default_factory=frozenset)

    def content(self) -> dict[str, Any]:
        """What a file of these texts is for, but for the model."""
        prompts = digest_rows((one.row, one.ids, one.lead, *map(known_by, one.images)) for one in self.prompts)
        unread = digest_rows(sorted(self.unread.items()))
        return {"prompts": prompts, "unread": unread, "ends": sorted(self.ends), "decoding": to_json(self.decoding)}

    def key(self, prompt: Prompt) -> Any:
        """What makes prompts one that is answered once."""
        return prompt.row if self.decoding.do_sample else (prompt.ids, prompt.lead, prompt.images)


def job_of(model: nn.Module, tokenizer: Any, data: TextData, decoding: Decoding, max_length: int | None = None) -> Job:
    """What is to be written of some rows.

    Args:
        model: The language model, as Transformers has it.
        tokenizer: Its tokenizer.
        data: Rows of a task that is `Writing`, read to be answered (`asked`).
        decoding: How they are answered; what it leaves open the model's own generation settings say.
        max_length: Tokens a prompt is cut to; by default what the model can read, at most 512.

    Raises:
        ConfigError: A decoding setting has no effect, or no room is left for new tokens.
        ModelError: The tokenizer lacks what the task needs, or the model has fewer positions.
    """
    task: Any = task_of(data.info)
    check_apart(task, tokenizer)
    every = list(task.prompts(data, tokenizer, max_tokens(model, tokenizer, max_length)))
    cut = [one.row for one in every if one.cut and one.left_out is None]
    if cut:
        log.warning(
            "%d of the %d prompts of %s are cut, in %s; a greater max_length keeps more",
            len(cut), len(every), data.info.spec.source, rows_in_words(range(len(cut)), cut),
        )  # fmt: skip
    prompts = tuple(one for one in every if one.left_out is None)
    unread = {**data.unread, **{one.row: one.left_out for one in every if one.left_out is not None}}
    positions = getattr(text_config(model), "max_position_embeddings", None)
    longest = max((len(one.ids) for one in prompts), default=0)
    longest = 1 if is_encoder_decoder(model) else longest  # what a decoder writes begins with its start token
    room = positions - longest if isinstance(positions, int) and positions > 0 else None
    own: Any = model.generation_config
    settled = decoding.settled(own.to_dict(), room)
    ends = task.endings(tokenizer) | _listed(own.eos_token_id)
    if settled.rules == "e2e":
        found = tokenizer(BLANK_LINE, add_special_tokens=False)["input_ids"]
        ends |= set(found) - {tokenizer.unk_token_id} if len(found) == 1 else set()
    return Job(prompts, unread, settled, frozenset(ends))


def _listed(ids: Any) -> set[int]:
    """Token ids that may be one, several or none."""
    return set() if ids is None else set(ids) if isinstance(ids, list | tuple) else {ids}


# --- the lines -----------------------------------------------------------------------------------


def lines_of(
    job: Job, model: nn.Module, tokenizer: Any, batch_size: int = 32, there: Mapping[int, Line] | None = None
) -> Iterator[list[Line]]:
    """The lines of a job that are not there yet, some at a time: `row` and `text`, and `reason` of a row without one.

    Args:
        job: What is to be written.
        model: As for `job_of`; in eval mode while this runs.
        tokenizer: Its tokenizer.
        batch_size: Prompts in a batch.
        there: Lines that are written, by row.

    Raises:
        ConfigError: The batch size is below 1.
        ModelError: The model has no embedding for a token.
        TrainingError: The model puts out what is no number.
    """
    if batch_size < 1:
        raise ConfigError(f"the batch size is {batch_size}", "give 1 or more", "batch_size")
    there = there or {}
    unread = [{"row": row, "text": "", "reason": why} for row, why in sorted(job.unread.items()) if row not in there]
    if unread:
        yield unread
    writer = Writer(model, tokenizer, job)
    with progress() as shown, evaluating(model):
        bar = shown.add_task("writing", total=len(job.prompts), completed=len(there.keys() - job.unread.keys()))
        for batch in batches_of(job, batch_size):
            if lines := _missing(batch, writer, there):
                yield lines
                shown.advance(bar, len(lines))


Alike = list["Prompt"]


def batches_of(job: Job, batch_size: int) -> list[list[Alike]]:
    """All prompts in batches of like length, the longest first; those that are answered once stand together."""
    alike: dict[Any, Alike] = {}
    for prompt in job.prompts:
        alike.setdefault(job.key(prompt), []).append(prompt)
    rows = [{"input_ids": group[0].ids, "alike": group} for group in alike.values()]
    return [[row["alike"] for row in batch] for batch in length_batches(rows, batch_size)]


def _missing(batch: Sequence[Alike], writer: Writer, there: Mapping[int, Line]) -> list[Line]:
    """The lines of a batch that are not there; where one must be written all are, so that it comes out the same."""
    missing = [[one.row for one in group if one.row not in there] for group in batch]
    if not any(missing):
        return []
    known = [next((there[one.row]["text"] for one in group if one.row in there), None) for group in batch]
    texts = writer([group[0] for group in batch]) if None in known else known
    pairs = zip(missing, known, texts, strict=True)
    return [{"row": row, "text": made if text is None else text} for rows, text, made in pairs for row in rows]


class Writer:
    """A language model that answers batches of prompts: goes on with them or, an encoder-decoder, writes a text anew.

    Args:
        model: As for `job_of`.
        tokenizer: Its tokenizer.
        job: What is to be written.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, job: Job) -> None:
        self._model: Any = model
        self._tokenizer, self._decoding, self._ends = tokenizer, job.decoding, job.ends
        self._apart = is_encoder_decoder(model)
        own: Any = model.generation_config
        self._config = copy.deepcopy(own)
        settings = {name: value for name, value in to_json(job.decoding).items() if name not in ("seed", "rules")}
        for name, value in settings.items():
            setattr(self._config, name, value)
        self._config.do_sample = False  # `Draw` draws, row by row
        self._config.max_length = None
        self._config.num_return_sequences = 1
        self._config.return_dict_in_generate = False
        if self._apart and not _cache_fits(model):
            self._config.use_cache = False
        self._config.pad_token_id = tokenizer.pad_token_id
        self._config.eos_token_id = sorted(job.ends) or None
        self._config.repetition_penalty, self._config.no_repeat_ngram_size = 1.0, 0  # `SeenFrom` minds them
        if job.decoding.rules is not None:
            self._config.renormalize_logits = True
        drawing = {**own.to_dict(), **settings} if job.decoding.do_sample else {}
        self._warpers = [
            make(drawing[name]) for name, (make, idle) in WARPERS.items() if drawing.get(name) not in (None, idle)
        ]

    def __call__(self, prompts: Sequence[Prompt]) -> list[str]:
        """The text that follows each of some prompts."""
        device = next(self._model.parameters()).device
        longest = max(len(one.ids) for one in prompts)
        ids = self._padded([one.ids for one in prompts], self._tokenizer.pad_token_id).to(device)
        mask = self._padded([(1,) * len(one.ids) for one in prompts], 0).to(device)
        start = 1 if self._apart else longest
        check_ids(self._model, {"input_ids": ids})
        images = [one.images for one in prompts]
        seen = seen_beside(ids, images, self._tokenizer) if any(images) else {}
        with torch.no_grad():
            found = self._model.generate(
                input_ids=ids, attention_mask=mask, generation_config=self._config,
                logits_processor=self._processors(prompts, start), **seen,
            )  # fmt: skip
        return [self._text(one, row[start:]) for one, row in zip(prompts, found.tolist(), strict=True)]

    def _processors(self, prompts: Sequence[Prompt], start: int) -> LogitsProcessorList:
        """What is done to the logits of some prompts, whose answers begin at one place."""
        firsts = [0 if self._apart else start - len(one.ids) for one in prompts]
        made, how = LogitsProcessorList([Finite()]), self._decoding
        if (penalty := how.repetition_penalty or 1.0) != 1:
            made.append(SeenFrom(firsts, RepetitionPenaltyLogitsProcessor(penalty)))
        if how.no_repeat_ngram_size:
            places = firsts if how.rules is None else [start] * len(prompts)
            made.append(SeenFrom(places, NoRepeatNGramLogitsProcessor(how.no_repeat_ngram_size)))
        if how.do_sample:
            made.append(Draw(self._warpers, how.seed, [one.row for one in prompts], start))
        return made

    def _padded(self, rows: Sequence[Sequence[int]], filler: int) -> Int[Tensor, "row token"]:
        """Rows of numbers, padded on the left, or on the right for an encoder."""
        longest = max(map(len, rows))
        pads = [[filler] * (longest - len(row)) for row in rows]
        both = zip(pads, rows, strict=True)
        return torch.tensor([[*row, *pad] if self._apart else [*pad, *row] for pad, row in both])

    def _text(self, prompt: Prompt, ids: list[int]) -> str:
        """What was written, up to its end."""
        stop = next((place for place, token in enumerate(ids) if token in self._ends), len(ids))
        text: str = self._tokenizer.decode(ids[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if self._decoding.rules is not None:
            return text.split(BLANK_LINE)[0].strip()
        return text.strip() if prompt.lead is None else text.removeprefix(prompt.lead)


def _cache_fits(model: nn.Module) -> bool:
    """Whether `generate` gives every layer of a decoder a cache: T5's has as many as the encoder has layers."""
    stack, config = find_layers(model), text_config(model)
    said = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    return not isinstance(said, int) or said >= len(stack) - stack.split


# --- what is done to logits ----------------------------------------------------------------------


class Finite(LogitsProcessor):
    """Refuses what is no number: `generate` would write any token."""

    def __call__(
        self, input_ids: Int[Tensor, "beam token"], scores: Float[Tensor, "beam vocabulary"]
    ) -> Float[Tensor, "beam vocabulary"]:
        if not bool(scores.max(-1).values.isfinite().all()):
            raise TrainingError("the model's outputs are not finite: training diverged", "lower the learning rate")
        return scores


class SeenFrom(LogitsProcessor):
    """Another processor, which sees the tokens of every row from a place on: no padding, or no prompt.

    `generate` shows processors the padding, which would forbid the padding token, often the one that ends a text.

    Args:
        places: Where each row of the batch begins to be seen.
        processor: The other one.
    """

    def __init__(self, places: Sequence[int], processor: LogitsProcessor) -> None:
        self._places, self._processor = places, processor

    def __call__(
        self, input_ids: Int[Tensor, "beam token"], scores: Float[Tensor, "beam vocabulary"]
    ) -> Float[Tensor, "beam vocabulary"]:
        places = torch.tensor(self._places, device=scores.device)
        places = places.repeat_interleave(len(scores) // len(places))  # a row's beams stand together
        found = scores.clone()
        for place in set(self._places):
            rows = places == place
            found[rows] = self._processor(input_ids[rows, place:], scores[rows])
        return found


class Draw(LogitsProcessor):
    """Leaves one token per row, drawn: the first whose cumulated probability exceeds a number between 0 and 1.

    The number hangs on the seed, the row of the source and the step alone, so no row's text hangs on its batch.
    `generate` draws all rows of a batch from one generator, and so a text would change with the batch size.

    Args:
        warpers: What is done to the logits before.
        seed: Seed for all numbers.
        rows: The row of the source of each of the batch.
        start: Where what is written begins.
    """

    def __init__(self, warpers: Sequence[LogitsProcessor], seed: int, rows: Sequence[int], start: int) -> None:
        self._warpers, self._seed, self._rows, self._start = warpers, seed, rows, start

    def __call__(
        self, input_ids: Int[Tensor, "row token"], scores: Float[Tensor, "row vocabulary"]
    ) -> Float[Tensor, "row vocabulary"]:
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        exact = torch.float32 if scores.device.type == "mps" else torch.float64
        below = torch.softmax(scores.to(exact), -1).cumsum(-1)
        step = input_ids.shape[1] - self._start
        numbers = torch.tensor([[drawn(self._seed, row, step)] for row in self._rows], dtype=exact).to(scores.device)
        token = torch.searchsorted(below, numbers * below[:, -1:], right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


def drawn(seed: int, row: int, step: int) -> float:
    """A number from 0 to below 1 for a step of a row, which hangs on nothing else."""
    words = f"generate:{seed}:{row}:{step}".encode()
    return (int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "big") >> 11) / 2**53
