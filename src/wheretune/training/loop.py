"""The only training code, on `transformers.Trainer`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from wheretune.errors import ConfigError
from wheretune.records.runs import check_settings
from wheretune.training.checkpoints import checkpoints
from wheretune.training.followers import Accompany
from wheretune.training.timing import Clock, TrainLog
from wheretune.training.trainer import OurTrainer, Rows

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback

    from wheretune.records.data import Collate
    from wheretune.records.runs import TrainSettings
    from wheretune.tuners.base import Companion


def train(
    model: nn.Module,
    rows: Sequence[dict[str, Any]],
    collate: Collate,
    settings: TrainSettings,
    folder: Path | None,
    description: str = "training",
    companion: Companion | None = None,
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
        companion: What the tuner does while it trains.

    Returns:
        The time and the steps it took.
    """
    check_settings(settings)
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
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
    if arguments.world_size > 1:
        raise ConfigError(
            f"started as {arguments.world_size} processes", "start one process: several would write the same files"
        )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # replicas of DataParallel would run the hooks of the first
    clock = Clock(description)
    callbacks: list[TrainerCallback] = [clock] if companion is None else [clock, Accompany(companion)]
    trainer = OurTrainer(
        model=model,
        args=arguments,
        train_dataset=Rows(rows),
        data_collator=collate,
        callbacks=callbacks,
        tokens=settings.tokens_per_batch,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    there = [] if folder is None else checkpoints(folder)
    trainer.train(resume_from_checkpoint=str(there[-1]) if there else None)
    return TrainLog(clock.seconds, trainer.state.global_step, clock.first_step)
