"""The scorer that must train: each candidate layer is tuned alone, briefly, and judged (OLFT).

A folder (`place` says which) holds `probe.json` (what is probed) and one `layer-I.json` a finished candidate. One that
was stopped goes on from its last finished epoch, and finished ones are read back.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from wheretune.applying import apply
from wheretune.data.batches import collator
from wheretune.data.texts import take
from wheretune.data.tokens import encode
from wheretune.errors import ConfigError, DataError
from wheretune.heads.headed import headed
from wheretune.heads.last_token import LastToken
from wheretune.judging import predict
from wheretune.metrics.base import evaluate
from wheretune.model.finding import find_layers
from wheretune.model.identity import base_hash
from wheretune.model.inputs import max_tokens
from wheretune.planning import plan
from wheretune.records.base import Spec
from wheretune.records.runs import TrainSettings, check_settings
from wheretune.savings.together import lean
from wheretune.scorers.base import Card
from wheretune.scorers.controls import Depth
from wheretune.scoring.one_pass import finish, gather
from wheretune.selectors.fixed import Explicit
from wheretune.support.files import claim, digest, write_json
from wheretune.training.loop import train
from wheretune.tuners.whole_layers import WholeLayers

if TYPE_CHECKING:
    from torch import nn

    from wheretune.data.texts import TextData
    from wheretune.heads.base import Head
    from wheretune.records.scores import LayerScore, LayerScores
    from wheretune.tuners.base import Tuner

OUTSIDE = "outside the middle third"


@dataclass(frozen=True)
class LayerProbe:
    """The metric after tuning one layer of the middle third alone, on a small set (OLFT 2.2).

    Decided where the paper says "like validation set": the small set is drawn from the training data and split in two,
    one half to tune and one to judge, so neither validation nor test data is ever seen. The candidates are the middle
    bucket, layers floor(L/3) to floor(2 L/3) - 1.

    Attributes:
        tuner: How each candidate is tuned.
        head: What sits on top.
        samples: Rows of the training data to draw; all if there are fewer.
        epochs: Passes over the tuning half.
        learning_rate: Peak learning rate.
        batch_size: Texts in a batch.
        seed: Of the draw, the head and the training.
    """

    tuner: Tuner = field(default_factory=WholeLayers)
    head: Head = field(default_factory=LastToken)
    samples: int = 1000
    epochs: int = 3
    learning_rate: float = 5e-5
    batch_size: int = 16
    seed: int = 0
    name: ClassVar[str] = "layer-probe"
    card: ClassVar[Card] = Card(
        "metric after tuning layer l of the middle third alone",
        "OLFT, 2.2",
        "training",
        "a short training for a third of the layers",
        "middle-best",
    )


def suited(scorer: Any, tuner: Tuner) -> Any:
    """A layer probe that was not told how to tune, tuning as the plan will (OLFT 2.2); any other scorer as it is."""
    if isinstance(scorer, LayerProbe) and scorer.tuner == WholeLayers() and tuner.needs_layers:
        return dataclasses.replace(scorer, tuner=tuner)
    return scorer


def place(folder: Path, how: LayerProbe) -> Path:
    """Where in `folder` a probe with these settings works, so that another's candidates are not taken for its own."""
    return folder / digest(dataclasses.asdict(Spec.of(how)))[:8]


@dataclass(frozen=True)
class Candidate:
    """What tuning one layer alone gave.

    Attributes:
        layer: Counted from 0.
        metric: The task's main metric on the judging half.
        value: Its value.
        n: Rows it is of.
        trainable_parameters: The head's included.
        seconds: Of training and judging.
        right: Of each row, whether it was right; none for a regression.
    """

    layer: int
    metric: str
    value: float
    n: int
    trainable_parameters: int
    seconds: float
    right: tuple[int, ...]


def probe(
    how: LayerProbe,
    open_base: Callable[[], nn.Module],
    tokenizer: Any,
    data: TextData,
    folder: Path,
    revision: str | None = None,
    layers_attribute: str | None = None,
) -> LayerScores:
    """Tunes every candidate layer alone and scores it by the metric on the judging half.

    Args:
        how: The settings.
        open_base: Gives the headless transformer with its weights as they were; called once a candidate.
        tokenizer: Its tokenizer.
        data: The training data, labelled.
        folder: Holds nothing but this probe.
        revision: The hub's commit of the model, for the record.
        layers_attribute: Where the layers are, if `find_layers` must be told.

    Returns:
        The scores, where layers outside the middle third are no candidates. `candidates` tells what each took.

    Raises:
        ConfigError: A setting cannot train anything, or the model has no middle third.
        DataError: The data has no labels, or too few rows to be split.
        OutputError: The folder was begun for something else.
    """
    settings = TrainSettings(how.epochs, how.learning_rate, how.batch_size, seed=how.seed)
    check_settings(settings)
    if not how.tuner.needs_layers:
        raise ConfigError(f"the tuner {how.tuner.name} tunes no layer", "probe with another tuner")
    if how.samples < 4:
        raise ConfigError(f"layer-probe with samples={how.samples} has nothing to split", "take 4 or more")
    if data.labels is None:
        raise DataError(f"{data.info.spec.source} has no labels to tune by", "name the column with --label-column")
    drawn = np.random.default_rng(how.seed).permutation(len(data))[: how.samples].tolist()
    if len(drawn) < 4:
        raise DataError(f"{len(drawn)} rows cannot be split into two halves", "give more data or samples")
    tuning, judging = (take(data, sorted(half)) for half in (drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]))
    stack = find_layers(open_base(), layers_attribute)
    claim(
        folder / "probe.json",
        {"how": dataclasses.asdict(Spec.of(how)), "data": data.info.hash, "model": base_hash(stack)},
        "give another --output, or delete that folder",
    )
    first, last = len(stack) // 3, 2 * len(stack) // 3
    if first == last:
        raise ConfigError(f"a model of {len(stack)} layers has no middle third", "use another --scorer")
    blank = finish(gather(stack, tokenizer, data, [Depth()], revision=revision))[0]  # the layers and the model, unread
    length = max_tokens(stack.base, tokenizer, data.info.spec.max_length)
    rows, held = encode(tuning, tokenizer, length), encode(judging, tokenizer, length)
    truth = np.array(judging.labels)

    def tune(layer: int) -> Candidate:
        began = time.perf_counter()
        model = headed(open_base(), how.head, tuning, how.seed, layers_attribute)
        tuned = apply(model, plan(blank, Explicit((layer,)), tuner=how.tuner, head=how.head))
        place, collate = folder / f"layer-{layer}", collator(tokenizer)
        with lean(tuned, rows, collate, settings, place):
            train(model, rows, collate, settings, place, f"tuning layer {layer} alone", tuned.followers)
        tuned.check()
        logits = predict(model, held, collator(tokenizer), description=f"judging layer {layer}")
        main = evaluate(logits, truth, data.info.task)[0]
        right = (logits.argmax(1) == truth).astype(int).tolist() if data.info.task == "classification" else ()
        seconds = time.perf_counter() - began
        return Candidate(layer, main.name, main.value, main.n, tuned.trainable_parameters, seconds, tuple(right))

    for layer in range(first, last):
        path = folder / f"layer-{layer}.json"
        if not path.is_file():
            write_json(path, dataclasses.asdict(tune(layer)))
        shutil.rmtree(folder / f"layer-{layer}", ignore_errors=True)
    tried = candidates(folder)
    values = {candidate.layer: candidate.value for candidate in tried}
    return dataclasses.replace(
        blank,
        scorer=Spec.of(how),
        n_samples=len(judging),
        layers=tuple(_score(layer, values.get(layer.index)) for layer in blank.layers),
        covariance=_covariance(tried, len(stack)),
        seconds=sum(candidate.seconds for candidate in tried),
        tokens=float(np.mean([len(row["input_ids"]) for row in (*rows, *held)])),
    )


def candidates(folder: Path) -> list[Candidate]:
    """What a probe that worked in `folder` has found so far, in the order of the layers."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("layer-*.json")]
    made = [Candidate(**{**one, "right": tuple(one["right"])}) for one in found]
    return sorted(made, key=lambda candidate: candidate.layer)


def _score(layer: LayerScore, value: float | None) -> LayerScore:
    return dataclasses.replace(layer, score=value, excluded=OUTSIDE if value is None else None)


def _covariance(tried: list[Candidate], layers: int) -> tuple[tuple[float, ...], ...] | None:
    """Of being right, over the judged rows, which accuracy is the mean of; zero where a layer is no candidate."""
    if not tried[0].right:
        return None
    places = [candidate.layer for candidate in tried]
    matrix = np.zeros((layers, layers))
    rights = np.array([candidate.right for candidate in tried], dtype=float)
    matrix[np.ix_(places, places)] = np.atleast_2d(np.cov(rights, bias=True))
    return tuple(map(tuple, matrix.tolist()))
