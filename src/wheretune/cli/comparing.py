"""`compare` and `demo`: several ways of tuning side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wheretune.cli.choice import CountOptions, numbers, scorer_of, whole
from wheretune.cli.config import one_count, read_recipe
from wheretune.cli.groups import group, needed, option
from wheretune.cli.held_out import JudgedOptions
from wheretune.cli.options import (
    AsJson,
    Config,
    FolderOptions,
    Metrics,
    ModelOptions,
    Scorer,
    metric_names,
)
from wheretune.cli.printing import note, show
from wheretune.cli.spreading import SpreadOptions
from wheretune.cli.training import CacheOptions, LoopOptions, SavingOptions, WatchOptions, rates_of

if TYPE_CHECKING:
    from rich.table import Table

    from wheretune.recipes.base import Recipe
    from wheretune.studies.grid import Compared, Comparison


@group
class ComparisonFolderOptions(FolderOptions):
    """The folder of a comparison, which always goes on where it was stopped."""

    output: Annotated[Path | None, option("--output", "Folder of the comparison.", metavar="DIR")] = None
    resume: Annotated[bool, option("--resume", "Run only what is missing, as compare does anyway.", hidden=True)] = True


def compare(
    context: typer.Context,
    model: ModelOptions,
    data: JudgedOptions,
    count: CountOptions,
    loop: LoopOptions,
    savings: SavingOptions,
    cache: CacheOptions,
    watching: WatchOptions,
    spreading: SpreadOptions,
    to: ComparisonFolderOptions,
    methods: Annotated[
        str,
        option(
            "--methods",
            "With commas: full, prism, head-only, and any scorer+selector+tuner (each may be left out), such as "
            "cka+lora, top+adapter or lora:targets=query+value; a tuner alone tunes all layers, a scorer brings the "
            "selector of its source.",
            rich_help_panel="Choice",
        ),
    ] = "full,prism,top,bottom,random,head-only",
    recipe: Annotated[
        str | None,
        option(
            "--recipe",
            "A paper's methods and hyperparameters, with the numbers it printed: prism, prism-journal, salf, "
            "cka-lora-encoder, cka-lora-decoder or olft; options given beside it have the last word.",
            default="none",
            callback=read_recipe,
            is_eager=True,
            axis="recipe",
            rich_help_panel="Choice",
        ),
    ] = None,
    reference: Annotated[
        str,
        option("--reference", "The method that every speed-up is measured against.", rich_help_panel="Choice"),
    ] = "full",
    scorer: Scorer = "cosine-centrality",
    head: Annotated[
        str | None,
        option(
            "--head",
            "What sits on top, of the methods that name none.",
            default="the task's",
            axis="head",
            rich_help_panel="Choice",
        ),
    ] = None,
    seeds: Annotated[str, option("--seeds", "One run per seed.", rich_help_panel="Training")] = "0,42,100",
    learning_rates: Annotated[
        str,
        option(
            "--learning-rates",
            "Candidates; each method takes its best on the validation data. auto is what suits each plan.",
            rich_help_panel="Training",
        ),
    ] = "auto",
    metric: Metrics = None,
    json_: AsJson = False,
    config: Config = None,
) -> None:
    """Compare ways of choosing layers: the same data, batches and budget for each, several seeds.

    Started again with the same options, it runs only what is missing.

    For example:

    wheretune compare --model M --train train.jsonl --validation dev.jsonl --test test.jsonl
    --methods full,prism,top,bottom,random,head-only --k 3 --seeds 0,42,100 --output runs/compared

    wheretune compare --config compare.yaml --learning-rates 1e-5,2e-5,5e-5

    wheretune compare --config compare.yaml --on ray --gpus-per-run 1

    wheretune compare --recipe cka-lora-encoder --model M --train train.jsonl --test test.jsonl --output runs/cka
    """
    from wheretune import catalog
    from wheretune.records.model import check_trains
    from wheretune.records.runs import check_cache
    from wheretune.session import Session
    from wheretune.studies.grid import Comparison
    from wheretune.studies.methods import read_all
    from wheretune.support.files import taking
    from wheretune.training.arguments import check_arguments, check_compiling, check_judging

    folder = to.folder
    k, ratio = one_count(context, count.k, count.ratio)
    paper = None if recipe is None else catalog.find("recipe", recipe)
    train, judged = data.spec_of_train(0), data.judged()
    needed(data.test, "--test")
    settings, kept = loop.settings(savings), cache.settings()
    check_cache(settings, kept)
    watch = watching.settings()
    check_arguments(settings, watch)
    if settings.eval_strategy != "no":
        needed(data.validation, "--validation")
    what = Comparison(
        model=model.spec(),
        train=train,
        **judged,
        methods=read_all(methods),
        k=k,
        ratio=ratio,
        seeds=tuple(dict.fromkeys(numbers(seeds, int, "--seeds"))),
        learning_rates=rates_of(learning_rates),
        reference=reference,
        scorer=scorer_of(scorer),
        head=None if head is None else whole("head", head),
        settings=settings,
        metrics=metric_names(metric),
        executor=spreading.executor(),
    )
    check_trains(what.model)
    for method in what.methods:
        check_judging(settings, method.tuner)
        check_compiling(watch, method.schedule)
    session = Session()
    info = session.data(train).info
    for part in judged.values():
        session.data(part, like=info)
    if paper is not None:
        _check_recipe(paper, what)
    from wheretune.studies.running import OWNED
    from wheretune.studies.running import compare as run_comparison

    with taking(folder, OWNED, overwrite=to.overwrite):
        compared = run_comparison(what, folder, cache=kept, watch=watch, session=session)
    _report(compared, paper, folder, json_)
    if any(row.failures for row in compared.rows):
        raise typer.Exit(1)


def _check_recipe(paper: Recipe, what: Comparison) -> None:
    """Refuses a recipe that is meant for another kind of model."""
    from wheretune.model.opening import outline
    from wheretune.recipes.presets import check_kind

    check_kind(paper, outline(what.model)[1].causal, "recipe")


def _report(compared: Compared, paper: Recipe | None, folder: Path, json_: bool) -> None:
    """Says which learning rates were best, what failed, and shows the table beside the paper's numbers."""
    from wheretune.show.tables import table
    from wheretune.studies.statistics import as_json, lines
    from wheretune.studies.tables import cells, title
    from wheretune.support.words import rate_in_words

    for row in compared.rows:
        if row.searched and not json_:
            tried = ", ".join(f"{rate_in_words(rate)}: {value:.4f}" for rate, value in row.searched.items())
            show(f"{row.method}: learning rate {rate_in_words(row.learning_rate)} was best on validation ({tried})")
        for where, why in row.failures.items():
            note(f"failed: {row.method} in {where}: {why}", style="bold red")
    found = lines(compared)
    content: dict[str, object] = {"methods": [as_json(line) for line in found]}
    if paper is not None:
        content["printed_in_the_paper"] = [asdict(one) for one in paper.printed]
    show(_table(title(compared), map(cells, found)), json_, content)
    if paper is not None and not json_:
        show(f"{paper.paper} printed, on other models and data, so to look at and not to match:")
        for one in paper.printed:
            show(table(one.where, one.columns, one.rows, left=one.columns[:1]))
        show(f"decided where it is silent: {paper.decided}")
    note(f"tables in {folder / 'table.md'} and {folder / 'results.csv'}")


def _table(title: str, lines: Iterable[Sequence[str]]) -> Table:
    """The table without columns of which nothing is known, and with long methods on several lines."""
    from wheretune.show.tables import table
    from wheretune.studies.tables import COLUMNS, UNKNOWN

    rows = [[name.replace("+", "+\n"), *rest] for name, *rest in lines]
    used = [place for place in range(len(COLUMNS)) if any(row[place] != UNKNOWN for row in rows)]
    body = ([row[place] for place in used] for row in rows)
    return table(title, [COLUMNS[place] for place in used], body, left=("method", "layers", "test"))


def demo(
    output: Annotated[Path, option("--output", "Folder of the demo.", metavar="DIR", rich_help_panel="Output")] = Path(
        "runs/demo"
    ),
    overwrite: Annotated[
        bool, option("--overwrite", "Replace what wheretune left in --output.", rich_help_panel="Output")
    ] = False,
    resume: Annotated[
        bool,
        option(
            "--resume",
            "Not needed: a stopped demo goes on, and a finished one is read again.",
            rich_help_panel="Output",
        ),
    ] = False,
) -> None:
    """Score, choose, tune and compare on a real model and real articles that PyPI packages carry. No network.

    For example:

    wheretune demo --output runs/demo
    """
    from wheretune import __version__
    from wheretune import demo as room
    from wheretune.show.tables import table
    from wheretune.support.files import claim, taking
    from wheretune.support.words import count, seconds

    model = room.model_folder()
    with taking(output, room.OWNED, overwrite=overwrite):
        claim(output / room.OWNED[0], {"version": __version__})
        show("all-MiniLM-L6-v2 (6 layers) and BBC news articles of 5 classes, both from PyPI packages.")
        done = room.demo(output, show)
    rows = []
    for row in done.rows:
        best = row.result.metrics["test"][0]
        rows.append(
            (
                row.name,
                f"{best.name} {best.value:.4f}",
                str(best.n),
                count(row.result.trainable_parameters),
                seconds(row.result.training_seconds),
                seconds(row.score_seconds) if row.score_seconds else "–",
                f"{row.speed_up:.2f}x",
            )
        )
    columns = ("tuned", "held-out articles", "n", "trainable", "train time", "score time", "speed-up")
    show(table("the same batches, side by side (caching and scoring are counted)", columns, rows, left=("tuned",)))
    show(f"In {output}: scores.json, plan.json, profile.png, similarity.png and the delta in tuned/.")
    show(
        "On your own data (a file with the columns text and label):\n"
        f"  wheretune tune --model {model} --train my.jsonl --output runs/mine\n"
        "  wheretune evaluate runs/mine --data my-test.jsonl"
    )
