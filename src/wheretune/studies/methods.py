"""Names for what a comparison sets side by side: `[scorer+][selector+][tuner]`, the papers' short names, presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wheretune import catalog
from wheretune.errors import ConfigError
from wheretune.recipes.base import Recipe
from wheretune.recipes.cka_lora import DECODER, ENCODER
from wheretune.recipes.olft import OLFT
from wheretune.records.base import Spec
from wheretune.scorers.controls import Depth
from wheretune.selectors.near import Near
from wheretune.tuners.whole_layers import WholeLayers

if TYPE_CHECKING:
    from wheretune.selectors.base import AdaptiveSelector, Selector
    from wheretune.tuners.base import Tuner


def _preset(recipe: Recipe) -> dict[str, Any]:
    """By option what a recipe scores with and chooses by; `causal` is the kind of model it is meant for."""
    select, _, k = recipe.selector.partition(":k=")
    ratio = recipe.options.get("ratio")
    found = {"k": int(k) if k else None, "ratio": float(ratio) if ratio else None, "causal": recipe.causal}
    return {"scorer": recipe.scorer, "select": select, **{key: v for key, v in found.items() if v is not None}}


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "prism": {"scorer": "cosine-centrality", "select": "block-highest", "k": 3},
    "cka-encoder": _preset(ENCODER),
    "cka-decoder": _preset(DECODER),
    "salf": {"scorer": "semantic-deviation:variant=cosine", "select": "suffix", "causal": True},
    "olft": _preset(OLFT),
}


def selector(
    name: str, *, k: int, seed: int, layers: tuple[int, ...] = (), near: float | None = None, **budget: Any
) -> Selector | AdaptiveSelector:
    """The selector of that name; each takes what it needs of k, seed, layers, `share`, `of` and `prefer`.

    Args:
        name: In `catalog.every("selector")`.
        k: Layers to choose.
        seed: Of random draws.
        layers: For `explicit`.
        near: Let near-equal scores prefer the higher layer, within this share of the profile's range.
        budget: For `budget`.

    Raises:
        ConfigError: The name is unknown, or `budget` lacks its share.
        PlanError: The selector does not go with `near`.
    """
    fields = getattr(catalog.every("selector").get(name), "__dataclass_fields__", {})
    offered = {"k": k, "seed": seed, "layers": layers, **budget}
    chosen = Spec(name, {key: value for key, value in offered.items() if key in fields})
    made: Selector | AdaptiveSelector = catalog.build("selector", chosen)
    return made if near is None else Near(made, near)


@dataclass(frozen=True)
class Method:
    """A rival in a comparison: how it scores, selects and tunes.

    Attributes:
        scorer: What it scores with, as written for --scorer; None where nothing is scored, or where the comparison's
            own scorer is meant.
        selector: Name of the selector, or None to tune no layer.
        tuner: How the layers are tuned.
        every_layer: Take all layers, whatever k is.
        k: How many layers, where the method itself says so.
    """

    scorer: str | None
    selector: str | None
    tuner: Tuner
    every_layer: bool = False
    k: int | None = None

    @property
    def needs_scores(self) -> bool:
        """Whether it must pay for a scoring pass."""
        return (
            not self.every_layer
            and self.selector is not None
            and bool(catalog.every("selector")[self.selector].needs_scores)
        )


FREE = Depth.name  # scores that cost no forward pass, for a method that needs the list of layers only
SHORT: Mapping[str, str] = {  # the papers' names for what they put together
    "prism": "cosine-centrality+block-highest",
    "olft": "layer-probe+middle-best:k=1",
}


def method(name: str) -> Method:
    """The rival that `name` puts together, in any order: `[scorer+][selector+][tuner]`.

    A scorer without a selector brings the one that its source uses, a selector without a scorer reads the comparison's
    own, and `top:k=1` has a k of its own. Without a tuner whole layers are tuned; a tuner by itself tunes all layers,
    and `full` the embeddings as well.

    Raises:
        ConfigError: A part is unknown (the nearest is named), or there are two of a kind.
    """
    parts = [part for short in name.split("+") for part in SHORT.get(short, short).split("+")]
    found: dict[str, str] = {}
    for part in parts:
        word = part.split(":")[0]
        tables = {
            "tuner": catalog.every("tuner"),
            "selector": catalog.every("selector"),
            "scorer": catalog.every("scorer"),
        }
        axis = next((axis for axis, table in tables.items() if word in table), None)
        if axis is None or word == "explicit":
            raise ConfigError(
                f"there is no method {part!r}",
                catalog.nearest(
                    part, [*SHORT, *catalog.every("tuner"), *catalog.every("selector"), *catalog.every("scorer")]
                ),
            )
        if axis in found:
            raise ConfigError(f"the method {name} names two {axis}s, {found[axis]} and {part}", "name one")
        found[axis] = part
    chooses = "selector" in found or "scorer" in found
    made = catalog.read("tuner", found["tuner"]) if "tuner" in found else WholeLayers()
    if not made.needs_layers:
        if chooses:
            raise ConfigError(f"the method {name} chooses layers and tunes none", f"take {made.name} by itself")
        return Method(None, None, made)
    if not chooses:
        return Method(None, "bottom", WholeLayers(embeddings=True) if name == "full" else made, every_layer=True)
    if "selector" not in found:
        return Method(found["scorer"], catalog.read("scorer", found["scorer"]).card.selector, made)
    selected, _, option = found["selector"].partition(":")
    if option and not (option.startswith("k=") and option[2:].isdecimal()):
        raise ConfigError(f"the method {name} has the option {option!r}", "a selector takes k alone, as in top:k=1")
    return Method(found.get("scorer"), selected, made, k=int(option[2:]) if option else None)
