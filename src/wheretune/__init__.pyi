"""The public names and the rooms they live in; `__init__.py` opens a room when a name is first used."""

from .data import TextData, from_texts, load_data
from .delta import save_delta
from .errors import WheretuneError
from .exports import export
from .finetuned import load_delta, merge, open_finetuned, push_to_hub
from .heads import Concat, LastToken
from .planning import plan
from .run import apply
from .scorers.base import score
from .scorers.cka import CKA
from .scorers.controls import Depth, RandomScores
from .scorers.cosine_centrality import CosineCentrality
from .scorers.euclidean_centrality import EuclideanCentrality
from .scorers.feature_variance import FeatureVariance
from .scorers.io_cosine import IOCosine
from .scorers.weight_snr import WeightSNR
from .selectors import (
    BlockHighest,
    BlockLowest,
    BlockMedian,
    BlockRandom,
    Bottom,
    Explicit,
    Highest,
    Lowest,
    MiddleBest,
    Random,
    Suffix,
    Top,
)
from .tuners.adapter import Adapter
from .tuners.base import Tuned
from .tuners.bias import Bias
from .tuners.head_only import HeadOnly
from .tuners.low_rank import IA3, AdaLoRA, DoRA, LoRA, PiSSA
from .tuners.prefix import Prefix
from .tuners.whole_layers import WholeLayers
from .types import DataSpec, LayerScores, Plan, RunResult, RunSpec, Spec, TrainSettings, load, save

__version__: str
__all__ = [
    "CKA",
    "IA3",
    "AdaLoRA",
    "Adapter",
    "Bias",
    "BlockHighest",
    "BlockLowest",
    "BlockMedian",
    "BlockRandom",
    "Bottom",
    "Concat",
    "CosineCentrality",
    "DataSpec",
    "Depth",
    "DoRA",
    "EuclideanCentrality",
    "Explicit",
    "FeatureVariance",
    "HeadOnly",
    "Highest",
    "IOCosine",
    "LastToken",
    "LayerScores",
    "LoRA",
    "Lowest",
    "MiddleBest",
    "PiSSA",
    "Plan",
    "Prefix",
    "Random",
    "RandomScores",
    "RunResult",
    "RunSpec",
    "Spec",
    "Suffix",
    "TextData",
    "Top",
    "TrainSettings",
    "Tuned",
    "WeightSNR",
    "WheretuneError",
    "WholeLayers",
    "apply",
    "export",
    "from_texts",
    "load",
    "load_data",
    "load_delta",
    "merge",
    "open_finetuned",
    "plan",
    "push_to_hub",
    "save",
    "save_delta",
    "score",
]
