"""One pass over the data feeds any number of scorers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from wheretune.data.batches import CHUNK, collator, stream_batches
from wheretune.data.texts import shuffled
from wheretune.data.tokens import next_tokens
from wheretune.errors import ConfigError, DataError, ScoreError
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe
from wheretune.model.inputs import max_tokens
from wheretune.model.output_matrix import semantic_bases
from wheretune.records.base import Spec
from wheretune.records.scores import LayerScore, LayerScores
from wheretune.scorers.base import GradientScorer, StackScorer, StreamScorer
from wheretune.scorers.sums import Moments
from wheretune.scoring.gradients import stream_gradients
from wheretune.scoring.states import stream_states
from wheretune.support.log import log
from wheretune.support.progress import progress
from wheretune.support.provenance import versions

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.model.stack import LayerStack
    from wheretune.model.states import States
    from wheretune.records.data import DataInfo
    from wheretune.records.model import LayerParts, ModelInfo
    from wheretune.records.scores import LastState, Pooling, Settlement
    from wheretune.scorers.base import Finished, Scorer


@runtime_checkable
class Watch(Protocol):
    """Looks on while a scorer's pass runs and says when its choice is settled."""

    def see(self, states: States) -> None:
        """One more batch."""

    def look(self, finished: Finished, n: int) -> Settlement:
        """What can be said after `n` samples."""


Settle = Callable[[Any, int], Watch]
"""From the scorer and the number of texts there are to what watches it."""
LOOK_EVERY = 4  # batches between two looks at whether the choice is settled


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
