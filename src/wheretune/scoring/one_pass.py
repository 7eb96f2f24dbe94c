"""One pass over the data feeds any number of scorers.

`gather` checks what was asked for, then drives the scorers by what they read: weights, states (one forward pass) and
gradients (one backward pass). What it has gathered is a `PassState`, of which `gathered.finish` makes scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
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
from wheretune.scoring.gathered import PassState, finish
from wheretune.scoring.gradients import stream_gradients
from wheretune.scoring.reading import Place, Texts
from wheretune.scoring.resuming import Going, Keep
from wheretune.scoring.states import stream_states
from wheretune.support.progress import progress
from wheretune.support.provenance import versions
from wheretune.tasks.streaming import beginning_of, texts_to_score
from wheretune.tasks.verbalizing import next_tokens

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from wheretune.model.stack import LayerStack
    from wheretune.model.states import States
    from wheretune.records.scores import Pooling, Settlement
    from wheretune.scorers.base import Finished, Scorer
    from wheretune.tasks.streaming import StreamedTexts

Kind = TypeVar("Kind")
Track = Callable[[Iterable[Kind], str, int], Iterable[Kind]]  # shows progress under a description, from a sample on


@runtime_checkable
class Watch(Protocol):
    """Looks on while a scorer's pass runs and says when its choice is settled.

    Attributes:
        settings: What it goes by, in words; a pass that was watched otherwise is another pass.
    """

    @property
    def settings(self) -> str: ...

    def see(self, states: States) -> None:
        """One more batch."""

    def look(self, finished: Finished, n: int) -> Settlement:
        """What can be said after `n` samples."""

    def kept(self) -> dict[str, Any]:
        """What it has seen, as tensors, arrays, numbers, tuples and dicts."""

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Goes on from what another has `kept`."""


Settle = Callable[[Any, int | None], Watch]
"""From the scorer and the number of texts there are, None of a stream, to what watches it."""


def gather(
    opened: Opened,
    data: TextData | StreamedTexts,
    scorers: Sequence[Scorer],
    reading: Reading,
    *,
    settle: Settle | None = None,
    shard: tuple[int, int] = (1, 1),
    keep: Keep | None = None,
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
            merge into what one pass gathers; see `stream_chunks`.
        keep: Where the pass writes down every so often what it has gathered, and goes on from what stands there; it
            stays there in the end. See `scoring.resuming`.

    Raises:
        ConfigError: Settings that do not go together.
        DataError: A scorer needs labels and there are none, or the shard has no batch.
        ScoreError: What is no scorer; a state, a gradient or a similarity is not finite; the model has one layer.
    """
    started = time.perf_counter()
    beginning = beginning_of(data)
    check(beginning, scorers, reading, settle is not None, shard)
    if opened.stack.split and settle is not None:
        raise ConfigError("a pass over two stacks of layers does not stop early", "drop it", "until_settled")
    texts = Texts.of(opened, data, reading, shard, settling=settle is not None)
    of_states = [scorer for scorer in scorers if isinstance(scorer, StreamScorer)]
    of_gradients = [scorer for scorer in scorers if isinstance(scorer, GradientScorer)]
    watch = None if settle is None else settle(of_states[0], texts.total)
    empty = PassState({}, opened.info, beginning.info, texts.reading, 0, 0, 0.0, versions(), shard=shard)
    going = Going.of(empty, scorers, "" if watch is None else watch.settings, keep, started)
    for scorer in scorers:
        if isinstance(scorer, StackScorer) and scorer not in going.states:
            going.states[scorer] = scorer.score(opened.stack)
    with progress() as shown:
        track = partial(_track, shown, texts)
        if of_states:
            _from_states(opened, texts, of_states, watch, going, track)
        if of_gradients:
            _from_gradients(opened, texts, of_gradients, going, track)
    return replace(
        empty,
        states={scorer: going.states[scorer] for scorer in scorers},
        data=data.info,
        n_samples=texts.place.samples,
        tokens=texts.place.tokens,
        learned=texts.place.learned,
        seconds=going.seconds,
        settlement=going.settlement,
    )


# --- what is made of the texts --------------------------------------------------------------------


def _track(shown: Any, texts: Texts, batches: Iterable[Kind], description: str, read: int) -> Iterator[Kind]:
    task = shown.add_task(description, total=texts.steps, completed=read // texts.reading.batch_size)
    for batch in batches:
        yield batch
        shown.advance(task)


def _from_states(
    opened: Opened,
    texts: Texts,
    scorers: Sequence[StreamScorer],
    watch: Watch | None,
    going: Going,
    track: Track[States],
) -> None:
    """One forward pass; one more before it, where states are standardised."""
    stack, forward = opened.stack, _forward(opened, texts, scorers)
    if texts.reading.standardise:
        _measure_moments(stack, texts, forward, going, track)
    driven = {scorer: by_stack(scorer, opened.info) for scorer in scorers}
    with going.during("scoring") as after:
        if after is None:
            return
        going.states = {scorer: driven[scorer].init(stack) for scorer in scorers} | going.states
        if watch is not None and going.watch:
            watch.restore(going.watch)
        for batch in track(forward(after), "scoring", after.samples):
            if going.moments is not None:
                batch = replace(batch, tokens=going.moments.standardised(batch.tokens))
            going.states |= {scorer: driven[scorer].update(going.states[scorer], batch) for scorer in scorers}
            if watch is not None and _settled(watch, batch, texts, scorers[0], going):
                break
            going.at(texts.place, {} if watch is None else watch.kept())


def _forward(opened: Opened, texts: Texts, scorers: Sequence[StreamScorer]) -> Callable[[Place], Iterator[States]]:
    """What runs the model over the texts after a place."""
    stack, collate, task = opened.stack, texts.task.collator(opened.tokenizer), texts.task
    reductions = {scorer.name: scorer.reduction for scorer in scorers if scorer.reduction is not None}
    meanings = _meanings(opened, texts, scorers)
    every = task.predicted if task.places == "every" else None
    return lambda after: stream_states(
        stack, texts.batches(after), collate, texts.reading, reductions, *meanings, every
    )


def _measure_moments(
    stack: LayerStack, texts: Texts, forward: Callable[[Place], Iterator[States]], going: Going, track: Track[States]
) -> None:
    """Of every dimension of every latent space, over all batches."""
    with going.during("standardising") as after:
        if after is None:
            return
        going.moments = going.moments or Moments.empty(len(state_names(stack)), stack.hidden_size)
        for batch in track(forward(after), "standardising", after.samples):
            going.moments = going.moments.merge(Moments.of(batch.tokens))
            going.at(texts.place)


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
        labels, targets = next_tokens(texts.beginning, opened.tokenizer)
        return semantic_bases(opened.stack, labels), lambda row: targets[row["row"]]

    def token(row: dict[str, Any]) -> int:
        found: int = row["labels"][task.predicted(row["labels"])]
        return found

    tokens = sorted({token(row) for batch in texts.batches() for row in batch})
    place = {one: i for i, one in enumerate(tokens)}
    return semantic_bases(opened.stack, tokens), lambda row: place[token(row)]


def _settled(watch: Watch, batch: States, texts: Texts, scorer: StreamScorer, going: Going) -> bool:
    """Whether the choice is, as the watch says where it is time to look."""
    watch.see(batch)
    if not texts.time_to_look:
        return False
    found = watch.look(scorer.finish(going.states[scorer]), texts.place.samples)
    going.settlement = replace(found, texts=texts.total)
    return found.settled


def _from_gradients(
    opened: Opened, texts: Texts, scorers: Sequence[GradientScorer], going: Going, track: Track[Any]
) -> None:
    """One backward pass."""
    per_sample = any(scorer.per_sample for scorer in scorers)
    collate = texts.task.collator(opened.tokenizer)
    with going.during("scoring by gradients") as after:
        if after is None:
            return
        going.states = {scorer: scorer.init(opened.stack) for scorer in scorers} | going.states
        rows = texts.batches(after)
        stream = stream_gradients(opened.stack, texts.beginning, rows, collate, per_sample, texts.reading.seed)
        for gradients in track(stream, "scoring by gradients", after.samples):
            going.states |= {scorer: scorer.update(going.states[scorer], gradients) for scorer in scorers}
            going.at(texts.place)


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
        data: The texts, from `load_data` or `from_texts`, or what `load_data` takes: a file, a data set, a frame; or a
            `DataSpec`, which may be `streaming`.
        scorer: For example `CKA()`; `CosineCentrality()` by default.
        batch_size: Texts in a forward pass; only what is computed batch by batch (`GradientNorm`) depends on it.
        pooling: The representative token, or the mean over unmasked tokens.

    Raises:
        ModelError: The model's layers cannot be found.
        DataError: The scorer needs labels and there are none.
        ScoreError: A state is not finite.
    """
    scorer = scorer or catalog.build("scorer", Spec("cosine-centrality"))
    texts = data if isinstance(data, TextData) else texts_to_score(data, scorer.card.needs)
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
