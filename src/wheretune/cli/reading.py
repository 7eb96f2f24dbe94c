"""The options of reading texts to score them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from wheretune.cli.groups import Group, group, option

if TYPE_CHECKING:
    from wheretune.records.scores import Reading


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
