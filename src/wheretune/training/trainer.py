"""Trainer with batches that depend on seed and epoch alone, and checkpoints that are safe and whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from wheretune.data.samplers import Arranged, EpochBuckets, TokenBatches
from wheretune.data.stored import lengths
from wheretune.errors import ConfigError
from wheretune.model.sharding import is_sharded
from wheretune.support.processes import part, talking, writes
from wheretune.support.words import first_line
from wheretune.training.best import BestWeights
from wheretune.training.checkpoints import (
    Checkpoint,
    generators,
    held_by,
    load_checkpoint,
    optimizer_state,
    restore_generators,
    restore_optimizer,
    restore_parameters,
    save_checkpoint,
)
from wheretune.training.sharing import (
    generators_of_all,
    generators_of_own,
    part_ways,
    shared_loader,
    shares,
    sum_gradients,
    summed,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerCallback, TrainingArguments

    from wheretune.records.data import Collate
    from wheretune.training.best import Judge
    from wheretune.training.clock import Clock
    from wheretune.training.followers import FollowerCallback


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """A list of rows as a data set.

    Attributes:
        rows: The rows.
        draws: What draws them anew in every epoch.
    """

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows
        self.draws: EpochBuckets | TokenBatches | None = None

    def set_epoch(self, epoch: int) -> None:
        """Accelerate calls this where it does not see what draws: in a share, and in the rest of an epoch.

        Transformers 5.0 sees it there no better, and would go on in an epoch with the rows of the first.
        """
        if self.draws is not None:
            self.draws.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


@contextmanager
def _made_of(what: str) -> Iterator[None]:
    """Says in one line that an optimizer or a scheduler does not take what it was given."""
    try:
        yield
    except (TypeError, ValueError) as error:
        problem = f"the {what} does not take its settings: {first_line(error)}"
        raise ConfigError(problem, "change or leave out those that are its own", "trainer_args") from error


class OurTrainer(Trainer):
    """Trainer with batches that depend on (seed, epoch) alone, followers, and checkpoints that are safe and whole.

    Several processes train as one would: see `training.sharing`.

    The one class that overrides methods of another: Trainer offers no other way to its sampler, loss and checkpoints.

    Args:
        model: Returns a loss when called with a batch.
        arguments: Trainer's own.
        rows: Encoded rows.
        collate: Makes a batch of rows.
        clock: Counts the seconds.
        followers: Calls the followers.
        tokens: At most so many tokens in a batch, with the padding; None for batches of a number of texts.
        callbacks: What else is told of the training.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        rows: Sequence[dict[str, Any]],
        collate: Collate,
        clock: Clock,
        followers: FollowerCallback,
        tokens: int | None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        super().__init__(
            model,
            arguments,
            data_collator=collate,
            train_dataset=Rows(rows),
            eval_dataset=Rows(()),  # `evaluate` asks the judge, and Trainer asks for some
            callbacks=[clock, followers, *callbacks],
        )
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self._clock, self._followers, self._tokens = clock, followers, tokens
        self._several = part()[1] > 1
        self._shares: Iterator[float] = iter(())
        self._lost: Tensor | None = None  # this process's part of the loss since the last step
        # in shards a model is run by all in step: a process without rows runs the first one, and it counts for nothing
        in_step = any(map(is_sharded, model.parameters()))
        self._stand_in = collate([dict(rows[0])]) if in_step else None
        self._counts = True
        self._judge: Judge | None = None
        self._best = BestWeights(None)

    def judged_by(self, judge: Judge | None, best: BestWeights) -> None:
        """What measures the model in training, and where its best weights go."""
        self._judge, self._best = judge, best

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        if self._judge is None:
            return {}
        assert self.model is not None and self.optimizer is not None
        self._clock.pause()
        before = self._judge.best(self.state.log_history)
        metrics = {f"eval_{one.name}": one.value for one in self._judge.measure()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self._judge.best(self.state.log_history) != before:
            self._best.keep(held_by(self.optimizer, self.model))
        if not self._judge.patient(self.state.log_history):
            self.control.should_training_stop = True
        self._clock.go_on()
        return metrics

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.args.warmup_steps * num_training_steps < 1:  # a share of so few steps that the first would warm up to 0
            self.args.warmup_steps = 0
        with _made_of("scheduler"):
            return super().create_scheduler(num_training_steps, optimizer)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        with _made_of("optimizer"):
            return super().create_optimizer(*args, **kwargs)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        part_ways(self.args.seed)
        try:
            with talking():
                return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self._followers.end()
            self._clock.close()

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss: Any = super().compute_loss(*args, **kwargs)
        if self._several and not self.model_accepts_loss_kwargs:  # else it is divided by the tokens of all processes
            loss = loss * next(self._shares)
        if not self._counts:
            loss = loss * 0
        penalty = self._followers.penalty() if writes() else None  # once in the sum
        return loss if penalty is None else loss + penalty

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        if not self._several:
            return super().training_step(model, inputs, num_items_in_batch)
        loss = torch.zeros((), device=self.args.device)
        self._counts = bool(inputs)
        if inputs or self._stand_in is not None:
            loss = super().training_step(model, inputs or dict(self._stand_in or {}), num_items_in_batch)
        else:
            next(self._shares)
        self._lost = loss if self._lost is None else self._lost + loss
        if not self.accelerator.sync_gradients:
            return torch.zeros_like(loss)
        assert self.model is not None and self.optimizer is not None
        total = sum_gradients(held_by(self.optimizer, self.model), self._lost)
        self._lost = None
        return total

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        batches, counted = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._several and batches:
            self._shares = shares(batches, device)
        return batches, counted

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if not self._several:
            return super()._get_num_items_in_batch(batch_samples, device)
        if not (self.model_accepts_loss_kwargs and batch_samples):
            return None
        own = super()._get_num_items_in_batch([batch for batch in batch_samples if batch], device)
        count = 0 if own is None else int(own)  # Trainer may give a float, and one that is idle has none to be alike
        return summed(torch.tensor(count, device=device))

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        # never in DDP, which would share gradients, and wait for processes that have no rows
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        data = cast(Rows, self.train_dataset)
        batches: Any
        if isinstance(data.rows, Arranged):
            batches = data.rows.batches
        elif self._tokens is not None:
            batches = TokenBatches(lengths(data.rows), self._tokens, self.args.seed)
            data.draws = batches
        elif self._several:
            batches = torch.utils.data.BatchSampler(
                self._get_train_sampler(), self.args.train_batch_size, self.args.dataloader_drop_last
            )
        else:
            return super().get_train_dataloader()
        if self._several:
            return shared_loader(data, batches, self.data_collator, self.args, self.accelerator.device)
        loader = torch.utils.data.DataLoader(
            data, batch_sampler=batches, collate_fn=self.data_collator, pin_memory=self.args.dataloader_pin_memory
        )
        if isinstance(data.rows, Arranged) and data.rows.late:
            return loader  # accelerate's would ask for a batch before the step of the one before it
        prepared: torch.utils.data.DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochBuckets:
        data = cast(Rows, self.train_dataset)
        data.draws = EpochBuckets(lengths(data.rows), self.args.train_batch_size, self.args.seed)
        return data.draws

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        assert self.model is not None and self.optimizer is not None and self.lr_scheduler is not None
        assert self.args.output_dir is not None
        seconds = self._clock.pause()
        slots, groups = optimizer_state(self.optimizer, self.model)
        random_states, plain = generators()
        random_states = generators_of_all(random_states)
        checkpoint = Checkpoint(
            parameters=held_by(self.optimizer, self.model),
            optimizer=slots,
            groups=groups,
            followers=self._followers.states(),
            generators=random_states,
            rest={"seconds": seconds, "scheduler": self.lr_scheduler.state_dict(), "generators": plain},
        )
        save_checkpoint(checkpoint, Path(self.args.output_dir), self.state, self.args.save_total_limit or 1)
        self._clock.go_on()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        assert self.model is not None
        checkpoint = load_checkpoint(resume_from_checkpoint)
        restore_parameters(self.model, checkpoint)
        self._followers.resume_from(checkpoint.followers)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.model is not None and self.optimizer is not None and self.lr_scheduler is not None
        saved = load_checkpoint(checkpoint)
        restore_optimizer(self.optimizer, self.model, saved)
        self.lr_scheduler.load_state_dict(saved.rest["scheduler"])
        self._clock.seconds = saved.rest["seconds"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            saved = load_checkpoint(checkpoint)
            states = generators_of_own(saved.generators, self.args.seed, self.state.global_step)
            restore_generators(states, saved.rest["generators"])
