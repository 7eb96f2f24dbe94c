"""What goes together in a layer when parts of it are removed, and which parts those are: arithmetic, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING, Literal

import numpy as np

from wheretune.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wheretune.records.model import LayerParts

MOST = 0.85  # of the units of a layer that may be removed
ROUNDING = 1e-9  # .29 x 100 is a little below 29


@dataclass(frozen=True)
class Group:
    """Maps of a layer whose rows and columns go together.

    Attributes:
        layer: Which layer.
        kind: `attention` or `mlp`.
        units: How many heads (key-value heads, where several heads share them) or MLP units it has.
        rows: The maps that put the units out, by path below the layer.
        columns: The map that reads them.
        shapes: Of all these maps: path -> (outputs, inputs).
    """

    layer: int
    kind: Literal["attention", "mlp"]
    units: int
    rows: tuple[str, ...]
    columns: str
    shapes: Mapping[str, tuple[int, int]]

    def maps(self) -> Iterator[tuple[str, int, int]]:
        """Every map: its path, along which dimension it is cut, and how many rows or columns a unit has there."""
        for path in self.rows:
            yield path, 0, self.shapes[path][0] // self.units
        yield self.columns, 1, self.shapes[self.columns][1] // self.units


def groups_of(layer: int, parts: LayerParts) -> tuple[Group, Group]:
    """The attention and the MLP of a layer.

    Raises:
        ModelError: They are not made of linear maps of their own.
    """
    maps, apart = parts.maps, len({parts.query, parts.key, parts.value, parts.attention_output})
    if parts.key is None or parts.attention_output is None or parts.mlp_output is None or apart < 4:
        raise ModelError(
            f"layer {layer} has no maps of its own for queries, keys, values, their outcome and the MLP, of which "
            "recap removes rows and columns",
            "take another schedule",
            "schedule",
        )
    size = maps[parts.attention_output][1] // parts.heads
    attention = tuple(path for path in (parts.query, parts.key, parts.value) if path is not None)
    width = maps[parts.mlp_output][1]
    known = {*attention, parts.attention_output, parts.mlp_output}
    inner = tuple(path for path, (outputs, _) in maps.items() if outputs == width and path not in known)
    heads = maps[parts.key][0] // size
    if not inner or not heads or any(maps[path][0] % heads for path in attention):
        raise ModelError(
            f"layer {layer} has no linear maps whose rows are its MLP's units, or no whole heads",
            "take another schedule",
            "schedule",
        )
    return (
        Group(layer, "attention", heads, attention, parts.attention_output, maps),
        Group(layer, "mlp", width, inner, parts.mlp_output, maps),
    )


# --- what is chosen ------------------------------------------------------------------------------


def ratios(prune: float, substeps: int) -> list[float]:
    """rho_j = (r / N) / (1 - j r / N): the share of what is left that the j-th of N sub-steps removes, r in all."""
    return [prune / substeps / (1 - place * prune / substeps) for place in range(substeps)]


def share_of(share: float, units: int) -> int:
    """The floor of share x units."""
    return floor(share * units + ROUNDING)


def least(values: Sequence[NDArray[np.float64]], count: int, most: float = 1.0) -> list[NDArray[np.bool_]]:
    """Which `count` units of some layers have the lowest values, across the layers.

    Ties: the lower layer, then the lower unit is not among them.

    Args:
        values: By layer and unit.
        count: How many; fewer where no more may be taken.
        most: The share of a layer's units that may be among them.
    """
    found = [np.zeros(len(one), dtype=bool) for one in values]
    room = [share_of(most, len(one)) for one in values]
    layer = np.repeat(np.arange(len(values)), [len(one) for one in values])
    unit = np.concatenate([np.arange(len(one)) for one in values])
    for place in np.lexsort((-unit, -layer, np.concatenate(values))):
        if count == 0:
            break
        if room[layer[place]]:
            found[layer[place]][unit[place]] = True
            room[layer[place]] -= 1
            count -= 1
    return found
