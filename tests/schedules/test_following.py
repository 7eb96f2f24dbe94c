"""A schedule is carried out: flags, gradients, the optimizer's state and the hooks, also after a stop."""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

import wheretune as wt
from helpers.often import often
from helpers.training import Watch, fresh
from wheretune import catalog
from wheretune.errors import EngagementError, PlanError, TrainingError
from wheretune.model.finding import find_layers
from wheretune.model.identity import tensor_hashes
from wheretune.model.steps import Training
from wheretune.records.runs import TrainSettings
from wheretune.schedules.base import Schedule
from wheretune.schedules.signals import relative_change
from wheretune.schedules.static import Static
from wheretune.training.checkpoints import checkpoints, load_checkpoint
from wheretune.training.loop import train

# 22 texts: 6 steps in an epoch
SETTINGS = TrainSettings(epochs=3, learning_rate=1e-2, batch_size=4, warmup_ratio=0.0, seed=3)
LAYERS = (1, 2, 3)


@dataclass(frozen=True)
class Turns:
    """One layer after another, a step each."""

    optimizer_state: str = "keep"
    name: ClassVar[str] = "turns"
    moves: ClassVar[bool] = True
    unit: ClassVar[str] = "layer"
    observes: ClassVar[tuple[str, ...]] = ()
    embeddings: ClassVar[bool | None] = None

    def check(self, chosen, tuner):
        pass

    def expected(self, chosen):
        return (1 / chosen,) * chosen

    def init(self, layers, chosen, tensors, steps, seed):
        return {"chosen": np.array(chosen)}

    def observe(self, state, signals):
        raise AssertionError("it observes nothing")

    def active(self, state, step):
        return frozenset([int(state["chosen"][step % len(state["chosen"])])])

    def lowest(self, state, step):
        return min(self.active(state, step))


@dataclass(frozen=True)
class MostChanged:
    """The tensors that changed most train again; at first each trains once. What it says hangs on the training."""

    count: int = 5
    name: ClassVar[str] = "most-changed"
    moves: ClassVar[bool] = True
    unit: ClassVar[str] = "tensor"
    observes: ClassVar[tuple[str, ...]] = ("change",)
    optimizer_state: ClassVar[str] = "keep"
    embeddings: ClassVar[bool | None] = None

    def check(self, chosen, tuner):
        pass

    def expected(self, chosen):
        return (1 / chosen,) * chosen

    def init(self, layers, chosen, tensors, steps, seed):
        ranked = [place for place, shape in enumerate(tensors.values()) if len(shape) > 1]
        values = 1e10 * np.random.default_rng(seed).random(len(ranked))
        return {"all": np.array(len(tensors)), "ranked": np.array(ranked), "values": values}

    def observe(self, state, signals):
        values = state["values"].copy()
        for place, unit in enumerate(state["ranked"].tolist()):
            values[place] = signals["change"].get(unit, values[place])
        return {**state, "values": values}

    def active(self, state, step):
        order = np.argsort(-state["values"], kind="stable")[: self.count]
        always = set(range(int(state["all"]))) - set(state["ranked"].tolist())
        return frozenset(always | set(state["ranked"][order].tolist()))

    def lowest(self, state, step):
        return 0


class Look(Watch):
    """Sees what the optimizer does to whom; stops a training where it is told to."""

    def __init__(self, model, stop=None):
        super().__init__(stop)
        self.model, self.steps, self.kept = model, [], []

    def before_step(self, step):
        self.flags = {name: p.requires_grad for name, p in self.model.named_parameters()}
        self.before = tensor_hashes(self.model.state_dict().items())

    def after_step(self, step):
        after = tensor_hashes(self.model.state_dict().items())
        training = {name for name, flag in self.flags.items() if flag}
        graded = {name for name, p in self.model.named_parameters() if p.grad is not None}
        changed = {name for name in after if after[name] != self.before[name]}
        names = {p: name for name, p in self.model.named_parameters()}
        self.steps.append((training, graded, changed))
        self.kept.append({names[p]: int(slots["step"]) for p, slots in self.optimizer.state.items()})
        super().after_step(step)


def layer_of(name):
    return int(name.split("encoder.layer.")[1].split(".")[0]) if "encoder.layer." in name else None


def layers_of(names):
    return {layer_of(name) for name in names} - {None}


def test_schedules_are_schedules():
    assert all(isinstance(made(), Schedule) for made in catalog.every("schedule").values())
    assert isinstance(Turns(), Schedule) and isinstance(MostChanged(), Schedule)


def test_static_is_what_was_chosen_and_costs_nothing():
    made = Static()
    state = made.init(12, (3, 7), {}, 10, 0)
    assert made.active(state, 0) == made.active(made.observe(state, {}), 9) == {3, 7}
    assert made.lowest(state, 0) == 3 and made.lowest(made.init(12, (), {}, 10, 0), 0) == 12
    assert fresh(schedule=Static())[1].followers == ()


@pytest.mark.parametrize(
    "tuner",
    often(
        [wt.WholeLayers(), wt.WholeLayers(embeddings=True), wt.LoRA(r=2), wt.Adapter()],
        lambda one: one.name in ("full", "lora"),
    ),
)
def test_flags_and_gradients_follow_and_what_is_frozen_does_not_move(tuner):
    model, tuned, rows, collate = fresh(tuner, schedule=Turns())
    look = Look(model)
    train(model, rows, collate, SETTINGS, None, followers=(*tuned.followers, look))
    assert len(look.steps) == 18
    for step, (training, graded, changed) in enumerate(look.steps):
        assert layers_of(training) == {LAYERS[step % 3]}
        always = {name for name in tuned.trainable if layer_of(name) is None}
        assert training == always | {name for name in tuned.trainable if layer_of(name) == LAYERS[step % 3]}
        assert graded <= training and changed <= training
        assert layers_of(changed) == {LAYERS[step % 3]} and any(name.startswith("head.") for name in changed)
    tuned.check()
    assert all(p.requires_grad for p in tuned.trainable.values()), "as apply left it"


def test_no_gradient_runs_below_the_lowest_layer_of_the_step():
    model, tuned, rows, collate = fresh(schedule=Turns())
    asked, modes = [], []
    for layer in tuned.stack.layers:
        layer.module.register_forward_hook(lambda module, _, output: asked.append(output.requires_grad))
        layer.module.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
    for step in range(18):
        lowest = LAYERS[step % 3]
        assert asked[4 * step : 4 * step + 4] == [layer >= lowest for layer in range(4)]
        assert modes[4 * step : 4 * step + 4] == [layer == lowest for layer in range(4)], "what is frozen drops nothing"
    tuned.undo()
    for module in model.base.modules():
        hooks = [*module._forward_pre_hooks.values()]
        assert len(hooks) == (1 if module in [layer.module for layer in tuned.stack.layers] else 0), "ours alone"
        assert "forward" not in vars(module)


@pytest.mark.parametrize("policy", ["keep", "drop", "drop-all"])
def test_the_state_of_the_optimizer(policy):
    model, tuned, rows, collate = fresh(schedule=Turns(policy))
    look = Look(model)
    train(model, rows, collate, SETTINGS, None, followers=(*tuned.followers, look))
    for step, kept in enumerate(look.kept):
        head = {count for name, count in kept.items() if name.startswith("head.")}
        by_layer = {layer: {kept[n] for n in kept if layer_of(n) == layer} for layer in layers_of(kept)}
        turns = {LAYERS[i]: {len(range(i, step + 1, 3))} for i in range(min(3, step + 1))}
        assert by_layer == (turns if policy == "keep" else {LAYERS[step % 3]: {1}})
        assert head == ({1} if policy == "drop-all" else {step + 1})


RESUMED = {
    "keep": (Turns("keep"), wt.WholeLayers()),
    "drop": (Turns("drop"), wt.WholeLayers(embeddings=True)),
    "drop-all": (Turns("drop-all"), wt.LoRA(r=2)),
    "observed": (MostChanged(), wt.WholeLayers(embeddings=True)),
}


@pytest.mark.parametrize(("how", "epoch"), often(product(RESUMED, (1, 2)), [("observed", 2)]))
def test_stopped_and_resumed_ends_byte_for_byte_the_same(tmp_path, how, epoch):
    schedule, tuner = RESUMED[how]
    model, tuned, rows, collate = fresh(tuner, schedule=schedule)
    train(model, rows, collate, SETTINGS, tmp_path / "once", followers=tuned.followers)
    expected = tensor_hashes(model.state_dict().items())
    model, tuned, rows, collate = fresh(tuner, schedule=schedule)
    with pytest.raises(KeyboardInterrupt):
        look = Look(model, stop=6 * epoch + 1)
        train(model, rows, collate, SETTINGS, tmp_path / "twice", followers=(*tuned.followers, look))
    assert all(p.requires_grad for p in tuned.trainable.values()), "also after an error"
    saved = load_checkpoint(checkpoints(tmp_path / "twice")[-1])
    assert set(saved.parameters) == set(tuned.trainable)
    training = look.steps[6 * epoch - 1][0]
    assert training < set(tuned.trainable), "some were frozen at the moment of the checkpoint"
    torch.rand(99)  # another process would have another state of the generator
    model, tuned, rows, collate = fresh(tuner, schedule=schedule)
    log = train(model, rows, collate, SETTINGS, tmp_path / "twice", followers=(*tuned.followers, Look(model)))
    assert log.steps == 18
    assert tensor_hashes(model.state_dict().items()) == expected
    tuned.check()
    last = [load_checkpoint(checkpoints(tmp_path / name)[-1]) for name in ("once", "twice")]
    for one, other in zip(*(
        {f"{p}/{s}": v for p, slots in c.optimizer.items() for s, v in slots.items()}
        | {f"{n}/{key}": v for n, kept in c.followers.items() for key, v in kept.items()}
        for c in last
    ), strict=True):  # fmt: skip
        assert one == other
    for name, slots in last[0].optimizer.items():
        assert all(torch.equal(value, last[1].optimizer[name][slot]) for slot, value in slots.items())
    kept = last[0].followers["schedule"]
    assert all(torch.equal(value, last[1].followers["schedule"][key]) for key, value in kept.items())


def test_tensors_are_ranked_by_what_is_observed():
    schedule = MostChanged()
    model, tuned, rows, collate = fresh(wt.WholeLayers(embeddings=True), schedule=schedule)
    look = Look(model)
    train(model, rows, collate, SETTINGS, None, followers=(*tuned.followers, look))
    ranked = {name for name, p in tuned.trainable.items() if p.ndim > 1}
    assert all(len(training & ranked) == 5 for training, _, _ in look.steps)
    assert all(training >= set(tuned.trainable) - ranked for training, _, _ in look.steps)
    visited = set().union(*(training & ranked for training, _, _ in look.steps[: -(-len(ranked) // 5)]))
    assert visited == ranked, "what has not trained yet has a start value above any change"


def test_the_relative_change():
    def of(old, new):
        return relative_change([torch.tensor(old)], [torch.tensor(new)])

    assert of([1.0, -2.0, 4.0, 0.5], [1.1, -2.2, 4.4, 0.55]) == pytest.approx(0.1)
    assert of([0.0, 2.0], [0.1, 2.2]) == pytest.approx(0.1)
    two = relative_change([torch.ones(1), torch.ones(3)], [torch.ones(1), torch.full((3,), 2.0)])
    assert two == 0.75, "over all elements of a unit"
    assert of([0.0], [1.0]) is None


def test_a_layer_that_was_never_active_need_not_change_and_must_not():
    @dataclass(frozen=True)
    class Lowest(Turns):
        def active(self, state, step):
            return frozenset([1])

    model, tuned, rows, collate = fresh(schedule=Lowest())
    train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
    tuned.check()
    with torch.no_grad():
        tuned.stack.layers[3].module.output.dense.bias += 1
    with pytest.raises(EngagementError, match=r"layer\.3\.output\.dense\.bias among"):
        tuned.check()


def test_a_schedule_that_nobody_carried_out_is_found():
    model, tuned, rows, collate = fresh(schedule=Turns())
    train(model, rows, collate, SETTINGS, None)
    with pytest.raises(EngagementError, match=r"never carried out; .*FollowerCallback\(tuned.followers\)"):
        tuned.check()


def test_what_cannot_be_scheduled_is_refused(tmp_path):
    with pytest.raises(PlanError, match="adalora needs its layers at every step, and the schedule turns"):
        fresh(wt.AdaLoRA(r=2, start=3), schedule=Turns())

    @dataclass(frozen=True)
    class Elsewhere(Turns):
        def active(self, state, step):
            return frozenset([0])

    model, tuned, rows, collate = fresh(schedule=Elsewhere())
    with pytest.raises(PlanError, match="turns names layer 0, which may not train"):
        train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
    model, tuned, *_ = fresh(schedule=Turns())
    few = torch.optim.SGD(model.head.parameters())
    with pytest.raises(TrainingError, match=r"the optimizer lacks base\.encoder\.layer\.1"):
        tuned.followers[0].begin(Training(10, few))


def test_in_an_unmodified_trainer(tmp_path):
    model, tuned, rows, collate = fresh(schedule=Turns("drop"))
    look = Look(model)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=5, per_device_train_batch_size=4, learning_rate=1e-2, report_to="none",
        save_strategy="no", disable_tqdm=True, gradient_accumulation_steps=2, remove_unused_columns=False,
    )  # fmt: skip
    callback = wt.FollowerCallback((*tuned.followers, look))
    Trainer(model, arguments, train_dataset=rows, data_collator=collate, callbacks=[callback]).train()
    assert [layers_of(training) for training, _, _ in look.steps] == [{1}, {2}, {3}, {1}, {2}]
    assert all(changed <= training for training, _, changed in look.steps)
    tuned.check()
    tuned.undo()
    assert not any("forward" in vars(layer.module) for layer in find_layers(model.base).layers)


@pytest.mark.parametrize("schedule", [Turns(), MostChanged()])
def test_what_a_schedule_has_frozen_is_not_waited_for_in_the_first_step(schedule, caplog):
    model, tuned, rows, collate = fresh(layers=LAYERS, schedule=schedule)
    assert tuned.waiting == tuned.trainable
    train(model, rows, collate, SETTINGS, None, followers=tuned.followers, callbacks=[wt.EngagementCallback(tuned)])
    assert not caplog.records
    if schedule.unit == "layer":
        tuned.followers[0].begin(Training(3, torch.optim.AdamW(tuned.trainable.values())))
        tuned.followers[0].before_step(1)
        assert tuned.untouched(set()) == ["layer 2", "the head"] and tuned.waiting.keys() < tuned.trainable.keys()
