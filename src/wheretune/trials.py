"""Trains and judges the candidates that a scorer names: the layer probe tunes one layer after another (OLFT).

A scorer that needs training works in a folder of its own, named after its settings. It holds `probe.json` (what is
probed) and one `layer-I.json` per finished candidate. One that was stopped goes on from its last finished epoch, and
finished ones are read back. All candidates share one opened model, whose weights are given back after each.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wheretune import catalog
from wheretune.applying import apply
from wheretune.data.texts import take
from wheretune.errors import ConfigError, DataError
from wheretune.heads.headed import headed
from wheretune.judging import judge
from wheretune.model.inputs import max_tokens
from wheretune.planning import head_of, plan
from wheretune.records.base import Spec, from_json, read_json, to_json
from wheretune.savings.together import saving
from wheretune.scorers.base import Candidate, TrainingScorer
from wheretune.scoring.scored import layer_scores
from wheretune.selectors.fixed import Explicit
from wheretune.support.files import claim, digest, write_json
from wheretune.support.processes import from_first
from wheretune.support.provenance import versions
from wheretune.tasks.base import task_of

if TYPE_CHECKING:
    from wheretune.data.texts import TextData
    from wheretune.heads.base import Head
    from wheretune.model.opening import Opened
    from wheretune.records.scores import LayerScores, Reading
    from wheretune.tuners.base import Tuner


def trains(scorer: Any) -> bool:
    """Whether a scorer is fed by trials, not by a pass over the data."""
    return "training" in scorer.card.needs


def tuned_as(scorer: Spec, tuner: Spec) -> Spec:
    """The scorer, tuning its candidates as the plan will, where it tunes any and nobody said how (OLFT 2.2)."""
    made = catalog.build("scorer", scorer)
    if not trains(made) or not catalog.find("tuner", tuner.name).needs_layers:
        return scorer
    default = catalog.find("scorer", scorer.name)().tuner
    if catalog.build("tuner", made.tuner) != catalog.build("tuner", default):
        return scorer
    return Spec(scorer.name, {**scorer.params, "tuner": tuner})


def candidates(folder: Path, scorer: TrainingScorer) -> list[Candidate]:
    """What a scorer that worked in `folder` has found so far, in the order of the layers.

    Raises:
        ConfigError: A candidate's file is damaged.
    """
    found = [from_json(Candidate, read_json(path), str(path)) for path in _own(folder, scorer).glob("layer-*.json")]
    return sorted(found, key=lambda candidate: candidate.layer)


def _own(folder: Path, scorer: TrainingScorer) -> Path:
    """Where in `folder` a scorer with these settings works, so that it takes no other's candidates for its own."""
    return folder / digest(to_json(Spec.of(scorer)))[:8]


def score(
    scorer: TrainingScorer, opened: Opened, data: TextData, reading: Reading, folder: Path | None = None
) -> LayerScores:
    """Tunes every candidate layer alone and scores it by how well it then does.

    Args:
        scorer: Says what to try, how, and what follows.
        opened: The model; its weights are given back.
        data: The training data, labelled. The rows that tune and those that judge are drawn from it.
        reading: How texts would be read to be scored; only `max_length` counts here.
        folder: Where it works, in a folder of its own; it goes on there after a stop. None keeps nothing.

    Raises:
        ConfigError: A setting cannot train anything, or there is nothing to try.
        DataError: The data has no labels, or too few rows to be split.
        OutputError: The folder was begun for something else.
    """
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(str(folder)) as place:
        place = from_first(lambda: place)
        trial = _Trial.of(scorer, opened, data, reading, _own(Path(place), scorer))
        tried = from_first(lambda: candidates(Path(place), scorer))
        while remaining := scorer.to_try(len(opened.info), tried):
            layer = remaining[0]
            from_first(partial(trial.keep, trial.tune(layer)))
            tried = from_first(lambda: candidates(Path(place), scorer))
    return layer_scores(
        Spec.of(scorer),
        scorer.finish(len(opened.info), tried),
        opened.info,
        data.info,
        dataclasses.replace(reading, max_length=trial.length),
        n_samples=len(trial.judging),
        tokens=trial.tokens,
        seconds=sum(candidate.seconds for candidate in tried),
        versions=versions(),
    )


@dataclass(frozen=True, eq=False)
class _Trial:
    """What all candidates share.

    Attributes:
        scorer: Says how they are trained.
        opened: The model.
        tuner: How each is tuned.
        head: What sits on top.
        tuning: The rows that tune.
        judging: The rows that judge.
        length: Tokens that texts are cut to.
        folder: Where the candidates' files lie.
    """

    scorer: TrainingScorer
    opened: Opened
    tuner: Tuner
    head: Head
    tuning: TextData
    judging: TextData
    length: int
    folder: Path

    @classmethod
    def of(cls, scorer: TrainingScorer, opened: Opened, data: TextData, reading: Reading, folder: Path) -> _Trial:
        """Draws the rows and claims the folder."""
        if opened.stack.split:
            raise ConfigError(
                f"{scorer.name} tries the layers of one stack, and an encoder-decoder has two",
                "take another scorer",
                "scorer",
            )
        tuner, head = catalog.build("tuner", scorer.tuner), head_of(scorer.head, data.info)
        if not tuner.needs_layers:
            raise ConfigError(f"the tuner {tuner.name} tunes no layer", "probe with another tuner", "scorer")
        if data.labels is None and task_of(data.info).places == "one":
            raise DataError(
                f"{data.info.spec.source} has no labels to tune by", "name the label column", "label_column"
            )
        drawn = np.random.default_rng(scorer.settings.seed).permutation(len(data))[: scorer.samples].tolist()
        if len(drawn) < 4:
            raise DataError(f"{len(drawn)} rows cannot be split into two halves", "give more data or samples")
        tuning, judging = (take(data, sorted(half)) for half in (drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]))
        asked = data.info.spec.max_length if reading.max_length is None else reading.max_length
        length = max_tokens(opened.stack.base, opened.tokenizer, asked)
        scorer.to_try(len(opened.info), ())  # refuses a model that has nothing to try before a folder is begun
        what = {"scorer": to_json(Spec.of(scorer)), "data": data.info.hash, "model": opened.info.hash, "length": length}
        from_first(lambda: claim(folder / "probe.json", what, "give another place, or delete that folder"))
        return cls(scorer, opened, tuner, head, tuning, judging, length, folder)

    def keep(self, candidate: Candidate) -> None:
        """Writes what one candidate gave, and takes away what only a stopped training needs."""
        write_json(self.folder / f"layer-{candidate.layer}.json", dataclasses.asdict(candidate))
        shutil.rmtree(self.folder / f"layer-{candidate.layer}", ignore_errors=True)

    @property
    def tokens(self) -> float:
        """The mean number of tokens in a text of both halves."""
        encode = task_of(self.tuning.info).encode
        halves = [encode(part, self.opened.tokenizer, self.length) for part in (self.tuning, self.judging)]
        return float(np.mean([len(row["input_ids"]) for rows in halves for row in rows]))

    def tune(self, layer: int) -> Candidate:
        """Tunes one layer alone, judges it, and gives the model its weights back."""
        from wheretune.training.clock import Clock  # opens what other scorers have no need of
        from wheretune.training.engagement import EngagementCallback
        from wheretune.training.loop import train

        began = time.perf_counter()
        opened, settings = self.opened, self.scorer.settings
        tokenizer, info = opened.tokenizer, opened.info
        model = headed(opened.stack, self.head, self.tuning, settings.seed)
        made = plan(info, Explicit((layer,)), tuner=self.tuner, head=self.head, data=self.tuning.info)
        place = self.folder / f"layer-{layer}"
        place.mkdir(parents=True, exist_ok=True)
        tuned = apply(model, made, settings.seed, before=opened.hashes_below(model.base_path), masters=True)
        with tuned.temporarily(place):
            task = task_of(self.tuning.info)
            collate, rows = task.collator(tokenizer), task.encode(self.tuning, tokenizer, self.length)
            with saving(tuned.stack, info.hash, rows, collate, settings, place, None) as saved:
                clock = Clock(f"tuning layer {layer} alone")
                engaged = [EngagementCallback(tuned)]
                train(model, rows, saved.collate, settings, place, clock, tuned.followers, engaged)
            tuned.check()
            metrics, predicted = judge(model, self.judging, tokenizer, self.length)
            main, right = metrics[0], [int(one.right) for one in predicted if one.right is not None]
        return Candidate(
            layer=layer,
            metric=main.name,
            value=main.value,
            n=main.n,
            trainable_parameters=tuned.trainable_parameters,
            seconds=time.perf_counter() - began,
            right=tuple(right) if right and np.isclose(np.mean(right), main.value) else (),
            higher_is_better=main.higher_is_better,
        )
