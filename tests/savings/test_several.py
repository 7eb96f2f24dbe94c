"""Where several tokens of a text are read, every saving gives what the plain way gives, in loss and in gradients."""

import pytest
import torch

import wheretune as wt
from helpers.families import TUNERS
from helpers.language import FAMILIES, Tokenizer, assert_same, batch, conversations, outcome, speaking
from wheretune.data.batches import language_collator
from wheretune.model.identity import describe
from wheretune.records.runs import CacheSettings, TrainSettings
from wheretune.savings.one_token import one_token
from wheretune.savings.together import saving

CUT = [family for family in FAMILIES if family not in ("opt", "mixtral")]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_cut_to_what_is_read(family, side):
    model, given = speaking(family), batch(side=side)
    whole = outcome(model, given)
    with one_token(model.stack, batch(conversations(4, seed=1), side), model) as holds:
        assert holds == (family in CUT)
        assert_same(outcome(model, given), whole)
        with torch.no_grad():  # what follows a text, which reads its last token
            cut = model(given["input_ids"], given["attention_mask"]).logits
    assert_same(outcome(model, given), whole)
    torch.testing.assert_close(cut, model(given["input_ids"], given["attention_mask"]).logits, atol=1e-4, rtol=1e-4)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_fewer_tokens_run_in_the_last_layer_alone(family):
    model, given, seen = speaking(family), batch(), {}
    for layer in model.stack.layers:
        layer.module.get_submodule(layer.parts.mlp_output).register_forward_pre_hook(
            lambda _, args, index=layer.index: seen.__setitem__(index, args[0].shape[:2].numel())
        )
    with one_token(model.stack, given, model):
        model(**given)
    every, learned = given["labels"].numel(), int((given["labels"] >= 0).sum())
    assert seen == {0: every, 1: every, 2: every, 3: learned} and learned < every


def tuned(family, tuner="full", layers=(2, 3)):
    model = speaking(family)
    plan = wt.plan(describe(model.stack), wt.Explicit(layers), tuner=TUNERS[tuner])
    applied = wt.apply(model, plan, seed=1, before={})
    with torch.no_grad():  # away from where a tuner starts, which changes nothing
        generator = torch.Generator().manual_seed(0)
        for parameter in applied.trainable.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model, applied


ROWS = conversations(9)
COLLATE = language_collator(Tokenizer())


def saved(model, applied, folder, **settings):
    return saving(
        applied.stack,
        "x",
        ROWS,
        COLLATE,
        TrainSettings(learning_rate=1e-3, **settings),
        folder,
        CacheSettings("memory"),
    )


@pytest.mark.parametrize("tuner", [one for one in TUNERS if one != "bias"])
def test_all_savings_with_every_tuner(tuner, tmp_path):
    model, applied = tuned("llama", tuner)
    whole = outcome(model, batch(ROWS))
    assert all(f".layers.{layer}." not in name for name in whole[1] for layer in (0, 1)), "a frozen prefix"
    ran = []
    hook = model.stack.layers[0].module.mlp.down_proj.register_forward_hook(lambda *_: ran.append(0))
    with saved(model, applied, tmp_path) as report:
        assert report.one_token and report.cache.where == "memory"
        assert "the tokens before those that are learned" in report.description["last layer"]
        del ran[:]
        assert_same(outcome(model.train(), batch(ROWS)), whole)
        assert not ran, "nothing below the lowest trained layer runs"
    hook.remove()
    assert_same(outcome(model.eval(), batch(ROWS)), whole)


@pytest.mark.parametrize("family", [one for one in CUT if one not in ("gpt2", "gptj")])
def test_packed_rows(family, tmp_path):
    model, applied = tuned(family)
    whole = outcome(model, batch(ROWS))
    with saved(model, applied, tmp_path, packed=True) as report:
        assert report.one_token and report.cache.where == "memory"
        assert_same(outcome(model.train(), batch(ROWS)), whole)


def test_gradient_checkpointing_cuts_the_same_tokens_again(tmp_path):
    model, applied = tuned("llama")
    whole = outcome(model, batch(ROWS))
    applied.recompute()
    with saved(model, applied, tmp_path) as report:
        assert report.one_token
        assert_same(outcome(model.train(), batch(ROWS)), whole)


def test_the_output_matrix_alone_is_trained_on_what_the_frozen_model_says(tmp_path):
    model = speaking("qwen2", train=True)
    plan = wt.plan(describe(model.stack), None, tuner=wt.HeadOnly())
    applied = wt.apply(model, plan, seed=1, before={})
    assert list(applied.trainable) == ["language.lm_head.weight"]
    whole = outcome(model, batch(ROWS))
    with saved(model, applied, tmp_path) as report:
        assert report.cache.where == "memory"
        assert_same(outcome(model.train(), batch(ROWS)), whole)
