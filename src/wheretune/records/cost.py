"""What a plan costs, in FLOPs, bytes and seconds."""

from __future__ import annotations

import dataclasses

from rich.console import Group
from rich.jupyter import JupyterMixin
from rich.text import Text

from wheretune.records.base import record
from wheretune.show.tables import table
from wheretune.support.words import seconds, short


@record
class Flops:
    """Floating-point operations of one training step for one text.

    Attributes:
        forward: Of the layers' forward pass.
        input_gradients: What brings the gradient down through the layers.
        weight_gradients: What makes the gradients of the weights that train.
    """

    forward: float
    input_gradients: float
    weight_gradients: float

    @property
    def total(self) -> float:
        """All three."""
        return self.forward + self.input_gradients + self.weight_gradients


@record
class Memory:
    """Bytes while training, everything in fp32.

    Attributes:
        weights: Of all parameters.
        gradients: Of those that train.
        optimizer: AdamW's two moments of those that train.
        activations: What the layers keep of one batch for its backward pass.
        cache: The stored states of the frozen prefix, of all texts; they may lie on disk.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    cache: int

    @property
    def total(self) -> int:
        """All of it, the cache included, wherever it lies."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.cache


@record
class CostLine:
    """One way of training, and what it costs.

    Attributes:
        name: In words.
        flops: Of one step, a text, making the cache left out.
        memory: At its highest.
        speed_up: Full fine-tuning's FLOPs over these; None where no layer runs any more.
    """

    name: str
    flops: Flops
    memory: Memory
    speed_up: float | None


@record
class Measured:
    """What a machine showed in a few steps; see `measuring.py`.

    Attributes:
        full_step: Seconds of a step of full fine-tuning.
        step: Seconds of a step of the plan, its states fed from the cache.
        making: Seconds that making the prefix cache of all texts takes.
        cache: What was decided about a cache for the texts that were timed.
        steps: Steps in an epoch.
        epochs: Over which making the cache is spread.
        timed: How many steps of each were timed.
        machine: On what.
    """

    full_step: float
    step: float
    making: float
    cache: str
    steps: int
    epochs: int
    timed: int
    machine: str

    @property
    def steady(self) -> float:
        """Full fine-tuning's time over the plan's, once the cache is made."""
        return self.full_step / self.step

    @property
    def seconds(self) -> float:
        """Of the whole training, making the cache counted."""
        return self.epochs * self.steps * self.step + self.making

    @property
    def speed_up(self) -> float:
        """Full fine-tuning's time over the plan's, making the cache counted."""
        return self.epochs * self.steps * self.full_step / self.seconds

    def __str__(self) -> str:
        return (
            f"measured in {self.timed} steps of each ({self.machine}): {self.full_step:.3g} s a step of full "
            f"fine-tuning, {self.step:.3g} s of the plan, {seconds(self.making)} to make the cache ({self.cache}); so "
            f"{seconds(self.seconds)} for {self.epochs} epochs of {self.steps} steps: {self.speed_up:.2f}x, "
            f"{self.steady:.2f}x once the cache is made"
        )


@record
class Cost(JupyterMixin):
    """What a plan costs; see `cost.py` for how it is told.

    Attributes:
        trainable_parameters: Of the chosen layers and the head.
        total_parameters: Of the base model and the head.
        expected_speed_up: Full fine-tuning's FLOPs over the plan's, over all epochs, with the prefix cached (making the
            cache counted), one token read in the last layer and frozen layers quiet.
        limit: The same without making the cache, which no number of epochs exceeds; None where no layer runs any more.
        tokens: The length of a text that was assumed: the mean of the data, or 128 where the scorer read no text; None
            in plans of older versions, which have none of what is below either.
        batch_size: The texts in a batch that the memory is for.
        epochs: Over which making the cache is spread.
        lines: Full fine-tuning, plain freezing, that with the prefix cache, that with one token read, and everything.
        measured: What a machine showed, where it was asked.
    """

    trainable_parameters: int
    total_parameters: int
    expected_speed_up: float
    limit: float | None = None
    tokens: float | None = None
    batch_size: int = 0
    epochs: int = 0
    lines: tuple[CostLine, ...] = ()
    measured: Measured | None = None

    def __str__(self) -> str:
        words = f"{self.expected_speed_up:.2f}x the training speed of full fine-tuning"
        if self.tokens is None:
            return words
        words += f" over {self.epochs} epoch{'s' * (self.epochs > 1)}"
        if self.limit is None:
            return f"{words}, and the more of them, the more"
        return f"{words}, and at most {self.limit:.2f}x"

    def __rich__(self) -> Group:
        flops = [
            (
                line.name,
                *(short(part / 1e9) for part in (*dataclasses.astuple(line.flops), line.flops.total)),
                "–" if line.speed_up is None else f"{line.speed_up:.2f}x",
            )
            for line in self.lines
        ]
        memory = [
            (line.name, *(short(part / 1e6) for part in (*dataclasses.astuple(line.memory), line.memory.total)))
            for line in self.lines
        ]
        passes = ("", "forward", "input gradients", "weight gradients", "all", "speed-up")
        kinds = ("", "weights", "gradients", "optimizer", "activations", "cache", "all")
        return Group(
            table(f"GFLOP of a step, for a text of {short(self.tokens or 0)} tokens", passes, flops, left=("",)),
            table(f"MB in fp32, for batches of {self.batch_size} texts", kinds, memory, left=("",)),
            Text(f"with everything, making the cache counted: {self}, by FLOPs"),
            *([] if self.measured is None else [Text(str(self.measured))]),
        )
