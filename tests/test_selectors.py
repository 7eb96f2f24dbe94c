"""Selectors: hand-made cases, and what holds for all scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wheretune import (
    BlockHighest,
    BlockLowest,
    BlockMedian,
    BlockRandom,
    Bottom,
    Explicit,
    Highest,
    Lowest,
    MiddleBest,
    Random,
    Suffix,
    Top,
)
from wheretune.errors import PlanError
from wheretune.selectors import blocks

VALUES = np.array([0.5, 0.9, 0.1, 0.7, 0.9, 0.2, 0.3])  # blocks of k = 3: 0-2, 3-4, 5-6


@pytest.mark.parametrize(
    ("selector", "layers"),
    [
        (Highest(2), (1, 4)),
        (Highest(1), (1,)),  # the tie between 1 and 4 goes to the lower layer
        (Lowest(3), (2, 5, 6)),
        (BlockHighest(3), (1, 4, 6)),
        (BlockLowest(3), (2, 3, 5)),
        (BlockMedian(3), (0, 3, 5)),  # of an even block the lower middle
        (Top(2), (5, 6)),
        (Bottom(2), (0, 1)),
        (Explicit((4, 0, 4)), (0, 4)),
        (MiddleBest(), (3,)),  # layers 2 and 3
        (Suffix(), (1, 2, 3, 4, 5, 6)),
    ],
    ids=str,
)
def test_by_hand(selector, layers):
    assert selector.select(VALUES) == layers


def test_blocks_differ_by_at_most_one_and_the_earlier_take_the_rest():
    assert [len(block) for block in blocks(12, 5)] == [3, 3, 2, 2, 2]
    assert [*blocks(7, 3)] == [range(0, 3), range(3, 5), range(5, 7)]


K_SELECTORS = (Highest, Lowest, BlockHighest, BlockLowest, BlockMedian, BlockRandom, Top, Bottom, Random)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.data())
def test_k_layers_ascending_and_there(values, data):
    k = data.draw(st.integers(1, len(values)))
    for kind in K_SELECTORS:
        layers = kind(k).select(np.array(values))
        assert len(layers) == k and list(layers) == sorted(set(layers))
        assert layers[0] >= 0 and layers[-1] < len(values)
        if kind.__name__.startswith("Block"):
            assert all(layer in block for layer, block in zip(layers, blocks(len(values), k), strict=True))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40), st.data())
def test_highest_is_not_beaten_by_what_it_left(values, data):
    k = data.draw(st.integers(1, len(values) - 1))
    chosen = Highest(k).select(np.array(values))
    left = [value for layer, value in enumerate(values) if layer not in chosen]
    assert min(values[layer] for layer in chosen) >= max(left)


@pytest.mark.parametrize("kind", K_SELECTORS)
@pytest.mark.parametrize("k", [0, -1, 8])
def test_k_out_of_range(kind, k):
    with pytest.raises(PlanError, match=f"k is {k}"):
        kind(k).select(VALUES)


def test_layers_that_are_no_candidates_are_passed_over():
    values = np.array([np.nan, 0.5, 0.1, np.nan])
    assert Highest(2).select(values) == Lowest(2).select(values) == (1, 2)
    assert BlockHighest(2).select(values) == (1, 2) and Suffix().select(values) == (1, 2, 3)
    with pytest.raises(PlanError, match="only 2 layers are candidates"):
        Highest(3).select(values)
    with pytest.raises(PlanError, match="layers 0 to 0 hold no candidate"):
        BlockLowest(4).select(values)
    with pytest.raises(PlanError, match="no middle third"):
        MiddleBest().select(values[:1])


def test_random_draws_are_seeded():
    draws = {Random(3, seed).select(VALUES) for seed in range(30)}
    assert len(draws) > 10 and Random(3, 7).select(VALUES) == Random(3, 7).select(VALUES)


@pytest.mark.parametrize("layers", [(), (7,), (-1,)])
def test_explicit_layers_must_exist(layers):
    with pytest.raises(PlanError):
        Explicit(layers).select(VALUES)
