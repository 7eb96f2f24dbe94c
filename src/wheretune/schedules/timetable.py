"""What trains at which step, before anything trains: a schedule run through without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wheretune.schedules.base import Schedule


@dataclass(frozen=True)
class Span:
    """Steps in which the same units train, both ends counted, from 0."""

    first: int
    last: int
    units: tuple[int, ...]

    @property
    def steps(self) -> int:
        """How many steps it has."""
        return self.last - self.first + 1


def timetable(
    schedule: Schedule,
    layers: int,
    chosen: Sequence[int],
    steps: int,
    seed: int = 0,
    tensors: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Span]:
    """The spans of steps in which the same units train.

    A schedule that observes what happens in the training says no more beforehand than its first set.

    Args:
        schedule: The schedule.
        layers: How many layers the model has.
        chosen: Those of the plan.
        steps: How many optimizer steps there will be.
        seed: Seed for all random draws.
        tensors: What may train, by name, for a schedule of tensors.

    Raises:
        ConfigError: There are too few steps.
    """
    state = schedule.init(layers, chosen, tensors or {}, steps, seed)
    spans: list[Span] = []
    for step in range(1 if schedule.observes else steps):
        units = tuple(sorted(schedule.active(state, step)))
        if spans and spans[-1].units == units:
            spans[-1] = Span(spans[-1].first, step, units)
        else:
            spans.append(Span(step, step, units))
    return spans


def lowest_layers(
    schedule: Schedule, layers: int, chosen: Sequence[int], steps: int, seed: int
) -> list[tuple[int, int]]:
    """The lowest layer that trains and for how many steps, in their order; none for a schedule of tensors.

    Raises:
        ConfigError: There are too few steps.
    """
    if schedule.unit != "layer" or schedule.observes:
        return []
    found: list[tuple[int, int]] = []
    for span in timetable(schedule, layers, chosen, steps, seed):
        lowest = min(span.units, default=layers)
        if found and found[-1][0] == lowest:
            found[-1] = (lowest, found[-1][1] + span.steps)
        else:
            found.append((lowest, span.steps))
    return found


def shares(spans: Sequence[Span], units: int, stretches: int) -> list[list[float]]:
    """By unit and stretch of time, the share of the steps in which the unit trains.

    Args:
        spans: From `timetable`.
        units: How many units there are.
        stretches: Into how many stretches, as equal as can be, the steps are cut; no more than there are steps.
    """
    steps = spans[-1].last + 1
    count = min(stretches, steps)
    edges = [steps * place // count for place in range(count + 1)]
    found = [[0.0] * count for _ in range(units)]
    for place, (start, stop) in enumerate(pairwise(edges)):
        for span in spans:
            inside = min(span.last + 1, stop) - max(span.first, start)
            for unit in span.units if inside > 0 else ():
                found[unit][place] += inside / (stop - start)
    return found
