"""How many layers: k, a ratio or neither, on every selector that takes a number of layers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheretune import catalog
from wheretune.errors import PlanError
from wheretune.selectors.base import TakesK, resolve_k, resolved
from wheretune.selectors.fixed import Explicit, Random
from wheretune.selectors.near import Near
from wheretune.selectors.ranked import Highest, Suffix

TAKING = [made for made in catalog.every("selector").values() if issubclass(made, TakesK)]
SELECTING = [made for made in TAKING if hasattr(made, "select")]


@pytest.mark.parametrize(
    ("k", "ratio", "layers", "expect"),
    [
        (None, None, 12, 3),
        (None, None, 3, 1),
        (None, None, 7, 2),
        (5, None, 12, 5),
        (None, 0.3, 10, 3),  # 0.3 * 10 is below 3 in floating point, or may be
        (None, 0.7, 10, 7),
        (None, 0.35, 10, 3),
        (None, 0.5, 13, 6),
        (None, 1.0, 12, 12),
    ],
)
def test_what_k_and_ratio_mean(k, ratio, layers, expect):
    assert resolve_k(k, ratio, layers) == expect


@given(st.integers(1, 200), st.integers(1, 100))
def test_a_ratio_is_rounded_down(layers, hundredths):
    exact = layers * hundredths // 100
    if exact:
        assert resolve_k(None, hundredths / 100, layers) == exact
    else:
        with pytest.raises(PlanError, match="is no layer") as error:
            resolve_k(None, hundredths / 100, layers)
        assert error.value.field == "ratio"


@pytest.mark.parametrize("made", TAKING, ids=lambda made: made.name)
def test_every_selector_of_k_layers_takes_a_ratio_or_neither(made):
    values = np.linspace(0, 1, 12)
    assert resolved(made(), 12) == made(3) and resolved(made(ratio=0.5), 12) == made(6)
    assert resolved(made(2), 12) == made(2)
    with pytest.raises(PlanError, match="k and ratio both") as error:
        made(3, ratio=0.5)
    assert error.value.field == "k"
    with pytest.raises(PlanError, match=r"ratio is 1\.5") as error:
        made(ratio=1.5)
    assert error.value.field == "ratio"
    for wrong, field in ((made(0), "k"), (made(13), "k"), (made(ratio=0.01), "ratio")):
        with pytest.raises(PlanError) as error:
            wrong.select(values) if made in SELECTING else wrong.check(12)
        assert error.value.field == field


@pytest.mark.parametrize("made", SELECTING, ids=lambda made: made.name)
def test_a_choice_is_that_of_the_resolved_selector(made):
    values = np.random.default_rng(0).random(16)
    for selector in (made(), made(ratio=0.3), made(2)):
        assert selector.select(values) == resolved(selector, 16).select(values)


def test_what_has_no_k_stays_as_it_is():
    assert resolved(Suffix(), 12) == Suffix()
    assert resolved(Near(Highest(), 0.02), 12) == Near(Highest(3), 0.02)
    assert resolved(Random(seed=3), 8) == Random(2, 3)


def test_all_layers_can_be_named_at_once():
    assert Explicit(every=True).select(np.zeros(4)) == (0, 1, 2, 3)
    assert resolved(Explicit(every=True), 4) == Explicit((0, 1, 2, 3))
    assert resolved(Explicit((3, 1)), 4) == Explicit((1, 3))
    for layers, every in (((), False), ((1,), True)):
        with pytest.raises(PlanError) as error:
            Explicit(layers, every)
        assert error.value.field == "layers"
    with pytest.raises(PlanError, match="no layer 4"):
        Explicit((4,)).select(np.zeros(4))
