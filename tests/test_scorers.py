"""Every scorer against its slow twin, and the battery that every scorer must pass."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig

from conftest import ENCODERS, FAMILIES, sentences, tiny_model
from reference.centrality import centrality, cosine, negative_distance
from wheretune import CosineCentrality, EuclideanCentrality, from_texts, score
from wheretune.anatomy import find_layers, tensor_hashes
from wheretune.capture import stream_states
from wheretune.data import collator, encode, length_batches
from wheretune.errors import ScoreError

SCORERS = {CosineCentrality(): cosine, EuclideanCentrality(): negative_distance}
names = pytest.mark.parametrize("scorer", SCORERS, ids=lambda scorer: scorer.name)


@names
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_equals_the_twin(family, side, batch_size, scorer):
    model, tokenizer = tiny_model(family, side)
    texts = sentences(23)
    found = score(model, tokenizer, from_texts(texts), scorer, batch_size=batch_size)
    pairs = [(text,) for text in texts]
    values, stds, matrix = centrality(model, tokenizer, pairs, SCORERS[scorer], 64, family not in ENCODERS)
    np.testing.assert_allclose(found.values, values, atol=1e-5)
    np.testing.assert_allclose(found.stds, stds, atol=1e-5)
    np.testing.assert_allclose(np.array(found.similarity), matrix, atol=1e-5)
    assert np.ptp(values) > 1e-3  # layers differ, so a permutation would not pass


@names
def test_equals_the_twin_on_a_real_model_and_pairs(minilm, scorer):
    model, tokenizer = AutoModel.from_pretrained(minilm).eval(), AutoTokenizer.from_pretrained(minilm)
    pairs = [(a, b) for a, b in zip(sentences(20), sentences(20, seed=1), strict=True)]
    found = score(model, tokenizer, from_texts(pairs), scorer, batch_size=8)
    values, stds, matrix = centrality(model, tokenizer, pairs, SCORERS[scorer], 512, causal=False)
    np.testing.assert_allclose(found.values, values, atol=1e-5)
    np.testing.assert_allclose(found.stds, stds, atol=1e-5)
    np.testing.assert_allclose(np.array(found.similarity), matrix, atol=1e-5)


def batches_of(model, tokenizer, texts, batch_size=4):
    stack = find_layers(model)
    rows = encode(from_texts(texts), tokenizer, 64)
    return stack, list(stream_states(stack, length_batches(rows, batch_size), collator(tokenizer)))


def finish(scorer, stack, batches):
    state = scorer.init(stack)
    for batch in batches:
        state = scorer.update(state, batch)
    return state


@names
def test_two_shards_merge_into_one_pass(scorer):
    stack, batches = batches_of(*tiny_model("bert"), sentences(17))
    once = scorer.finish(finish(scorer, stack, batches))
    merged = scorer.finish(scorer.merge(finish(scorer, stack, batches[:2]), finish(scorer, stack, batches[2:])))
    assert merged.n_samples == once.n_samples == 17
    np.testing.assert_allclose(merged.values, once.values, atol=1e-12)
    np.testing.assert_allclose(merged.stds, once.stds, atol=1e-9)


@names
def test_a_short_last_batch_does_not_weigh_more(scorer):
    model, tokenizer = tiny_model("llama")
    data = from_texts(sentences(9))
    found = [score(model, tokenizer, data, scorer, batch_size=size).values for size in (8, 9, 2)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)


@names
def test_is_deterministic_and_leaves_the_model_as_it_was(scorer):
    model, tokenizer = tiny_model("gpt2")
    model.train()
    model.h[2].eval()
    before = tensor_hashes(iter(model.state_dict().items()))
    modes = [module.training for module in model.modules()]
    data = from_texts(sentences(6))
    first, second = (score(model, tokenizer, data, scorer) for _ in range(2))
    assert first.digest == second.digest
    assert tensor_hashes(iter(model.state_dict().items())) == before
    assert [module.training for module in model.modules()] == modes
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.h)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_hooks_are_gone_after_a_failure():
    model, tokenizer = tiny_model("bert")
    model.encoder.layer[3].forward = None
    with pytest.raises(TypeError):
        score(model, tokenizer, from_texts(sentences(3)), CosineCentrality())
    assert all(not layer._forward_hooks and not layer._forward_pre_hooks for layer in model.encoder.layer)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_state_that_is_not_finite_names_layer_and_row(layer):
    model, tokenizer = tiny_model("bert")
    marked = tokenizer.convert_tokens_to_ids("movie")
    texts = ["the good plot", "a bad movie", "who said that"]

    def poison(module, args, output):
        hit = (seen["ids"] == marked).any(1)
        output[hit] = float("nan")
        return output

    seen = {}
    model.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(ids=kwargs["input_ids"]), with_kwargs=True
    )
    model.encoder.layer[layer].register_forward_hook(poison)
    with pytest.raises(ScoreError, match=rf"output of layer {layer} is not finite for row 2 "):
        score(model, tokenizer, from_texts(texts), CosineCentrality())


def test_a_state_of_length_zero_has_no_direction():
    model, tokenizer = tiny_model("bert")
    model.encoder.layer[1].register_forward_hook(lambda module, args, output: output * 0)
    with pytest.raises(ScoreError, match=r"layer 1 .*not finite"):
        score(model, tokenizer, from_texts(sentences(3)), CosineCentrality())


def test_one_layer_has_no_pairs():
    _, tokenizer = tiny_model("bert")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    with pytest.raises(ScoreError, match="one layer"):
        score(AutoModel.from_config(config), tokenizer, from_texts(sentences(3)), CosineCentrality())


def test_mean_pooling_reads_unmasked_tokens_only():
    model, tokenizer = tiny_model("bert")
    texts = sentences(12)
    found = score(model, tokenizer, from_texts(texts), CosineCentrality(), batch_size=12, pooling="mean")
    every = []
    for text in texts:
        with torch.no_grad():
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        h = torch.stack([state[0].mean(0) for state in out.hidden_states[1:]]).numpy()
        every.append([[cosine(a, b) for b in h] for a in h])
    np.testing.assert_allclose(np.array(found.similarity), np.mean(every, axis=0), atol=1e-5)
