"""A pass: what it refuses, how it says it read, in which precision, and the shards that it is cut into."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import wheretune as wt
from helpers.models import tiny_model
from helpers.scoring import gather_all, score_all
from helpers.texts import classes_of, sentences
from wheretune import catalog
from wheretune.data.batches import stream_batches
from wheretune.data.tokens import encode
from wheretune.errors import ConfigError, DataError
from wheretune.records.scores import Reading
from wheretune.scoring.checking import check
from wheretune.scoring.confidence import Settler
from wheretune.scoring.gathered import finish, merge
from wheretune.scoring.scored import _mended
from wheretune.scoring.shards import load_shard, merge_scores, save_shard

EVERY = [made() for made in catalog.every("scorer").values() if "training" not in made.card.needs]
EVERY += [wt.CKA("debiased"), wt.Fisher("batch")]


def settle(scorer, texts):
    return Settler(wt.Highest(1)).watch(scorer, texts)


def test_how_the_texts_were_read_stands_in_the_scores():
    model, tokenizer = tiny_model("bert")
    asked = dict(batch_size=3, pooling="mean", last="raw", seed=7)
    data = wt.from_texts(sentences(9), max_length=11)
    scores, depth = score_all(model, tokenizer, data, [wt.CosineCentrality(), wt.Depth()], **asked)
    assert scores.reading == Reading(**asked, max_length=11) and scores.n_samples == 9 and scores.tokens <= 11
    assert depth.reading == Reading(**asked) and depth.n_samples == 0 and depth.tokens is None
    assert scores.scorer == wt.Spec("cosine-centrality")
    shorter = score_all(model, tokenizer, data, [wt.CosineCentrality()], max_length=5)[0]
    assert shorter.reading.max_length == 5 and shorter.tokens <= 5  # the reading's goes before the data's


def test_a_pass_over_some_of_the_texts_is_one_over_these_alone():
    model, tokenizer = tiny_model("bert")
    texts = sentences(9)
    some = score_all(model, tokenizer, wt.from_texts(texts), [wt.CosineCentrality()], most=4, seed=3)[0]
    drawn = sorted(np.random.default_rng(3).choice(9, 4, replace=False))
    alone = score_all(model, tokenizer, wt.from_texts([texts[i] for i in drawn]), [wt.CosineCentrality()])[0]
    assert some.n_samples == 4 and np.allclose(some.values, alone.values, atol=1e-6)
    assert some.data.rows == 9
    every = score_all(model, tokenizer, wt.from_texts(texts), [wt.CosineCentrality()], most=9, seed=3)[0]
    assert every.n_samples == 9 and not np.allclose(every.values, some.values)
    with pytest.raises(ConfigError, match="most is 0"):
        Reading(most=0)


def test_a_fresh_head_hangs_on_the_reading_s_seed():
    model, tokenizer = tiny_model("bert")
    data = wt.from_texts(sentences(9), classes_of(9))
    first, again, other = (score_all(model, tokenizer, data, [wt.Fisher()], seed=seed)[0] for seed in (1, 1, 2))
    assert first.digest == again.digest and not np.allclose(first.values, other.values)


def test_a_scorer_that_reads_no_text_scores_a_model_that_reads_two():
    from transformers import T5Config, T5Model

    model = T5Model(T5Config(vocab_size=60, d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8))
    _, tokenizer = tiny_model("bert")
    scores = score_all(model, tokenizer, wt.from_texts(sentences(3)), [wt.WeightSNR()])[0]
    assert len(scores.layers) == 4 and scores.n_samples == 0


@pytest.mark.parametrize(
    ("scorers", "settings", "field", "said"),
    [
        ([wt.Fisher()], {}, "label_column", "a gradient needs a loss"),
        ([wt.CKA()], {"shard": (0, 2)}, "shard", "no shard 0/2"),
        ([wt.CKA()], {"shard": (3, 2)}, "shard", "no shard 3/2"),
        ([wt.CKA()], {"shard": (9, 9)}, "shard", "shard 9 of 9 has no batch"),
        ([wt.CKA()], {"shard": (1, 2), "standardise": True}, "standardise", "needs the whole"),
        ([wt.CKA()], {"shard": (1, 2), "settle": settle}, "until_settled", "needs the whole"),
        ([wt.CKA(), wt.Depth()], {"settle": settle}, "until_settled", "for one scorer"),
        ([wt.Depth()], {"settle": settle}, "until_settled", "for one scorer"),
        ([wt.CKA()], {"settle": settle}, "until_settled", "means over samples"),
        ([wt.CosineCentrality()], {"settle": settle, "standardise": True}, "until_settled", "all data first"),
        ([wt.IOCosine()], {"standardise": True}, "standardise", "reads all tokens"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_does_not_go_together_is_refused_by_field(scorers, settings, field, said):
    model, tokenizer = tiny_model("bert")
    with pytest.raises((ConfigError, DataError), match=said) as error:
        gather_all(model, tokenizer, wt.from_texts(sentences(8)), scorers, **settings)
    assert error.value.field == field and "--" not in str(error.value)


def test_a_scorer_that_trains_is_sent_elsewhere():
    with pytest.raises(ConfigError, match="layer-probe trains") as error:
        check(wt.from_texts(sentences(4)), [wt.LayerProbe()], Reading(), False, (1, 1))
    assert error.value.field == "scorer"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_models_are_scored_in_sums_of_full_precision(dtype):
    model, tokenizer = tiny_model("llama", kind=AutoModelForCausalLM)
    data = wt.from_texts(sentences(40), classes_of(40))
    full = score_all(model, tokenizer, data, EVERY)
    state = gather_all(model.to(dtype), tokenizer, data, EVERY)

    def dtypes(thing):
        if isinstance(thing, torch.Tensor):
            return {thing.dtype} if thing.is_floating_point() else set()
        parts = thing if isinstance(thing, tuple) else vars(thing).values() if hasattr(thing, "__dict__") else ()
        return {one for part in parts for one in dtypes(part)}

    assert {one for own in state.states.values() for one in dtypes(own)} <= {torch.float32, torch.float64}
    for found, expect in zip(finish(state), full, strict=True):
        atol = 0.05 * np.nanmax(np.abs(expect.values))
        np.testing.assert_allclose(found.values, expect.values, atol=atol, err_msg=expect.scorer.name)


# --- shards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [1, 7, 40, 97])
@pytest.mark.parametrize("shards", [1, 2, 3, 5])
def test_the_shards_deal_out_the_batches_of_one_pass(texts, shards):
    _, tokenizer = tiny_model("bert")
    data = wt.from_texts(sentences(texts))
    encoded = []

    class Counting:
        def num_special_tokens_to_add(self, pair):
            return 0

        def __call__(self, column, **options):
            encoded.append(len(column))
            return tokenizer(column, **options)

    given = partial(encode, tokenizer=Counting(), max_length=64)

    def rows(shard):
        return [[row["row"] for row in batch] for batch in stream_batches(data, given, 2, 3, shard)]

    whole = rows((1, 1))
    del encoded[:]
    parts = [rows((number, shards)) for number in range(1, shards + 1)]
    assert sorted(batch for part in parts for batch in part) == sorted(whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    left = -(-texts // 6) - texts // 6 // shards * shards  # chunks that do not go round: every shard tokenises them
    assert sum(encoded) <= texts + (shards - 1) * left * 6


def test_merged_shards_are_one_pass_also_for_what_hangs_on_batches(tmp_path):
    model, tokenizer = tiny_model("gpt2", kind=AutoModelForCausalLM)
    data = wt.from_texts(sentences(50), classes_of(50))
    once = score_all(model, tokenizer, data, EVERY, batch_size=4)
    paths = []
    for number in (3, 1, 2):
        state = gather_all(model, tokenizer, data, EVERY, batch_size=4, shard=(number, 3))
        paths.append(tmp_path / f"{number}.safetensors")
        save_shard(state, paths[-1])
        again = load_shard(paths[-1])
        assert (again.info, again.data, again.reading, again.shard) == (
            state.info,
            state.data,
            state.reading,
            (number, 3),
        )
        assert list(again.states) == EVERY and again.tokens == state.tokens
    for found, expect in zip(merge_scores(paths), once, strict=True):
        assert found.scorer == expect.scorer and found.reading == expect.reading
        assert (found.n_samples, found.tokens) == (expect.n_samples, expect.tokens)
        np.testing.assert_allclose(found.values, expect.values, rtol=1e-6, atol=1e-9)
        assert (found.similarity is None) == (expect.similarity is None)
        assert found.similarity is None or np.allclose(found.similarity, expect.similarity, atol=1e-6)


def test_shards_that_do_not_belong_together_are_refused():
    model, tokenizer = tiny_model("bert")
    data, scorers = wt.from_texts(sentences(12)), [wt.CosineCentrality()]
    one, two = (gather_all(model, tokenizer, data, scorers, batch_size=2, shard=(n, 2)) for n in (1, 2))
    assert merge([two, one]).n_samples == 12
    elsewhere = replace(two, info=replace(two.info, spec=replace(two.info.spec, name="/elsewhere")))
    assert merge([one, elsewhere]).n_samples == 12  # models are told by their weights, wherever they lie
    third = gather_all(model, tokenizer, data, scorers, batch_size=2, shard=(2, 3))
    other = gather_all(model, tokenizer, wt.from_texts(sentences(12, 1)), scorers, batch_size=2, shard=(2, 2))
    smaller = gather_all(model, tokenizer, data, scorers, batch_size=3, shard=(2, 2))
    more = gather_all(model, tokenizer, data, [*scorers, wt.Depth()], batch_size=2, shard=(2, 2))
    changed = gather_all(tiny_model("bert", seed=1)[0], tokenizer, data, scorers, batch_size=2, shard=(2, 2))
    for wrong, said in (
        ([one, third], "number of shards"),
        ([one, other], r"\(data\)"),
        ([one, smaller], "how the data is read"),
        ([one, more], "scorers"),
        ([one, changed], r"\(model\)"),
        ([one, one], "shard 1 of 2 is given twice"),
        ([two], "shard 1 of 2 is missing"),
        ([], "no shard to merge"),
    ):
        with pytest.raises(ConfigError, match=said):
            merge(wrong)


def test_a_shard_of_another_version_and_what_is_no_shard_are_refused_by_name(tmp_path):
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    from wheretune.scoring import shards

    model, tokenizer = tiny_model("bert")
    path = tmp_path / "shard.safetensors"
    save_shard(gather_all(model, tokenizer, wt.from_texts(sentences(6)), [wt.CKA()]), path)
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()[shards.KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    for change, said in (
        ({"format": 2}, "another version"),
        ({"shard": [2, 1]}, "is no shard"),
        ({"shard": "x"}, "is no shard"),
        ({"scorers": []}, "is no shard"),
        ({"scorers": [{"name": "layer-probe", "params": {}}]}, "is no shard"),
        ({"scorers": [{"name": "cka", "params": {"estimator": 3}}]}, "the scorer cka has estimator=3"),
        ({"states": []}, "is no shard"),
        ({"reading": {"batch_size": 0}}, "is not a valid reading"),
        ({"model": {}}, "is not a valid model info"),
    ):
        save_file(tensors, path, {shards.KEY: json.dumps(content | change)})
        with pytest.raises(ConfigError, match=said):
            load_shard(path)
    save_file(tensors, path)
    with pytest.raises(ConfigError, match=r"shard\.safetensors is no shard"):
        load_shard(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_shard(tmp_path / "missing")


def test_a_covariance_as_small_as_rounding_is_mended():
    noisy = 1e-12 * np.outer([1.0, -2.0, 3.0], [1.0, -2.0, 3.0])
    noisy[0, 1] += 1e-18
    noisy[2, 2] -= 1e-16
    mended = _mended(noisy)
    assert np.array_equal(mended, mended.T)
    assert np.linalg.eigvalsh(mended).min() >= -1e-12 * mended.max()
    assert np.allclose(mended, noisy, rtol=0, atol=1e-15)
    fine = np.array([[2.0, 1.0], [1.0, 3.0]])
    assert np.array_equal(_mended(fine), fine)
