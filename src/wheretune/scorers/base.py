"""What a scorer is, and the one pass that feeds any number of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wheretune.anatomy import describe, find_layers, max_tokens
from wheretune.capture import LastState, Reduction, stream_states
from wheretune.data import CHUNK, TextData, collator, log, shuffled, stream_batches
from wheretune.errors import ConfigError, ScoreError
from wheretune.show.tables import progress
from wheretune.types import Layer, LayerScore, LayerScores, LayerStack, Pooling, Settlement, Spec, States


@dataclass(frozen=True)
class Card:
    """What `wheretune scorers` says of a scorer.

    Attributes:
        formula: In one line.
        source: The paper and its equation.
        reads: `states` (one forward pass), `weights` or `nothing`.
        cost: In words.
        selector: The selector that the source uses with it.
    """

    formula: str
    source: str
    reads: Literal["states", "weights", "nothing"]
    cost: str
    selector: str


@dataclass(frozen=True, eq=False)
class Finished:
    """What a scorer makes of its sums.

    Attributes:
        values: A score a layer; not a number where the layer is no candidate.
        stds: The population standard deviation over samples, for scores that are means over samples.
        covariance: The population covariance over samples of the layers' scores, for such scores.
        similarity: The mean similarity of every pair of layers, where the scorer compares them.
        excluded: Why a layer is no candidate, by its index.
    """

    values: Float[np.ndarray, " layer"]
    stds: Float[np.ndarray, " layer"] | None = None
    covariance: Float[np.ndarray, "layer layer"] | None = None
    similarity: Float[np.ndarray, "layer layer"] | None = None
    excluded: dict[int, str] = field(default_factory=dict)


@runtime_checkable
class StackScorer(Protocol):
    """A frozen object of settings that scores the layers without reading any text."""

    name: ClassVar[str]
    card: ClassVar[Card]

    def score(self, stack: LayerStack) -> Finished:
        """The scores."""


@runtime_checkable
class StreamScorer(Protocol):
    """A frozen object of settings that is handed the states of every batch.

    Its state is bounded, however much data there is, and the states of two shards merge.

    Attributes:
        reduction: Computed from all tokens of every layer's input and output while the model runs, and handed
            on as `states.reduced[name]`; None where representative tokens are enough.
    """

    name: ClassVar[str]
    card: ClassVar[Card]

    @property
    def reduction(self) -> Reduction | None:
        """What to compute from all tokens, if anything."""

    def init(self, stack: LayerStack) -> Any:
        """The empty state for a model."""

    def update(self, state: Any, states: States) -> Any:
        """The state after one more batch."""

    def merge(self, one: Any, other: Any) -> Any:
        """The state of two shards of the data."""

    def finish(self, state: Any) -> Finished:
        """The scores."""


Scorer = StackScorer | StreamScorer
Settle = Callable[[Finished, int], Settlement]
LOOK_EVERY = 4  # batches between two looks at whether the choice is settled


@dataclass(frozen=True, eq=False)
class MeanSums:
    """Sums over samples of one number a layer, in fp64, where samples weigh alike.

    Attributes:
        n: Samples.
        values: Sum of the numbers.
        products: Sum of the products of every two layers' numbers, for the covariance over samples.
    """

    n: int
    values: Float[Tensor, " layer"]
    products: Float[Tensor, "layer layer"]

    @classmethod
    def empty(cls, layers: int) -> "MeanSums":
        """No samples yet."""
        return cls(0, torch.zeros(layers, dtype=torch.float64), torch.zeros(layers, layers, dtype=torch.float64))

    def add(self, numbers: Float[Tensor, "batch layer"]) -> "MeanSums":
        """These sums and those of one batch."""
        batch = numbers.to("cpu", torch.float64)
        return self.merge(MeanSums(len(batch), batch.sum(0), batch.T @ batch))

    def merge(self, other: "MeanSums") -> "MeanSums":
        """The sums over both."""
        return MeanSums(self.n + other.n, self.values + other.values, self.products + other.products)

    def finish(self) -> Finished:
        """Mean, population standard deviation and population covariance over samples."""
        means = self.values / self.n
        covariance = self.products / self.n - torch.outer(means, means)
        stds = covariance.diagonal().clamp(min=0).sqrt()
        return Finished(means.numpy(), stds.numpy(), covariance=covariance.numpy())


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums over samples of a similarity between every two layers, in fp64, where samples weigh alike.

    Attributes:
        pairs: Sum of the L x L similarities.
        scores: Sums of each layer's mean similarity to the others.
    """

    pairs: Float[Tensor, "layer layer"]
    scores: MeanSums

    @classmethod
    def empty(cls, layers: int) -> "PairSums":
        """No samples yet.

        Raises:
            ScoreError: One layer has no other to be compared with.
        """
        if layers < 2:
            raise ScoreError("a model of one layer has no pairs of layers", "use a model of two or more")
        return cls(torch.zeros(layers, layers, dtype=torch.float64), MeanSums.empty(layers))

    def add(self, similarity: Float[Tensor, "batch layer layer"], rows: Sequence[int]) -> "PairSums":
        """These sums and those of one batch.

        Raises:
            ScoreError: A similarity is not finite (a state of length zero has no direction); `rows` says which text.
        """
        batch = similarity.to("cpu", torch.float64)
        bad = ~torch.isfinite(batch)
        if bad.any():
            sample = int(bad.any(dim=2).any(dim=1).nonzero()[0])
            layer = int(bad[sample].sum(dim=1).argmax())  # the culprit spoils its whole row, the others a cell each
            raise ScoreError(
                f"the similarity of layer {layer} to the others is not finite for row {rows[sample] + 1} "
                "(the first row is 1)",
                "its state there has length zero or is too large: check the weights and that text",
            )
        return PairSums(self.pairs + batch.sum(0), self.scores.add(mean_of_others(batch)))

    def merge(self, other: "PairSums") -> "PairSums":
        """The sums over both."""
        return PairSums(self.pairs + other.pairs, self.scores.merge(other.scores))

    def finish(self) -> Finished:
        """Mean and population standard deviation over samples, and the mean L x L matrix."""
        return replace(self.scores.finish(), similarity=(self.pairs / self.scores.n).numpy())


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
    revision: str | None = None,
    settle: Settle | None = None,
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
        revision: The hub's commit of the model, for the record.
        settle: Reads the data in a seeded random order, looks after every few batches whether the choice is settled,
            and stops there; for one scorer whose scores are means over samples.

    Returns:
        One `LayerScores` a scorer, in order.

    Raises:
        ScoreError: A state or a score is not finite, or the model has one layer.
    """
    started = time.perf_counter()
    length = max_tokens(stack.base, tokenizer, data.info.spec.max_length)
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}", "give 1 or more")
    streaming = [scorer for scorer in scorers if isinstance(scorer, StreamScorer)]
    if settle is not None and len(scorers) != 1:
        raise ConfigError("--until-settled goes with one scorer", "name one with --scorer")
    sums = {scorer: scorer.init(stack) for scorer in streaming}
    seen, settlement, chunk = 0, None, CHUNK
    if settle is not None:
        data, chunk = shuffled(data, data.info.spec.seed), LOOK_EVERY
    if streaming:
        reductions = {scorer.name: scorer.reduction for scorer in streaming if scorer.reduction is not None}
        batches = stream_batches(data, tokenizer, length, batch_size, chunk)
        streamed = stream_states(stack, batches, collator(tokenizer), pooling, last, reductions)
        with progress() as shown:
            for states in shown.track(streamed, total=-(-len(data) // batch_size), description="scoring"):
                sums = {scorer: scorer.update(state, states) for scorer, state in sums.items()}
                seen += len(states.sample_ids)
                if settle is not None and (seen % (chunk * batch_size) == 0 or seen == len(data)):
                    settlement = settle(streaming[0].finish(sums[streaming[0]]), seen)
                    if settlement.settled:
                        break
    finished = [
        scorer.finish(sums[scorer]) if isinstance(scorer, StreamScorer) else scorer.score(stack) for scorer in scorers
    ]
    elapsed = time.perf_counter() - started
    model = describe(stack, revision)
    return [
        LayerScores(
            scorer=_spec(scorer, pooling, last),
            model=model,
            data=data.info,
            n_samples=seen if isinstance(scorer, StreamScorer) else 0,
            layers=tuple(_layer_score(layer, result) for layer in stack.layers),
            similarity=None if result.similarity is None else tuple(map(tuple, result.similarity.tolist())),
            covariance=None if result.covariance is None else tuple(map(tuple, result.covariance.tolist())),
            settlement=settlement,
            seconds=elapsed,
            versions=versions(),
        )
        for scorer, result in zip(scorers, finished, strict=True)
    ]


def _layer_score(layer: Layer, result: Finished) -> LayerScore:
    value = float(result.values[layer.index])
    why = result.excluded.get(layer.index)
    if why is None and not np.isfinite(value):
        raise ScoreError(f"the score of layer {layer.index} is not finite", "check the model's weights")
    if why is not None:
        log.warning("layer %d is no candidate: %s", layer.index, why)
    return LayerScore(
        index=layer.index,
        score=value if why is None else None,
        std=None if result.stds is None or why is not None else float(result.stds[layer.index]),
        path=layer.path,
        parameters=sum(p.numel() for p in layer.module.parameters()),
        excluded=why,
        parts=layer.parts,
    )


def _spec(scorer: Scorer, pooling: Pooling, last: LastState) -> Spec:
    own = Spec.of(scorer)
    if not isinstance(scorer, StreamScorer):
        return own
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
