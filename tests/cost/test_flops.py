"""The FLOP model: by hand, and against what PyTorch counts."""

from dataclasses import astuple, replace
from itertools import pairwise

import pytest
from torch.utils.flop_counter import FlopCounterMode

from helpers.cost import (
    ATTENTION,
    BERT,
    CACHE,
    CUT,
    FUSED,
    LINEAR,
    MAP,
    ONE,
    QUIET,
    TEXT,
    UP,
    batch,
    freeze,
    opened,
)  # fmt: skip
from wheretune.cost.flops import EVERYTHING, NOTHING, compute_share, estimate, full
from wheretune.cost.training import Training
from wheretune.records.model import LayerParts


def test_a_small_model_by_hand():
    parts, three = [BERT] * 3, (1,)
    plain = estimate(parts, Training(three), TEXT)
    assert astuple(plain) == (
        3 * (LINEAR + ATTENTION),
        (LINEAR - 3 * MAP + 2 * ATTENTION) + (LINEAR + 2 * ATTENTION),  # layer 1 without q, k, v; layer 2
        LINEAR,
    )
    assert plain.total == sum(astuple(plain))
    cache = estimate(parts, Training(three), TEXT, CACHE)
    assert cache == replace(plain, forward=2 * (LINEAR + ATTENTION))
    one = estimate(parts, Training(three), TEXT, ONE)
    assert one.forward == pytest.approx(2 * (LINEAR + ATTENTION) + CUT + ATTENTION)
    assert one.input_gradients == pytest.approx((LINEAR - 3 * MAP + 2 * ATTENTION) + CUT + 2 * ATTENTION)
    assert one.weight_gradients == LINEAR
    top = estimate(parts, Training((2,)), TEXT, ONE)
    assert top.weight_gradients == pytest.approx(CUT)
    assert top.input_gradients == pytest.approx(CUT - 2 * MAP - MAP / TEXT + 2 * ATTENTION)
    assert estimate(parts, Training(three), TEXT, QUIET) == plain  # dropout is no arithmetic
    assert astuple(full(parts, TEXT)) == (3 * (LINEAR + ATTENTION), 3 * (LINEAR + 2 * ATTENTION), 3 * LINEAR)
    # over 3 epochs, making the cache is a third of the forward pass of layer 0
    every = estimate(parts, Training(three), TEXT, EVERYTHING).total
    share = (every + (LINEAR + ATTENTION) / 3) / full(parts, TEXT).total
    assert compute_share(parts, Training(three), TEXT) == pytest.approx(share)
    assert compute_share(parts, Training(three), TEXT, epochs=1) > share


def test_the_head_alone_and_the_embeddings():
    parts = [BERT] * 3
    assert astuple(estimate(parts, Training(()), TEXT)) == (3 * (LINEAR + ATTENTION), 0, 0)
    assert estimate(parts, Training(()), TEXT, CACHE).total == 0
    assert estimate(parts, Training(()), TEXT, ONE).forward == pytest.approx(2 * (LINEAR + ATTENTION) + CUT + ATTENTION)
    every = 9 * LINEAR + 9 * ATTENTION
    assert compute_share(parts, Training(()), TEXT) == pytest.approx(
        (LINEAR + ATTENTION) / every
    )  # 3 forwards, 3 epochs
    # with trained embeddings a gradient flows all the way down, and nothing is cached
    down = estimate(parts, Training((2,), embeddings=True), TEXT, CACHE)
    assert astuple(down) == (3 * (LINEAR + ATTENTION), 3 * (LINEAR + 2 * ATTENTION), LINEAR)


def test_fused_maps_norms_that_come_first_and_layers_that_are_not_understood():
    qkv = 3 * MAP
    first = estimate([FUSED] * 2, Training((1,)), TEXT)
    assert first.input_gradients == LINEAR + 2 * ATTENTION  # down to the norm before q, k and v
    assert estimate([FUSED] * 2, Training((1,), norms=False), TEXT).input_gradients == LINEAR - qkv + 2 * ATTENTION
    cut = estimate([FUSED] * 2, Training((1,)), TEXT, ONE)
    assert cut.weight_gradients == pytest.approx(qkv + (MAP + 2 * UP) / TEXT)  # the queries with the keys and values
    unknown = LayerParts(BERT.maps)
    for savings in (NOTHING, ONE):
        assert astuple(estimate([unknown], Training((0,)), TEXT, savings)) == (LINEAR, LINEAR, LINEAR)
    assert estimate([BERT] * 2, Training((0,), share=0.25), TEXT).weight_gradients == LINEAR / 4


def test_every_saving_saves_and_a_lower_layer_costs_more():
    parts = [BERT] * 6
    for chosen in ((), (5,), (2, 4), (1,), tuple(range(1, 6))):
        plain = estimate(parts, Training(chosen), TEXT).total
        each = [estimate(parts, Training(chosen), TEXT, one).total for one in (CACHE, ONE, EVERYTHING)]
        assert plain > max(each[:2]) and min(each[:2]) >= each[2] and plain < full(parts, TEXT).total
        shares = [compute_share(parts, Training(chosen), TEXT, epochs=epochs) for epochs in (1, 3, 30)]
        assert shares == sorted(shares, reverse=True) and len(set(shares)) == 3
    lowest = [compute_share(parts, Training((layer,)), TEXT) for layer in range(6)]
    assert all(lower > higher for lower, higher in pairwise(lowest))


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "qwen2", "bert-base"])
@pytest.mark.parametrize("chosen", [(3,), (0,), (1, 2), (0, 1, 2, 3), "full"])
def test_flops_are_those_that_pytorch_counts(family, chosen):
    model, stack = opened(family)
    model.set_attn_implementation("eager")
    everything = chosen == "full"
    layers = tuple(range(4)) if everything else chosen
    freeze(model, stack, layers, embeddings=everything)
    parts = [layer.parts for layer in stack.layers]
    tokens = 24
    with FlopCounterMode(display=False) as forward:
        hidden = model(**batch(model, tokens))[0]
    with FlopCounterMode(display=False) as backward:
        hidden.sum().backward()
    told = full(parts, float(tokens)) if everything else estimate(parts, Training(layers), float(tokens))
    assert 2 * told.forward == pytest.approx(forward.get_total_flops(), rel=0.02)
    assert 2 * (told.total - told.forward) == pytest.approx(backward.get_total_flops(), rel=0.02)
