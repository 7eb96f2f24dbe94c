"""Texts one after the other give what padded ones give: outputs, gradients, a cached prefix and whole runs."""

import json
from itertools import product

import pytest
import torch
import transformers as hf

import wheretune as wt
from helpers.families import GROUPED, TUNERS, pairs, planned, tiny
from helpers.models import tiny_model
from helpers.often import often
from helpers.savings import HEADS, assert_same, batch, caching, given, headed, outcome, ran, texts, without_dropout
from wheretune.errors import ConfigError, ModelError
from wheretune.heads.headed import HeadedModel
from wheretune.model.finding import find_layers
from wheretune.model.inputs import packed
from wheretune.records.runs import CacheSettings, TrainSettings
from wheretune.savings.packing import packing
from wheretune.savings.together import saving
from wheretune.tasks.classification import Classification
from wheretune.training.checkpoints import checkpoints
from wheretune.training.loop import train

DECODERS = ["gpt2", "gpt-neox", "llama", "qwen2", "qwen3", "gemma", "gemma2", "mistral", "phi", "llava"]
ACROSS = ["opt", "bert", "roberta", "xlm-r", "electra", "deberta", "deberta-v2", "mpnet", "modernbert", "distilbert"]


def shapes(model):
    """What the base model is given, at every call."""
    seen = []
    model.base.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return seen


def packed_outcome(model, inputs, labels=(0, 1, 1)):
    """`outcome` of packed texts, nothing dropped out."""
    model.eval()
    model.packed = model.training = True
    try:
        return outcome(model, inputs, labels)
    finally:
        model.packed = model.training = False


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", DECODERS)
def test_packed_texts_give_what_padded_ones_give(family, head, side):
    model = HeadedModel(find_layers(tiny(family)), HEADS[head], 2, Classification(), 0).eval()
    seen = shapes(model)
    padded = outcome(model, batch(side))
    assert_same(packed_outcome(model, batch(side)), padded)
    assert seen == [(3, 12), (1, 23)]
    with packing(model, batch(side)):
        assert model.packed
        assert_same(outcome(model, batch(side)), padded)
        assert seen[-1] == (3, 12), "an evaluation pads"
    assert not model.packed
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules() if m is not model.base)


@pytest.mark.parametrize(
    ("family", "attention"),
    [(family, how) for family in DECODERS for how in ("eager", "sdpa") if (family, how) != ("gemma2", "sdpa")],
)
def test_a_text_does_not_read_its_neighbours(family, attention):
    base = tiny(family)
    base.set_attn_implementation(attention)
    model = HeadedModel(find_layers(base), wt.Concat(), 2, Classification(), 0).eval()
    inputs = batch()
    other = {name: value.clone() for name, value in inputs.items()}
    other["input_ids"][[0, 2]] = (other["input_ids"][[0, 2]] + 7) % 45 + 3
    alone = {name: value[1:2] for name, value in inputs.items()}
    with torch.no_grad():
        one, changed = model.features(inputs, pack=True), model.features(other, pack=True)
        torch.testing.assert_close(one[1], changed[1], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(one[1:2], model.features(alone, pack=True), atol=1e-5, rtol=1e-5)
        assert (one[0] - changed[0]).abs().max() > 1e-3 and (one[2] - changed[2]).abs().max() > 1e-3


def test_a_sliding_window_slides_within_each_text():
    torch.manual_seed(0)
    base = hf.AutoModel.from_config(hf.MistralConfig(sliding_window=4, **GROUPED))
    model = HeadedModel(find_layers(base), wt.Concat(), 2, Classification(), 0).eval()
    padded = outcome(model, batch())
    assert_same(packed_outcome(model, batch()), padded)
    base.config.sliding_window = 12
    assert (outcome(model, batch())[0][0] - padded[0][0]).abs().max() > 1e-4, "the window is narrower than a text"


@pytest.mark.parametrize(("family", "tuner"), pairs("gpt2", "llama"))
def test_with_every_tuner(family, tuner, tmp_path):
    rows, collate = texts()
    base = tiny(family)
    model = HeadedModel(find_layers(base), wt.Concat(), 2, Classification(), 0).eval()
    tuned = wt.apply(model, planned(base, TUNERS[tuner], (2, 3)), seed=1)
    with torch.no_grad():  # away from where a tuner starts, which changes nothing
        generator = torch.Generator().manual_seed(0)
        for parameter in tuned.trainable.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    inputs, labels = given(rows[:4], collate)
    padded = outcome(model, inputs, labels)
    assert_same(packed_outcome(model, inputs, labels), padded)
    with caching(tuned, rows, collate, tmp_path):
        assert_same(packed_outcome(model, inputs, labels), padded)


def test_what_the_base_model_is_given():
    inputs = batch("left")
    found = packed(tiny("gpt2"), inputs | {"token_type_ids": inputs["input_ids"]})
    assert found["position_ids"].tolist() == [[*range(12), *range(8), *range(3)]]
    expected = torch.cat([inputs["input_ids"][0], inputs["input_ids"][1, 4:], inputs["input_ids"][2, 9:]])
    assert found["input_ids"].tolist() == [expected.tolist()] == found["token_type_ids"].tolist()
    assert found["use_cache"] is False and "attention_mask" not in found
    assert packed(tiny("roberta"), inputs)["position_ids"][0, 12] == 2, "RoBERTa counts from behind the padding index"


# --- what reads across is refused ----------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", ACROSS)
def test_what_reads_across_is_refused(family, head):
    model = HeadedModel(find_layers(tiny(family)), HEADS[head], 2, Classification(), 0)
    model.train()
    modes = [module.training for module in model.modules()]
    how = "eager" if family in ("deberta", "deberta-v2", "mpnet") else "sdpa"
    reason = f"{type(model.base).__name__} with {how} attention reads across packed texts"
    with pytest.raises(ConfigError, match=reason), packing(model, batch()):
        raise AssertionError("packed all the same")
    assert not model.packed and [module.training for module in model.modules()] == modes
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_a_model_without_positions_is_refused():
    class Plain(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.config = base, base.config

        def forward(self, input_ids, attention_mask):
            return self.base(input_ids, attention_mask)

    with pytest.raises(ModelError, match="Plain takes no position_ids"):
        packed(Plain(tiny("llama")), batch())


def test_a_layer_that_does_not_take_it_refuses():
    model = HeadedModel(find_layers(tiny("llama")), wt.LastToken(), 2, Classification(), 0)
    layer = model.stack.layers[1].module

    def wants_a_batch(_, args):
        if len(args[0]) == 1:
            raise ValueError("one row")

    layer.register_forward_pre_hook(wants_a_batch)
    with pytest.raises(ConfigError, match="LlamaModel with sdpa attention"), packing(model, batch()):
        pass
    assert not model.packed


def in_half_precision(family):
    base, _ = tiny_model(family)
    return HeadedModel(find_layers(base.to(torch.bfloat16)), wt.Concat(), 2, Classification(), 0)


def test_in_half_precision_what_does_not_read_across_is_packed():
    model = in_half_precision("llama")
    with packing(model, batch()):
        assert model.packed
    assert not model.packed


def test_in_half_precision_what_reads_across_is_refused():
    with pytest.raises(ConfigError, match="reads across"), packing(in_half_precision("bert"), batch()):
        raise AssertionError("packed all the same")


def test_texts_that_are_all_the_same_but_one_show_what_reads_across(tmp_path):
    _, tuned = headed("bert", "last-token", (2,))
    rows, collate = texts(1)
    other = {**rows[0], "input_ids": rows[0]["input_ids"][::-1]}
    many = [rows[0], other, *8 * [rows[0]]]
    inside = saving(tuned.stack, "0" * 64, many, collate, TrainSettings(packed=True), tmp_path)
    with pytest.raises(ConfigError, match="BertModel with sdpa attention reads across"), inside:
        pass


# --- with a cached prefix ------------------------------------------------------------------------


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize(
    ("head", "layers"),
    often(product(HEADS, ((1, 3), (3,), ())), [("last-token", (3,))]),
)
def test_a_cached_prefix_feeds_packed_texts(family, head, layers, tmp_path):
    rows, collate = texts()
    model, tuned = headed(family, head, layers)
    some = [rows[i] for i in (7, 2, 4, 0)]
    computed = outcome(model, *given(some, collate))
    seen = ran(model)
    with caching(tuned, rows, collate, tmp_path) as report:
        assert report.where == "memory"
        seen.clear()
        for side in ("right", "left"):
            assert_same(packed_outcome(model, *given(some, collate, side)), computed)
        assert_same(outcome(model, *given(some, collate)), computed)
        assert seen == 3 * list(range(min(layers, default=4), 4))
    assert_same(packed_outcome(model, *given(some, collate)), computed)
    assert seen[-4:] == [0, 1, 2, 3]


def test_a_packed_text_that_is_not_stored_runs_as_ever(tmp_path):
    rows, collate = texts()
    model, tuned = headed("llama", "concat", (2,))
    augmented = [rows[0], {**rows[1], "input_ids": [7, *rows[1]["input_ids"][1:]]}]
    expected = outcome(model, *given(augmented, collate))
    joined = {**rows[2], "input_ids": rows[2]["input_ids"] + rows[3]["input_ids"]}  # two stored texts make no third
    joined["attention_mask"] = [1] * len(joined["input_ids"])
    whole = outcome(model, *given([joined], collate))
    seen = ran(model)
    with caching(tuned, rows, collate, tmp_path):
        seen.clear()
        assert_same(packed_outcome(model, *given(augmented, collate)), expected)
        assert_same(packed_outcome(model, *given([joined], collate)), whole)
        assert seen == 2 * [0, 1, 2, 3]
        assert_same(packed_outcome(model, *given(rows[:1], collate)), outcome(model, *given(rows[:1], collate)))
        assert seen[8:] == 2 * [2, 3]


# --- runs ----------------------------------------------------------------------------------------


def trained(family, folder, pack, head="last-token", where="off", stop_after=None, passes=None, tokens=None):
    tuned, rows, collate = without_dropout(family, (2, 3), head)
    how = TrainSettings(epochs=2, learning_rate=5e-5, batch_size=8, seed=5, packed=pack, tokens_per_batch=tokens)
    seen = shapes(tuned.model)
    with saving(tuned.stack, "0" * 64, rows, collate, how, folder, CacheSettings(where)) as saved:
        assert saved.one_token is not pack and tuned.model.packed is pack
        seen.clear()
        if stop_after is not None:
            counted = tuned.model.register_forward_hook(lambda *_: stop_after.pop())  # IndexError when none is left
            with pytest.raises(IndexError):
                train(tuned.model, rows, collate, how, folder)
            counted.remove()
            assert len(checkpoints(folder)) == 1
            return None
        train(tuned.model, rows, collate, how, folder)
        assert all((size == 1) is pack for size, _ in seen)
        assert len(seen) == (passes or len(seen)) > 0
    tuned.check()
    return {name: value.detach() for name, value in tuned.model.state_dict().items()}


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("family", "head"), often(product(("gpt2", "llama", "qwen2"), HEADS), [("llama", "concat")]))
def test_packed_and_padded_runs_end_with_the_same_weights(family, head, tmp_path):
    padded = trained(family, tmp_path / "padded", False, head)
    start = without_dropout(family, (2, 3), head)[0].model.state_dict()
    assert max((value - start[name]).abs().max() for name, value in padded.items()) > 1e-4
    assert_close(padded, trained(family, tmp_path / "packed", True, head))
    assert_close(padded, trained(family, tmp_path / "cached", True, head, "disk"))


@pytest.mark.slow
def test_with_a_budget_of_tokens(tmp_path):
    padded = trained("llama", tmp_path / "padded", False, tokens=90)
    assert_close(padded, trained("llama", tmp_path / "packed", True, tokens=90))


@pytest.mark.slow
def test_a_stopped_packed_run_goes_on(tmp_path):
    whole = trained("llama", tmp_path / "whole", True)
    assert trained("llama", tmp_path / "stopped", True, stop_after=[None] * 7) is None
    assert_close(whole, trained("llama", tmp_path / "stopped", True, passes=5))


@pytest.mark.slow
def test_packed_through_the_command_line(run, files, tiny_folder, tmp_path):
    model, folder = tiny_folder("llama"), tmp_path / "run"
    common = ("--train", files["train"], "--epochs", 2, "--learning-rate", "1e-3", "--k", 2)
    code, _, err = run("tune", "--model", model, *common, "--pack", "--output", folder)
    assert code == 0, err
    result = json.loads((folder / "result.json").read_text())
    assert result["spec"]["settings"]["packed"] is True and result["saved"]["last layer"] == "all tokens"
    code, out, err = run("evaluate", folder, "--data", files["test"])
    assert code == 0 and "accuracy" in out, err
    code, _, err = run("tune", "--model", tiny_folder("bert"), *common, "--pack", "--output", tmp_path / "encoder")
    assert code == 2 and "BertModel with sdpa attention reads across packed texts" in err
    assert not (tmp_path / "encoder" / "result.json").exists()
    code, _, err = run(
        "compare", "--model", model, "--train", files["train"], "--test", files["test"], "--methods", "top", "--k", 1,
        "--seeds", 0, "--epochs", 1, "--pack", "--output", tmp_path / "compared",
    )  # fmt: skip
    assert code == 0, err
    (spec,) = (tmp_path / "compared").rglob("run.json")
    assert json.loads(spec.read_text())["settings"]["packed"] is True
