"""The only training code, on `transformers.Trainer`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerState

from wheretune.errors import ConfigError
from wheretune.model.inputs import model_device
from wheretune.records.runs import WatchSettings
from wheretune.support.processes import barrier, from_first, join
from wheretune.training.arguments import arguments, check_arguments
from wheretune.training.best import BestWeights
from wheretune.training.checkpoints import TRAINER, checkpoints, load_checkpoint
from wheretune.training.clock import Clock, TrainLog
from wheretune.training.followers import FollowerCallback
from wheretune.training.one_device import one_device
from wheretune.training.trainer import OurTrainer

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerCallback

    from wheretune.model.steps import Follower
    from wheretune.records.data import Collate
    from wheretune.records.runs import TrainSettings
    from wheretune.training.best import Judge


def train(
    model: nn.Module,
    rows: Sequence[dict[str, Any]],
    collate: Collate,
    settings: TrainSettings,
    folder: Path | None,
    clock: Clock | None = None,
    followers: Sequence[Follower] = (),
    callbacks: Sequence[TrainerCallback] = (),
    watch: WatchSettings | None = None,
    judge: Judge | None = None,
) -> TrainLog:
    """Trains the parameters that require a gradient, on length-bucketed batches.

    Args:
        model: Returns a loss when called with a batch.
        rows: Encoded rows with labels.
        collate: Makes a batch of rows.
        settings: Epochs, learning rate and so on.
        folder: Where the checkpoint lives; one that is there is resumed from. The caller removes it. None saves
            nothing.
        clock: Counts the seconds and moves the progress bar.
        followers: What else takes part: `Tuned.followers`.
        callbacks: What else is told of the training, such as `EngagementCallback`.
        watch: How it is watched and kept.
        judge: What is measured meanwhile, where the settings ask for it; the model then ends with its best weights.

    Returns:
        The time and the steps it took, and which step was best.

    Raises:
        ConfigError: There is no learning rate, or a setting cannot train anything.
        EngagementError: A callback sees that what should train does not.
        ProcessError: Another process of the run is gone.
        TrainingError: The folder holds a checkpoint of another training.
    """
    join()
    if settings.learning_rate is None:
        raise ConfigError("there is no learning rate", "give one, or take automatic.settled's", "learning_rate")
    watch = watch or WatchSettings()
    check_arguments(settings, watch)
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    clock, best = clock or Clock("training"), BestWeights(folder)
    device = model_device(model)
    with one_device(device):
        trainer = OurTrainer(
            model,
            arguments(settings, watch, folder, device),
            rows,
            collate,
            clock,
            FollowerCallback(followers),
            settings.tokens_per_batch,
            callbacks,
        )
        trainer.judged_by(judge, best)
        there = [] if folder is None else from_first(lambda: checkpoints(folder))
        if judge is not None and there and not judge.patient(history := _history(there[-1])):
            clock.seconds = load_checkpoint(there[-1]).rest["seconds"]
            state = TrainerState(global_step=_step(there[-1]))
            state.log_history = history  # it had stopped early, and was killed before its result was written
        else:
            trainer.train(resume_from_checkpoint=str(there[-1]) if there else None)
            state = trainer.state
        found = None if judge is None else judge.best(state.log_history)
        if found is not None:
            barrier()  # the first process has written them
            best.restore(model)
    return TrainLog(clock.seconds, state.global_step, clock.first_step, found)


def _history(checkpoint: Path) -> list[dict[str, float]]:
    """What Trainer had logged when a checkpoint was written."""
    history: list[dict[str, float]] = TrainerState.load_from_json(str(checkpoint / TRAINER)).log_history
    return history


def _step(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.split("-")[-1])
