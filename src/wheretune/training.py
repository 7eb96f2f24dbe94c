"""The only training code, on `transformers.Trainer`; and predicting, which needs no Trainer.

Trainer's own checkpoints are pickled and written in place. Ours hold what trains, in safetensors and JSON,
and appear whole: a run that was killed goes on from its last finished epoch.
"""

import contextlib
import json
import logging
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from wheretune.capture import evaluating, unlabelled
from wheretune.data import Collate, EpochBuckets, TokenBatches, length_batches, spread
from wheretune.errors import ConfigError, TrainingError
from wheretune.files import PARTIAL, sweep, write
from wheretune.heads import HeadedModel
from wheretune.one_token import one_token
from wheretune.packing import packing
from wheretune.prefix import CacheReport, CacheSettings, cached
from wheretune.show.tables import progress
from wheretune.tuners.base import Companion, Tuned
from wheretune.types import TrainSettings

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class TrainLog:
    """What training took, evaluation and saving left out.

    Attributes:
        seconds: Of all sittings.
        steps: Of the optimizer.
        first_step: Seconds of this sitting's first step, which also makes room for the optimizer's state.
    """

    seconds: float
    steps: int
    first_step: float = 0.0

    @property
    def step(self) -> float:
        """Seconds of one step of a training without a stop, the first left out."""
        return (self.seconds - self.first_step) / max(1, self.steps - 1)


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


@dataclass(frozen=True)
class Saved:
    """What a training does not compute.

    Attributes:
        cache: What was decided about the prefix cache.
        one_token: Whether the last layer computes only the token that is read.
    """

    cache: CacheReport
    one_token: bool

    @property
    def told(self) -> dict[str, str]:
        """For a result."""
        last = "the token that is read alone" if self.one_token else "all tokens"
        return {"prefix cache": str(self.cache), "last layer": last}


@contextlib.contextmanager
def lean(
    tuned: Tuned,
    rows: Sequence[dict[str, Any]],
    collate: Collate,
    settings: TrainSettings,
    folder: Path,
    cache: CacheSettings | None = None,
) -> Iterator[Saved]:
    """Inside, training computes only what it needs: the frozen prefix once, and of the last layer what the head reads.

    Args:
        tuned: From `apply`, of a `HeadedModel`.
        rows: Encoded rows.
        collate: Makes a batch of rows.
        settings: How they are trained on.
        folder: The run's own.
        cache: Where the states of the frozen prefix are kept; decided by what pays by default.

    Yields:
        What is left out.

    Raises:
        ConfigError: The settings ask for packed texts, and the model would read across them.
        ModelError: They do, and it takes no positions.
    """
    model = tuned.model
    assert isinstance(model, HeadedModel)
    how = replace(cache or CacheSettings(), dtype=settings.cache_dtype)
    check_cache(settings, how)
    if settings.frozen_dropout:
        how = CacheSettings("off")
    some = collate(spread(rows))
    with contextlib.ExitStack() as inside:
        if settings.packed:
            inside.enter_context(packing(model, some))
        every = settings.all_tokens or settings.packed  # one residual a text does not fit a row of all texts
        cut = not every and inside.enter_context(one_token(tuned.stack, some))
        known = tuned.plan.model.hash
        prefix = cached(tuned.stack, known, rows, collate, settings.epochs, how, folder, model.all_layers)
        report = inside.enter_context(prefix)
        yield Saved(report, cut)


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
    clock = _Clock(description)
    callbacks: list[TrainerCallback] = [clock] if companion is None else [clock, _Accompany(companion)]
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=_Rows(rows),
        data_collator=collate,
        callbacks=callbacks,
        tokens=settings.tokens_per_batch,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    there = [] if folder is None else checkpoints(folder)
    trainer.train(resume_from_checkpoint=str(there[-1]) if there else None)
    return TrainLog(clock.seconds, trainer.state.global_step, clock.first_step)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the earliest first; each is whole."""
    return sorted(folder.glob(f"{CHECKPOINT}-*"), key=lambda path: int(path.name.split("-")[-1]))


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """A list of rows as a data set."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class _Clock(TrainerCallback):
    """Counts the seconds that go into steps, over all sittings, and moves the progress bar."""

    def __init__(self, description: str) -> None:
        self.seconds = 0.0
        self.first_step = 0.0
        self._description = description
        self._started = 0.0
        self._progress = progress()

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self._progress.start()
        self._task = self._progress.add_task(self._description, total=state.max_steps, completed=state.global_step)
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.first_step = self.first_step or time.perf_counter() - self._started
        self._progress.update(self._task, completed=state.global_step)

    def pause(self) -> float:
        """Stops counting and returns the seconds so far."""
        self.seconds += time.perf_counter() - self._started
        return self.seconds

    def go_on(self) -> None:
        """Counts again."""
        self._started = time.perf_counter()

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.pause()
        self.close()

    def close(self) -> None:
        """Takes the bar off the screen."""
        self._progress.stop()


class _Accompany(TrainerCallback):
    """Calls the tuner's companion at its times."""

    def __init__(self, companion: Companion) -> None:
        self.companion = companion

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.companion.begin(state.max_steps)

    def on_optimizer_step(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.companion.after_step(state.global_step + 1)  # Trainer counts a step when it is over


class _Trainer(Trainer):
    """Trainer with batches that depend on (seed, epoch) alone, and checkpoints that are safe and whole."""

    def __init__(self, *args: Any, tokens: int | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tokens = tokens

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self._clock.close()

    @property
    def _clock(self) -> _Clock:
        return next(c for c in self.callback_handler.callbacks if isinstance(c, _Clock))

    @property
    def _companion(self) -> Companion | None:
        found = (c.companion for c in self.callback_handler.callbacks if isinstance(c, _Accompany))
        return next(found, None)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss: Any = super().compute_loss(*args, **kwargs)
        return loss if self._companion is None else loss + self._companion.penalty()

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        if self._tokens is None:
            return super().get_train_dataloader()
        data = cast(_Rows, self.train_dataset)
        batches = TokenBatches([len(row["input_ids"]) for row in data.rows], self._tokens, self.args.seed)
        loader = torch.utils.data.DataLoader(
            data, batch_sampler=batches, collate_fn=self.data_collator, pin_memory=self.args.dataloader_pin_memory
        )
        prepared: torch.utils.data.DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochBuckets:
        lengths = [len(row["input_ids"]) for row in cast(_Rows, self.train_dataset).rows]
        return EpochBuckets(lengths, self.args.train_batch_size, self.args.seed)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        seconds = self._clock.pause()
        assert self.model is not None and self.optimizer is not None and self.lr_scheduler is not None
        assert self.args.output_dir is not None
        optimizer = self.optimizer.state_dict()
        tensors = {f"model.{n}": p.detach() for n, p in self.model.named_parameters() if p.requires_grad}
        for number, slots in optimizer["state"].items():
            tensors |= {f"optimizer.{number}.{slot}": value for slot, value in slots.items()}
        if self._companion is not None:
            tensors |= {f"tuner.{name}": value for name, value in self._companion.state().items()}
        tensors["random.torch"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        version, internal, gauss = random.getstate()
        kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
        extra = {
            "seconds": seconds,
            "param_groups": optimizer["param_groups"],
            "scheduler": self.lr_scheduler.state_dict(),
            "random.python": [version, list(internal), gauss],
            "random.numpy": [kind, np.asarray(keys).tolist(), *rest],
        }

        def fill(draft: Path) -> None:
            draft.mkdir()
            save_file({name: value.contiguous() for name, value in tensors.items()}, draft / "state.safetensors")
            (draft / "state.json").write_text(json.dumps(extra))
            self.state.save_to_json(str(draft / "trainer_state.json"))

        folder = Path(self.args.output_dir)
        write(folder / f"{CHECKPOINT}-{self.state.global_step}", fill)
        for older in checkpoints(folder)[:-1]:
            older.rename(folder / f".{older.name}{PARTIAL}")  # first out of sight, so that no half of it is resumed
        sweep(folder)
        self._clock.go_on()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        assert self.model is not None
        saved = self._saved(resume_from_checkpoint, "model.")
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(saved[name])
        if self._companion is not None:
            self._companion.restore(self._saved(resume_from_checkpoint, "tuner."))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None and self.lr_scheduler is not None
        extra = json.loads((Path(checkpoint) / "state.json").read_text())
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in self._saved(checkpoint, "optimizer.").items():
            number, slot = key.split(".", 1)
            slots.setdefault(int(number), {})[slot] = value
        self.optimizer.load_state_dict({"state": slots, "param_groups": extra["param_groups"]})
        self.lr_scheduler.load_state_dict(extra["scheduler"])
        self._clock.seconds = extra["seconds"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        extra = json.loads((Path(checkpoint) / "state.json").read_text())
        saved = self._saved(checkpoint, "random.")
        torch.set_rng_state(saved["torch"])
        if "cuda" in saved and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved["cuda"])
        version, internal, gauss = extra["random.python"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, *rest = extra["random.numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002

    @staticmethod
    def _saved(checkpoint: str, prefix: str) -> dict[str, Tensor]:
        saved: Mapping[str, Tensor] = load_file(Path(checkpoint) / "state.safetensors")
        return {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}


def predict(
    model: nn.Module,
    rows: Sequence[dict[str, Any]],
    collate: Collate,
    batch_size: int = 32,
    description: str = "predicting",
) -> Float[np.ndarray, "row output"]:
    """The logits of every row, in the order of the rows, the model in eval mode and left as it was.

    Raises:
        ConfigError: The batch size is below 1.
        TrainingError: A logit is not finite.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}", "give 1 or more")
    device = next(model.parameters()).device
    logits: dict[int, np.ndarray] = {}
    batches = length_batches(rows, batch_size)
    with progress() as shown, torch.no_grad(), evaluating(model):
        for batch in shown.track(batches, description=description):
            inputs = unlabelled(collate(batch), device)
            for row, values in zip(batch, model(**inputs).logits.float().cpu().numpy(), strict=True):
                logits[row["row"]] = values
    found = np.stack([logits[row["row"]] for row in rows])
    if not np.isfinite(found).all():
        raise TrainingError("the model's outputs are not finite: training diverged", "lower the learning rate")
    return found
