"""The options of training: how the chosen layers are trained, and what need not be computed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from wheretune.cli.groups import Group, group, option
from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.records.runs import CacheSettings, TrainSettings


@group
class LoopOptions(Group):
    """How the chosen layers are trained, as far as all runs of a comparison share it."""

    panel: ClassVar[str] = "Training"
    epochs: Annotated[int, option("--epochs", "Passes over the training data.")] = 3
    batch_size: Annotated[int, option("--batch-size", "Texts in a batch.")] = 16
    tokens_per_batch: Annotated[
        int | None,
        option(
            "--tokens-per-batch",
            "Instead of --batch-size: so many tokens at most, with padding; a longer text stands alone.",
            default="none",
            metavar="N",
        ),
    ] = None
    warmup_ratio: Annotated[float, option("--warmup-ratio", "Share of the steps that warm up.")] = 0.1
    weight_decay: Annotated[
        float, option("--weight-decay", "How strongly weights are drawn to 0 (AdamW's weight decay).")
    ] = 0.01

    def settings(self, savings: SavingOptions, **own: Any) -> TrainSettings:
        """How training goes.

        Raises:
            ConfigError: A number is out of range.
        """
        from wheretune.records.runs import TrainSettings

        return TrainSettings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            tokens_per_batch=self.tokens_per_batch,
            warmup_ratio=self.warmup_ratio,
            weight_decay=self.weight_decay,
            cache_dtype=savings.cache_dtype,
            frozen_dropout=savings.frozen_dropout,
            all_tokens=savings.all_tokens,
            packed=savings.pack,
            **own,
        )


@group
class TrainingOptions(LoopOptions):
    """How the chosen layers are trained."""

    learning_rate: Annotated[
        str, option("--learning-rate", "Peak learning rate; auto takes what suits tuner, layers and model.")
    ] = "auto"


def rates_of(text: str, flag: str = "--learning-rates") -> tuple[float | None, ...]:
    """Learning rates with commas between them, the lowest first, each once; `auto` is None.

    Raises:
        ConfigError: One is no number.
    """
    try:
        rates = {None if part.strip() == "auto" else float(part) for part in text.split(",") if part.strip()}
    except ValueError as error:
        raise ConfigError(f"{flag} is {text!r}", "give a number such as 2e-4, or auto") from error
    return tuple(sorted(rates, key=lambda rate: rate or 0.0))


def rate_of(text: str) -> float | None:
    """One learning rate; `auto` is None.

    Raises:
        ConfigError: It is no number.
    """
    rates = rates_of(text, "--learning-rate")
    if len(rates) != 1:
        raise ConfigError(f"--learning-rate is {text!r}", "give a number such as 2e-4, or auto")
    return rates[0]


def rate_in_words(rate: float | None) -> str:
    """As it is written on the command line."""
    return "auto" if rate is None else f"{rate:g}"


@group
class SavingOptions(Group):
    """What training need not compute."""

    panel: ClassVar[str] = "Savings"
    frozen_dropout: Annotated[
        bool,
        option("--frozen-dropout", "Let frozen layers drop out as stock Trainer does; nothing is cached then."),
    ] = False
    all_tokens: Annotated[
        bool, option("--all-tokens", "Let the last layer compute all tokens, not only the one that is read.")
    ] = False
    pack: Annotated[
        bool,
        option(
            "--pack",
            "Put the texts of a batch one after the other instead of padding them; for decoders, and "
            "worth it with flash attention on a GPU.",
        ),
    ] = False
    cache_dtype: Annotated[
        Literal["fp32", "bf16"], option("--cache-dtype", "Precision of the cached states; bf16 halves their size.")
    ] = "fp32"


@group
class CacheOptions(Group):
    """Where the states of the frozen prefix are kept; it changes no result."""

    panel: ClassVar[str] = "Savings"
    cache_prefix: Annotated[
        Literal["auto", "memory", "disk", "off"],
        option(
            "--cache-prefix",
            "Where the states that enter the lowest trained layer are kept, so that the frozen "
            "layers below it run once only; auto goes by size, free space and measured speed.",
        ),
    ] = "auto"
    cache_limit: Annotated[
        str | None,
        option(
            "--cache-limit",
            "How much the cached states may take, such as 500MB or 20GB.",
            default="half of what is free",
            metavar="SIZE",
        ),
    ] = None

    def settings(self) -> CacheSettings:
        """Where they are kept.

        Raises:
            ConfigError: These do not go together.
        """
        from wheretune.records.runs import CacheSettings

        return CacheSettings(self.cache_prefix, limit=self._bytes())

    def _bytes(self) -> int | None:
        """The limit in bytes."""
        if self.cache_limit is None:
            return None
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", self.cache_limit, re.IGNORECASE)
        if found is None:
            raise ConfigError(f"--cache-limit is {self.cache_limit!r}", "give a size such as 500MB or 20GB")
        return int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " "))


@group
class KeptCacheOptions(CacheOptions):
    """The same for one run, whose cache may be left for the next."""

    cache_dir: Annotated[
        Path | None,
        option(
            "--cache-dir",
            "With --cache-prefix auto or disk: the folder of the cached states.",
            default="in --output",
            metavar="DIR",
        ),
    ] = None
    keep_cache: Annotated[
        bool,
        option("--keep-cache", "Leave the cached states on disk for the next run on the same data; needs --cache-dir."),
    ] = False

    def settings(self) -> CacheSettings:
        """Where they are kept.

        Raises:
            ConfigError: These do not go together.
        """
        from wheretune.records.runs import CacheSettings

        return CacheSettings(self.cache_prefix, self.cache_dir, self._bytes(), self.keep_cache)
