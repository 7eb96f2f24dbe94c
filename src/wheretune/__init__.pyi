"""The public names and the rooms they live in; `__init__.py` opens a room when a name is first used."""

from .agreement import agreement
from .applying import Tuned, apply
from .data.texts import TextData
from .delta.merging import merge
from .delta.opening import load_delta, open_finetuned
from .delta.saving import save_delta
from .delta.sharing import push_to_hub
from .errors import WheretuneError
from .exports.base import export
from .heads.concat import Concat
from .heads.last_token import LastToken
from .heads.lm import LM
from .planning import choose, plan
from .records.base import Spec, load, save
from .records.data import DataSpec
from .records.plan import Plan
from .records.runs import RunResult, RunSpec, TrainSettings
from .records.scores import LayerScores
from .savings.prefix_cache.own_trainer import cache_prefix
from .schedules.lift import Lift, LiftStar
from .schedules.lisa import Lisa
from .schedules.recap import Recap
from .schedules.salf import Salf
from .schedules.slimfit import SlimFit
from .scorers.cka import CKA
from .scorers.controls import Depth, RandomScores
from .scorers.cosine_centrality import CosineCentrality
from .scorers.euclidean_centrality import EuclideanCentrality
from .scorers.feature_variance import FeatureVariance
from .scorers.fisher import Fisher
from .scorers.gradient_norm import GradientNorm
from .scorers.io_cosine import IOCosine
from .scorers.layer_probe import LayerProbe
from .scorers.semantic_deviation import SemanticDeviation
from .scorers.weight_snr import WeightSNR
from .scoring.one_pass import score
from .scoring.shards import merge_scores
from .selectors.auto import Auto
from .selectors.blocks import BlockHighest, BlockLowest, BlockMedian, BlockRandom
from .selectors.budget import Budget
from .selectors.fixed import Bottom, Explicit, Random, Top
from .selectors.near import Near
from .selectors.ranked import Highest, Lowest, MiddleBest, Suffix
from .selectors.upwards import Upwards
from .tasks.loading import from_texts, load_data
from .text_judging import judge_texts
from .training.engagement import EngagementCallback
from .training.followers import FollowerCallback
from .tuners.adalora import AdaLoRA
from .tuners.adapter import Adapter
from .tuners.bias import Bias
from .tuners.head_only import HeadOnly
from .tuners.ia3 import IA3
from .tuners.low_rank import DoRA, LoRA, PiSSA
from .tuners.prefix import Prefix
from .tuners.whole_layers import WholeLayers

__version__: str
__all__ = [
    "CKA",
    "IA3",
    "LM",
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
    "EngagementCallback",
    "EuclideanCentrality",
    "Explicit",
    "FeatureVariance",
    "Fisher",
    "FollowerCallback",
    "GradientNorm",
    "HeadOnly",
    "Highest",
    "IOCosine",
    "LastToken",
    "LayerProbe",
    "LayerScores",
    "Lift",
    "LiftStar",
    "Lisa",
    "LoRA",
    "Lowest",
    "MiddleBest",
    "Near",
    "PiSSA",
    "Plan",
    "Prefix",
    "Random",
    "RandomScores",
    "Recap",
    "RunResult",
    "RunSpec",
    "Salf",
    "SemanticDeviation",
    "SlimFit",
    "Spec",
    "Suffix",
    "TextData",
    "Top",
    "TrainSettings",
    "Tuned",
    "Upwards",
    "WeightSNR",
    "WheretuneError",
    "WholeLayers",
    "agreement",
    "apply",
    "cache_prefix",
    "choose",
    "export",
    "from_texts",
    "judge_texts",
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
