"""`score` and `merge-scores`: how much every layer matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from wheretune.cli.choice import ChoiceOptions, needs_of, refuse_unread, scorers_of
from wheretune.cli.groups import Group, group, needed, option, refuse
from wheretune.cli.options import AsJson, Config, ModelOptions, Overwrite, Seed, TrainOptions
from wheretune.cli.placing import PlacementOptions
from wheretune.cli.printing import note, show
from wheretune.cli.reading import ReadingOptions, StreamOptions
from wheretune.cli.reporting import (
    ReportOptions,
    check_free,
    check_preset,
    check_readable,
    file_to_write,
    report_on,
    selector_for,
    selector_that_fits,
)
from wheretune.cli.spreading import SpreadOptions
from wheretune.errors import ConfigError

if TYPE_CHECKING:
    from wheretune.planning import AnySelector
    from wheretune.records.base import Spec
    from wheretune.records.data import DataInfo
    from wheretune.records.model import ModelSpec
    from wheretune.records.scores import Reading
    from wheretune.scoring.one_pass import Settle


@group
class SettleOptions(Group):
    """When a scoring pass may stop before it has read all data."""

    panel: ClassVar[str] = "Choice"
    until_settled: Annotated[
        bool, option("--until-settled", "Read the data in random order and stop when --select is settled.")
    ] = False
    confidence: Annotated[float, option("--confidence", "With --until-settled: how sure to be.")] = 0.95
    tolerance: Annotated[
        float, option("--tolerance", "With --until-settled: a layer worse by no more than this is as good.")
    ] = 0.0
    bound: Annotated[
        Literal["asymptotic", "betting"],
        option(
            "--bound",
            "With --until-settled: right in the limit of many texts, or rigorous for any number, which "
            "takes many more.",
        ),
    ] = "asymptotic"

    def settle(self, selector: AnySelector) -> Settle:
        """What ends the pass.

        Raises:
            ConfigError: Whether this selector's choice is settled cannot be said, or a number is out of range.
        """
        from wheretune.scoring.confidence import Settler
        from wheretune.selectors.base import AdaptiveSelector

        if isinstance(selector, AdaptiveSelector):
            raise ConfigError(
                f"whether {selector.name} is settled cannot be told: it looks at more than pairs of layers",
                "select highest, lowest, block-highest, block-lowest, middle-best or suffix, without --near",
            )
        return Settler(selector, self.confidence, self.tolerance, self.bound).watch


def score(
    context: typer.Context,
    model: ModelOptions,
    placing: PlacementOptions,
    data: TrainOptions,
    streaming: StreamOptions,
    reading: ReadingOptions,
    choice: ChoiceOptions,
    settling: SettleOptions,
    report: ReportOptions,
    spreading: SpreadOptions,
    scorer: Annotated[
        str,
        option(
            "--scorer",
            "One or more with commas, all in one pass; see `wheretune scorers`. Options follow colons: "
            "cka:estimator=debiased.",
            axis="scorer",
            rich_help_panel="Choice",
        ),
    ] = "cosine-centrality",
    shard: Annotated[
        str | None,
        option(
            "--shard",
            "Read part I of N only, as I/N; `wheretune merge-scores` joins the parts.",
            default="all",
            rich_help_panel="Data",
        ),
    ] = None,
    shards: Annotated[
        int | None,
        option(
            "--shards",
            "Read the data in N parts, each as a job of --on, and join them.",
            default="one pass",
            metavar="N",
            rich_help_panel="Spreading",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        option(
            "--output",
            "Where the scores go.",
            default="scores.json, or shard-I-of-N.safetensors",
            rich_help_panel="Output",
        ),
    ] = None,
    overwrite: Overwrite = False,
    json_: AsJson = False,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Score every layer in one forward pass, without training.

    It says what would be chosen and how sure that is. Scorers that need gradients add one backward pass, and
    layer-probe trains; `wheretune scorers` says what each needs.

    For example:

    wheretune score --model bert-base-cased --train train.jsonl --output scores.json

    wheretune score --model ./my-model --train pairs.csv --text-column a --pair-column b --figures figures

    wheretune score --model gpt2 --train t.jsonl --scorer semantic-deviation --verbalizer neg=bad,pos=good

    wheretune score --model M --train t.jsonl --scorer cosine-centrality,cka,gradient-norm --compare

    wheretune score --model M --train t.jsonl --shard 1/4 --dtype bf16 --device cuda:0

    wheretune score --model M --train t.jsonl --on ray --shards 8

    wheretune score --model ./larger-than-memory --train t.jsonl --memory-limit 8GB

    wheretune score --model M --train stanfordnlp/imdb --streaming --until-settled
    """
    from wheretune import catalog
    from wheretune.session import Session
    from wheretune.support.processes import from_first, world_size

    specs = scorers_of(scorer)
    needs = needs_of(specs)
    refuse_unread(context, needs)
    choice = choice.checked(context, specs[0], seed)
    if not settling.until_settled:
        refuse(context, ("confidence", "tolerance", "bound"), "a full pass (add --until-settled)")
    elif len(specs) != 1:
        raise ConfigError("--until-settled goes with one scorer", "name one with --scorer")
    earlier = report.checked(len(specs)).earlier
    how = reading.reading(seed)
    texts = streaming.over(context, data.spec_of_train(seed), settling=settling.until_settled)
    spec = placing.over(model.spec(), needs)
    part = None if shard is None else _part(context, shard, needs)
    executor = _spread(context, spreading, shards, needs)
    if part is not None and world_size() > 1:
        raise ConfigError("several processes share a pass by themselves", "leave --shard out, or start one process")
    default = "scores.json" if part is None else f"shard-{part[0]}-of-{part[1]}.safetensors"
    target = file_to_write(output or Path(default))
    session = Session(shared=False)
    read = session.to_score(texts, needs)  # data is refused before the model is opened
    selectors = [catalog.build("selector", selector_that_fits(choice, spec, one, seed)) for one in specs]
    settle = settling.settle(selectors[0]) if settling.until_settled else None
    check_free(target, overwrite or _repeats(target, spec, read.info, specs, how, settle))
    if shards is not None:
        from wheretune.studies import spreading as jobs

        with jobs.kept_beside(target) as kept:
            every = jobs.score(spec, texts, specs, how, shards, executor, session=session, kept=kept)
            report_on(every, selectors, target, report, earlier, json_)
        return
    from wheretune.pipeline import score as score_layers
    from wheretune.scoring.by_name import pass_over
    from wheretune.scoring.resuming import kept_beside

    with kept_beside(target) as keep:
        if part is None:
            folder = target.parent / f"{target.stem}-probe"
            every = score_layers(spec, texts, specs, how, folder=folder, session=session, settle=settle, keep=keep)
            if not json_:
                _show_candidates(folder, specs)
            from_first(lambda: report_on(every, selectors, target, report, earlier, json_))
            return
        from wheretune.scoring.shards import save_shard

        made = [catalog.build("scorer", one) for one in specs]
        state = pass_over(spec, texts, made, how, session=session, settle=settle, shard=part, keep=keep)
        save_shard(state, target)
    said = {"output": str(target), "shard": list(part), "n_samples": state.n_samples}
    show(f"shard {part[0]} of {part[1]}: {state.n_samples} texts in {target}", json_, said)
    note("next, once all shards are there: wheretune merge-scores SHARD... --output scores.json")


def _repeats(
    target: Path, model: ModelSpec, data: DataInfo, scorers: Sequence[Spec], how: Reading, settle: Settle | None
) -> bool:
    """Whether a file holds what the same full pass made before of the same data, which a loop may make again."""
    from wheretune import catalog
    from wheretune.records.base import Spec
    from wheretune.records.scores import load_scores

    if settle is not None or data.stream is not None or not target.is_file():
        return False
    try:
        there = load_scores(target)
    except ConfigError:
        return False
    whole = [Spec.of(catalog.build("scorer", scorer)) for scorer in scorers]
    return [(model, data.spec, data.hash, scorer, how) for scorer in whole] == [
        (
            one.model.spec,
            one.data.spec,
            one.data.hash,
            Spec.of(catalog.build("scorer", one.scorer)),
            replace(one.reading, max_length=how.max_length),
        )
        for one in there
        if one.settlement is None
    ]


def _part(context: typer.Context, text: str, needs: set[str]) -> tuple[int, int]:
    """Which part of how many, and that a pass over a part is all that was asked for."""
    later = ("figures", "before", "compare", "select", "k", "ratio", "near", "budget", "budget_of", "layers", "stack")
    refuse(context, later, "a shard (merge-scores takes it)")
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or not 1 <= int(parts[0]) <= int(parts[1]):
        raise ConfigError(f"--shard is {text!r}", "give I/N with I from 1 to N, such as 1/4")
    if "training" in needs:
        raise ConfigError("a scorer that trains cannot be spread over shards", "leave it out")
    return int(parts[0]), int(parts[1])


def _spread(context: typer.Context, spreading: SpreadOptions, shards: int | None, needs: set[str]) -> Spec:
    """What runs the shards of one pass; refuses what does not go with them, and what has no effect without them."""
    executor = spreading.executor()
    if shards is None:
        refuse(context, ("on", *spreading.per_job), "one pass (add --shards)")
        return executor
    refuse(context, ("shard", "until_settled"), "--shards")
    if shards < 1:
        raise ConfigError(f"--shards is {shards}", "give 1 or more")
    if "training" in needs:
        raise ConfigError("a scorer that trains cannot be spread over shards", "leave it out")
    return executor


def _show_candidates(folder: Path, scorers: Sequence[Spec]) -> None:
    """What each candidate layer of a layer probe took."""
    from wheretune import catalog, trials
    from wheretune.show.tables import table
    from wheretune.support.words import count, seconds

    for spec in scorers:
        scorer = catalog.build("scorer", spec)
        if not trials.trains(scorer):
            continue
        rows = [
            (str(c.layer), f"{c.metric} {c.value:.4f}", str(c.n), count(c.trainable_parameters), seconds(c.seconds))
            for c in trials.candidates(folder, scorer)
        ]
        columns = ("layer", "tuned alone", "n", "trainable", "time")
        show(table(f"{spec.name} (in {folder})", columns, rows, left=("tuned alone",)))


def merge_scores(
    context: typer.Context,
    choice: ChoiceOptions,
    report: ReportOptions,
    shards: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SHARD...", help="All shards that `score --shard` wrote.", show_default=False),
    ] = None,
    output: Annotated[Path, option("--output", "Where the scores go.", rich_help_panel="Output")] = Path("scores.json"),
    overwrite: Overwrite = False,
    json_: AsJson = False,
    seed: Seed = 0,
    config: Config = None,
) -> None:
    """Join the shards of a scoring pass that was spread over machines.

    The scores are those that one pass over the whole data would have given.

    For example:

    wheretune merge-scores shard-1-of-2.safetensors shard-2-of-2.safetensors --output scores.json
    """
    paths = needed(shards or None, "a shard")
    target = file_to_write(output, overwrite)
    for path in paths:
        check_readable(path)
    from wheretune.scoring.shards import merge_scores as merge

    every = merge(paths)
    scorers = [scores.scorer for scores in every]
    refuse_unread(context, needs_of(scorers) | {"states"})
    choice = choice.checked(context, scorers[0], seed)
    earlier = report.checked(len(every)).earlier
    for scores in every:
        check_preset(choice.preset, scores.model.causal)
    selectors = [selector_for(choice, len(scores.layers), scores.scorer, seed) for scores in every]
    report_on(every, selectors, target, report, earlier, json_)
