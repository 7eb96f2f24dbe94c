"""Trainer with batches that depend on seed and epoch alone, and checkpoints that are safe and whole."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from wheretune.data.samplers import EpochBuckets, TokenBatches
from wheretune.support.files import PARTIAL, sweep, write
from wheretune.training.checkpoints import CHECKPOINT, checkpoints
from wheretune.training.followers import Accompany
from wheretune.training.timing import Clock

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wheretune.tuners.base import Companion


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """A list of rows as a data set."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


class OurTrainer(Trainer):
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
    def _clock(self) -> Clock:
        return next(c for c in self.callback_handler.callbacks if isinstance(c, Clock))

    @property
    def _companion(self) -> Companion | None:
        found = (c.companion for c in self.callback_handler.callbacks if isinstance(c, Accompany))
        return next(found, None)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss: Any = super().compute_loss(*args, **kwargs)
        return loss if self._companion is None else loss + self._companion.penalty()

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        if self._tokens is None:
            return super().get_train_dataloader()
        data = cast(Rows, self.train_dataset)
        batches = TokenBatches([len(row["input_ids"]) for row in data.rows], self._tokens, self.args.seed)
        loader = torch.utils.data.DataLoader(
            data, batch_sampler=batches, collate_fn=self.data_collator, pin_memory=self.args.dataloader_pin_memory
        )
        prepared: torch.utils.data.DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochBuckets:
        lengths = [len(row["input_ids"]) for row in cast(Rows, self.train_dataset).rows]
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
