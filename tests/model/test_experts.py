"""Mixtures of experts: counted, priced by the experts that a token runs through, scored, tuned, and adapted by LoRA."""

import copy

import pytest
import torch
import transformers
from peft import get_peft_model

import wheretune as wt
from helpers.models import tiny_tokenizer
from helpers.texts import sentences
from wheretune.cost.flops import estimate
from wheretune.cost.training import full_training
from wheretune.errors import ConfigError, ModelError
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe, tensor_hashes

SIZES = dict(
    vocab_size=80, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, num_experts_per_tok=2,
)  # fmt: skip
FAMILIES = {
    "mixtral": lambda: transformers.MixtralConfig(num_local_experts=4, **SIZES),
    "qwen3-moe": lambda: transformers.Qwen3MoeConfig(
        num_experts=4, moe_intermediate_size=24, head_dim=8, decoder_sparse_step=1, mlp_only_layers=[], **SIZES
    ),
    "qwen2-moe": lambda: transformers.Qwen2MoeConfig(
        num_experts=4, moe_intermediate_size=24, shared_expert_intermediate_size=24, **SIZES
    ),
    "gpt-oss": lambda: transformers.GptOssConfig(num_local_experts=4, head_dim=8, **SIZES),
}
EXPERTS = {"mlp.experts.gate_up_proj": {32, 48}, "mlp.experts.down_proj": {24, 32}}


@pytest.fixture(params=FAMILIES)
def model(request):
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_config(FAMILIES[request.param]()).eval()


def trained(model, layers, tuner):
    """Scores, plans, applies, steps, checks."""
    tokenizer = tiny_tokenizer("llama")
    scores = wt.score(model, tokenizer, wt.from_texts(sentences(8)), wt.CosineCentrality())
    plan = wt.plan(scores, wt.Explicit(layers), tuner=tuner)
    tuned = wt.apply(model, plan)
    optimizer = torch.optim.AdamW(tuned.trainable.values(), 1e-2)
    batch = tokenizer(sentences(8), return_tensors="pt", padding=True)
    for _ in range(2):  # LoRA's A moves in the second step only
        model.train()(**batch, labels=torch.tensor([0, 1] * 4)).loss.backward()
        assert all(parameter.grad is not None for parameter in tuned.trainable.values()), "DDP would wait for the rest"
        optimizer.step()
    tuned.check()
    return tuned, plan, batch


def test_experts_are_counted_and_priced_by_what_runs(model):
    info = describe(find_layers(model))
    for layer, module in zip(info.layers, find_layers(model).layers, strict=True):
        assert {path: set(shape[1:]) for path, shape in layer.parts.experts.items()} == EXPERTS
        assert {shape[0] for shape in layer.parts.experts.values()} == {4}
        assert layer.parts.experts_per_token == 2
        assert layer.parameters == sum(p.numel() for p in module.module.parameters())
    parts = [layer.parts for layer in info.layers]
    dense = sum(out * into for one in parts for out, into in one.maps.values())
    running = 2 * 2 * (32 * 48 + 24 * 32)  # in two layers, two experts each
    attention = sum(4.0 * 10**2 * one.maps[one.attention_output][1] for one in parts)
    assert estimate(parts, full_training(2), 10.0).forward == 2 * 10.0 * (dense + running) + attention


def test_whole_layers_train_their_experts(model):
    before = tensor_hashes(model.state_dict().items())
    tuned, plan, _ = trained(model, (1,), wt.WholeLayers())
    after = tensor_hashes(model.state_dict().items())
    changed = {name for name in after if after[name] != before[name]}
    assert all(name.startswith(("model.layers.1.", "score.")) for name in changed)
    assert {f"model.layers.1.{path}" for path in EXPERTS} < changed
    below = sum(p.numel() for n, p in tuned.trainable.items() if n.startswith("model."))
    assert below == wt.WholeLayers().count(plan.model, (1,))


@pytest.mark.parametrize("targets", ["experts", "experts,q_proj", "down_proj"])
def test_lora_on_experts_is_counted_saved_opened_merged_and_undone(model, targets, tmp_path):
    fresh = copy.deepcopy(model)
    before = tensor_hashes(model.state_dict().items())
    tuner = wt.LoRA(r=2, alpha=4, targets=targets)
    tuned, plan, batch = trained(model, (1,), tuner)
    below = sum(p.numel() for p in tuned.attached.parameters)
    assert below == tuner.count(plan.model, (1,))
    assert any("experts" in name for name in tuned.trainable)
    with torch.no_grad():
        want = model.eval()(**batch).logits
    wt.save_delta(tuned, tmp_path / "delta")
    wt.load_delta(fresh, tmp_path / "delta")
    with torch.no_grad():
        assert torch.allclose(fresh.eval()(**batch).logits, want, atol=1e-6)
    tuned.undo()
    after = tensor_hashes(model.state_dict().items())
    assert {name for name in after if after[name] != before[name]} <= {"score.weight"}


def test_lora_on_experts_merges_into_them(model):
    tuned, _, batch = trained(model, (0, 1), wt.LoRA(r=2, alpha=4, targets="experts"))
    with torch.no_grad():
        want = model.eval()(**batch).logits
        tuned.merge()
        assert torch.allclose(model(**batch).logits, want, atol=1e-5)
    assert not any("lora" in name for name in model.state_dict())


def test_what_experts_cannot_do_is_refused(model):
    for tuner in (
        wt.DoRA(targets="experts"),
        wt.PiSSA(r=2, targets="experts"),
        wt.LoRA(dropout=0.1, targets="experts"),
    ):
        with pytest.raises(ConfigError, match="experts"):
            wt.apply(model, wt.plan(describe(find_layers(model)), wt.Explicit((1,)), tuner=tuner))
    with pytest.raises(ModelError, match="MLP output"):
        wt.apply(model, wt.plan(describe(find_layers(model)), wt.Explicit((1,)), tuner=wt.Adapter()))


def test_lora_on_experts_in_peft_s_words(model):
    plan = wt.plan(
        describe(find_layers(model)), wt.Explicit((1,)), tuner=wt.LoRA(r=2, alpha=4, targets="experts,q_proj")
    )
    config = plan.to_peft("lora", "experts,q_proj", r=2, lora_alpha=4)
    named = get_peft_model(copy.deepcopy(model), config)
    adapted = {
        n.removeprefix("base_model.model.model.").split(".lora_")[0]
        for n, _ in named.named_parameters()
        if "lora_" in n
    }
    assert all(name.startswith("layers.1.") for name in adapted)
    added = sum(p.numel() for n, p in named.named_parameters() if "lora_" in n)
    assert added == wt.LoRA(r=2, alpha=4, targets="experts,q_proj").count(plan.model, (1,))
    with pytest.raises(ConfigError, match="experts"):
        plan.targets("experts")
