"""The memory model: by hand, and against what autograd keeps."""

from dataclasses import replace

import pytest
import torch

from helpers.cost import BERT, QUIET, TEXT, WIDE, D, batch, freeze, opened
from helpers.made_up import model_info
from wheretune.cost.flops import Savings
from wheretune.cost.memory import activations, cached, weights
from wheretune.cost.training import Training, full_training


def kept_bytes(model, inputs):
    """What autograd keeps of a forward pass, every storage once, without the parameters."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no other gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**inputs)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize(("family", "within"), [("bert", 0.05), ("bert-base", 0.05), ("gpt2", 0.1), ("llama", 0.15)])
@pytest.mark.parametrize("chosen", [(3,), (1,), (0, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize("quiet", [True, False])
def test_activations_are_those_that_autograd_keeps(family, within, chosen, quiet):
    model, stack = opened(family)
    freeze(model, stack, chosen)
    model.train()
    for layer in stack.layers:
        layer.module.train(layer.index in chosen or not quiet)
    parts = [layer.parts for layer in stack.layers]
    assert {part.dropout for part in parts} == {family != "llama"}
    for tokens in (12, 60):
        told = activations(parts, Training(chosen), float(tokens), 2, Savings(quiet=quiet))
        assert told == pytest.approx(kept_bytes(model, batch(model, tokens)), rel=within)


def test_memory_by_hand():
    dropping = replace(BERT, dropout=True)
    common = 2 * D * TEXT + TEXT * WIDE  # what enters the norms, and the activation
    frozen = 4 * (common + TEXT * (4 * D + TEXT))
    assert activations([BERT] * 2, Training((0,)), TEXT, 3) == 3 * (
        2 * frozen + 4 * TEXT * (D + D + WIDE)  # the inputs of the trained layer's maps; attention has kept one of four
    )
    assert activations([BERT] * 2, Training(()), TEXT, 3) == 0
    noisy = activations([dropping] * 2, Training((0,)), TEXT, 1)
    quiet = activations([dropping] * 2, Training((0,)), TEXT, 1, QUIET)
    # a frozen layer that drops out keeps three matrices a head and two masks, and not attention's outcome and its mask
    assert noisy - quiet == 4 * (3 * 2 * TEXT**2 + 2 * D * TEXT - D * TEXT - TEXT**2)
    model = model_info(4)  # of width 8

    def kept(layers, texts=100, **changes):
        return cached(model, Training(layers, **changes), 10.0, texts)

    assert kept((2, 3)) == 4 * 8 * 100 * 10
    assert kept((2, 3), all_states=True) == 4 * 8 * 100 * (10 + 1)  # layer 0's token; layer 1's is in the ten
    assert kept(()) == 4 * 8 * 100
    assert kept((), all_states=True) == 4 * 8 * 100 * 4
    assert kept((0, 3), all_states=True) == kept((1,), texts=0) == kept((1,), embeddings=True) == 0


def test_weights_by_precision():
    training = Training((3,), below=600, on_top=20)
    total = model_info().parameters
    frozen = total - 600
    for dtype, size in (("auto", 4), ("fp32", 4), ("bf16", 2), ("fp16", 2)):
        assert weights(model_info(dtype=dtype), training) == 4 * 620 + size * frozen
    maps = 4 * (4 * 8 * 8 + 2 * 8 * 32)
    for quantize, size in (("4bit", 0.5), ("8bit", 1)):
        quantized = model_info(dtype="bf16", quantize=quantize)
        assert weights(quantized, training) == 4 * 620 + 2 * (frozen - maps) + size * maps
    everything = full_training(4, total + 20)
    assert weights(model_info(dtype="bf16"), everything) == 4 * (total + 20)  # all of it trains, so none is in halves
