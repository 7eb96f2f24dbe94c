"""What a prefix cache stores of every text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """What is stored of every text.

    First come the states of all its tokens that leave the layer below the lowest trained one (none if only the head
    trains and reads one token), then the representative token of the states that the head reads below it.

    Attributes:
        first: The lowest trained layer; L if only the head trains.
        layers: L.
        width: The hidden size.
        all_layers: Whether the head reads the representative token of every layer.
        all_tokens: Whether the head may read any token of the last layer.
    """

    first: int
    layers: int
    width: int
    all_layers: bool = False
    all_tokens: bool = False

    @property
    def whole(self) -> bool:
        """Whether the states of all tokens are stored."""
        return self.all_tokens or self.first < self.layers

    @property
    def states(self) -> tuple[int, ...]:
        """The states (i + 1 is what layer i puts out) whose representative token is stored."""
        if self.all_layers:
            return tuple(range(1, self.first + (0 if self.whole else 1)))
        return () if self.whole else (self.first,)

    def rows(self, tokens: int) -> int:
        """How many rows of `width` numbers a text of so many tokens takes."""
        return (tokens if self.whole else 0) + len(self.states)
