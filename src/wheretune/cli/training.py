"""The options of training: how the chosen layers are trained, and what need not be computed."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from wheretune.cli.groups import Group, group, option
from wheretune.errors import ConfigError
from wheretune.support.words import in_bytes

if TYPE_CHECKING:
    from wheretune.records.runs import CacheSettings, TrainSettings, WatchSettings


@group
class LoopOptions(Group):
    """How the chosen layers are trained, as far as all runs of a comparison share it."""

    panel: ClassVar[str] = "Training"
    epochs: Annotated[int, option("--epochs", "Passes over the training data.")] = 3
    batch_size: Annotated[int, option("--batch-size", "Texts in a batch, of all processes together.")] = 16
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
    warmup_steps: Annotated[
        float | None,
        option(
            "--warmup-steps", "In place of --warmup-ratio: steps that warm up; below 1, their share.", default="none"
        ),
    ] = None
    max_steps: Annotated[
        int | None, option("--max-steps", "In place of --epochs: steps of the optimizer.", default="none")
    ] = None
    gradient_accumulation_steps: Annotated[
        int, option("--gradient-accumulation-steps", "Batches whose gradients make one step.")
    ] = 1
    optim: Annotated[str, option("--optim", "The optimizer, by Transformers' name.")] = "adamw_torch_fused"
    lr_scheduler_type: Annotated[
        str, option("--lr-scheduler-type", "How the learning rate goes on after its peak, by Transformers' name.")
    ] = "linear"
    max_grad_norm: Annotated[
        float, option("--max-grad-norm", "What the norm of all gradients is clipped to; 0 clips nothing.")
    ] = 1.0
    eval_strategy: Annotated[
        Literal["no", "epoch", "steps"],
        option("--eval-strategy", "When --validation is judged in training; the weights that did best are then kept."),
    ] = "no"
    eval_steps: Annotated[
        int | None, option("--eval-steps", "With --eval-strategy steps: after how many each.", default="none")
    ] = None
    metric_for_best_model: Annotated[
        str | None,
        option("--metric-for-best-model", "What says which weights did best.", default="the task's main metric"),
    ] = None
    early_stopping_patience: Annotated[
        int | None,
        option("--early-stopping-patience", "Stop after so many judgements without a better one.", default="none"),
    ] = None
    trainer_arg: Annotated[
        list[str] | None,
        option(
            "--trainer-arg",
            "Any other of transformers.TrainingArguments, such as adam_epsilon=1e-6; may be repeated.",
            default="none",
            metavar="NAME=VALUE",
        ),
    ] = None
    weight_decay: Annotated[
        float, option("--weight-decay", "How strongly weights are drawn to 0 (AdamW's weight decay).")
    ] = 0.01

    def settings(self, savings: SavingOptions, **own: Any) -> TrainSettings:
        """How training goes.

        Raises:
            ConfigError: A number is out of range.
        """
        from wheretune.records.runs import TrainSettings

        same = {one.name: getattr(self, one.name) for one in fields(LoopOptions) if one.name != "trainer_arg"}
        return TrainSettings(
            **same | self._as_trainer_says_it(),
            cache_dtype=savings.cache_dtype,
            frozen_dropout=savings.frozen_dropout,
            all_tokens=savings.all_tokens,
            packed=savings.pack,
            trainer_args=self._rest(),
            **own,
        )

    def _as_trainer_says_it(self) -> dict[str, Any]:
        """Settings that Trainer's scripts write in two ways: -1 steps are none, and less than 1 that warms up a share.

        Raises:
            ConfigError: A number of steps is not whole.
        """
        made: dict[str, Any] = {} if self.max_steps != -1 else {"max_steps": None}
        steps = self.warmup_steps
        if steps is None:
            return made
        if 0 < steps < 1:
            return made | {"warmup_steps": None, "warmup_ratio": steps}
        if steps % 1:
            raise ConfigError(f"--warmup-steps is {steps}", "give a whole number, or a share below 1")
        return made | {"warmup_steps": int(steps)}

    def _rest(self) -> dict[str, Any]:
        """The rest of Trainer's arguments, each of its own type."""
        from wheretune.training.arguments import typed

        pairs = [one.partition("=") for one in self.trainer_arg or ()]
        if not all(equals for _, equals, _ in pairs):
            raise ConfigError(f"--trainer-arg is {', '.join(self.trainer_arg or ())!r}", "write name=value")
        return typed({name.strip().replace("-", "_"): value for name, _, value in pairs})


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


@group
class WatchOptions(Group):
    """How a training is watched and kept; it changes no result."""

    panel: ClassVar[str] = "Training"
    report_to: Annotated[
        str, option("--report-to", "Trackers with commas, such as wandb or tensorboard; all that are there, or none.")
    ] = "none"
    logging_steps: Annotated[
        int | None,
        option("--logging-steps", "Steps between two lines about the loss.", default="none; 10 with --report-to"),
    ] = None
    save_strategy: Annotated[
        Literal["no", "epoch", "steps"] | None,
        option(
            "--save-strategy",
            "When a checkpoint is written, from which a stopped run goes on.",
            default="epoch; steps with --save-steps",
        ),
    ] = None
    save_steps: Annotated[
        int | None, option("--save-steps", "Steps from one checkpoint to the next.", default="none")
    ] = None
    save_total_limit: Annotated[
        int, option("--save-total-limit", "Checkpoints kept while the run goes on; all go when it ends.")
    ] = 1
    gradient_checkpointing: Annotated[
        bool,
        option(
            "--gradient-checkpointing",
            "Run layers again in the backward pass, from the lowest trained one up, to save memory.",
        ),
    ] = False
    compile: Annotated[
        bool,
        option(
            "--compile",
            "Compile layers from the lowest trained one up (torch.compile), once for all lengths; worth it in long "
            "trainings.",
        ),
    ] = False
    fsdp: Annotated[
        bool,
        option("--fsdp", "Shard the model over the processes that a launcher started, layer by layer (FSDP2)."),
    ] = False

    def settings(self) -> WatchSettings:
        """How it is watched and kept.

        Raises:
            ConfigError: A number is out of range, or these do not go together.
        """
        from wheretune.records.runs import WatchSettings

        names = tuple(name.strip() for name in self.report_to.split(",") if name.strip() not in ("", "none"))
        return WatchSettings(
            report_to=names,
            logging_steps=self.logging_steps,
            save_strategy=self.save_strategy or ("epoch" if self.save_steps is None else "steps"),
            save_steps=self.save_steps,
            save_total_limit=self.save_total_limit,
            gradient_checkpointing=self.gradient_checkpointing,
            compile=self.compile,
            fsdp=self.fsdp,
        )


@group
class HubOptions(Group):
    """Where a tuned model goes beside its folder."""

    panel: ClassVar[str] = "Output"
    push_to_hub: Annotated[
        bool, option("--push-to-hub", "Upload what was tuned, and its card, to the hub; private if it is new.")
    ] = False
    hub_model_id: Annotated[
        str | None,
        option("--hub-model-id", "Its name there, as OWNER/NAME.", default="the folder's", metavar="NAME"),
    ] = None

    def checked(self) -> None:
        """Makes sure, before any work is done, that something can be uploaded.

        Raises:
            ConfigError: Nobody is logged in, or only the name was given.
        """
        if self.hub_model_id is not None and not self.push_to_hub:
            raise ConfigError("--hub-model-id has no effect without --push-to-hub", "add it")
        if self.push_to_hub:
            from huggingface_hub import get_token

            if get_token() is None:
                raise ConfigError("--push-to-hub: nobody is logged in to the hub", "run `hf auth login` first")

    def push(self, folder: Path) -> str | None:
        """Uploads a tuned model, and says where it is."""
        if not self.push_to_hub:
            return None
        from wheretune.delta.sharing import push_to_hub

        return push_to_hub(folder, self.hub_model_id or folder.resolve().name)


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
        try:
            return None if self.cache_limit is None else in_bytes(self.cache_limit)
        except ValueError as error:
            raise ConfigError(f"--cache-limit is {self.cache_limit!r}", "give a size such as 500MB or 20GB") from error


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
