"""What a scorer is, and the one pass that feeds any number of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wheretune.anatomy import describe, find_layers, max_tokens
from wheretune.capture import LastState, stream_states
from wheretune.data import TextData, collator, stream_batches
from wheretune.errors import ConfigError, ScoreError
from wheretune.show.tables import progress
from wheretune.types import LayerScore, LayerScores, LayerStack, Pooling, Spec, States


@dataclass(frozen=True, eq=False)
class Finished:
    """What a scorer makes of its sums: mean, standard deviation and, if it has one, the pair matrix."""

    values: Float[np.ndarray, " layer"]
    stds: Float[np.ndarray, " layer"]
    n_samples: int
    similarity: Float[np.ndarray, "layer layer"] | None = None


@runtime_checkable
class Scorer(Protocol):
    """A frozen object of settings. Its state holds sums, never rows, so states of shards merge."""

    name: ClassVar[str]

    def init(self, stack: LayerStack) -> Any:
        """The empty state for a model."""

    def update(self, state: Any, states: States) -> Any:
        """The state after one more batch."""

    def merge(self, one: Any, other: Any) -> Any:
        """The state of two shards of the data."""

    def finish(self, state: Any) -> Finished:
        """The scores."""


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums over samples of a similarity between every two layers, in fp64, where samples weigh alike.

    Attributes:
        n: Samples seen.
        pairs: Sum of the L x L similarities.
        squares: Sum of each layer's squared score, for the standard deviation.
    """

    n: int
    pairs: Float[Tensor, "layer layer"]
    squares: Float[Tensor, " layer"]

    @classmethod
    def empty(cls, layers: int) -> "PairSums":
        """No samples yet.

        Raises:
            ScoreError: One layer has no other to be compared with.
        """
        if layers < 2:
            raise ScoreError("a model of one layer has no pairs of layers", "use a model of two or more")
        return cls(0, torch.zeros(layers, layers, dtype=torch.float64), torch.zeros(layers, dtype=torch.float64))

    def add(self, similarity: Float[Tensor, "batch layer layer"]) -> "PairSums":
        """These sums and those of one batch.

        Raises:
            ScoreError: A similarity is not finite (a state of length zero has no direction).
        """
        batch = similarity.to("cpu", torch.float64)
        bad = ~torch.isfinite(batch).all(dim=0)
        if bad.any():
            layer = int(bad.sum(dim=1).argmax())  # the culprit spoils its whole row, the others a cell each
            raise ScoreError(
                f"the similarity of layer {layer} to the others is not finite",
                "its state has length zero for some text: check the weights, or use euclidean-centrality",
            )
        return self.merge(PairSums(len(batch), batch.sum(0), mean_of_others(batch).square().sum(0)))

    def merge(self, other: "PairSums") -> "PairSums":
        """The sums over both."""
        return PairSums(self.n + other.n, self.pairs + other.pairs, self.squares + other.squares)

    def finish(self) -> Finished:
        """Mean and population standard deviation over samples, and the mean L x L matrix."""
        if self.n == 0:
            raise ScoreError("no samples were scored", "give some data")
        matrix = self.pairs / self.n
        means = mean_of_others(matrix)
        variance = (self.squares / self.n - means.square()).clamp(min=0)
        return Finished(means.numpy(), variance.sqrt().numpy(), self.n, matrix.numpy())


def mean_of_others(similarity: Float[Tensor, "*batch layer layer"]) -> Float[Tensor, "*batch layer"]:
    """Per layer the mean over all other layers: 1/(L-1) sum over j != l."""
    own = similarity.diagonal(dim1=-2, dim2=-1)
    return (similarity.sum(-1) - own) / (similarity.shape[-1] - 1)


def score_stack(
    stack: LayerStack,
    tokenizer: Any,
    data: TextData,
    scorers: Sequence[Scorer],
    *,
    batch_size: int = 32,
    pooling: Pooling = "token",
    last: LastState = "normed",
) -> list[LayerScores]:
    """Scores the layers with every scorer, in one forward pass through the base model.

    Args:
        stack: The layers; the model is left as it was.
        tokenizer: The model's tokenizer.
        data: The texts.
        scorers: Any number of scorers.
        batch_size: Texts in a forward pass; the scores do not depend on it.
        pooling: The representative token, or the mean over unmasked tokens.
        last: The last state after the final norm (as Transformers gives it) or before.

    Returns:
        One `LayerScores` a scorer, in order.

    Raises:
        ScoreError: A state or a score is not finite, or the model has one layer.
    """
    started = time.perf_counter()
    length = max_tokens(stack.base, tokenizer, data.info.spec.max_length)
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}", "give 1 or more")
    batches = stream_batches(data, tokenizer, length, batch_size)
    sums = [scorer.init(stack) for scorer in scorers]
    with progress() as shown:
        streamed = stream_states(stack, batches, collator(tokenizer), pooling, last)
        for states in shown.track(streamed, total=-(-len(data) // batch_size), description="scoring"):
            sums = [scorer.update(state, states) for scorer, state in zip(scorers, sums, strict=True)]
    finished = [scorer.finish(state) for scorer, state in zip(scorers, sums, strict=True)]
    elapsed = time.perf_counter() - started
    model = describe(stack)
    return [
        LayerScores(
            scorer=_spec(scorer, pooling, last),
            model=model,
            data=data.info,
            n_samples=result.n_samples,
            layers=tuple(
                LayerScore(
                    index=layer.index,
                    score=float(result.values[layer.index]),
                    std=float(result.stds[layer.index]),
                    path=layer.path,
                    parameters=sum(p.numel() for p in layer.module.parameters()),
                )
                for layer in stack.layers
            ),
            similarity=None if result.similarity is None else tuple(map(tuple, result.similarity.tolist())),
            seconds=elapsed,
            versions=versions(),
        )
        for scorer, result in zip(scorers, finished, strict=True)
    ]


def _spec(scorer: Scorer, pooling: Pooling, last: LastState) -> Spec:
    own = Spec.of(scorer)
    return Spec(own.name, {**own.params, "pooling": pooling, "last_state": last})


def score(
    model: Any,
    tokenizer: Any,
    data: TextData,
    scorer: Scorer,
    *,
    batch_size: int = 32,
    pooling: Pooling = "token",
) -> LayerScores:
    """Scores the layers of the user's own model; see `score_stack`.

    Args:
        model: Any Hugging Face transformer, with or without a head; it is left as it was.
        tokenizer: Its tokenizer.
        data: The texts, from `load_data` or `from_texts`.
        scorer: For example `CosineCentrality()`.
        batch_size: Texts in a forward pass; the scores do not depend on it.
        pooling: The representative token, or the mean over unmasked tokens.

    Raises:
        ModelError: The model's layers cannot be found.
        ScoreError: A state is not finite.
    """
    stack = find_layers(model)
    return score_stack(stack, tokenizer, data, [scorer], batch_size=batch_size, pooling=pooling)[0]


def versions() -> dict[str, str]:
    """The versions of the packages that a number depends on."""
    return {name: version(name) for name in ("wheretune", "torch", "transformers", "tokenizers", "numpy")}
