"""wheretune: where to fine-tune a language model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wheretune.data import TextData, from_texts, load_data
    from wheretune.delta import load_delta, save_delta
    from wheretune.errors import WheretuneError
    from wheretune.heads import Concat, LastToken
    from wheretune.planning import plan
    from wheretune.run import apply, merge, open_finetuned
    from wheretune.scorers.base import score
    from wheretune.scorers.cosine_centrality import CosineCentrality
    from wheretune.scorers.euclidean_centrality import EuclideanCentrality
    from wheretune.selectors import (
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
    from wheretune.tuners.base import Tuned
    from wheretune.tuners.head_only import HeadOnly
    from wheretune.tuners.whole_layers import WholeLayers
    from wheretune.types import DataSpec, LayerScores, Plan, RunResult, RunSpec, Spec, TrainSettings, load, save

# The rooms of the public names. They are opened at first use: torch and transformers take seconds to import,
# and `wheretune --help` needs neither.
_ROOMS = {
    "data": ("TextData", "from_texts", "load_data"),
    "delta": ("load_delta", "save_delta"),
    "errors": ("WheretuneError",),
    "heads": ("Concat", "LastToken"),
    "planning": ("plan",),
    "run": ("apply", "merge", "open_finetuned"),
    "scorers.base": ("score",),
    "scorers.cosine_centrality": ("CosineCentrality",),
    "scorers.euclidean_centrality": ("EuclideanCentrality",),
    "selectors": (
        "BlockHighest", "BlockLowest", "BlockMedian", "BlockRandom", "Bottom", "Explicit", "Highest", "Lowest",
        "Random", "Top",
    ),
    "tuners.base": ("Tuned",),
    "tuners.head_only": ("HeadOnly",),
    "tuners.whole_layers": ("WholeLayers",),
    "types": ("DataSpec", "LayerScores", "Plan", "RunResult", "RunSpec", "Spec", "TrainSettings", "load", "save"),
}  # fmt: skip
_HOME = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = [*_HOME, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wheretune' has no attribute {name!r}")
    return getattr(import_module(f"wheretune.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
