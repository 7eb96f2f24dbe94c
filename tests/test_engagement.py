"""A plan on a user's own model, in an unmodified Trainer: what trains, and the proof."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import wheretune as wt
from helpers.models import FAMILIES, tiny_model, tiny_tokenizer
from helpers.own_models import own_model, planned, train
from helpers.texts import sentences
from wheretune.errors import EngagementError, PlanError
from wheretune.heads.headed import headed
from wheretune.model.finding import find_layers
from wheretune.model.identity import tensor_hashes


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unmodified_trainer_changes_the_plan_s_layers_and_the_head_alone(family, tmp_path):
    model, tokenizer = own_model(family)
    plan = planned(model, tokenizer, wt.Explicit((1, 3)))
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    before = tensor_hashes(model.state_dict().items())
    tuned = wt.apply(model, plan)
    train(model, tokenizer, tmp_path)
    tuned.check()
    after = tensor_hashes(model.state_dict().items())
    changed = {name for name in after if after[name] != before[name]}
    paths = [f"{tuned.stack.base_path}.{tuned.stack.layers[i].path}." for i in (1, 3)]
    tops = [(n, m) for n, m in model.named_children() if n != tuned.stack.base_path]
    on_top = tuple(f"{n}." for n, module in tops if list(module.parameters()))
    allowed = (*paths, *on_top, f"{tuned.stack.base_path}.pooler.")
    assert all(name.startswith(allowed) for name in changed)
    assert all(any(name.startswith(path) for name in changed) for path in [*paths, on_top[0]])
    tuned.undo()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert tensor_hashes(model.state_dict().items()) == after


def test_the_optimizer_holds_state_for_what_trains_only(tmp_path):
    model, tokenizer = own_model()
    tuned = wt.apply(model, planned(model, tokenizer, wt.Explicit((2,))))
    held = []

    class Look(Trainer):
        def create_optimizer(self, *args, **kwargs):
            made = super().create_optimizer(*args, **kwargs)
            held.extend(id(p) for group in made.param_groups for p in group["params"])
            return made

    rows = [{**tokenizer(text), "labels": 0} for text in ["good", "bad"]]
    Look(
        model, TrainingArguments(str(tmp_path), max_steps=1, report_to="none", save_strategy="no"), train_dataset=rows
    ).create_optimizer()
    assert sorted(held) == sorted(id(p) for p in tuned.trainable.values())


def test_tampering_with_a_frozen_weight_is_found():
    model, tokenizer = own_model()
    tuned = wt.apply(model, planned(model, tokenizer, wt.Explicit((1,))))
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter += 1
        model.bert.encoder.layer[0].output.dense.weight[0, 0] += 1e-3
    with pytest.raises(EngagementError, match=r"freezes, bert\.encoder\.layer\.0\.output\.dense\.weight among"):
        tuned.check()


def test_a_chosen_layer_or_a_head_that_did_not_change_is_found():
    model, tokenizer = own_model()
    tuned = wt.apply(model, planned(model, tokenizer, wt.Explicit((1, 2))))
    with pytest.raises(EngagementError, match="did not change layer 1, layer 2, the head"):
        tuned.check()
    with torch.no_grad():
        model.bert.encoder.layer[2].output.dense.bias += 1
        model.classifier.bias += 1
    with pytest.raises(EngagementError, match="did not change layer 1;"):
        tuned.check()


def test_full_fine_tuning_trains_everything_and_head_only_the_head():
    model, tokenizer = own_model()
    everything = planned(model, tokenizer, wt.Bottom(4), tuner=wt.WholeLayers(embeddings=True))
    assert wt.apply(model, everything).trainable_parameters == sum(p.numel() for p in model.parameters())
    model, tokenizer = own_model()
    nothing = planned(model, tokenizer, None, tuner=wt.HeadOnly())
    names = set(wt.apply(model, nothing).trainable)
    assert {name.rsplit(".", 1)[0] for name in names} == {"classifier", "bert.pooler.dense"}


def test_the_plan_counts_what_trains():
    data = wt.from_texts(sentences(12), [i % 2 for i in range(12)])
    for selector, head in ((wt.BlockHighest(2), wt.LastToken()), (wt.Lowest(3), wt.Concat())):
        model, tokenizer = tiny_model("bert")
        model.pooler = None  # no head of ours reads it
        plan = planned(model, tokenizer, selector, head=head)
        trained = wt.apply(headed(find_layers(model), head, data, 0), plan).trainable_parameters
        assert trained == plan.cost.trainable_parameters


def test_the_output_matrix_stays_frozen_where_it_is_tied():
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer("gpt2")
    model = AutoModelForCausalLM.from_config(FAMILIES["gpt2"](len(tokenizer)))
    plan = planned(model, tokenizer, wt.Explicit((0,)))
    names = set(wt.apply(model, plan).trainable)
    assert names and all(name.startswith("transformer.h.0.") for name in names)


def test_a_plan_for_another_model_is_refused():
    model, tokenizer = own_model()
    plan = planned(model, tokenizer, wt.Top(1))
    other, _ = own_model(seed=7)
    flags = [p.requires_grad for p in other.parameters()]
    with pytest.raises(PlanError, match="was made for"):
        wt.apply(other, plan)
    assert [p.requires_grad for p in other.parameters()] == flags


def test_a_plan_that_names_nothing_is_refused():
    model, tokenizer = own_model()
    plan = replace(planned(model, tokenizer, wt.Top(1)), layers=(), chosen=())
    with pytest.raises(PlanError, match="names no layer"):
        wt.apply(model, plan)
    with pytest.raises(PlanError):
        planned(model, tokenizer, None)


def test_nothing_below_the_lowest_chosen_layer_is_in_the_graph():
    model, tokenizer = own_model()
    wt.apply(model, planned(model, tokenizer, wt.Explicit((2,))))
    seen = []
    for layer in find_layers(model).layers:
        layer.module.register_forward_hook(lambda *a: seen.append(a[-1].requires_grad))
    model(**tokenizer("good movie", return_tensors="pt"))
    assert seen == [False, False, True, True]
