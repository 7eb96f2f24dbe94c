"""Every scorer against its slow twin, and the battery that every scorer must pass."""

import json
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BertConfig

import wheretune as wt
from helpers.models import ENCODERS, FAMILIES, tiny_model
from helpers.often import often
from helpers.scoring import score_all
from helpers.texts import classes_of, sentences
from reference import scorers as twin
from wheretune import catalog
from wheretune.data.batches import collator, length_batches
from wheretune.data.tokens import encode
from wheretune.errors import DataError, ModelError, ScoreError
from wheretune.model.finding import find_layers
from wheretune.model.identity import tensor_hashes
from wheretune.model.output_matrix import semantic_bases
from wheretune.model.states import States
from wheretune.records.scores import Reading
from wheretune.scorers import sketch
from wheretune.scorers.base import GradientScorer, StackScorer, StreamScorer
from wheretune.scoring import shards
from wheretune.scoring.gradients import stream_gradients
from wheretune.scoring.states import stream_states
from wheretune.tasks.verbalizing import next_tokens

SIDES = pytest.mark.parametrize("side", ["left", "right"])


SIZES = pytest.mark.parametrize("batch_size", [1, 5, 64])


EVERY = [made() for made in catalog.every("scorer").values() if "training" not in made.card.needs]
EVERY += [wt.CKA("debiased")]
EVERY += [wt.Fisher("batch"), wt.SemanticDeviation("ce"), wt.SemanticDeviation("rank")]


ALL = [scorer for scorer in EVERY if "language-model" not in scorer.card.needs]  # those that any model can be scored by


every_scorer = pytest.mark.parametrize("scorer", EVERY, ids=str)


STREAMING = [scorer for scorer in ALL if isinstance(scorer, StreamScorer)]


MERGING = [scorer for scorer in EVERY if not isinstance(scorer, StackScorer)]


every_merging = pytest.mark.parametrize("scorer", MERGING, ids=str)


every_stream = pytest.mark.parametrize("scorer", STREAMING, ids=str)


def expected(scorer, model, every, causal, batches=None):
    """(values, deviations or None, matrix or None) by the twin; not a number where the layer is no candidate."""
    if scorer.name.endswith("centrality"):
        return twin.centrality(every, causal, twin.cosine if "cosine" in scorer.name else twin.negative_distance)
    if scorer.name == "io-cosine":
        return *twin.io_cosine(every), None
    if scorer.name == "feature-variance":
        return twin.feature_variance(every, causal), None, None
    if scorer.name in ("gradient-norm", "fisher"):
        alone = scorer.name == "fisher" and scorer.per == "sample"
        groups = [[one] for batch in batches for one in batch] if alone else batches
        labels = [label for batch in batches for _, label in batch]
        found = twin.gradients(model, groups, labels, "classification", 0, causal)
        if scorer.name == "gradient-norm":
            return twin.gradient_norm(found), None, None
        per_sample = np.array([[np.mean(g**2) for g in batch] for batch in found])
        return twin.fisher(found), per_sample.std(0) if alone else None, None
    if scorer.name == "cka":
        hsic = twin.hsic_biased if scorer.estimator == "biased" else twin.hsic_unbiased
        with np.errstate(all="ignore"):
            values = np.array(twin.layer_cka(every, causal, hsic))
        values[0] = values[0] if causal else np.nan  # an encoder's first token is constant before layer 0
        return values, None, None
    if scorer.name == "weight-snr":
        layers = [
            [p.numpy() for p in la.module.state_dict().values() if p.ndim == 2] for la in find_layers(model).layers
        ]
        return np.array([twin.weight_snr(matrices) for matrices in layers]), None, None
    if scorer.name == "depth":
        return np.arange(len(every[0]) - 1.0), None, None
    return np.random.default_rng(scorer.seed).random(len(every[0]) - 1), None, None


def batches_alone(tokenizer, texts, labels, batch_size):
    """The batches that a pass makes, each text encoded alone."""
    encoded = [tokenizer(*text, truncation=True, return_tensors="pt") for text in texts]
    order = sorted(range(len(texts)), key=lambda i: -encoded[i]["input_ids"].shape[1])
    groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [[(encoded[i], labels[i]) for i in group] for group in groups]


def compare(found, values, stds, matrix, atol=1e-5):
    np.testing.assert_allclose(found.values, values, atol=atol, rtol=1e-5)
    if stds is None:
        assert np.isnan(found.stds).all()
    else:
        np.testing.assert_allclose(found.stds, stds, atol=atol)
    if matrix is None:
        assert found.similarity is None
    else:
        np.testing.assert_allclose(np.array(found.similarity), matrix, atol=atol)


@pytest.mark.parametrize(
    ("family", "side", "batch_size", "n"),
    often(  # n: fewer samples than dimensions, and more
        product(FAMILIES, ("left", "right"), (1, 5, 64), (23, 61)),
        lambda family, side, batch_size, n: batch_size == 5 and (side == "right") == (n == 23),
    ),
)
def test_all_scorers_in_one_pass_equal_their_twins(family, side, batch_size, n):
    model, tokenizer = tiny_model(family, side)
    texts, labels = sentences(n), classes_of(n)
    cheap = [scorer for scorer in ALL if "gradients" not in scorer.card.needs]
    scorers = ALL if (n, batch_size) == (23, 5) else cheap  # gradients take the longest, here and in the twin
    found = score_all(model, tokenizer, wt.from_texts(texts, labels), scorers, batch_size=batch_size)
    every = [twin.hidden_states(model, tokenizer, (text,), 64) for text in texts]
    batches = batches_alone(tokenizer, [(text,) for text in texts], [label == "good" for label in labels], batch_size)
    for scorer, scores in zip(scorers, found, strict=True):
        values, stds, matrix = expected(scorer, model, every, family not in ENCODERS, batches)
        compare(scores, values, stds, matrix)
        assert (np.nanmax(values) - np.nanmin(values)) > 1e-4 * np.nanmax(
            np.abs(values)
        )  # a permutation would not pass
        assert scores.scorer.name == scorer.name


@pytest.mark.slow
def test_all_scorers_equal_their_twins_on_a_real_model_and_pairs(minilm):
    model, tokenizer = AutoModel.from_pretrained(minilm).eval(), AutoTokenizer.from_pretrained(minilm)
    pairs = [(a, b) for a, b in zip(sentences(20), sentences(20, seed=1), strict=True)]
    every = [twin.hidden_states(model, tokenizer, pair, 512) for pair in pairs]
    batches = batches_alone(tokenizer, pairs, [label == "good" for label in classes_of(20)], 1)
    # A batch of one: in the first layers these [CLS] states differ so little between texts that CKA would show the
    # rounding of a padded batch in its third digit.
    found = score_all(model, tokenizer, wt.from_texts(pairs, classes_of(20)), ALL, batch_size=1)
    for scorer, scores in zip(ALL, found, strict=True):
        compare(scores, *expected(scorer, model, every, False, batches))


def test_gradients_of_a_regression_start_at_the_mean_label():
    model, tokenizer = tiny_model("bert")
    texts, labels = sentences(9), [0.5 + i / 4 for i in range(9)]
    found = wt.score(model, tokenizer, wt.from_texts(texts, labels), wt.GradientNorm(), batch_size=4)
    batches = batches_alone(tokenizer, [(text,) for text in texts], labels, 4)
    expect = twin.gradient_norm(twin.gradients(model, batches, labels, "regression", 0, False))
    np.testing.assert_allclose(found.values, expect, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("family", "dtype"),
    often(
        product(("gpt2", "llama"), (torch.float32, torch.bfloat16, torch.float16)),
        [("gpt2", torch.float32), ("llama", torch.bfloat16)],
    ),
)
def test_semantic_deviation_equals_its_twin(family, dtype, tied):
    model, tokenizer = tiny_model(family, kind=AutoModelForCausalLM, tie_word_embeddings=tied)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied
    model = model.to(dtype)
    texts, labels = sentences(21), classes_of(21)
    scorers = [wt.SemanticDeviation(), wt.SemanticDeviation("ce"), wt.SemanticDeviation("rank")]
    found = score_all(model, tokenizer, wt.from_texts(texts, labels), scorers, batch_size=4)
    with torch.no_grad():  # in a half precision, states depend on padding: take those that were scored
        rows = encode(wt.from_texts(texts), tokenizer, 64)
        parts = stream_states(find_layers(model), length_batches(rows, 4), collator(tokenizer), Reading())
        every = {i: h for part in parts for i, h in zip(part.sample_ids, part.tokens.double().numpy(), strict=True)}
    every = [every[i][:, None] for i in range(21)]
    words = {word: tokenizer.convert_tokens_to_ids(word) for word in ("bad", "good")}
    weight = model.get_output_embeddings().weight.detach().double().numpy()
    for scorer, scores in zip(scorers, found, strict=True):
        targets = [words[label] for label in labels]
        deviations = twin.semantic_deviations(every, weight, targets, list(words.values()), scorer.variant)
        gains = deviations[:, :-1] - deviations[:, 1:]
        np.testing.assert_allclose(scores.values, gains.mean(0), atol=1e-5)
        np.testing.assert_allclose(scores.stds, gains.std(0), atol=1e-5)
        kept = scores.deviations
        np.testing.assert_allclose(kept.means, deviations.mean(0), atol=1e-5)
        assert kept.eof_layers == tuple(np.bincount(gains.argmax(1), minlength=4))
        assert [sum(row) for row in kept.counts] == [21] * 5 and [sum(row) for row in kept.gains] == [21] * 4
        middles = (np.arange(200) + 0.5) * kept.highest / 200
        np.testing.assert_allclose(np.array(kept.counts) @ middles / 21, kept.means, atol=kept.highest / 400 + 1e-6)
        assert wt.plan(scores, wt.Suffix()).layers[0] == int(scores.values.argmax())
        axes = scores.plot_deviations().axes[0]
        crossbars = [line.get_ydata()[0] for line in axes.lines]
        np.testing.assert_allclose(sorted(crossbars), sorted(kept.means), atol=1e-12)
        assert len(scores.plot_deviations(scores).axes[0].collections) == 2 * 5  # two halves per latent space


def test_semantic_deviation_needs_a_language_model_and_labels():
    data = wt.from_texts(sentences(4), classes_of(4))
    with pytest.raises(ModelError, match="has no output matrix"):
        wt.score(*tiny_model("gpt2"), data, wt.SemanticDeviation())
    with pytest.raises(ModelError, match="encoder"):
        wt.score(*tiny_model("bert"), data, wt.SemanticDeviation())
    model, tokenizer = tiny_model("gpt2", kind=AutoModelForCausalLM)
    for labels, said in ((None, "no labels"), ([0.5, 1.0, 2.0, 0.1], "numbers for labels")):
        with pytest.raises(DataError, match=said):
            wt.score(model, tokenizer, wt.from_texts(sentences(4), labels), wt.SemanticDeviation())
    with pytest.raises(DataError, match="a gradient needs a loss"):
        wt.score(model, tokenizer, wt.from_texts(sentences(4)), wt.Fisher())


def batches_of(scorer, n, family="gpt2"):
    """A stack and what a scorer is handed of `n` texts."""
    model, tokenizer = tiny_model(family, kind=AutoModelForCausalLM if family == "gpt2" else AutoModel)
    stack, data = find_layers(model), wt.from_texts(sentences(n), classes_of(n))
    batches = length_batches(encode(data, tokenizer, 64), 4)
    if isinstance(scorer, GradientScorer):
        return stack, list(stream_gradients(stack, data, batches, collator(tokenizer), scorer.per_sample))
    reductions = {scorer.name: scorer.reduction} if scorer.reduction is not None else {}
    meanings = {}
    if "language-model" in scorer.card.needs:
        tokens, own = next_tokens(data, tokenizer)
        meanings["targets"] = lambda row: own[row["row"]]
        meanings["bases"] = semantic_bases(stack, tokens)
    return stack, list(stream_states(stack, batches, collator(tokenizer), Reading(), reductions=reductions, **meanings))


def fill(scorer, stack, batches):
    state = scorer.init(stack)
    for batch in batches:
        state = scorer.update(state, batch)
    return state


@pytest.mark.parametrize("n", [17, 49])
@every_merging
def test_two_shards_merge_into_one_pass(scorer, n):
    stack, batches = batches_of(scorer, n)
    once = scorer.finish(fill(scorer, stack, batches))
    for cut in (1, 3, len(batches)):
        shards = fill(scorer, stack, batches[:cut]), fill(scorer, stack, batches[cut:])
        for one, other in (shards, shards[::-1]):
            merged = scorer.finish(scorer.merge(one, other))
            np.testing.assert_allclose(merged.values, once.values, rtol=1e-9, atol=1e-12)
            assert (merged.deviations is None) == (once.deviations is None)
            assert merged.deviations is None or merged.deviations.counts == once.deviations.counts
            for name in ("stds", "covariance"):
                found, expect = getattr(merged, name), getattr(once, name)
                assert (found is None) == (expect is None)
                if expect is not None:
                    np.testing.assert_allclose(found, expect, rtol=1e-6, atol=1e-9 * np.abs(expect).max())


@every_scorer
def test_is_deterministic_and_leaves_the_model_as_it_was(scorer):
    model, tokenizer = tiny_model("gpt2", kind=AutoModelForCausalLM)
    model.train()
    layers = model.transformer.h
    layers[2].eval()
    layers[1].requires_grad_(False)
    before = tensor_hashes(model.state_dict().items())
    modes = [module.training for module in model.modules()]
    drawn = torch.random.get_rng_state()
    data = wt.from_texts(sentences(20), classes_of(20))
    first, second = (wt.score(model, tokenizer, data, scorer) for _ in range(2))
    assert first.digest == second.digest
    assert tensor_hashes(model.state_dict().items()) == before
    assert [module.training for module in model.modules()] == modes
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in layers)
    frozen = {id(parameter) for parameter in layers[1].parameters()}
    assert all(p.requires_grad is (id(p) not in frozen) and p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), drawn)


@every_scorer
def test_is_written_and_read_back_and_makes_itself_again(scorer, tmp_path):
    model, tokenizer = tiny_model("llama", kind=AutoModelForCausalLM)
    scores = wt.score(model, tokenizer, wt.from_texts(sentences(20), classes_of(20)), scorer)
    wt.save(scores, tmp_path / "scores.json")
    again = wt.load(wt.LayerScores, tmp_path / "scores.json")
    assert again == scores and again.digest == scores.digest
    assert catalog.build("scorer", again.scorer) == scorer


@every_merging
def test_the_state_does_not_grow_with_the_data(scorer, monkeypatch):
    monkeypatch.setattr(sketch, "SKETCH", 20)
    stack, batches = batches_of(scorer, 40)

    def size(thing):
        if isinstance(thing, torch.Tensor):
            return thing.numel()
        if isinstance(thing, tuple | list):
            return sum(size(part) for part in thing)
        return sum(size(part) for part in vars(thing).values()) if hasattr(thing, "__dict__") else 0

    assert size(fill(scorer, stack, batches)) == size(fill(scorer, stack, batches * 5))


@every_merging
def test_a_state_survives_being_written(scorer):
    stack, batches = batches_of(scorer, 20)
    tensors = {}
    packed = json.loads(json.dumps(shards.pack(fill(scorer, stack, batches), tensors)))
    again = scorer.finish(shards.unpack(packed, tensors, shards._kinds(scorer)))
    once = scorer.finish(fill(scorer, stack, batches))
    assert np.array_equal(again.values, once.values, equal_nan=True) and again.deviations == once.deviations


def test_shapes_are_checked_when_tests_run():
    from jaxtyping import TypeCheckError

    with pytest.raises(TypeCheckError):
        States(torch.zeros(2, 3), (0, 1), None, {})


def test_what_is_no_scorer_is_told_what_it_lacks():
    @dataclass  # not frozen, so it has no hash
    class Lacking:
        name, card, reduction, kinds = "lacking", wt.Depth.card, None, ()
        init = update = merge = finish = len

    with pytest.raises(ScoreError, match="Lacking is no scorer: it needs name, card, kinds"):
        score_all(*tiny_model("bert"), wt.from_texts(sentences(3)), [Lacking()])


def test_a_padded_position_may_hold_anything_for_io_cosine():
    from wheretune.scorers.io_cosine import mean_token_cosine

    before, after = torch.rand(1, 3, 4), torch.rand(1, 3, 4)
    mask = torch.tensor([[1, 1, 0]])
    expect = mean_token_cosine(before[:, :2], after[:, :2], mask[:, :2])
    after[:, 2] = torch.nan
    torch.testing.assert_close(mean_token_cosine(before, after, mask), expect)


def test_hooks_are_gone_after_a_failure():
    model, tokenizer = tiny_model("bert")
    model.encoder.layer[3].forward = None
    with pytest.raises(TypeError):
        wt.score(model, tokenizer, wt.from_texts(sentences(3)), wt.CosineCentrality())
    assert all(not layer._forward_hooks and not layer._forward_pre_hooks for layer in model.encoder.layer)


@pytest.mark.parametrize("layer", [0, 2, 3])
@every_stream
def test_a_state_that_is_not_finite_names_layer_and_row(scorer, layer):
    model, tokenizer = tiny_model("bert")
    marked = tokenizer.convert_tokens_to_ids("movie")
    texts = ["the good plot", "a bad movie", "who said that"]
    seen = {}

    def poison(module, args, output):
        hit = (seen["ids"] == marked).any(1)
        output[hit] = float("nan")
        return output

    model.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(ids=kwargs["input_ids"]), with_kwargs=True
    )
    model.encoder.layer[layer].register_forward_hook(poison)
    with pytest.raises(ScoreError, match=rf"output of layer {layer} is not finite for row 2 "):
        wt.score(model, tokenizer, wt.from_texts(texts), scorer)


@pytest.mark.parametrize("scorer", [wt.GradientNorm(), wt.Fisher()], ids=str)
def test_a_weight_that_is_not_finite_names_its_layer(scorer):
    model, tokenizer = tiny_model("bert")
    with torch.no_grad():
        model.encoder.layer[2].output.dense.weight[0, 0] = torch.nan
    with pytest.raises(ScoreError, match="layer 2 has weights that are not finite"):
        wt.score(model, tokenizer, wt.from_texts(sentences(6), classes_of(6)), scorer)
    model.encoder.layer[2].output.dense.weight.data[0, 0] = 0
    model.encoder.layer[1].register_forward_hook(lambda module, args, output: output * float("nan"))
    with pytest.raises(ScoreError, match=r"gradient of layer \d is not finite for rows"):
        wt.score(model, tokenizer, wt.from_texts(sentences(6), classes_of(6)), scorer)


def test_a_state_of_length_zero_has_no_direction():
    model, tokenizer = tiny_model("bert")
    model.encoder.layer[1].register_forward_hook(lambda module, args, output: output * 0)
    with pytest.raises(ScoreError, match=r"layer 1 .*not finite for row \d "):
        wt.score(model, tokenizer, wt.from_texts(sentences(3)), wt.CosineCentrality())


def test_one_layer_has_no_pairs():
    _, tokenizer = tiny_model("bert")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    with pytest.raises(ScoreError, match="one layer"):
        wt.score(AutoModel.from_config(config), tokenizer, wt.from_texts(sentences(3)), wt.CosineCentrality())


@SIDES
def test_mean_pooling_reads_unmasked_tokens_only(side):
    model, tokenizer = tiny_model("bert", side)
    texts = sentences(12)
    found = wt.score(model, tokenizer, wt.from_texts(texts), wt.CosineCentrality(), batch_size=12, pooling="mean")
    every = [twin.hidden_states(model, tokenizer, (text,), 64).mean(1, keepdims=True) for text in texts]
    compare(found, *twin.centrality(every, False, twin.cosine))


def test_standardised_dimensions_have_mean_0_and_deviation_1():
    model, tokenizer = tiny_model("bert")
    with torch.no_grad():
        model.encoder.layer[1].output.LayerNorm.bias[3] += 40  # a rogue dimension
    texts = sentences(25)
    found = score_all(model, tokenizer, wt.from_texts(texts), [wt.CosineCentrality()], batch_size=4, standardise=True)[
        0
    ]
    h = np.stack([twin.hidden_states(model, tokenizer, (text,), 64)[:, 0] for text in texts])
    with np.errstate(invalid="ignore"):
        h = (h - h.mean(0)) / h.std(0)
    every = [states[:, None] for states in h]
    compare(found, *twin.centrality(every, False, twin.cosine), atol=1e-4)
    assert found.reading.standardise and found.scorer.params == {}
    plain = score_all(model, tokenizer, wt.from_texts(texts), [wt.CosineCentrality()])[0]
    assert np.abs(plain.values - found.values).max() > 0.1


def test_the_raw_last_state_is_before_the_final_norm():
    model, tokenizer = tiny_model("llama")
    text = "the good movie"
    seen = []
    model.layers[3].register_forward_hook(lambda module, args, output: seen.append(output))
    inputs = tokenizer(text, return_tensors="pt")
    from wheretune.model.forward import forward_states

    stack = find_layers(model)
    with torch.no_grad():
        raw = forward_states(stack, dict(inputs), last="raw")[0]
        normed = forward_states(stack, dict(inputs))[0]
        plain = model(**inputs, output_hidden_states=True).hidden_states
    torch.testing.assert_close(raw[:, -1], seen[0][:, -1])
    torch.testing.assert_close(normed[:, -1], plain[-1][:, -1])
    assert not torch.allclose(raw[:, -1], normed[:, -1])
