"""SlimFit's ranking: the worked numbers, what freezes in a training, stops, and what it cannot serve."""

import json

import numpy as np
import pytest
import torch

import wheretune as wt
from helpers.commands import one_line
from helpers.models import tiny_model
from helpers.texts import classes_of, sentences
from helpers.training import Watch, fresh
from wheretune.applying import Tuned
from wheretune.data.tokens import encode
from wheretune.errors import ConfigError
from wheretune.heads.headed import headed
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe, tensor_hashes
from wheretune.records.base import Spec
from wheretune.records.runs import TrainSettings
from wheretune.schedules.slimfit import SlimFit, bert_tensors
from wheretune.tasks.base import task_of
from wheretune.training.loop import train

# 22 texts: 6 steps in an epoch
SETTINGS = TrainSettings(epochs=2, learning_rate=1e-2, batch_size=4, warmup_ratio=0.0, seed=3)
EVERY = (0, 1, 2, 3)
WHOLE = wt.WholeLayers(embeddings=True)


def begun(freeze, tensors, seed=0):
    return SlimFit(freeze).init(12, range(12), tensors, 10, seed)


def test_what_freezes_goes_by_the_last_change():
    made = SlimFit(0.6)
    state = begun(0.6, {f"{i}.weight": (2, 2) for i in range(5)})
    state = {**state, "values": np.array([5, 1, 9, 3, 7]) * 1e9}
    trained = []
    for row in ([0.5, 0.4, 0.3, 0.2, 0.1], [0.6, 0.5, 0.4, 0.3, 0.2], [0.1] * 5, [0.05] * 5):
        units = sorted(made.active(state, 0))
        trained.append(units)
        kept = state["values"].copy()
        after = made.observe(state, {"change": {unit: row[unit] for unit in units}})
        assert (state["values"] == kept).all(), "the state before is left as it is"
        state = after
    assert trained == [[2, 4], [0, 3], [0, 1], [2, 3]]
    assert state["values"].tolist() == [0.1, 0.1, 0.05, 0.05, 0.1]


@pytest.mark.parametrize(
    ("freeze", "tensors", "frozen"), [(0.95, 102, 96), (0.9, 102, 91), (0.8, 102, 81), (0.85, 101, 85)]
)
def test_how_many_freeze(freeze, tensors, frozen):
    names = list(bert_tensors(12))[:tensors]
    state = begun(freeze, {name: (1, 1) for name in names})
    assert len(names) == tensors and len(SlimFit(freeze).active(state, 0)) == tensors - frozen


def test_the_first_set_and_the_first_visits():
    made, state, visited = SlimFit(), begun(0.9, bert_tensors(12), seed=43), set()
    assert sorted(made.active(state, 0)) == [4, 7, 17, 18, 26, 35, 41, 45, 48, 62, 63]
    for step in range(10):
        visited |= made.active(state, step)
        state = made.observe(state, {"change": dict.fromkeys(made.active(state, step), 0.01)})
    assert visited == set(range(102))


def test_biases_never_freeze_and_ties_train_the_lower():
    tensors = {"a.weight": (2, 2), "a.bias": (2,), "norm.weight": (2,), "norm.bias": (2,), "b.weight": (2, 2)}
    state = begun(0.7, tensors)
    assert state["ranked"].tolist() == [0, 2, 4] and state["always"].tolist() == [1, 3]
    state = {**state, "values": np.ones(3)}
    assert SlimFit(0.7).active(state, 0) == {0, 1, 3}


@pytest.mark.slow
def test_freezing_nothing_is_full_fine_tuning():
    found = []
    for schedule in (None, SlimFit(0.0)):
        model, tuned, rows, collate = fresh(WHOLE, EVERY, schedule)
        train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
        tuned.check()
        found.append({name: value.clone() for name, value in model.state_dict().items()})
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6, rtol=0) for name in found[0])


class Hashes(Watch):
    """Sees which tensors change in a step, and what the checkpoint would hold."""

    def __init__(self, model, stop=None):
        super().__init__(stop)
        self.model, self.changed, self.flags = model, [], []

    def before_step(self, step):
        self.flags.append({name for name, p in self.model.named_parameters() if p.requires_grad})
        self.before = tensor_hashes(self.model.named_parameters())

    def after_step(self, step):
        after = tensor_hashes(self.model.named_parameters())
        self.changed.append({name for name in after if after[name] != self.before[name]})
        super().after_step(step)


def test_what_is_frozen_does_not_move_and_what_is_due_does():
    model, tuned, rows, collate = fresh(WHOLE, EVERY, SlimFit(0.8))
    look = Hashes(model)
    train(model, rows, collate, SETTINGS, None, followers=(*tuned.followers, look))
    ranked = {name for name in tuned.trainable if not name.endswith("bias")}
    for changed, training in zip(look.changed, look.flags, strict=True):
        assert changed <= training and len(training & ranked) == len(ranked) - int(0.8 * len(ranked))
        assert training >= set(tuned.trainable) - ranked
        assert training & ranked <= changed
    assert set().union(*look.changed[:5]) >= ranked, "every tensor once before any trains again"
    tuned.check()


@pytest.mark.slow
def test_stopped_and_resumed_ends_byte_for_byte_the_same(tmp_path):
    def go_on(folder, stop=None):
        model, tuned, rows, collate = fresh(WHOLE, EVERY, SlimFit(0.8))
        train(model, rows, collate, SETTINGS, folder, followers=(*tuned.followers, Watch(stop)))
        return tensor_hashes(model.state_dict().items())

    once = go_on(tmp_path / "once")
    with pytest.raises(KeyboardInterrupt):
        go_on(tmp_path / "twice", stop=9)
    assert go_on(tmp_path / "twice") == once


def test_what_it_cannot_serve_is_refused(run):
    with pytest.raises(ConfigError, match="ranks the model's own weights, and lora trains others"):
        SlimFit().check(12, Spec("lora"))
    with pytest.raises(ConfigError, match="freeze is 1"):
        SlimFit(1.0)
    state = begun(0.0, {"a.weight": (2, 2)})
    with pytest.raises(ConfigError, match="tensor 0 of those that may train held nothing but zeros"):
        SlimFit(0.0).observe(state, {"change": {}})
    given = ("schedule", "--schedule", "slimfit", "--layers", 12, "--steps", 60, "--seed", 43)
    one_line(*run(*given, "--figure", "m.png")[::2], "--figure has no effect")
    code, out, err = run(*given, "--json")
    found = json.loads(out)
    assert code == 0 and found["spans"][0]["tensors"] == [4, 7, 17, 18, 26, 35, 41, 45, 48, 62, 63]
    assert "no more than its first set" in err and "no more than its first set" in found["known"]


@pytest.mark.slow
def test_a_head_may_be_frozen_in_the_first_step():
    """A decoder's head has no bias, so all of it freezes; that is no gradient that went astray."""
    base, tokenizer = tiny_model("llama")
    data, stack = wt.from_texts(sentences(8), classes_of(8)), find_layers(base)
    model = headed(stack, wt.LastToken(), data, seed=0)
    frozen = []
    for seed in range(4):
        plan = wt.plan(describe(stack), wt.Explicit(EVERY), tuner=WHOLE, data=data.info)
        tuned = Tuned(model, plan, WHOLE, SlimFit(0.9), seed=seed)
        look = Hashes(model)
        rows, collate = encode(data, tokenizer, 64), task_of(data.info).collator(tokenizer)
        callbacks = [wt.EngagementCallback(tuned)]
        train(model, rows, collate, SETTINGS, None, followers=(*tuned.followers, look), callbacks=callbacks)
        frozen.append(not any(name.startswith("head") for name in look.flags[0]))
        tuned.undo()
    assert any(frozen), "the case is there"
