"""What a plan costs, in FLOPs, bytes and seconds."""

from __future__ import annotations

from wheretune.records.base import Shown, record, require
from wheretune.support.words import counted, seconds

MOST_TOKENS = 1e9  # of a text: more can be no mean of anything


@record
class Flops:
    """Floating-point operations of one training step for one text.

    Attributes:
        forward: The layers' forward pass.
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
    """Bytes while training.

    Attributes:
        weights: All parameters.
        gradients: Those of the parameters that train.
        optimizer: AdamW's two moments of the parameters that train.
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
        flops: One step, per text, making the cache left out.
        memory: At its highest.
        speed_up: Full fine-tuning's FLOPs over these; None where no layer runs any more.
    """

    name: str
    flops: Flops
    memory: Memory
    speed_up: float | None


@record
class Measured:
    """What a machine showed in a few steps; see `training.timing`.

    Attributes:
        full_step: Seconds per step of full fine-tuning.
        step: Seconds per step of the plan, its states fed from the cache.
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

    def __post_init__(self) -> None:
        require(min(self.full_step, self.step) > 0, "a step took no time")
        require(min(self.steps, self.epochs) >= 1, "there is no step to time")

    @property
    def steady(self) -> float:
        """Full fine-tuning's time over the plan's, once the cache is made."""
        return self.full_step / self.step

    @property
    def seconds(self) -> float:
        """Seconds of the whole training, making the cache counted."""
        return self.epochs * self.steps * self.step + self.making

    @property
    def speed_up(self) -> float:
        """Full fine-tuning's time over the plan's, making the cache counted."""
        return self.epochs * self.steps * self.full_step / self.seconds

    def __str__(self) -> str:
        return (
            f"measured in {self.timed} steps of each ({self.machine}): {self.full_step:.3g} s per step of full "
            f"fine-tuning, {self.step:.3g} s of the plan, {seconds(self.making)} to make the cache ({self.cache}); so "
            f"{seconds(self.seconds)} for {counted(self.epochs, 'epoch')} of {self.steps} steps: {self.speed_up:.2f}x, "
            f"{self.steady:.2f}x once the cache is made"
        )


@record
class Cost(Shown):
    """What a plan costs; `cost.price` makes it.

    Attributes:
        trainable_parameters: Those of the chosen layers, or what a tuner adds to them, and the head.
        total_parameters: Those of the base model and the head, without what a tuner adds.
        expected_speed_up: Full fine-tuning's FLOPs over the plan's, over all epochs, with the prefix cached (making the
            cache counted), one token read in the last layer and no dropout in frozen layers.
        limit: The same without making the cache, which no number of epochs exceeds; None where no layer runs any more.
        tokens: The length of a text that was assumed: the mean of the data, or 128 where no text was read.
        texts: How many texts there are; 0 where that is not known.
        batch_size: Texts in a batch, which the memory is for.
        epochs: Over which making the cache is spread.
        lines: Full fine-tuning, plain freezing, that with the prefix cache, that with one token read, and everything;
            of an encoder-decoder the first two.
        measured: What a machine showed, where it was asked.
        learned: How many tokens of a text are learned, where a language model's head reads them.
    """

    trainable_parameters: int
    total_parameters: int
    expected_speed_up: float
    limit: float | None
    tokens: float
    texts: int
    batch_size: int
    epochs: int
    lines: tuple[CostLine, ...]
    measured: Measured | None = None
    learned: float | None = None

    def __post_init__(self) -> None:
        require(self.trainable_parameters >= 0, "fewer parameters train than none")
        require(0 < self.tokens <= MOST_TOKENS, f"tokens is {self.tokens}")
        require(self.total_parameters >= 1 and self.texts >= 0, "it is of nothing")
        require(self.batch_size >= 1 and self.epochs >= 1, "it has no batch or no epoch")

    @property
    def share(self) -> float:
        """The share of the parameters that trains."""
        return self.trainable_parameters / self.total_parameters

    def __str__(self) -> str:
        words = f"{self.expected_speed_up:.2f}x the training speed of full fine-tuning"
        words += f" over {counted(self.epochs, 'epoch')}"
        if self.limit is None:
            return f"{words}, and more with more epochs"
        return f"{words}, and at most {self.limit:.2f}x"
