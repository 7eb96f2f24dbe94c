"""The options of reading texts to score them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from wheretune.cli.groups import Group, group, option, refuse
from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.records.data import DataSpec
    from wheretune.records.scores import Reading

BUFFER = 10_000  # rows that the next one is drawn from


@group
class ReadingOptions(Group):
    """How texts are read to be scored."""

    panel: ClassVar[str] = "Reading"
    pooling: Annotated[
        Literal["token", "mean"],
        option("--pooling", "Representative token ([CLS] or last), or the mean over tokens."),
    ] = "token"
    last_state: Annotated[
        Literal["normed", "raw"],
        option("--last-state", "The last state after the final norm (as Transformers gives it), or before."),
    ] = "normed"
    standardise: Annotated[
        bool,
        option(
            "--standardise",
            "Bring every dimension to mean 0 and deviation 1 first, so that a few rogue dimensions "
            "do not decide every cosine. Reads the data twice.",
        ),
    ] = False
    batch_size: Annotated[int, option("--batch-size", "Texts in a batch.")] = 32

    def reading(self, seed: int, max_length: int | None = None) -> Reading:
        """How texts are read.

        Raises:
            ConfigError: A number is out of range.
        """
        from wheretune.records.scores import Reading

        return Reading(self.batch_size, self.pooling, self.last_state, self.standardise, seed, max_length)


@group
class StreamOptions(Group):
    """Rows that are read as a pass needs them."""

    panel: ClassVar[str] = "Data"
    streaming: Annotated[
        bool, option("--streaming", "Read rows only as the pass asks for them; with --until-settled that may be few.")
    ] = False
    shuffle_buffer: Annotated[
        int | None,
        option(
            "--shuffle-buffer",
            "With --streaming: rows that are held, from which the next is drawn at random; 0 keeps the order.",
            default=f"{BUFFER} where not all rows may be read, or 0",
        ),
    ] = None

    def over(self, context: typer.Context, data: DataSpec, *, settling: bool) -> DataSpec:
        """The data, streamed where that was asked for.

        Raises:
            ConfigError: It goes not with shards, or a number is below 0.
        """
        if not self.streaming:
            refuse(context, ("shuffle_buffer",), "all rows read first (add --streaming)")
            return data
        refuse(context, ("shard", "shards"), "--streaming")
        if self.shuffle_buffer is None:
            return replace(data, streaming=BUFFER if settling or data.max_samples is not None else 0)
        if self.shuffle_buffer < 0:
            raise ConfigError(f"--shuffle-buffer is {self.shuffle_buffer}", "give 0 or more")
        return replace(data, streaming=self.shuffle_buffer)
