"""The public names and the rooms they live in; `__init__.py` opens a room when a name is first used."""

from .data import TextData, from_texts, load_data
from .delta import save_delta
from .errors import WheretuneError
from .exports import export
from .finetuned import load_delta, merge, open_finetuned, push_to_hub
from .heads import Concat, LastToken
from .planning import agreement, choose, plan
from .probing import LayerProbe
from .run import apply
from .scorers.base import score
from .scorers.cka import CKA
from .scorers.controls import Depth, RandomScores
from .scorers.cosine_centrality import CosineCentrality
from .scorers.euclidean_centrality import EuclideanCentrality
from .scorers.feature_variance import FeatureVariance
from .scorers.fisher import Fisher
from .scorers.gradient_norm import GradientNorm
from .scorers.io_cosine import IOCosine
from .scorers.semantic_deviation import SemanticDeviation
from .scorers.weight_snr import WeightSNR
from .selectors import (
    Auto,
    BlockHighest,
    BlockLowest,
    BlockMedian,
    BlockRandom,
    Bottom,
    Budget,
    Explicit,
    Highest,
    Lowest,
    MiddleBest,
    Near,
    Random,
    Suffix,
    Top,
)
from .shards import merge_scores
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
    "Auto",
    "Bias",
    "BlockHighest",
    "BlockLowest",
    "BlockMedian",
    "BlockRandom",
    "Bottom",
    "Budget",
    "Concat",
    "CosineCentrality",
    "DataSpec",
    "Depth",
    "DoRA",
    "EuclideanCentrality",
    "Explicit",
    "FeatureVariance",
    "Fisher",
    "GradientNorm",
    "HeadOnly",
    "Highest",
    "IOCosine",
    "LastToken",
    "LayerProbe",
    "LayerScores",
    "LoRA",
    "Lowest",
    "MiddleBest",
    "Near",
    "PiSSA",
    "Plan",
    "Prefix",
    "Random",
    "RandomScores",
    "RunResult",
    "RunSpec",
    "SemanticDeviation",
    "Spec",
    "Suffix",
    "TextData",
    "Top",
    "TrainSettings",
    "Tuned",
    "WeightSNR",
    "WheretuneError",
    "WholeLayers",
    "agreement",
    "apply",
    "choose",
    "export",
    "from_texts",
    "load",
    "load_data",
    "load_delta",
    "merge",
    "merge_scores",
    "open_finetuned",
    "plan",
    "push_to_hub",
    "save",
    "save_delta",
    "score",
]
