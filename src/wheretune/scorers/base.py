"""What a scorer is, and the one pass that feeds any number of them.

`gather` reads the data, or one shard of it, and gives a `Gathered`: the scorers' states. `finish` makes scores of it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wheretune.anatomy import describe, find_layers, max_tokens, semantic_bases
from wheretune.capture import LastState, Reduction, stream_states
from wheretune.data import CHUNK, TextData, collator, log, next_tokens, shuffled, stream_batches
from wheretune.errors import ConfigError, DataError, ScoreError
from wheretune.gradients import stream_gradients
from wheretune.show.tables import progress
from wheretune.types import (
    DataInfo,
    Deviations,
    Gradients,
    LayerParts,
    LayerScore,
    LayerScores,
    LayerStack,
    ModelInfo,
    Pooling,
    Settlement,
    Spec,
    States,
)

Reads = Literal["states", "meanings", "gradients", "training", "weights", "nothing"]
NEEDS: dict[Reads, str] = {
    "states": "texts",
    "meanings": "texts; labels or a target column; a causal language model",
    "gradients": "texts and labels",
    "training": "texts and labels",
    "weights": "no texts",
    "nothing": "no texts",
}


@dataclass(frozen=True)
class Card:
    """What `wheretune scorers` says of a scorer.

    Attributes:
        formula: In one line.
        source: The paper and its equation.
        reads: `states` (one forward pass), `meanings` (that, and what the labels mean to the model), `gradients` (one
            backward pass), `training`, `weights` or `nothing`.
        cost: In words.
        selector: The selector that the source uses with it.
    """

    formula: str
    source: str
    reads: Reads
    cost: str
    selector: str

    @property
    def needs(self) -> str:
        """What the user has to bring."""
        return NEEDS[self.reads]


@dataclass(frozen=True, eq=False)
class Finished:
    """What a scorer makes of its sums.

    Attributes:
        values: A score a layer; not a number where the layer is no candidate.
        stds: The population standard deviation over samples, for scores that are means over samples.
        covariance: n times the covariance of the layers' scores over resamples of the data; for such scores, the
            population covariance over samples.
        similarity: The mean similarity of every pair of layers, where the scorer compares them.
        excluded: Why a layer is no candidate, by its index.
        deviations: Of every latent space, where the scorer measures them.
    """

    values: Float[np.ndarray, " layer"]
    stds: Float[np.ndarray, " layer"] | None = None
    covariance: Float[np.ndarray, "layer layer"] | None = None
    similarity: Float[np.ndarray, "layer layer"] | None = None
    excluded: dict[int, str] = field(default_factory=dict)
    deviations: Deviations | None = None


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
        kinds: The dataclasses that a state consists of: tensors, numbers, strings, tuples and each other, so that
            a state can be written to a file.
        reduction: Computed from all tokens of every layer's input and output while the model runs, and handed
            on as `states.reduced[name]`; None where representative tokens are enough.
    """

    name: ClassVar[str]
    card: ClassVar[Card]
    kinds: ClassVar[tuple[type, ...]]

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


@runtime_checkable
class GradientScorer(Protocol):
    """A frozen object of settings that is handed the gradients of every batch; otherwise as a `StreamScorer`.

    Attributes:
        per_sample: Whether it reads each sample's own gradient.
    """

    name: ClassVar[str]
    card: ClassVar[Card]
    kinds: ClassVar[tuple[type, ...]]

    @property
    def per_sample(self) -> bool:
        """Whether it reads `Gradients.squares`."""

    def init(self, stack: LayerStack) -> Any:
        """The empty state for a model."""

    def update(self, state: Any, gradients: Gradients) -> Any:
        """The state after one more batch."""

    def merge(self, one: Any, other: Any) -> Any:
        """The state of two shards of the data."""

    def finish(self, state: Any) -> Finished:
        """The scores."""


@runtime_checkable
class BoundedScorer(Protocol):
    """A stream scorer whose score is the mean over samples of a number that is bounded: what betting needs to know.

    Attributes:
        bounds: The lowest and the highest that number can be.
    """

    bounds: ClassVar[tuple[float, float]]

    def per_text(self, states: States) -> Float[Tensor, "batch layer"]:
        """The numbers of every sample."""


@runtime_checkable
class Watch(Protocol):
    """Looks on while a scorer's pass runs and says when its choice is settled."""

    def see(self, states: States) -> None:
        """One more batch."""

    def look(self, finished: Finished, n: int) -> Settlement:
        """What can be said after `n` samples."""


Scorer = StackScorer | StreamScorer | GradientScorer
Settle = Callable[[Any, int], Watch]
"""From the scorer and the number of texts there are to what watches it."""
LOOK_EVERY = 4  # batches between two looks at whether the choice is settled
SKETCH = 512  # rows that are kept for resampling
RESAMPLES = 100
LEAST_ROWS = 16  # to be resampled
LEAST_BATCHES = 8  # to say how batches vary
CONSTANT = 1e-10  # a variance below this share of the squared mean is rounding


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
class BatchSums:
    """Sums over batches of one number a layer, for scores that only a batch has.

    Attributes:
        batches: The sums.
        texts: Texts in these batches.
    """

    batches: MeanSums
    texts: int

    @classmethod
    def empty(cls, layers: int) -> "BatchSums":
        """No batches yet."""
        return cls(MeanSums.empty(layers), 0)

    def add(self, numbers: Float[Tensor, " layer"], texts: int) -> "BatchSums":
        """These sums and those of one batch."""
        return BatchSums(self.batches.add(numbers.unsqueeze(0)), self.texts + texts)

    def merge(self, other: "BatchSums") -> "BatchSums":
        """The sums over both."""
        return BatchSums(self.batches.merge(other.batches), self.texts + other.texts)

    def finish(self, total: bool) -> Finished:
        """The mean over batches, or their total, and how sure it is by how batches vary.

        Batches are of like length and so differ by more than random ones would: the covariance is rather too large. Of
        fewer than `LEAST_BATCHES` batches none is given.
        """
        many, means = self.batches.n, self.batches.finish()
        times = many if total else 1
        covariance = None
        if many >= LEAST_BATCHES and means.covariance is not None:
            covariance = means.covariance * (self.texts / (many - 1)) * times**2  # n times that of the mean or total
        return Finished(means.values * times, covariance=covariance)


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


@dataclass(frozen=True, eq=False)
class Sketch:
    """A uniform sample of the rows seen, without replacement and of bounded size, for scores that are no means.

    It keeps the rows whose hashed row numbers are smallest, so it is the same in any order and of any shards.

    Attributes:
        keys: The hashed row numbers, ascending.
        rows: What was kept of each row, fp32.
    """

    keys: Int[Tensor, " row"]
    rows: Float[Tensor, "row state hidden"]

    @classmethod
    def empty(cls, states: int, hidden: int) -> "Sketch":
        """No rows yet."""
        return cls(torch.zeros(0, dtype=torch.int64), torch.zeros(0, states, hidden))

    def add(self, sample_ids: Sequence[int], rows: Float[Tensor, "row state hidden"]) -> "Sketch":
        """This sketch and a batch."""
        keys = _hashed(sample_ids)
        if len(self.keys) >= SKETCH:  # most of a later batch need not be copied
            smaller = keys < self.keys[-1]
            keys, rows = keys[smaller], rows[smaller.to(rows.device)]
        return self.merge(Sketch(keys, rows.float().cpu())) if len(keys) else self

    def merge(self, other: "Sketch") -> "Sketch":
        """The sketch of both."""
        keys, order = torch.cat([self.keys, other.keys]).sort()
        return Sketch(keys[:SKETCH], torch.cat([self.rows, other.rows])[order[:SKETCH]])

    def covariance(
        self, n: int, statistic: Callable[[Float[Tensor, "row part"]], Float[Tensor, "part layer"]]
    ) -> Float[np.ndarray, "layer layer"] | None:
        """N times the covariance of a statistic of n samples, by subsampling without replacement.

        Of the m rows kept, `RESAMPLES` subsets of b = n m / (n + m) are drawn; the variance over subsets of size b of m
        is that of b samples times 1 - b / m, which is the variance of n samples (Politis and Romano 1994, with the
        correction for a finite population). Of few samples it is rather too large, since the statistic is no mean.

        Args:
            n: Samples the score itself is made of.
            statistic: From subsets of the rows, a column each with 1 for the rows that are in, to the scores of each.

        Returns:
            The matrix, zero where a layer has no score; None if there are too few rows.
        """
        kept = len(self.keys)
        if kept < LEAST_ROWS:
            return None
        size = round(n * kept / (n + kept))
        ranks = np.random.default_rng(0).random((kept, RESAMPLES)).argsort(0)
        values = statistic(torch.from_numpy((ranks < size).astype(np.float64)))
        covariance: Float[np.ndarray, "layer layer"] = np.nan_to_num(n * np.atleast_2d(np.cov(values.numpy().T)))
        return covariance


def _hashed(sample_ids: Sequence[int]) -> Int[Tensor, " row"]:
    """A pseudo-random number from 0 a row: the finaliser of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = np.array(sample_ids, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return torch.from_numpy(((z ^ (z >> np.uint64(31))) >> np.uint64(1)).astype(np.int64))


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and summed squared deviation of every dimension of every latent space, in fp64."""

    n: int
    mean: Float[Tensor, "state hidden"]
    spread: Float[Tensor, "state hidden"]

    @classmethod
    def empty(cls, states: int, hidden: int) -> "Moments":
        """No rows yet."""
        zeros = torch.zeros(states, hidden, dtype=torch.float64)
        return cls(0, zeros, zeros)

    @classmethod
    def of(cls, rows: Float[Tensor, "row state hidden"]) -> "Moments":
        """Of some rows."""
        rows = rows.to("cpu", torch.float64)
        mean = rows.mean(0)
        return cls(len(rows), mean, (rows - mean).square().sum(0))

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both (Chan et al. 1979): no difference of large sums, so no cancellation."""
        n = self.n + other.n
        if n == 0:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.n / n)
        return Moments(n, mean, self.spread + other.spread + step.square() * (self.n * other.n / n))

    def standardised(self, rows: Float[Tensor, "row state hidden"]) -> Float[Tensor, "row state hidden"]:
        """Every dimension to mean 0 and deviation 1 over what was counted; one that never varies becomes 0."""
        deviation = (self.spread / self.n).sqrt()
        centred = rows - self.mean.to(rows)
        varies = deviation > CONSTANT**0.5 * self.mean.abs()
        return centred / torch.where(varies, deviation, 1.0).to(rows)


def mean_of_others(similarity: Float[Tensor, "*batch layer layer"]) -> Float[Tensor, "*batch layer"]:
    """Per layer the mean over all other layers: 1/(L-1) sum over j != l."""
    own = similarity.diagonal(dim1=-2, dim2=-1)
    return (similarity.sum(-1) - own) / (similarity.shape[-1] - 1)


@dataclass(frozen=True, eq=False)
class Gathered:
    """What a pass over the data, or over one shard of it, has gathered; shards merge, and `finish` makes scores of it.

    Attributes:
        states: By scorer its state; of one that streams nothing, its scores.
        specs: Of the scorers, in order, with how the states were read.
        model: The model.
        data: All the data.
        layers: Path, number of parameters and parts of every layer.
        n_samples: Samples read.
        seconds: Wall-clock time.
        settlement: Whether the pass stopped early, and why.
        shard: Which of how many shards, counted from 1.
        batch_size: Texts in a batch.
        versions: The packages that computed it.
        tokens: How many the samples have together, special ones included.
    """

    states: dict[Scorer, Any]
    specs: tuple[Spec, ...]
    model: ModelInfo
    data: DataInfo
    layers: tuple[tuple[str, int, LayerParts], ...]
    n_samples: int
    seconds: float
    settlement: Settlement | None
    shard: tuple[int, int]
    batch_size: int
    versions: dict[str, str]
    tokens: int


def gather(
    stack: LayerStack,
    tokenizer: Any,
    data: TextData,
    scorers: Sequence[Scorer],
    *,
    batch_size: int = 32,
    pooling: Pooling = "token",
    last: LastState = "normed",
    standardise: bool = False,
    revision: str | None = None,
    settle: Settle | None = None,
    shard: tuple[int, int] = (1, 1),
) -> Gathered:
    """Feeds every scorer: in one forward pass those that read states, in one backward pass those that read gradients.

    Args:
        stack: The layers; the model is left as it was.
        tokenizer: The model's tokenizer.
        data: The texts.
        scorers: Any number of scorers.
        batch_size: Texts in a forward pass; only what is computed batch by batch (`gradient-norm`, `fisher:per=batch`)
            depends on it.
        pooling: The representative token, or the mean over unmasked tokens.
        last: The last state after the final norm (as Transformers gives it) or before.
        standardise: Take every dimension of every latent space to mean 0 and deviation 1 over the data first, so that a
            few dimensions of great variance (rogue ones, Timkey and van Schijndel 2021) do not decide every cosine.
            Costs a forward pass of its own.
        revision: The hub's commit of the model, for the record.
        settle: Reads the data in a seeded random order, looks after every few batches whether the choice is settled,
            and stops there; for one scorer whose scores are means over samples.
        shard: Which of how many shards to read, counted from 1: whole batches are dealt out in turn, so shards merge
            into what one pass gathers.

    Raises:
        ConfigError: Settings that do not go together.
        DataError: A scorer needs labels and there are none.
        ScoreError: A state, a gradient or a similarity is not finite, or the model has one layer.
    """
    started = time.perf_counter()
    length = max_tokens(stack.base, tokenizer, data.info.spec.max_length)
    number, shards = shard
    if data.labels is None and any(isinstance(scorer, GradientScorer) for scorer in scorers):
        raise DataError(
            f"{data.info.spec.source} has no labels, and a gradient needs a loss",
            "name the label column with --label-column",
        )
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}", "give 1 or more")
    if not 1 <= number <= shards:
        raise ConfigError(f"--shard is {number}/{shards}", "give i/n with i from 1 to n")
    streaming = [scorer for scorer in scorers if isinstance(scorer, StreamScorer)]
    differentiating = [scorer for scorer in scorers if isinstance(scorer, GradientScorer)]
    if settle is not None and (len(scorers) != 1 or not streaming):
        raise ConfigError("--until-settled goes with one scorer that reads states", "name one with --scorer")
    if (settle is not None or standardise) and shards > 1:
        raise ConfigError("--shard reads a part, and --until-settled and --standardise need the whole", "drop one")
    if settle is not None and standardise:
        raise ConfigError("--standardise reads all data first, and --until-settled would not", "drop one")
    for scorer in streaming if standardise else ():
        if scorer.reduction is not None:
            raise ConfigError(f"{scorer.name} reads all tokens, which --standardise leaves alone", "drop one")
    for offered in scorers:
        if not isinstance(offered, StackScorer | StreamScorer | GradientScorer) or type(offered).__hash__ is None:
            raise ScoreError(
                f"{type(offered).__name__} is no scorer: it needs name, card, kinds, reduction (or per_sample), init, "
                "update, merge and finish, or name, card and score, in a frozen dataclass",
                "see docs/scorers.md",
            )
    states: dict[Scorer, Any] = {
        scorer: scorer.score(stack) if isinstance(scorer, StackScorer) else scorer.init(stack) for scorer in scorers
    }
    seen, length_seen, settlement, chunk, watch = 0, 0, None, CHUNK, None
    if settle is not None:
        data, chunk = shuffled(data, data.info.spec.seed), LOOK_EVERY
        watch = settle(streaming[0], len(data))
    collate = collator(tokenizer)

    def batches() -> Iterator[list[dict[str, Any]]]:
        nonlocal length_seen
        length_seen = 0  # every pass reads the same
        for rows in islice(stream_batches(data, tokenizer, length, batch_size, chunk), number - 1, None, shards):
            length_seen += sum(len(row["input_ids"]) for row in rows)
            yield rows

    tokens, targets = next_tokens(data, tokenizer) if any(s.card.reads == "meanings" for s in streaming) else ((), None)
    bases = semantic_bases(stack, tokens) if tokens else None
    reductions = {scorer.name: scorer.reduction for scorer in streaming if scorer.reduction is not None}
    total = -(-len(data) // (batch_size * shards))

    def forward() -> Iterator[States]:
        return stream_states(stack, batches(), collate, pooling, last, reductions, bases, targets)

    with progress() as shown:
        moments = Moments.empty(len(stack) + 1, stack.hidden_size)
        if standardise and streaming:
            for batch in shown.track(forward(), total=total, description="standardising"):
                moments = moments.merge(Moments.of(batch.tokens))
        if streaming:
            for batch in shown.track(forward(), total=total, description="scoring"):
                batch = replace(batch, tokens=moments.standardised(batch.tokens)) if standardise else batch
                states |= {scorer: scorer.update(states[scorer], batch) for scorer in streaming}
                seen += len(batch.sample_ids)
                if watch is not None:
                    watch.see(batch)
                    if seen % (chunk * batch_size) == 0 or seen == len(data):
                        settlement = watch.look(streaming[0].finish(states[streaming[0]]), seen)
                        if settlement.settled:
                            break
        if differentiating:
            per_sample = any(scorer.per_sample for scorer in differentiating)
            stream = stream_gradients(stack, data, batches(), collate, per_sample)
            read = 0
            for gradients in shown.track(stream, total=total, description="scoring by gradients"):
                states |= {scorer: scorer.update(states[scorer], gradients) for scorer in differentiating}
                read += len(gradients.sample_ids)
            seen = read
    if (streaming or differentiating) and seen == 0:
        raise DataError(f"shard {number} of {shards} has no batch", "make fewer shards or smaller batches")
    how = {"pooling": pooling, "last_state": last} | ({"standardised": True} if standardise else {})
    return Gathered(
        states=states,
        specs=tuple(
            Spec(scorer.name, Spec.of(scorer).params | (how if isinstance(scorer, StreamScorer) else {}))
            for scorer in scorers
        ),
        model=describe(stack, revision),
        data=data.info,
        layers=tuple(
            (layer.path, sum(p.numel() for p in layer.module.parameters()), layer.parts) for layer in stack.layers
        ),
        n_samples=seen,
        seconds=time.perf_counter() - started,
        settlement=settlement,
        shard=shard,
        batch_size=batch_size,
        versions=versions(),
        tokens=length_seen,
    )


def finish(gathered: Gathered) -> list[LayerScores]:
    """The scores, one `LayerScores` a scorer, in order.

    Raises:
        ScoreError: A score is not finite, or there were too few samples.
    """
    scored = []
    for (scorer, state), spec in zip(gathered.states.items(), gathered.specs, strict=True):
        result = state if isinstance(scorer, StackScorer) else scorer.finish(state)
        for index, why in result.excluded.items():
            log.warning("layer %d is no candidate: %s", index, why)
        scored.append(
            LayerScores(
                scorer=spec,
                model=gathered.model,
                data=gathered.data,
                n_samples=0 if isinstance(scorer, StackScorer) else gathered.n_samples,
                layers=tuple(_layer_score(index, *layer, result) for index, layer in enumerate(gathered.layers)),
                similarity=_plain(result.similarity),
                covariance=_plain(result.covariance),
                settlement=gathered.settlement,
                seconds=gathered.seconds,
                versions=gathered.versions,
                deviations=result.deviations,
                tokens=None if isinstance(scorer, StackScorer) else gathered.tokens / gathered.n_samples,
            )
        )
    return scored


def _plain(matrix: Float[np.ndarray, "row column"] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if matrix is None else tuple(map(tuple, matrix.tolist()))


def _layer_score(index: int, path: str, parameters: int, parts: LayerParts, result: Finished) -> LayerScore:
    value = float(result.values[index])
    why = result.excluded.get(index)
    if why is None and not np.isfinite(value):
        raise ScoreError(f"the score of layer {index} is not finite", "check the model's weights")
    return LayerScore(
        index=index,
        score=value if why is None else None,
        std=None if result.stds is None or why is not None else float(result.stds[index]),
        path=path,
        parameters=parameters,
        excluded=why,
        parts=parts,
    )


def score(
    model: Any,
    tokenizer: Any,
    data: TextData,
    scorer: Scorer,
    *,
    batch_size: int = 32,
    pooling: Pooling = "token",
) -> LayerScores:
    """Scores the layers of the user's own model; see `gather`.

    Args:
        model: Any Hugging Face transformer, with or without a head; it is left as it was.
        tokenizer: Its tokenizer.
        data: The texts, from `load_data` or `from_texts`.
        scorer: For example `CosineCentrality()`.
        batch_size: Texts in a forward pass; only what is computed batch by batch (`GradientNorm`) depends on it.
        pooling: The representative token, or the mean over unmasked tokens.

    Raises:
        ModelError: The model's layers cannot be found.
        DataError: The scorer needs labels and there are none.
        ScoreError: A state is not finite.
    """
    stack = find_layers(model)
    return finish(gather(stack, tokenizer, data, [scorer], batch_size=batch_size, pooling=pooling))[0]


def versions() -> dict[str, str]:
    """The versions of the packages that a number depends on."""
    return {name: version(name) for name in ("wheretune", "torch", "transformers", "tokenizers", "numpy")}
