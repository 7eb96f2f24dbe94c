"""Says after the first step, not after the last, that what should train does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from wheretune.errors import EngagementError
from wheretune.support.log import log

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wheretune.applying import Tuned

NAMED = 3  # parameters in a message


class EngagementCallback(TrainerCallback):
    """Makes sure that a plan is engaged from the first step, `Trainer(..., callbacks=[EngagementCallback(tuned)])`.

    Before the first step every parameter that may train must be in the optimizer. After the first step of the
    optimizer, over all batches that it gathers, every chosen layer and the head must have a gradient. A gradient of
    zeros is one: LoRA's A has it until B has moved, and the biases of an encoder's keys always. What is without a
    gradient while the rest of its layer has one (an expert that no token reached) is named in a warning.

    `Tuned.check` is the proof at the end. Where the gradients are not the parameters' own (DeepSpeed, FSDP, optimizers
    that step layer by layer), this callback looks at nothing.

    Args:
        tuned: From `apply`.
        stop: End the training with an error; with False all is said in warnings. For a model that leaves out whole
            layers at random (LayerDrop).
    """

    def __init__(self, tuned: Tuned, *, stop: bool = True) -> None:
        self._tuned, self._stop, self._looking = tuned, stop, False

    def on_train_begin(self, args: Any, state: Any, control: Any, *, optimizer: Any = None, **_: Any) -> None:
        """Looks at what the optimizer holds.

        Raises:
            EngagementError: It lacks a parameter that may train.
        """
        layerwise = any(word in str(args.optim) for word in ("layerwise", "lomo"))
        self._looking = not (args.deepspeed or args.fsdp or layerwise)
        if self._looking and optimizer is not None:
            self._say(not_held(self._tuned, optimizer), stop=self._stop)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Looks at the gradients of the first step, which are still there.

        Raises:
            EngagementError: A chosen layer, or the head, has none.
        """
        if not self._looking:
            return
        self._looking = False
        waiting = self._tuned.waiting
        without = [name for name, parameter in waiting.items() if parameter.grad is None]
        parts = self._tuned.untouched(waiting.keys() - set(without))
        if parts:
            self._say(f"no gradient reached {', '.join(parts)} in the first step: {some(without)}", stop=self._stop)
        elif without:
            self._say(f"no gradient reached {some(without)} in the first step", stop=False)

    def _say(self, problem: str | None, *, stop: bool) -> None:
        remedy = "see that the loss comes from the model that was given to apply, and make the optimizer after apply"
        if problem is not None and stop:
            raise EngagementError(problem, remedy)
        if problem is not None:
            log.warning("%s; %s", problem, remedy)


def not_held(tuned: Tuned, optimizer: Optimizer) -> str | None:
    """What an optimizer lacks, in words; None if it holds all that may train."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    lacking = [name for name, parameter in tuned.trainable.items() if id(parameter) not in held]
    return f"the optimizer lacks {some(lacking)}, which should train" if lacking else None


def some(names: list[str]) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
