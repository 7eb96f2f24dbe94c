"""Short names for what the papers put together, taken from their recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wheretune import catalog
from wheretune.errors import ConfigError
from wheretune.recipes.base import Recipe
from wheretune.records.base import Spec


@dataclass(frozen=True)
class Preset:
    """A paper's scorer, selector and number of layers.

    Attributes:
        name: `prism`, `salf` ...
        scorer: The paper's.
        selector: The paper's; it says k or ratio itself where the paper's method is one of so many layers.
        k: How many layers the paper tunes, where it says a number.
        ratio: The same as a share of the model's layers.
        recipe: What it was made from.
    """

    name: str
    scorer: Spec
    selector: Spec
    k: int | None
    ratio: float | None
    recipe: Recipe

    @property
    def options(self) -> dict[str, str]:
        """By option (`scorer`, `select`, `k`, `ratio`), what it fills in, as text that a command line reads."""
        bare = {key: value for key, value in self.selector.params.items() if key not in ("k", "ratio")}
        given = {
            "scorer": catalog.text_of(self.scorer),
            "select": catalog.text_of(Spec(self.selector.name, bare)),
        }
        counts = {"k": self.k, "ratio": self.ratio}
        return given | {key: f"{value:g}" for key, value in counts.items() if value is not None}


def presets() -> dict[str, Preset]:
    """All presets by name, in the order of the recipes in the catalog."""
    recipes: list[Recipe] = list(catalog.every("recipe").values())
    return {recipe.preset: _preset(recipe) for recipe in recipes if recipe.preset is not None}


def _preset(recipe: Recipe) -> Preset:
    main, study = recipe.methods[0], recipe.study
    if recipe.preset is None or main.scorer is None or main.selector is None:
        raise ConfigError(f"the recipe {recipe.name} chooses no layers by a scorer", "give it no preset")
    k, ratio = main.selector.params.get("k", study.k), main.selector.params.get("ratio", study.ratio)
    return Preset(recipe.preset, main.scorer, main.selector, k, ratio, recipe)


def check_kind(recipe: Recipe, causal: bool, field: Literal["preset", "recipe"]) -> None:
    """Refuses a recipe, or the preset made from it, that is meant for the other kind of model.

    Args:
        recipe: What was asked for.
        causal: Whether the model is a decoder.
        field: What it was asked for as.

    Raises:
        ConfigError: It does not fit; the one of the same paper that does is named.
    """
    if recipe.causal is None or recipe.causal is causal:
        return
    same: list[Recipe] = [one for one in catalog.every("recipe").values() if one.paper == recipe.paper]
    names = [one.name if field == "recipe" else one.preset for one in same if one.causal is causal]
    name = recipe.name if field == "recipe" else recipe.preset
    kind = "decoders" if recipe.causal else "encoders"
    remedy = f"take {names[0]}" if names else f"take another {field}"
    raise ConfigError(f"the {field} {name} is for {kind}, and the model is none of these", remedy, field)
