"""What Trainer is told: our settings in its words, and what of its own may be set beside them.

Transformers is opened when a function needs it, so that a command line may refuse what is wrong before.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from wheretune import catalog
from wheretune.errors import ConfigError
from wheretune.scheduling import check_compilable
from wheretune.support.processes import world_size
from wheretune.support.words import first_line

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

    from wheretune.records.base import Spec
    from wheretune.records.runs import CacheSettings, RunSpec, TrainSettings, WatchSettings

OWN = {  # what has a setting of ours
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "data_seed": "seed",
    "output_dir": "output",
    "bf16": "dtype",
    "fp16": "dtype",
    "use_cpu": "device",
    "fsdp": "fsdp",
    "torch_compile": "compile",
    "hub_model_id": "hub_model_id",
    **{
        name: name
        for name in (
            "learning_rate", "warmup_steps", "weight_decay", "seed", "optim", "lr_scheduler_type", "max_steps",
            "max_grad_norm", "gradient_accumulation_steps", "gradient_checkpointing", "eval_strategy", "eval_steps",
            "metric_for_best_model", "save_strategy", "save_steps", "save_total_limit", "report_to", "logging_steps",
            "push_to_hub",
        )
    },
}  # fmt: skip
ORDER = "the batches hang on seed and epoch alone, so that methods can be compared and a stopped run goes on"
OF_DDP = (
    "ddp_backend", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_timeout",
    "ddp_static_graph", "average_tokens_across_devices", "accelerator_config",
)  # fmt: skip
REDUCED = "several processes train as one does, whose gradients are summed without DistributedDataParallel"
REFUSED = {  # what would break a promise, or do nothing
    "auto_find_batch_size": ORDER,
    "train_sampling_strategy": ORDER,
    "length_column_name": ORDER,
    "ignore_data_skip": ORDER,
    "deepspeed": "every process holds the whole model, or with fsdp its shards of it",
    "fsdp_config": "with fsdp layers are units, and all else follows from the plan",
    **dict.fromkeys(OF_DDP, REDUCED),
    "neftune_noise_alpha": "frozen embeddings are computed once, and noise in them would not be seen",
    "resume_from_checkpoint": "a stopped run goes on by itself",
    "load_best_model_at_end": "with an evaluation strategy the best weights are kept without it",
    "greater_is_better": "every metric knows which way is better",
    "remove_unused_columns": "a model is handed what it reads and nothing else",
    "activation_checkpointing": "it would run frozen layers twice; gradient_checkpointing does not",
    "activation_checkpointing_kwargs": "it is non-reentrant, from the lowest trained layer up",
    "gradient_checkpointing_kwargs": "it is non-reentrant, from the lowest trained layer up",
    "use_liger_kernel": "it replaces parts of a model whose layers are known by their parts",
    "debug": "it hooks every module, and what a training leaves out hangs on hooks",
    **dict.fromkeys(("torch_compile_backend", "torch_compile_mode"), "they would compile the whole model; see compile"),
    "do_train": "it does nothing",
    "do_eval": "it does nothing",
    "do_predict": "it does nothing",
}
SHARDED = ("adamw_torch_fused", "adamw_torch", "sgd", "adagrad", "rmsprop")  # optimizers that look at each number alone
ON_LOSS = ("reduce_lr_on_plateau", "greedy")  # schedulers that follow a validation loss
PACKAGES = {  # what a tracker's name needs, where that is another than itself
    "azure_ml": "azureml",
    "dagshub": "mlflow",
    "flyte": "flytekit",
}
LOG_STEPS = 10  # steps between two entries of a tracker, where nothing else is said


def check_arguments(settings: TrainSettings, watch: WatchSettings) -> None:
    """Refuses what Trainer would not take, or what would break a promise of ours.

    Raises:
        ConfigError: A name is unknown, a value is of another type, a package is missing.
    """
    usual = type(settings)()
    if settings.optim != usual.optim:
        _check_optimizer(settings.optim)
    if settings.lr_scheduler_type != usual.lr_scheduler_type:
        from transformers.trainer_utils import SchedulerType

        known = [one.value for one in SchedulerType if one.value not in ON_LOSS]
        if settings.lr_scheduler_type in ON_LOSS:
            raise ConfigError(
                f"the scheduler {settings.lr_scheduler_type} follows a validation loss, which nothing here computes",
                f"take one of {', '.join(known)}",
                "lr_scheduler_type",
            )
        _known("scheduler", settings.lr_scheduler_type, known, "lr_scheduler_type")
    typed(settings.trainer_args)
    for name in watch.report_to:
        if name != "all" and importlib.util.find_spec(PACKAGES.get(name, name)) is None:
            if name == "tensorboard" and importlib.util.find_spec("tensorboardX") is not None:
                continue
            raise ConfigError(
                f"the package of {name} is not installed", f"install it (pip install {name}), or take none", "report_to"
            )


def check_judging(settings: TrainSettings, tuner: Spec) -> None:
    """Refuses to keep earlier weights of a tuner whose weights hang on the step.

    Raises:
        ConfigError: It is to be judged while it trains.
    """
    if settings.eval_strategy != "no" and catalog.find("tuner", tuner.name).needs_every_step:
        raise ConfigError(
            f"the tuner {tuner.name} changes its modules until the last step, so earlier weights do not fit",
            "leave out the one or the other",
            "eval_strategy",
        )


def check_watch(spec: RunSpec, watch: WatchSettings, cache: CacheSettings | None = None) -> None:
    """Refuses a way of training that does not go with the run.

    Raises:
        ConfigError: See `check_compiling` and `check_sharding`.
    """
    check_compiling(watch, (spec.plan or spec).schedule)
    check_sharding(spec, watch, cache)


def check_sharding(spec: RunSpec, watch: WatchSettings, cache: CacheSettings | None = None) -> None:
    """Refuses to shard a model where that is of no use, or where something needs it whole.

    Raises:
        ConfigError: It is to be sharded all the same.
    """
    if not watch.fsdp:
        return
    chosen, optim = spec.plan or spec, spec.settings.optim
    moves = catalog.build("schedule", chosen.schedule).moves
    for wrong, problem, remedy in (
        (world_size() == 1, "one process has nobody to share a model with", "start several (torchrun)"),
        (moves, f"{chosen.schedule.name} freezes layers as it goes, and a shard trains or not", "take no schedule"),
        (
            cache is not None and cache.where in ("memory", "disk"),
            "the prefix cache runs layers alone",
            "cache nothing",
        ),
        (watch.compile, "layers in shards are not compiled", "leave out compile"),
        (spec.model.quantize is not None, "quantised weights cannot be cut", "leave out quantize"),
        (optim not in SHARDED, f"{optim} reads whole matrices", f"take one of {', '.join(SHARDED)}"),
        (_torch() < (2, 8), "torch shards as it must from 2.8 on", "take a newer one"),
    ):
        if wrong:
            raise ConfigError(problem, f"{remedy}, or leave out fsdp", "fsdp")


def check_compiling(watch: WatchSettings, schedule: Spec) -> None:
    """Refuses to compile layers where a schedule would have it done again and again.

    Raises:
        ConfigError: They are to be compiled all the same.
    """
    if watch.compile:
        check_compilable(schedule)


def _torch() -> tuple[int, ...]:
    return tuple(int(number) for number in importlib.metadata.version("torch").split(".")[:2])


def _check_optimizer(name: str) -> None:
    from transformers.training_args import OptimizerNames

    if "layerwise" in name or "lomo" in name:
        raise ConfigError(
            f"{name} is not one optimizer but one per layer, and a stopped run could not go on",
            "take another, such as adamw_torch or adafactor",
            "optim",
        )
    _known("optimizer", name, [one.value for one in OptimizerNames], "optim")
    packed = any(part in name for part in ("8bit", "bnb", "paged", "lion", "ademamix"))
    if packed and "torch" not in name and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"{name} needs the package bitsandbytes", "install it, or take adamw_torch", "optim")


def _known(what: str, name: str, known: list[str], field: str) -> None:
    if name not in known:
        raise ConfigError(f"there is no {what} {name!r}", catalog.nearest(name, known), field)


def typed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Some of Trainer's own arguments, each value of the type that `TrainingArguments` declares.

    Args:
        given: By name, a value or what a user wrote for it.

    Raises:
        ConfigError: A name is unknown, has a setting of ours or would break a promise, or a value is of another type.
    """
    if not given:
        return {}
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from transformers import TrainingArguments

    hints = get_type_hints(TrainingArguments)
    known = [one.name for one in dataclasses.fields(TrainingArguments) if one.init]
    found = {}
    for name, value in given.items():
        if name in OWN:
            raise ConfigError(f"{name} has an option of its own", f"use it ({OWN[name]})", "trainer_args")
        if name in REFUSED:
            raise ConfigError(f"{name} cannot be set: {REFUSED[name]}", "leave it out", "trainer_args")
        _known("argument of Trainer", name, known, "trainer_args")
        config = None if dataclasses.is_dataclass(hints[name]) else ConfigDict(arbitrary_types_allowed=True)
        try:
            found[name] = TypeAdapter(hints[name], config=config).validate_python(value)
        except ValidationError as error:
            kind = str(getattr(hints[name], "__name__", hints[name]))
            raise ConfigError(f"{name} is {value!r}", f"give a value of the type {kind}", "trainer_args") from error
    return found


def arguments(
    settings: TrainSettings, watch: WatchSettings, folder: Path | None, device: torch.device
) -> TrainingArguments:
    """Trainer's arguments, made inside `one_device`; of several processes, the batch size is that of all together.

    Args:
        settings: How the training goes.
        watch: How it is watched and kept.
        folder: The run's own; None saves nothing.
        device: Where the model lies and stays.

    Raises:
        ConfigError: Transformers refuses them.
    """
    import torch
    from transformers import TrainingArguments

    from wheretune.training.one_device import pin

    logging = bool(watch.report_to or watch.logging_steps)
    given: dict[str, Any] = {
        "output_dir": str(folder or tempfile.gettempdir()),
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "warmup_steps": settings.warmup_ratio if settings.warmup_steps is None else settings.warmup_steps,
        "optim": settings.optim,
        "adam_beta1": settings.betas[0],
        "adam_beta2": settings.betas[1],
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "eval_strategy": settings.eval_strategy,
        "eval_steps": settings.eval_steps,
        "save_strategy": "no" if folder is None else watch.save_strategy,
        "save_steps": watch.save_steps or 500,
        "save_total_limit": watch.save_total_limit,
        "logging_strategy": "steps" if logging else "no",
        "logging_steps": watch.logging_steps or LOG_STEPS,
        "report_to": list(watch.report_to) or "none",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    try:
        made = TrainingArguments(**given | typed(settings.trainer_args))
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ConfigError(f"Trainer does not take these settings: {first_line(error)}", "change them") from error
    made.average_tokens_across_devices = False  # `training.sharing` counts them, and sums where DDP takes the mean
    pin(made, device)
    return made
