"""The public names and the rooms they live in; `__init__.py` opens a room when a name is first used."""

from .data import TextData, from_texts, load_data
from .delta import load_delta, save_delta
from .errors import WheretuneError
from .heads import Concat, LastToken
from .planning import plan
from .run import apply, merge, open_finetuned
from .scorers.base import score
from .scorers.cosine_centrality import CosineCentrality
from .scorers.euclidean_centrality import EuclideanCentrality
from .selectors import (
    BlockHighest,
    BlockLowest,
    BlockMedian,
    BlockRandom,
    Bottom,
    Explicit,
    Highest,
    Lowest,
    Random,
    Top,
)
from .tuners.base import Tuned
from .tuners.head_only import HeadOnly
from .tuners.whole_layers import WholeLayers
from .types import DataSpec, LayerScores, Plan, RunResult, RunSpec, Spec, TrainSettings, load, save

__version__: str
__all__ = [
    "BlockHighest",
    "BlockLowest",
    "BlockMedian",
    "BlockRandom",
    "Bottom",
    "Concat",
    "CosineCentrality",
    "DataSpec",
    "EuclideanCentrality",
    "Explicit",
    "HeadOnly",
    "Highest",
    "LastToken",
    "LayerScores",
    "Lowest",
    "Plan",
    "Random",
    "RunResult",
    "RunSpec",
    "Spec",
    "TextData",
    "Top",
    "TrainSettings",
    "Tuned",
    "WheretuneError",
    "WholeLayers",
    "apply",
    "from_texts",
    "load",
    "load_data",
    "load_delta",
    "merge",
    "open_finetuned",
    "plan",
    "save",
    "save_delta",
    "score",
]
