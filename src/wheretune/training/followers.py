"""Calls the followers of a training at their times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from wheretune.errors import ConfigError, TrainingError
from wheretune.model.steps import Pauses, Training

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerState

    from wheretune.model.steps import Follower


class FollowerCallback(TrainerCallback):
    """Makes the followers of a plan take part in any Trainer, `Trainer(..., callbacks=[FollowerCallback(...)])`.

    A callback cannot change a loss. If a follower has a penalty (AdaLoRA's keeps its factors orthogonal), a Trainer of
    your own must add it, or trains without:

        class MyTrainer(Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
                penalty = callback.penalty()
                loss = loss if penalty is None else loss + penalty
                return (loss, outputs) if return_outputs else loss

    Trainer's own checkpoints do not hold what followers must remember, so a Trainer of your own that has followers
    cannot go on after a stop.

    Args:
        followers: `Tuned.followers`.

    Raises:
        ConfigError: Two followers have the same name.
    """

    def __init__(self, followers: Sequence[Follower]) -> None:
        self._followers = {follower.name: follower for follower in followers}
        if len(self._followers) < len(followers):
            names = ", ".join(follower.name for follower in followers)
            raise ConfigError(f"two followers of a training share a name ({names})", "give each a name of its own")
        self._saved: Mapping[str, Mapping[str, Tensor]] | None = None
        self._following = False

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **given: Any) -> None:
        if self._followers and state.global_step and self._saved is None:
            raise TrainingError(
                f"the checkpoint does not hold what {next(iter(self._followers))} must remember",
                "start the training over, without resume_from_checkpoint",
            )
        unknown = sorted((self._saved or {}).keys() - self._followers.keys())
        if unknown:
            raise TrainingError(
                f"the checkpoint is of a training with a {unknown[0]}, and this one has none",
                "go on with the same schedule and tuner, or start the run over",
            )
        self._following = True
        for name, follower in self._followers.items():
            loader, size = given.get("train_dataloader"), args.per_device_train_batch_size
            follower.begin(Training(state.max_steps, given["optimizer"], loader, size))
            if self._saved is not None:
                follower.restore(dict(self._saved.get(name, {})))

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        for follower in self._followers.values():
            follower.before_step(state.global_step)

    def penalty(self) -> Tensor | None:
        """The sum of the followers' terms of the loss; None if there is none."""
        terms = [term for follower in self._followers.values() if (term := follower.penalty()) is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def on_optimizer_step(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        for follower in self._followers.values():
            follower.after_step(state.global_step)  # Trainer counts a step when it is over

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if control.should_save or control.should_evaluate or control.should_training_stop:
            for follower in self._followers.values():
                if isinstance(follower, Pauses):
                    follower.pause()

    def on_epoch_end(self, args: Any, state: TrainerState, control: Any, **given: Any) -> None:
        self.on_step_end(args, state, control, **given)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.end()

    def end(self) -> None:
        """Ends a training that has begun; Trainer does not say so when an error ended it."""
        if self._following:
            self._following = False
            for follower in self._followers.values():
                follower.end()

    def states(self) -> dict[str, dict[str, Tensor]]:
        """What every follower must remember, by its name."""
        return {name: follower.state() for name, follower in self._followers.items()}

    def resume_from(self, saved: Mapping[str, Mapping[str, Tensor]]) -> None:
        """What `states` gave is restored when training begins."""
        self._saved = saved
