"""A run: its settings and what refuses them, all it takes to repeat it, its result, and what a saved delta is of."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from wheretune.errors import ConfigError
from wheretune.records.base import Spec, from_json, read_json, record, require, to_json
from wheretune.records.data import DataInfo, DataSpec, check_seed
from wheretune.records.model import ModelSpec, check_forward_only
from wheretune.records.plan import Plan
from wheretune.records.scores import Reading

Where = Literal["auto", "memory", "disk", "off"]


@record
class TrainSettings:
    """How the chosen layers are trained.

    Attributes:
        epochs: Passes over the data.
        learning_rate: The peak, falling linearly to 0; None takes what suits the plan, see `automatic.learning_rate`.
        batch_size: Texts in a batch.
        warmup_ratio: The share of the steps in which the learning rate rises.
        weight_decay: AdamW's.
        betas: AdamW's.
        seed: Seed for all random draws.
        tokens_per_batch: Instead of `batch_size`, at most so many tokens in a batch, with the padding.
        cache_dtype: Precision of the states that the prefix cache holds; `bf16` rounds them.
        frozen_dropout: Frozen layers drop out as trained ones do (stock behaviour), and nothing of them is cached.
        all_tokens: The last layer computes all tokens, not only the one that is read.
        packed: The texts of a batch run one after the other, without padding; the last layer then computes all tokens.
        gradient_accumulation_steps: Batches whose gradients make one step of the optimizer.
        max_steps: Steps of the optimizer, in place of `epochs`.
        warmup_steps: Steps in which the learning rate rises, in place of `warmup_ratio`.
        optim: Transformers' name of the optimizer.
        lr_scheduler_type: Transformers' name of how the learning rate goes on after its peak.
        max_grad_norm: What the norm of all gradients is clipped to; 0 clips nothing.
        eval_strategy: When the validation data is judged in training: never, after every epoch or every `eval_steps`.
            Where it is judged, the weights that did best are those that are kept.
        eval_steps: Steps from one such judgement to the next.
        metric_for_best_model: Which metric says which weights are best; the task's main one by default.
        early_stopping_patience: Judgements in a row without a better one, after which training stops.
        trainer_args: The rest of `transformers.TrainingArguments`, by name.
    """

    epochs: int = 3
    learning_rate: float | None = None
    batch_size: int = 16
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    seed: int = 0
    tokens_per_batch: int | None = None
    cache_dtype: Literal["fp32", "bf16"] = "fp32"
    frozen_dropout: bool = False
    all_tokens: bool = False
    packed: bool = False
    gradient_accumulation_steps: int = 1
    max_steps: int | None = None
    warmup_steps: int | None = None
    optim: str = "adamw_torch_fused"
    lr_scheduler_type: str = "linear"
    max_grad_norm: float = 1.0
    eval_strategy: Literal["no", "epoch", "steps"] = "no"
    eval_steps: int | None = None
    metric_for_best_model: str | None = None
    early_stopping_patience: int | None = None
    trainer_args: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        tokens, rate = self.tokens_per_batch, self.learning_rate
        for name in ("gradient_accumulation_steps", "max_steps", "eval_steps", "early_stopping_patience"):
            at_least(1, name, getattr(self, name))
        at_least(0, "warmup_steps", self.warmup_steps)
        at_least(0, "max_grad_norm", self.max_grad_norm)
        self._check_judging()
        for name, value, fits, remedy in (
            ("epochs", self.epochs, self.epochs >= 1, "give 1 or more"),
            ("learning_rate", rate, rate is None or 0 < rate < 10, "give a number above 0 and below 10"),
            ("batch_size", self.batch_size, self.batch_size >= 1, "give 1 or more"),
            ("warmup_ratio", self.warmup_ratio, 0 <= self.warmup_ratio < 1, "give a share from 0 to below 1"),
            ("tokens_per_batch", tokens, tokens is None or tokens >= 1, "give 1 or more"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0, "give 0 or more"),
            ("betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "give shares from 0 to below 1"),
        ):
            if not fits:
                raise ConfigError(f"{name.replace('_', ' ')} is {value}", remedy, name)
        check_seed(self.seed)

    def _check_judging(self) -> None:
        """Refuses settings of a judgement in training that does not take place."""
        for name in ("eval_steps", "metric_for_best_model", "early_stopping_patience"):
            if getattr(self, name) is not None and self.eval_strategy == "no":
                raise ConfigError(
                    f"{name} has no effect where nothing is judged in training", "give a strategy (eval_strategy)", name
                )
        if self.eval_strategy == "steps" and self.eval_steps is None:
            raise ConfigError(
                "it is not said after how many steps to judge", "give a number (eval_steps)", "eval_steps"
            )
        if self.eval_strategy == "epoch" and self.eval_steps is not None:
            raise ConfigError("eval_steps has no effect with epochs", "take steps (eval_strategy)", "eval_steps")


def at_least(least: int, name: str, value: float | None) -> None:
    """Refuses a number that is too small; None is none.

    Raises:
        ConfigError: It is below `least`.
    """
    if value is not None and value < least:
        raise ConfigError(f"{name.replace('_', ' ')} is {value}", f"give {least} or more", name)


@record
class WatchSettings:
    """How a training is watched and kept. It changes no result.

    Attributes:
        report_to: Trackers that Transformers knows: `wandb`, `tensorboard`, `mlflow` ...
        logging_steps: Steps from one line about the loss to the next; None writes none, or 10 for a tracker.
        save_strategy: When a checkpoint is written, from which a stopped run goes on.
        save_steps: Steps from one to the next.
        save_total_limit: How many are kept while the run goes on; all go when it ends.
        gradient_checkpointing: Layers from the lowest trained one up run again in the backward pass, to save memory.
        compile: Layers from the lowest trained one up are compiled by `torch.compile`.
        fsdp: Several processes hold shards of the model, not the whole; see `model.sharding`.
    """

    report_to: tuple[str, ...] = ()
    logging_steps: int | None = None
    save_strategy: Literal["no", "epoch", "steps"] = "epoch"
    save_steps: int | None = None
    save_total_limit: int = 1
    gradient_checkpointing: bool = False
    compile: bool = False
    fsdp: bool = False

    def __post_init__(self) -> None:
        for name in ("logging_steps", "save_steps", "save_total_limit"):
            at_least(1, name, getattr(self, name))
        if self.save_strategy != "steps" and self.save_steps is not None:
            raise ConfigError("save_steps has no effect without steps", "take steps (save_strategy)", "save_steps")


@record
class CacheSettings:
    """Where the states that enter the lowest trained layer are kept. It changes no result.

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
            raise ConfigError(f"the prefix cache may take {self.limit} bytes", "give 0 or more", "cache_limit")
        if self.where in ("memory", "off") and (self.keep or self.folder is not None):
            raise ConfigError(f"with a cache in {self.where} nothing lies in a folder", "cache on disk", "cache_prefix")
        if self.keep and self.folder is None:
            raise ConfigError("the cache would be kept where no other run looks", "name a folder for it", "keep_cache")


def check_cache(settings: TrainSettings, cache: CacheSettings) -> None:
    """Refuses a prefix cache when the inputs change from epoch to epoch.

    Raises:
        ConfigError: Frozen layers drop out, and a cache was asked for.
    """
    if settings.frozen_dropout and cache.where in ("memory", "disk"):
        raise ConfigError(
            f"with dropout in frozen layers the prefix differs in every epoch, and the cache is {cache.where}",
            "leave out the one or the other",
            "cache_prefix",
        )


@record
class RunSpec:
    """Everything needed to repeat a run: model and data, one choice on every axis, settings.

    Attributes:
        model: Which model, and how it is opened.
        train: What is trained on (and scored on, unless `plan` is given).
        validation: Data that is judged after training.
        test: Likewise.
        scorer: What scores the layers.
        reading: How the texts are read to be scored.
        selector: What chooses by the scores.
        tuner: How the chosen layers are tuned.
        head: What sits on top; None takes the task's own.
        schedule: When they train.
        metrics: Names of metrics beside those of the task.
        settings: How they are trained.
        plan: A choice that was made earlier, in place of scorer, selector, tuner, head and schedule.
    """

    model: ModelSpec
    train: DataSpec
    validation: DataSpec | None = None
    test: DataSpec | None = None
    scorer: Spec = field(default_factory=lambda: Spec("cosine-centrality"))
    reading: Reading = field(default_factory=Reading)
    selector: Spec = field(default_factory=lambda: Spec("block-highest"))
    tuner: Spec = field(default_factory=lambda: Spec("full"))
    head: Spec | None = None
    schedule: Spec = field(default_factory=lambda: Spec("static"))
    metrics: tuple[str, ...] = ()
    settings: TrainSettings = field(default_factory=TrainSettings)
    plan: Plan | None = None

    def __post_init__(self) -> None:
        check_forward_only(self.model, ("training",))


# what a folder means that an earlier version began, where it does not say
UNSAID = {
    "settings": to_json(TrainSettings()),
    "model": {"placement": None},
    **{split: {"streaming": None} for split in ("train", "validation", "test")},
}


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
        plan: What was tuned.
        data: By split (`train`, `validation`, `test`), what was read.
        metrics: By split, the task's main metric first.
        trainable_parameters: Counted on the model that was trained.
        seconds: Wall-clock seconds: `train`, `cache` (making the prefix cache), `order` (finding which rows a schedule
            reads when), `evaluate`.
        peak_memory_bytes: Highest resident memory of the process while it trained (on CUDA: of the device).
        steps: Optimizer steps.
        learning_rate: The peak that was taken, also where the spec left it open.
        versions: The packages that computed it.
        provenance: When, where and from which state of the code.
        saved: What was left out of the computation and why, or why nothing was.
        predictions: By split, the name of the file beside the result with the prediction of every row.
        format: The version of this layout.
    """

    spec: RunSpec
    plan: Plan
    data: dict[str, DataInfo]
    metrics: dict[str, tuple[Metric, ...]]
    trainable_parameters: int
    seconds: dict[str, float]
    peak_memory_bytes: int | None
    steps: int
    versions: dict[str, str]
    provenance: dict[str, str]
    saved: dict[str, str] = field(default_factory=dict)
    predictions: dict[str, str] = field(default_factory=dict)
    learning_rate: float | None = None
    format: Literal[2] = 2

    def __post_init__(self) -> None:
        require("train" in self.data and "train" in self.seconds, "it says nothing of its training")

    @property
    def training_seconds(self) -> float:
        """Seconds of training and, before it, of making the prefix cache and of finding the order of the rows."""
        return self.seconds["train"] + self.seconds.get("cache", 0.0) + self.seconds.get("order", 0.0)


def load_result(path: str | Path) -> RunResult:
    """Reads the result of a run.

    Raises:
        ConfigError: There is no such file, it holds no result, or wheretune 0.1.0 wrote it.
    """
    content = read_json(path)
    if isinstance(content, dict) and "spec" in content and "format" not in content:
        raise ConfigError(
            f"{path} is a result of wheretune 0.1.0",
            "its tuned model still opens (evaluate, predict, merge); to tune again, take another folder or start over",
        )
    return from_json(RunResult, content, str(path))


@record
class Manifest:
    """What a saved delta is of, and what it takes to use it.

    Attributes:
        format: The version of the layout.
        plan: Names the base model, its revision and the hash of its weights.
        data: The training data's task, classes and columns; None where a user's own Trainer trained.
        max_length: Tokens that texts were cut to.
        sha256: Over the tensors' file and the adapter's.
    """

    format: Literal[2]
    plan: Plan
    data: DataInfo | None
    max_length: int | None
    sha256: str


def as_spec(content: Any, origin: str) -> RunSpec:
    """The run that a YAML or JSON file describes, or that a result was made by.

    Raises:
        ConfigError: It describes none.
    """
    inner = content.get("spec") if isinstance(content, dict) else None
    return from_json(RunSpec, inner if isinstance(inner, dict) else content, origin)
