"""Every family with every tuner, on tiny random models: found, attached, trained, undone, merged and counted."""

import warnings

import pytest
import torch
import transformers as hf
from torch import nn

import wheretune as wt
from helpers.families import CHOSEN, FAMILIES, NO_BIASES, TUNERS, pairs, planned, tiny
from helpers.often import often
from wheretune.errors import MergeError, ModelError, PlanError
from wheretune.heads.headed import HeadedModel
from wheretune.model.finding import find_layers
from wheretune.model.forward import forward_states
from wheretune.model.identity import tensor_hashes
from wheretune.tasks.classification import Classification

PEFT = ("lora", "lora-all-linear", "pissa", "dora", "adalora", "ia3")


def run(model, grad=False):
    ids = torch.arange(24).reshape(2, 12) % 40 + 5
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :7]
    with torch.set_grad_enabled(grad):
        return model(**inputs)[0]


def weight_loss(output):
    """A loss that moves every output."""
    generator = torch.Generator().manual_seed(0)
    return (output * torch.randn(output.shape, generator=generator)).sum() * 0.1


def step(tuned, lr=1e-2):
    parameters = [p for p in tuned.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    weight_loss(run(tuned.model, grad=True)).backward()
    optimizer.step()
    optimizer.zero_grad()


def by_hand(model, tuner, layers):
    """How many parameters train, from the shapes of the weights in the model and each method's formula."""
    total = 0
    for layer in layers:
        module, parts = find_layers(model).layers[layer].module, find_layers(model).layers[layer].parts

        def shape(path, module=module):
            linear = module.get_submodule(path)
            rows, columns = linear.weight.shape
            return (rows, columns) if isinstance(linear, nn.Linear) else (columns, rows)

        linears = [n for n, m in module.named_modules() if isinstance(m, nn.Linear | hf.pytorch_utils.Conv1D)]
        if isinstance(tuner, wt.WholeLayers):
            total += sum(p.numel() for p in module.parameters())
        elif isinstance(tuner, wt.Bias):
            total += sum(p.numel() for n, p in module.named_parameters() if n.endswith("bias"))
        elif isinstance(tuner, wt.IA3):
            total += sum(shape(path)[0] for path in {parts.key, parts.value}) + shape(parts.mlp_output)[1]
        elif isinstance(tuner, wt.Adapter):
            total += (2 if tuner.place == "houlsby" else 1) * (32 * 8 + 8 + 8 * 32 + 32)
        elif isinstance(tuner, wt.Prefix):
            config = model.config.get_text_config()
            grouped = getattr(config, "num_key_value_heads", None) or 4
            size = getattr(config, "head_dim", None) or 8
            total += 2 * 3 * grouped * size + 4
        else:
            paths = linears if tuner.targets == "all-linear" else {parts.query, parts.value}
            rank = tuner.start if isinstance(tuner, wt.AdaLoRA) else tuner.r
            total += sum(rank * sum(shape(path)) for path in paths)
            total += sum(shape(path)[0] for path in paths) if isinstance(tuner, wt.DoRA) else 0
            total += rank * len(paths) if isinstance(tuner, wt.AdaLoRA) else 0
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_found_in_the_order_in_which_they_run(family):
    model = tiny(family)
    stack = find_layers(model)
    ran = []
    for layer in stack.layers:
        layer.module.register_forward_hook(lambda *_, index=layer.index: ran.append(index))
    run(model)
    assert ran == [0, 1, 2, 3]
    assert all(model.get_submodule(layer.path) is layer.module for layer in stack.layers)
    assert not any("vision" in layer.path for layer in stack.layers) and stack.hidden_size == 32


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"t5", "bart"}))
def test_states_and_heads_read_what_transformers_gives(family):
    model = tiny(family)
    stack = find_layers(model)
    ids = torch.arange(24).reshape(2, 12) % 40 + 5
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        found, _ = forward_states(stack, inputs)
        output = model(**inputs, output_hidden_states=True)
        states = (*output.hidden_states[:-1], output.last_hidden_state)  # Transformers 5.0 gave ModernBERT's unnormed
        rows, token = torch.arange(2), mask.sum(1) - 1 if stack.causal else torch.zeros(2, dtype=torch.long)
        torch.testing.assert_close(found, torch.stack([state[rows, token] for state in states], dim=1))
        for head in (wt.LastToken(), wt.Concat()):
            headed = HeadedModel(stack, head, 2, Classification(), 0).eval()
            alone = headed(ids[1:, :8], mask[1:, :8]).logits
            torch.testing.assert_close(headed(ids, mask).logits[1:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_has_no_one_sequence_of_states(family):
    with pytest.raises(ModelError, match="is an encoder-decoder"):
        ids = torch.ones(1, 3, dtype=torch.long)
        forward_states(find_layers(tiny(family)), {"input_ids": ids, "attention_mask": ids})


PAIRS = often(pairs(*FAMILIES), lambda family, tuner: family in ("bert", "gpt2", "llama") or tuner in ("full", "lora"))


@pytest.mark.parametrize("family", NO_BIASES)
def test_a_family_without_biases_trains_none(family):
    with pytest.raises(PlanError, match="has no biases"):
        planned(tiny(family), TUNERS["bias"])


@pytest.mark.parametrize(("family", "tuner"), PAIRS)
def test_every_tuner_on_every_family(family, tuner, tmp_path):
    made = TUNERS[tuner]
    model = tiny(family)
    plan = planned(model, made)
    names = [name for name, _ in model.named_modules()]
    flags = [p.requires_grad for p in model.parameters()]
    base = tensor_hashes(model.state_dict().items())
    before = run(model)
    generator = torch.get_rng_state()
    tuned = wt.apply(model, plan, seed=3)
    assert torch.equal(torch.get_rng_state(), generator)

    # untrained it changes nothing, and sits in the plan's layers alone
    torch.testing.assert_close(run(model), before, atol=1e-4 if tuner == "pissa" else 0, rtol=0)
    paths = tuple(f"{tuned.stack.layers[i].path}." for i in CHOSEN)
    below = set(tuned.trainable)
    assert below and all(name.startswith(paths) for name in below)
    assert all(any(name.startswith(path) for name in below) for path in paths)
    new = {name for name, _ in model.named_modules()} - set(names)
    assert all(name.startswith(paths) for name in new)

    # as many as the plan says, by hand, and by PEFT's own account
    trained = tuned.trainable_parameters
    assert trained == made.count(plan.model, CHOSEN)
    assert trained == by_hand(tiny(family), made, CHOSEN)
    assert trained == plan.cost.trainable_parameters - 32 - (0 if tuned.stack.causal else 1)

    # one step changes what trains and nothing else, bit for bit
    held = tensor_hashes(model.state_dict().items())
    step(tuned)
    tuned.check()
    now = tensor_hashes(model.state_dict().items())
    moved = {name for name in now if now[name] != held[name]}
    assert moved and moved <= set(tuned.trainable)
    assert all(any(name.startswith(path) for name in moved) for path in paths)
    after = run(model)
    assert not torch.equal(after, before)

    if tuner in PEFT:
        check_with_peft(tuned, family, tmp_path / "adapter", after, trained)

    # merged it computes the same without additions, or says why it cannot
    if tuner in ("adapter", "pfeiffer", "prefix"):
        with pytest.raises(MergeError, match="so no weights of the model can do what it does"):
            tuned.merge()
        torch.testing.assert_close(run(model), after, atol=0, rtol=0)
    else:
        tuned.merge()
        torch.testing.assert_close(run(model), after, atol=1e-5, rtol=1e-5)
        assert [name for name, _ in model.named_modules()] == names

    # undone, the model is the user's again
    model = tiny(family)
    tuned = wt.apply(model, plan)
    step(tuned)
    tuned.undo()
    assert [name for name, _ in model.named_modules()] == names
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    found = tensor_hashes(model.state_dict().items())
    touched = {name for name in found if found[name] != base[name]}
    assert (touched == below) if tuner in ("full", "bias") else not touched


def check_with_peft(tuned, family, folder, expected, trained):
    """The checkpoint opens with PEFT alone and does the same; PEFT counts the same."""
    from peft import PeftConfig, PeftModel, get_peft_model

    tuned.attached.save(folder, tuned.plan.model)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*adapter keys.*")
        opened = PeftModel.from_pretrained(tiny(family), str(folder))
    assert not any(p.requires_grad for p in opened.parameters())
    torch.testing.assert_close(run(opened), expected, atol=1e-5, rtol=1e-5)
    config = PeftConfig.from_pretrained(str(folder))
    assert all(any(name.startswith(f"{tuned.stack.layers[i].path}.") for i in CHOSEN) for name in config.target_modules)
    config.inference_mode = False
    twice = 2 if tuned.plan.tuner.name == "pissa" else 1  # saved as the LoRA of twice the rank
    assert get_peft_model(tiny(family), config).get_nb_trainable_parameters()[0] == twice * trained


def test_recomputing_is_refused_where_a_family_has_none():
    model = tiny("mpnet")
    with pytest.raises(ModelError, match="no activation checkpointing"):
        wt.apply(model, planned(model, wt.WholeLayers())).recompute()


@pytest.mark.parametrize("tuner", ["full", "adapter"])
@pytest.mark.parametrize("family", often(sorted(FAMILIES.keys() - {"mpnet"}), ["bert", "deberta", "gpt2", "llama"]))
def test_recomputing_gives_the_same_gradients_and_leaves_the_prefix_alone(family, tuner):
    def gradients(recompute):
        model = tiny(family).train()
        tuned = wt.apply(model, planned(model, TUNERS[tuner]), seed=1)
        for parameter in tuned.attached.parameters:  # away from zero, so that all have a gradient
            parameter.data += 0.01
        if recompute:
            tuned.recompute()
        seen, ran = {}, []
        for layer in tuned.stack.layers:

            def look(*given, index=layer.index):
                seen[index] = first(given[-1]).requires_grad

            layer.module.register_forward_hook(look)
            inner = next(m for m in layer.module.modules() if isinstance(m, nn.LayerNorm) or "Norm" in type(m).__name__)
            inner.register_forward_hook(lambda *_, i=layer.index: ran.append(i))
        torch.manual_seed(0)  # some families drop out without a module
        weight_loss(run(model, grad=True)).backward()
        return {n: p.grad for n, p in tuned.trainable.items() if p.grad is not None}, seen, ran

    plain, seen, once = gradients(recompute=False)
    again, seen_again, twice = gradients(recompute=True)
    assert seen == seen_again and not seen[0] and seen[1]
    assert again.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value)
    assert [twice.count(i) for i in range(4)] == [once.count(0), *(2 * once.count(i) for i in (1, 2, 3))]


def first(output):
    return output[0] if isinstance(output, tuple) else output
