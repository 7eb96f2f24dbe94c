"""Selectors: hand-made cases, and what holds for all scores."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.models import tiny_model
from helpers.scoring import with_profile
from helpers.texts import sentences
from wheretune import (
    Auto,
    BlockHighest,
    BlockLowest,
    BlockMedian,
    BlockRandom,
    Bottom,
    Budget,
    CosineCentrality,
    Explicit,
    Highest,
    Lowest,
    MiddleBest,
    Near,
    Random,
    Spec,
    Suffix,
    Top,
    Upwards,
    catalog,
    choose,
    from_texts,
    plan,
    score,
)
from wheretune.cost.flops import compute_share
from wheretune.cost.training import Training
from wheretune.errors import ConfigError, PlanError
from wheretune.records.model import LayerParts
from wheretune.selectors.blocks import blocks
from wheretune.selectors.budget import Affordable
from wheretune.selectors.near import NEAR

PARTS = LayerParts(
    {"q": (8, 8), "k": (8, 8), "v": (8, 8), "o": (8, 8), "up": (32, 8), "down": (8, 32)}, "q", "k", "v", "o", "down"
)
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
        (MiddleBest(1), (3,)),  # layers 2 and 3
        (Suffix(), (1, 2, 3, 4, 5, 6)),
        (Upwards(BlockLowest(2)), (2, 3, 4, 5, 6)),
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


# --- selectors that adapt ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    model, tokenizer = tiny_model("bert")
    return score(model, tokenizer, from_texts(sentences(5)), CosineCentrality())


LATE = [0.9, 0.91, 0.92, 0.93, 0.92, 0.91, 0.9, 0.9, 0.9, 0.6, 0.5, 0.4]
MIDDLE = [0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 0.85, 0.8, 0.75, 0.7, 0.68, 0.66]
PEAKS = [0.5, 0.8, 0.5, 0.52, 0.6, 0.85, 0.6, 0.55, 0.6, 0.82, 0.6, 0.5]
RISING = [0.1 * i for i in range(12)]


@pytest.mark.parametrize(
    ("values", "stds", "inner", "said"),
    [
        (LATE, None, Lowest(3), "late divergence: the last third lies"),
        (LATE, [0.01] * 8 + [0.3] * 4, BlockHighest(3), "unstable deep end: its standard deviation is 0.3000"),
        (MIDDLE, [0.01] * 8 + [0.03] * 4, BlockHighest(3), "unstable deep end"),
        (MIDDLE, None, Highest(3), "one peak, in the middle (layer 5: 0.9000)"),
        (PEAKS, None, BlockHighest(3), "several peaks (layers 1, 5, 9)"),
        (RISING, None, BlockHighest(3), "no middle peak (peak at layer 11)"),
        ([0.5] * 12, None, BlockHighest(3), "all alike"),
    ],
)
def test_auto_goes_by_the_shape(measured, values, stds, inner, said):
    choice = choose(with_profile(measured, values, stds), Auto(3))
    assert said in choice.reason and f"-> {inner.name}" in choice.reason
    assert choice.layers == Near(inner, NEAR).select(np.array(values))
    assert (
        choice.selector.name == "auto" and plan(with_profile(measured, values, stds), Auto(3)).reason == choice.reason
    )


def test_near_equal_scores_go_to_the_higher_layer(measured):
    values = np.array([0.9, 0.9, 0.5, 0.899, 0.1, 0.2])
    assert Highest(2).select(values) == (0, 1)
    assert Near(Highest(2), 0.01).select(values) == (1, 3)
    assert Near(Highest(2), 0.0).select(values) == (0, 1)
    assert Near(BlockHighest(2), 0.01).select(values) == (1, 3)
    assert Near(Suffix(), 0.01).select(values) == (3, 4, 5)
    assert Near(Lowest(1), 0.2).select(values) == (5,)
    choice = choose(with_profile(measured, values), Near(Highest(2), 0.01))
    assert "layer 3 (0.8990) for layer 0 (0.9000)" in choice.reason and choice.selector == Spec.of(
        Near(Highest(2), 0.01)
    )
    assert choose(with_profile(measured, values), Near(Highest(1), 0.0)).reason is None
    sliding = np.array([1.0, 0.992, 0.984, 0.976, 0.968, 0.0])  # each near the one before, not near the best
    assert Near(Highest(1), 0.01).select(sliding) == (1,)
    for selector, tolerance in ((Top(1), 0.1), (Highest(1), 1.0), (Highest(1), -0.1), (Auto(1), 0.1)):
        with pytest.raises(PlanError, match="near"):
            Near(selector, tolerance)


@pytest.mark.slow
@settings(deadline=None)  # every set of layers is priced
@given(st.lists(st.floats(0, 1), min_size=2, max_size=7), st.floats(0.05, 1), st.booleans())
def test_budget_finds_the_best_affordable_total(values, share, high):
    values = np.round(np.array(values), 2)
    worth = values - values.min() if high else values.max() - values
    count = len(values)
    parts = [PARTS] * count  # of one size, but the last layer, of which one token is read, costs less
    reached, trained = ([compute_share(parts, Training((i,), share=w), 20.0) for i in range(count)] for w in (0.0, 1.0))
    selector = Affordable(share, tuple(reached), tuple(b - a for a, b in zip(reached, trained, strict=True)), high)
    sets = [c for k in range(1, count + 1) for c in combinations(range(count), k)]
    prices = {c: compute_share(parts, Training(c), 20.0) for c in sets}
    assume(min(abs(price - share) for price in prices.values()) > 1e-9)
    affordable = [c for c in sets if prices[c] <= share]
    if not affordable:
        with pytest.raises(PlanError, match="pays for no layer"):
            selector.select(values)
        return
    found = selector.select(values)
    assert found in affordable
    assert worth[list(found)].sum() >= (1 - NEAR) * max(worth[list(c)].sum() for c in affordable) - 1e-12


def test_budget_says_what_it_spends_and_prefers_what_costs_less(measured):
    scores = with_profile(measured, [0.1, 0.9, 0.2, 0.9, 0.3, 0.1])
    everything = choose(scores, Budget(1.0))
    assert everything.layers == (1, 2, 3, 4)  # the worst layers add nothing
    # These layers are one map each, 18 passes for full fine-tuning. With layer 0 cached: 5 forward and 1 / 3 to make
    # the cache, 5 down, 4 of weights.
    assert "79.6% of full fine-tuning's compute over 3 epochs spent, of 100.0% allowed" in everything.reason
    assert plan(scores, Budget(1.0)).cost.expected_speed_up == pytest.approx(18 / (5 + 1 / 3 + 5 + 4))
    one = choose(with_profile(measured, [0.9, 0.1, 0.1, 0.1, 0.1, 0.899]), Budget(0.5))
    assert one.layers == (5,)  # layer 0 is as good, and would cost (6 + 6 + 1) / 18
    sizes = choose(scores, Budget(250 / measured.model.parameters, "parameters"))
    assert sizes.layers == (1, 3) and "parameters spent" in sizes.reason
    # of 9 passes, layers 4 and 5 cost 2 + 4 / 3 + 2 + 2; layer 2 alone would cost 4 + 2 / 3 + 4 + 1
    assert choose(scores, Budget(0.5, prefer="lowest")).layers == (4, 5)
    cka = replace(scores, scorer=Spec("cka"))  # which declares that low scores are the good ones
    assert choose(cka, Budget(0.5)).layers == choose(scores, Budget(0.5, prefer="lowest")).layers
    assert choose(cka, Budget(0.5, prefer="highest")).layers == choose(scores, Budget(0.5)).layers
    for wrong in (Budget(0), Budget(1.1)):
        with pytest.raises(PlanError, match="the budget is"):
            choose(scores, wrong)


@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize(
    ("axis", "name"),
    [("selector", "random"), ("selector", "block-random"), ("scorer", "random"), ("scorer", "layer-probe")],
)
def test_a_seed_that_no_generator_takes_is_refused_when_it_is_given(axis, name, seed):
    made = catalog.find(axis, name)
    with pytest.raises(ConfigError, match=f"the seed is {seed}; give a whole number from 0 to 4294967295") as refused:
        made(seed=seed)
    assert refused.value.field == "seed"
    assert made(seed=2**32 - 1).seed == 2**32 - 1
    with pytest.raises(ConfigError, match=f"the {axis} {name}: the seed is {seed}") as refused:
        catalog.build(axis, Spec(name, {"seed": seed}))
    assert refused.value.field is None  # no option of a command's own
