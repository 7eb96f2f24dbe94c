"""The same as PEFT by hand: what is drawn, what AdaLoRA prunes, what a training ends with."""

import json

import pytest
import torch

import wheretune as wt
from helpers.made_up import model_info
from helpers.models import tiny_model
from helpers.texts import classes_of, sentences
from helpers.tuners import EVERY, planned
from wheretune import catalog
from wheretune.data.tokens import encode
from wheretune.heads.headed import headed
from wheretune.model.finding import find_layers
from wheretune.model.steps import Training
from wheretune.records.runs import TrainSettings
from wheretune.tasks.base import task_of
from wheretune.training.loop import train
from wheretune.tuners.peft import write_adapter


@pytest.mark.parametrize("name", ["lora", "pissa", "dora", "adalora", "ia3"])
def test_the_same_seed_draws_what_peft_draws_by_hand(name):
    from peft import AdaLoraConfig, IA3Config, LoraConfig, get_peft_model, get_peft_model_state_dict

    model, _ = tiny_model("bert")
    tuned = wt.apply(model, planned(model, catalog.read("tuner", name, EVERY[name])), seed=11)
    paths = [f"encoder.layer.{i}.attention.self.{map_}" for i in (1, 3) for map_ in ("query", "value")]
    config = {
        "lora": lambda: LoraConfig(r=2, lora_alpha=32, target_modules=paths),
        "pissa": lambda: LoraConfig(r=2, lora_alpha=2, target_modules=paths, init_lora_weights="pissa"),
        "dora": lambda: LoraConfig(r=2, lora_alpha=4, target_modules=paths, use_dora=True),
        "adalora": lambda: AdaLoraConfig(init_r=3, target_r=2, lora_alpha=32, target_modules=paths, total_step=9),
        "ia3": lambda: IA3Config(
            target_modules=[f"encoder.layer.{i}.{m}" for i in (1, 3)
                            for m in ("attention.self.key", "attention.self.value", "output.dense")],
            feedforward_modules=[f"encoder.layer.{i}.output.dense" for i in (1, 3)],
        ),
    }[name]()  # fmt: skip
    base, _ = tiny_model("bert")
    torch.manual_seed(11)
    hand = get_peft_model(base, config)
    theirs = {n.removeprefix("base_model.model."): v for n, v in get_peft_model_state_dict(hand).items()}
    ours = {n.replace(".default", ""): p for n, p in tuned.trainable.items() if not n.startswith("pooler")}
    theirs = {n + ".weight" if "magnitude" in n and not n.endswith("weight") else n: v for n, v in theirs.items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("tuner", [wt.LoRA(r=2), wt.Adapter(), wt.Prefix()])
def test_what_is_drawn_hangs_on_the_seed_alone(tuner):
    def drawn(seed):
        model, _ = tiny_model("llama")
        torch.rand(seed + 3)  # the global generator is somewhere
        return list(wt.apply(model, planned(model, tuner), seed=seed).trainable.values())

    one, same, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_adalora_shares_out_ranks_as_peft_does():
    """Our follower, step by step beside PEFT's own model with its own loss."""
    from peft import AdaLoraConfig, get_peft_model
    from transformers.modeling_outputs import SequenceClassifierOutput

    model, tokenizer = tiny_model("bert")
    plan = planned(model, wt.AdaLoRA(r=2, start=4, every=1, orthogonality=0.5))
    tuned = wt.apply(model.eval(), plan, seed=2)
    paths = [f"encoder.layer.{i}.attention.self.{map_}" for i in (1, 3) for map_ in ("query", "value")]
    config = AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=32, target_modules=paths, total_step=10, tinit=1, tfinal=3, deltaT=1,
        orth_reg_weight=0.5,
    )  # fmt: skip

    class WithLoss(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base, self.config = base, base.config

        def forward(self, **inputs):
            hidden = self.base(**inputs)[0]
            return SequenceClassifierOutput(loss=(hidden[:, 0, :4] ** 2).mean(), logits=hidden)

    config.target_modules = {f"base.{path}" for path in paths}
    other = WithLoss(tiny_model("bert")[0].eval())
    torch.manual_seed(2)
    hand = get_peft_model(other, config)
    batch = dict(tokenizer(["good movie", "bad plot"], return_tensors="pt"))
    (follower,) = tuned.followers
    mine = torch.optim.AdamW(tuned.attached.parameters, lr=0.05)
    follower.begin(Training(10, mine))
    theirs = torch.optim.AdamW([p for p in hand.parameters() if p.requires_grad], lr=0.05)
    for number in range(1, 11):
        loss = (model(**batch)[0][:, 0, :4] ** 2).mean() + follower.penalty()
        loss.backward()
        other = hand.base_model(**batch).loss
        other.backward()
        torch.testing.assert_close(loss, other)
        mine.step()
        follower.after_step(number - 1)
        mine.zero_grad()
        theirs.step()
        hand.base_model.update_and_allocate(number)
        theirs.zero_grad()
    entries = [p for n, p in model.named_parameters() if "lora_E" in n]
    expected = [p for n, p in hand.named_parameters() if "lora_E" in n]
    for ours, want in zip(entries, expected, strict=True):
        torch.testing.assert_close(ours, want)
    assert sum(int((entry != 0).sum()) for entry in entries) == 2 * len(entries)  # the mean rank that was asked for


def test_the_same_numbers_as_peft_by_hand(tmp_path):
    """Our LoRA run beside PEFT put on by hand: the same batches, seed and settings give the same bytes."""
    from peft import LoraConfig, get_peft_model

    settings = TrainSettings(epochs=2, learning_rate=1e-2, batch_size=4, seed=5)
    results = []
    for by_hand in (False, True):
        base, tokenizer = tiny_model("bert")
        base.pooler = None
        data = wt.from_texts(sentences(20), classes_of(20))
        if by_hand:
            paths = [f"encoder.layer.{i}.attention.self.{m}" for i in (1, 3) for m in ("query", "value")]
            torch.manual_seed(5)
            base = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=paths)).get_base_model()
        model = headed(find_layers(base), wt.LastToken(), data, seed=5)
        if not by_hand:
            wt.apply(model, planned(base, wt.LoRA(r=4, alpha=8)), seed=5, frozen_dropout=True)
        torch.manual_seed(1)
        collate = task_of(data.info).collator(tokenizer)
        train(model, encode(data, tokenizer, 64), collate, settings, tmp_path / str(by_hand))
        results.append({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})
    ours, theirs = results
    assert ours.keys() == theirs.keys() and len(ours) == 10
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_every_process_writes_the_same_config(tmp_path):
    from peft import LoraConfig

    paths = [f"encoder.layer.{i}.attention.self.{map_}" for i in range(4) for map_ in ("key", "query", "value")]
    write_adapter(tmp_path / "adapter", LoraConfig(target_modules=set(paths)), {"x": torch.ones(1)}, model_info())
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"] == paths
    assert LoraConfig.from_pretrained(str(tmp_path / "adapter")).target_modules == set(paths)
