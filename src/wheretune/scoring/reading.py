"""One reading of the data: batches of encoded rows, for as many passes as it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wheretune.data.batches import CHUNK, length_batches, stream_chunks
from wheretune.data.texts import shuffled, take
from wheretune.data.tokens import learned_tokens
from wheretune.errors import DataError
from wheretune.model.inputs import max_tokens
from wheretune.tasks.base import task_of
from wheretune.tasks.streaming import StreamedTexts, beginning_of

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.model.opening import Opened
    from wheretune.records.scores import Reading
    from wheretune.tasks.base import Task

LOOK_EVERY = 4  # batches between two looks at whether the choice is settled


@dataclass(frozen=True)
class Place:
    """How far a pass has read.

    Attributes:
        chunks: Chunks that it has begun.
        batches: Batches of the last of these.
        samples: Samples in all.
        tokens: How many tokens they have together.
        learned: How many of these are learned, where the task reads every token.
    """

    chunks: int = 0
    batches: int = 0
    samples: int = 0
    tokens: int = 0
    learned: int = 0


START: Place = Place()


@dataclass(eq=False)
class Texts:
    """The data as it is read: every call of `batches` is one pass over it.

    Attributes:
        data: The texts, all of them or as they stream.
        tokenizer: The model's tokenizer.
        reading: Says how many tokens a text is cut to, and how many texts are in a batch.
        shard: Which of how many shards is read, counted from 1.
        chunk: Batches that are tokenised and sorted by length together.
        place: How far the latest pass has read.
        time_to_look: Whether it is time to look if the choice is settled: a chunk is over.
    """

    data: TextData | StreamedTexts
    tokenizer: Any
    reading: Reading
    shard: tuple[int, int]
    chunk: int
    place: Place = START
    time_to_look: bool = False

    @classmethod
    def of(
        cls, opened: Opened, data: TextData | StreamedTexts, reading: Reading, shard: tuple[int, int], settling: bool
    ) -> Texts:
        """The texts as a model reads them, cut to what it can read; in random order where the pass may stop early.

        Where not all are to be read, they are drawn by the seed and stay in their order. A stream has its own order.
        """
        asked = data.info.spec.max_length if reading.max_length is None else reading.max_length
        reading = replace(reading, max_length=max_tokens(opened.stack.base, opened.tokenizer, asked))
        chunk = LOOK_EVERY if settling else CHUNK
        if isinstance(data, StreamedTexts):
            return cls(data, opened.tokenizer, reading, shard, chunk)
        if reading.most is not None and reading.most < len(data):
            drawn = np.random.default_rng(reading.seed).choice(len(data), reading.most, replace=False)
            data = take(data, sorted(drawn.tolist()))
        return cls(shuffled(data, reading.seed) if settling else data, opened.tokenizer, reading, shard, chunk)

    @property
    def beginning(self) -> TextData:
        """The first texts, which say what the task is; all where they do not stream."""
        return beginning_of(self.data)

    @property
    def total(self) -> int | None:
        """How many texts there are; None as long as a stream has not ended."""
        return self.data.total if isinstance(self.data, StreamedTexts) else len(self.data)

    @property
    def steps(self) -> int | None:
        """About how many batches a pass has."""
        return None if self.total is None else -(-self.total // (self.reading.batch_size * self.shard[1]))

    @property
    def task(self) -> Task:
        """What the data teaches."""
        return task_of(self.beginning.info)

    def encode(self, data: TextData) -> Sequence[dict[str, Any]]:
        """The encoded rows of some of the texts."""
        assert self.reading.max_length is not None
        return self.task.encode(data, self.tokenizer, self.reading.max_length)

    def batches(self, after: Place = START) -> Iterator[list[dict[str, Any]]]:
        """Batches of encoded rows: all, or those that are left after a place.

        Raises:
            DataError: There is none in this shard.
        """
        self.place = after
        size = self.reading.batch_size
        for number, batches in enumerate(self._chunks(size, max(after.chunks - 1, 0)), 1):
            for count, rows in enumerate(batches, 1):
                if (number, count) <= (after.chunks, after.batches):
                    continue
                here = self.place
                self.place = Place(
                    number,
                    count,
                    here.samples + len(rows),
                    here.tokens + sum(len(row["input_ids"]) for row in rows),
                    here.learned + sum(map(learned_tokens, rows)),
                )
                self.time_to_look = count == len(batches)
                yield rows
            batches.clear()  # before the next chunk is made
        if self.place.samples == 0:
            number, shards = self.shard
            raise DataError(f"shard {number} of {shards} has no batch", "make fewer shards or smaller batches", "shard")

    def _chunks(self, size: int, read: int) -> Iterator[list[list[dict[str, Any]]]]:
        """The batches of each chunk, as `stream_chunks` gives them; the first `read` come without."""
        if not isinstance(self.data, StreamedTexts):
            yield from stream_chunks(self.data, self.encode, size, self.chunk, self.shard, read)
            return
        for number, part in enumerate(self.data.parts(self.chunk * size)):
            yield [] if number < read else length_batches(self.encode(part), size)
