"""One pass over the data feeds any number of scorers.

`gather` checks what was asked for, then drives the scorers by what they read: weights, states (one forward pass) and
gradients (one backward pass). What it has gathered is a `PassState`; those of shards merge, and `finish` makes scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from wheretune import catalog
from wheretune.data.texts import TextData
from wheretune.errors import ConfigError, ModelError
from wheretune.model.apart import read_apart
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe, fingerprints
from wheretune.model.opening import Opened
from wheretune.model.output_matrix import semantic_bases
from wheretune.model.two_stacks import state_names
from wheretune.records.base import Spec
from wheretune.records.scores import LayerScores, Reading
from wheretune.scorers.base import GradientScorer, StackScorer, StreamScorer
from wheretune.scorers.sums import Moments
from wheretune.scoring.by_stack import by_stack
from wheretune.scoring.checking import check
from wheretune.scoring.gradients import stream_gradients
from wheretune.scoring.reading import Texts
from wheretune.scoring.scored import layer_scores
from wheretune.scoring.states import stream_states
from wheretune.support.log import log
from wheretune.support.progress import progress
from wheretune.support.provenance import versions
from wheretune.tasks.loading import load_data, to_score
from wheretune.tasks.verbalizing import next_tokens

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.model.states import States
    from wheretune.records.data import DataInfo
    from wheretune.records.model import ModelInfo
    from wheretune.records.scores import Pooling, Settlement
    from wheretune.scorers.base import Finished, Scorer

Kind = TypeVar("Kind")
Track = Callable[[Iterable[Kind], str], Iterable[Kind]]  # shows progress under a description


@runtime_checkable
class Watch(Protocol):
    """Looks on while a scorer's pass runs and says when its choice is settled."""

    def see(self, states: States) -> None:
        """One more batch."""

    def look(self, finished: Finished, n: int) -> Settlement:
        """What can be said after `n` samples."""


Settle = Callable[[Any, int], Watch]
"""From the scorer and the number of texts there are to what watches it."""


@dataclass(frozen=True, eq=False)
class PassState:
    """What a pass over the data, or over one shard of it, has gathered; shards merge, and `finish` makes scores of it.

    Attributes:
        states: By scorer its state; of a scorer that reads no text, its scores.
        info: The model.
        data: All the data.
        reading: How the texts were read.
        n_samples: Samples read.
        tokens: How many tokens the samples have together, special ones included.
        learned: How many of these are learned, where the task reads every token.
        seconds: Wall-clock time.
        versions: The packages that computed it.
        settlement: Whether the pass stopped early, and why.
        shard: Which of how many shards, counted from 1.
    """

    states: dict[Scorer, Any]
    info: ModelInfo
    data: DataInfo
    reading: Reading
    n_samples: int
    tokens: int
    seconds: float
    versions: dict[str, str]
    settlement: Settlement | None = None
    shard: tuple[int, int] = (1, 1)
    learned: int = 0


def gather(
    opened: Opened,
    data: TextData,
    scorers: Sequence[Scorer],
    reading: Reading,
    *,
    settle: Settle | None = None,
    shard: tuple[int, int] = (1, 1),
) -> PassState:
    """Feeds every scorer: in one forward pass those that read states, in one backward pass those that read gradients.

    Args:
        opened: The model, which is left as it was.
        data: The texts.
        scorers: Any number of scorers.
        reading: How the texts are read. Its `max_length`, where it has one, goes before the data's. To standardise
            takes a forward pass of its own.
        settle: Reads the data in a seeded random order, looks after every few batches whether the choice is settled,
            and stops there; for one scorer whose scores are means over samples.
        shard: Which of how many shards to read, counted from 1. The shards deal out the batches of one pass, so they
            merge into what one pass gathers; see `stream_batches`.

    Raises:
        ConfigError: Settings that do not go together.
        DataError: A scorer needs labels and there are none, or the shard has no batch.
        ScoreError: What is no scorer; a state, a gradient or a similarity is not finite; the model has one layer.
    """
    started = time.perf_counter()
    check(data, scorers, reading, settle is not None, shard)
    if opened.stack.split and settle is not None:
        raise ConfigError("a pass over two stacks of layers does not stop early", "drop it", "until_settled")
    texts = Texts.of(opened, data, reading, shard, settling=settle is not None)
    of_states = [scorer for scorer in scorers if isinstance(scorer, StreamScorer)]
    of_gradients = [scorer for scorer in scorers if isinstance(scorer, GradientScorer)]
    found: dict[Any, Any] = {
        scorer: scorer.score(opened.stack) for scorer in scorers if isinstance(scorer, StackScorer)
    }
    settlement = None
    with progress() as shown:
        track = partial(_track, shown, texts.steps)
        if of_states:
            states, settlement = _from_states(opened, texts, of_states, settle, track)
            found |= states
        if of_gradients:
            found |= _from_gradients(opened, texts, of_gradients, track)
    return PassState(
        states={scorer: found[scorer] for scorer in scorers},
        info=opened.info,
        data=data.info,
        reading=texts.reading,
        n_samples=texts.samples,
        tokens=texts.tokens,
        learned=texts.learned,
        seconds=time.perf_counter() - started,
        versions=versions(),
        settlement=settlement,
        shard=shard,
    )


# --- what is made of the texts --------------------------------------------------------------------


def _track(shown: Any, total: int, batches: Iterable[Kind], description: str) -> Iterable[Kind]:
    tracked: Iterable[Kind] = shown.track(batches, total=total, description=description)
    return tracked


def _from_states(
    opened: Opened, texts: Texts, scorers: Sequence[StreamScorer], settle: Settle | None, track: Track[States]
) -> tuple[dict[StreamScorer, Any], Settlement | None]:
    """One forward pass; one more before it, where states are standardised."""
    stack, collate, task = opened.stack, texts.task.collator(opened.tokenizer), texts.task
    reductions = {scorer.name: scorer.reduction for scorer in scorers if scorer.reduction is not None}
    meanings = _meanings(opened, texts, scorers)

    def forward() -> Iterator[States]:
        every = task.predicted if task.places == "every" else None
        return stream_states(stack, texts.batches(), collate, texts.reading, reductions, *meanings, every)

    driven = {scorer: by_stack(scorer, opened.info) for scorer in scorers}
    moments = _moments(stack, track(forward(), "standardising")) if texts.reading.standardise else None
    states = {scorer: driven[scorer].init(stack) for scorer in scorers}
    watch = None if settle is None else settle(scorers[0], len(texts.data))
    settlement = None
    for batch in track(forward(), "scoring"):
        if moments is not None:
            batch = replace(batch, tokens=moments.standardised(batch.tokens))
        states = {scorer: driven[scorer].update(state, batch) for scorer, state in states.items()}
        if watch is not None:
            watch.see(batch)
            settlement = _looked(watch, texts, scorers[0], states[scorers[0]]) or settlement
            if settlement is not None and settlement.settled:
                break
    return states, settlement


def _moments(stack: LayerStack, batches: Iterable[States]) -> Moments:
    """Of every dimension of every latent space, over all batches."""
    moments = Moments.empty(len(state_names(stack)), stack.hidden_size)
    for batch in batches:
        moments = moments.merge(Moments.of(batch.tokens))
    return moments


def _meanings(
    opened: Opened, texts: Texts, scorers: Sequence[StreamScorer]
) -> tuple[Float[Tensor, "label hidden"] | None, Callable[[dict[str, Any]], int] | None]:
    """What the labels mean to a language model, and of a row which of them is its own; None where no scorer asks.

    The label of a language model's task is the token that it predicts where the row is read.
    """
    if not any("language-model" in scorer.card.needs for scorer in scorers):
        return None, None
    if opened.stack.split:
        raise ModelError(
            "what a token means is told in a decoder's last space, and the layers of an encoder work towards another",
            "take a scorer that needs no language model",
            "scorer",
        )
    task = texts.task
    if task.places == "one":
        labels, targets = next_tokens(texts.data, opened.tokenizer)
        return semantic_bases(opened.stack, labels), lambda row: targets[row["row"]]

    def token(row: dict[str, Any]) -> int:
        found: int = row["labels"][task.predicted(row["labels"])]
        return found

    tokens = sorted({token(row) for batch in texts.batches() for row in batch})
    place = {one: i for i, one in enumerate(tokens)}
    return semantic_bases(opened.stack, tokens), lambda row: place[token(row)]


def _looked(watch: Watch, texts: Texts, scorer: StreamScorer, state: Any) -> Settlement | None:
    """What the watch says, if it is time to look."""
    if not texts.time_to_look:
        return None
    return replace(watch.look(scorer.finish(state), texts.samples), texts=len(texts.data))


def _from_gradients(
    opened: Opened, texts: Texts, scorers: Sequence[GradientScorer], track: Track[Any]
) -> dict[GradientScorer, Any]:
    """One backward pass."""
    per_sample = any(scorer.per_sample for scorer in scorers)
    collate = texts.task.collator(opened.tokenizer)
    stream = stream_gradients(opened.stack, texts.data, texts.batches(), collate, per_sample, texts.reading.seed)
    states = {scorer: scorer.init(opened.stack) for scorer in scorers}
    for gradients in track(stream, "scoring by gradients"):
        states = {scorer: scorer.update(state, gradients) for scorer, state in states.items()}
    return states


# --- shards ---------------------------------------------------------------------------------------


def merge(shards: Sequence[PassState]) -> PassState:
    """What one pass over the whole data would have gathered.

    Args:
        shards: All shards of one pass, in any order. They may come from other machines: models are compared by their
            weights and data by content, wherever they lie.

    Raises:
        ConfigError: They are of different passes, one is there twice, or one is missing.
    """
    _check_alike(shards)
    _check_complete(shards)
    first = shards[0]
    ordered = sorted(shards, key=lambda part: part.shard)
    states: dict[Scorer, Any] = {}
    for scorer in first.states:
        parts = [part.states[scorer] for part in ordered]
        states[scorer] = (
            parts[0] if isinstance(scorer, StackScorer) else reduce(by_stack(scorer, first.info).merge, parts)
        )
    return replace(
        first,
        states=states,
        n_samples=sum(part.n_samples for part in shards),
        tokens=sum(part.tokens for part in shards),
        learned=sum(part.learned for part in shards),
        seconds=sum(part.seconds for part in shards),
        shard=(1, 1),
    )


def _check_alike(shards: Sequence[PassState]) -> None:
    if not shards:
        raise ConfigError("there is no shard to merge", "give all shards of a pass")
    first, common = shards[0], _common(shards[0])
    for other in shards:
        theirs = _common(other)
        differs = [name for name, value in common.items() if theirs[name] != value]
        if differs:
            one, another = ("/".join(map(str, part.shard)) for part in (other, first))
            raise ConfigError(f"shards {one} and {another} are of different passes ({differs[0]})", "merge like shards")
        if other.versions != first.versions:
            log.warning("shards %d and %d were made with other versions of packages", other.shard[0], first.shard[0])


def _check_complete(shards: Sequence[PassState]) -> None:
    of, numbers = shards[0].shard[1], [part.shard[0] for part in shards]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise ConfigError(f"shard {twice[0]} of {of} is given twice", "give each once")
    missing = sorted(set(range(1, of + 1)) - set(numbers))
    if missing:
        raise ConfigError(f"shard {missing[0]} of {of} is missing", f"score shard {missing[0]}/{of} and merge all")


def _common(state: PassState) -> dict[str, Any]:
    """What shards must have in common, by name."""
    return {
        "number of shards": state.shard[1],
        "scorers": list(state.states),
        "model": state.info.hash,
        "layers": state.info.layers,
        "precision": (state.info.spec.dtype, state.info.spec.quantize),
        "data": state.data.hash,
        "how the data is read": (replace(state.data.spec, source=""), state.reading),
    }


# --- scores ---------------------------------------------------------------------------------------


def finish(state: PassState) -> list[LayerScores]:
    """The scores, one `LayerScores` per scorer, in order.

    Raises:
        ScoreError: A score is not finite, or there were too few samples.
    """
    scored = []
    for scorer, own in state.states.items():
        reads = not isinstance(scorer, StackScorer)
        made = layer_scores(
            Spec.of(scorer),
            by_stack(scorer, state.info).finish(own) if not isinstance(scorer, StackScorer) else own,
            state.info,
            state.data,
            state.reading if reads else replace(state.reading, max_length=None),
            n_samples=state.n_samples if reads else 0,
            tokens=state.tokens / state.n_samples if reads else None,
            seconds=state.seconds,
            versions=state.versions,
            settlement=state.settlement,
        )
        scored.append(replace(made, learned=state.learned / state.n_samples) if reads and state.learned else made)
    return scored


def score(
    model: Any,
    tokenizer: Any,
    data: Any,
    scorer: Scorer | None = None,
    *,
    batch_size: int = 32,
    pooling: Pooling = "token",
) -> LayerScores:
    """Scores the layers of the user's own model; see `gather`.

    Args:
        model: Any Hugging Face transformer, with or without a head, or what holds one (a SentenceTransformer, a module
            written by hand, a model that PEFT wrapped); it is left as it was.
        tokenizer: Its tokenizer; None takes the one that the model carries, as a SentenceTransformer does.
        data: The texts, from `load_data` or `from_texts`, or what `load_data` takes: a file, a data set, a frame.
        scorer: For example `CKA()`; `CosineCentrality()` by default.
        batch_size: Texts in a forward pass; only what is computed batch by batch (`GradientNorm`) depends on it.
        pooling: The representative token, or the mean over unmasked tokens.

    Raises:
        ModelError: The model's layers cannot be found.
        DataError: The scorer needs labels and there are none.
        ScoreError: A state is not finite.
    """
    scorer = scorer or catalog.build("scorer", Spec("cosine-centrality"))
    texts = data if isinstance(data, TextData) else to_score(lambda use: load_data(data, labels=use), scorer.card.needs)
    stack = find_layers(model)
    tokenizer = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
    if tokenizer is None:
        raise ModelError(f"{type(model).__name__} carries no tokenizer", "give its tokenizer")
    if stack.split:
        read_apart(tokenizer)
    hashes = fingerprints(stack)
    opened = Opened(stack, tokenizer, describe(stack, hashes), hashes)
    reading = Reading(batch_size, pooling, seed=texts.info.spec.seed)
    return finish(gather(opened, texts, [scorer], reading))[0]
