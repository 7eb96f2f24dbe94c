"""Every layer from the lowest chosen one up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from wheretune.errors import PlanError
from wheretune.selectors.base import Selector, resolved

if TYPE_CHECKING:
    from wheretune.selectors.base import AdaptiveSelector, Values


@dataclass(frozen=True)
class Upwards:
    """The lowest layer that a selector chooses and all above it, which its gradients pass anyway.

    Attributes:
        selector: Chooses by scores alone.
    """

    selector: Selector | AdaptiveSelector
    name: ClassVar[str] = "upwards"
    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.selector, Selector) or not self.selector.needs_scores:
            raise PlanError(
                f"upwards does not go with {self.selector.name}", "choose by scores, as block-highest does", "selector"
            )

    def resolved(self, layers: int) -> Upwards:
        """The same with the inner selector's numbers."""
        return replace(self, selector=resolved(self.selector, layers))

    def select(self, values: Values) -> tuple[int, ...]:
        """The chosen layers, ascending."""
        assert isinstance(self.selector, Selector)  # as __post_init__ made sure
        return tuple(range(min(self.selector.select(values)), len(values)))
