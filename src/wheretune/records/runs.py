"""A run: its settings and what refuses them, its result, and what a saved delta is of."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Literal

from wheretune.errors import ConfigError
from wheretune.records.base import record
from wheretune.records.data import DataInfo
from wheretune.records.plan import Plan


@record
class TrainSettings:
    """How the chosen layers are trained; the defaults are those of PRiSM and its journal version.

    Attributes:
        epochs: Passes over the data.
        learning_rate: The peak, falling linearly to 0.
        batch_size: Texts in a batch.
        warmup_ratio: The share of the steps in which the learning rate rises.
        weight_decay: AdamW's.
        betas: AdamW's.
        seed: Of everything drawn at random.
        tokens_per_batch: Instead of `batch_size`, at most so many tokens in a batch, with the padding.
        cache_dtype: Of the states that the prefix cache holds; `bf16` rounds them.
        frozen_dropout: Frozen layers drop out as trained ones do (stock behaviour), and nothing of them is cached.
        all_tokens: The last layer computes all tokens, not only the one that is read.
        packed: The texts of a batch run one after the other, without padding; the last layer then computes all tokens.
    """

    epochs: int = 3
    learning_rate: float = 5e-5
    batch_size: int = 16
    warmup_ratio: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    seed: int = 0
    tokens_per_batch: int | None = None
    cache_dtype: Literal["fp32", "bf16"] = "fp32"
    frozen_dropout: bool = False
    all_tokens: bool = False
    packed: bool = False


@record
class RunSpec:
    """Everything needed to repeat a run: the plan (which names the model), the data (by hash) and the settings."""

    plan: Plan
    train: DataInfo
    validation: DataInfo | None
    test: DataInfo | None
    settings: TrainSettings


@record
class Metric:
    """A number with what it takes to read it: how many samples, and which way is better."""

    name: str
    value: float
    n: int
    higher_is_better: bool = True

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4f} (n = {self.n})"


@record
class RunResult:
    """What a finished run gave.

    Attributes:
        spec: The run.
        metrics: Per split, the task's main metric first.
        trainable_parameters: Counted on the model that was trained.
        seconds: Wall-clock seconds: `train`, `cache` (making the prefix cache), `evaluate`.
        peak_memory_bytes: Highest resident memory of the process while it trained (on CUDA: of the device).
        steps: Optimizer steps.
        versions: The packages that computed it.
        provenance: When, where and from which state of the code.
        saved: What was left out of the computation and why, or why nothing was.
    """

    spec: RunSpec
    metrics: dict[str, tuple[Metric, ...]]
    trainable_parameters: int
    seconds: dict[str, float]
    peak_memory_bytes: int | None
    steps: int
    versions: dict[str, str]
    provenance: dict[str, str]
    saved: dict[str, str] = field(default_factory=dict)

    @property
    def training_seconds(self) -> float:
        """Training and, before it, making the prefix cache."""
        return self.seconds["train"] + self.seconds.get("cache", 0.0)


@record
class Manifest:
    """What a saved delta is of, and what it takes to use it.

    Attributes:
        format: The version of the layout.
        plan: Names the base model, its revision and the hash of its weights.
        data: The training data's task, classes and columns; None where a user's own Trainer trained.
        max_length: Tokens that texts were cut to.
        sha256: Of the tensors' file.
    """

    format: int
    plan: Plan
    data: DataInfo | None
    max_length: int | None
    sha256: str


def check_settings(settings: TrainSettings) -> None:
    """Refuses settings that cannot train anything.

    Raises:
        ConfigError: The option is named.
    """
    tokens = settings.tokens_per_batch
    for name, value, fine in (
        ("--epochs", settings.epochs, settings.epochs >= 1),
        ("--learning-rate", settings.learning_rate, 0 < settings.learning_rate < 10),
        ("--batch-size", settings.batch_size, settings.batch_size >= 1),
        ("--warmup-ratio", settings.warmup_ratio, 0 <= settings.warmup_ratio < 1),
        ("--tokens-per-batch", tokens, tokens is None or tokens >= 1),
        ("--seed", settings.seed, 0 <= settings.seed < 2**32),
    ):
        if not fine:
            raise ConfigError(f"{name} is {value}", "give a positive number (a warm-up ratio and a seed may be 0)")


def check_cache(settings: TrainSettings, cache: CacheSettings) -> None:
    """Refuses a cache of what is never twice the same.

    Raises:
        ConfigError: Both options are named.
    """
    if settings.frozen_dropout and cache.where in ("memory", "disk"):
        raise ConfigError(
            f"with --frozen-dropout the prefix is another one in every epoch, and --cache-prefix is {cache.where}",
            "leave out the one or the other",
        )


Where = Literal["auto", "memory", "disk", "off"]


@record
class CacheSettings:
    """Where the states that enter the lowest trained layer are kept.

    Attributes:
        where: `auto` decides by size, free memory and disk, and measured speed; or `memory`, `disk` or `off`.
        folder: For a cache on disk; the run's own folder by default.
        limit: Bytes it may take at most; half of what is free by default.
        keep: Leave a cache on disk for the next run.
    """

    where: Where = "auto"
    folder: Path | None = None
    limit: int | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        if self.where not in ("auto", "memory", "disk", "off"):
            raise ConfigError(f"there is no cache in {self.where!r}", "give auto, memory, disk or off", "cache_prefix")
        if self.limit is not None and self.limit < 0:
            raise ConfigError(f"the prefix cache may take {self.limit} bytes", "give 0 or more")
        if self.where in ("memory", "off") and (self.keep or self.folder is not None):
            raise ConfigError(f"with --cache-prefix {self.where} nothing lies in a folder", "give --cache-prefix disk")
        if self.keep and self.folder is None:
            raise ConfigError("--keep-cache would keep it where no other run looks", "give --cache-dir")
