"""The only training code, on `transformers.Trainer`."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments

from wheretune.errors import ConfigError
from wheretune.support.processes import check_one_process
from wheretune.training.checkpoints import checkpoints
from wheretune.training.clock import Clock, TrainLog
from wheretune.training.followers import FollowerCallback
from wheretune.training.trainer import OurTrainer

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback

    from wheretune.model.steps import Follower
    from wheretune.records.data import Collate
    from wheretune.records.runs import TrainSettings


def train(
    model: nn.Module,
    rows: Sequence[dict[str, Any]],
    collate: Collate,
    settings: TrainSettings,
    folder: Path | None,
    description: str = "training",
    followers: Sequence[Follower] = (),
    now: Callable[[], float] = time.perf_counter,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainLog:
    """Trains the parameters that require a gradient, on length-bucketed batches.

    Args:
        model: Returns a loss when called with a batch.
        rows: Encoded rows with labels.
        collate: Makes a batch of rows.
        settings: Epochs, learning rate and so on.
        folder: Where the checkpoint lives; one that is there is resumed from. The caller removes it. None saves
            nothing.
        description: What the progress bar says.
        followers: What else takes part: `Tuned.followers`.
        now: The clock, in seconds.
        callbacks: What else is told of the training, such as `EngagementCallback`.

    Returns:
        The time and the steps it took.

    Raises:
        ConfigError: There is no learning rate, a setting cannot train anything, or several processes were started.
        EngagementError: A callback sees that what should train does not.
        TrainingError: The folder holds a checkpoint of another training.
    """
    check_one_process()
    if settings.learning_rate is None:
        raise ConfigError("there is no learning rate", "give one, or take planning.settled's", "learning_rate")
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    clock = Clock(description, now)
    trainer = OurTrainer(
        model,
        _arguments(settings, folder),
        rows,
        collate,
        clock,
        FollowerCallback(followers),
        settings.tokens_per_batch,
        callbacks,
    )
    there = [] if folder is None else checkpoints(folder)
    trainer.train(resume_from_checkpoint=str(there[-1]) if there else None)
    return TrainLog(clock.seconds, trainer.state.global_step, clock.first_step)


def _arguments(settings: TrainSettings, folder: Path | None) -> TrainingArguments:
    """Trainer's arguments for one device, with nothing logged or shown."""
    arguments = TrainingArguments(
        output_dir=str(folder or tempfile.gettempdir()),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup_ratio,
        optim="adamw_torch_fused",
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        data_seed=settings.seed,
        save_strategy="no" if folder is None else "epoch",
        logging_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # replicas of DataParallel would run the hooks of the first
    return arguments
