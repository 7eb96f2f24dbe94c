"""The papers' schedules, carried out: what trains, what the optimizer holds, stops, accumulation, own Trainers."""

from dataclasses import replace

import pytest
import torch
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

import wheretune as wt
from helpers.often import often
from helpers.own_models import own_model, planned
from helpers.texts import sentences
from helpers.training import Watch, fresh
from wheretune.errors import EngagementError, TrainingError
from wheretune.model.identity import tensor_hashes
from wheretune.records.runs import TrainSettings
from wheretune.training.checkpoints import checkpoints, load_checkpoint
from wheretune.training.loop import train

# 22 texts: 6 steps in an epoch
SETTINGS = TrainSettings(epochs=2, learning_rate=1e-2, batch_size=4, warmup_ratio=0.0, seed=3)
EVERY = (0, 1, 2, 3)
WHOLE = wt.WholeLayers(embeddings=True)


class Bytes(Watch):
    """Counts, after every step, what the optimizer keeps of which layer."""

    def __init__(self, model, stop=None):
        super().__init__(stop)
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        self.steps = []

    def after_step(self, step):
        held = {self.names[p]: slots for p, slots in self.optimizer.state.items() if slots}
        layers = {int(name.split("layer.")[1].split(".")[0]) for name in held if "encoder.layer." in name}
        kept = sum(v.numel() * v.element_size() for slots in held.values() for v in slots.values() if v.ndim)
        training = sum(p.numel() for p in self.names if p.requires_grad)
        self.steps.append((layers, kept, 2 * 4 * training))
        super().after_step(step)


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def trained(tuner, schedule, settings=SETTINGS, layers=EVERY, **more):
    model, tuned, rows, collate = fresh(tuner, layers, schedule)
    train(model, rows, collate, settings, None, followers=(*tuned.followers, *more.values()))
    tuned.check()
    return weights_of(model)


@pytest.mark.slow
def test_drawing_all_layers_is_full_fine_tuning():
    full, drawn = trained(WHOLE, None), trained(WHOLE, wt.Lisa(layers=4, every=2))
    assert all(torch.allclose(full[name], drawn[name], atol=1e-6, rtol=0) for name in full)


@pytest.mark.parametrize(
    ("schedule", "layers"),
    [(wt.Lift(), [{i // 3} for i in range(12)]), (wt.LiftStar(), [set(range(i // 3, 4)) for i in range(12)])],
    ids=["lift", "lift-star"],
)
def test_the_optimizer_keeps_state_for_what_trains_and_gives_the_rest_back(schedule, layers):
    model, tuned, rows, collate = fresh(wt.WholeLayers(), EVERY, schedule)
    look = Bytes(model)
    train(model, rows, collate, SETTINGS, None, followers=(*tuned.followers, look))
    assert [kept for kept, _, _ in look.steps] == layers
    assert all(held == expected for _, held, expected in look.steps)
    assert look.steps[-1][1] < look.steps[0][1] or isinstance(schedule, wt.Lift)


@pytest.mark.parametrize("state", ["drop", "keep", "drop-all"])
def test_what_lisa_keeps_of_layers_that_leave(state):
    made = wt.Lisa(layers=2, every=3, state=state)
    model, tuned, rows, collate = fresh(WHOLE, EVERY, made)
    look = Bytes(model)
    train(model, rows, collate, SETTINGS, None, followers=(*tuned.followers, look))
    start = made.init(4, EVERY, {}, 12, 0)
    drawn = [set(made.active(start, step)) for step in range(12)]
    assert len({frozenset(one) for one in drawn}) > 1
    ever = [set().union(*drawn[: step + 1]) for step in range(12)]
    assert [kept for kept, _, _ in look.steps] == (ever if state == "keep" else drawn)
    assert all((held == expected) == (state != "keep" or kept == now) for (kept, held, expected), now in
               zip(look.steps, drawn, strict=True))  # fmt: skip


RESUMED = {
    "lift": (wt.Lift(), wt.WholeLayers()),
    "lift-star": (wt.LiftStar(), wt.LoRA(r=2)),
    "lisa": (wt.Lisa(layers=2, every=2), WHOLE),
    "lisa-keep": (wt.Lisa(layers=1, every=2, state="keep"), wt.LoRA(r=2)),
    "lisa-drop-all": (wt.Lisa(layers=2, every=4, state="drop-all"), wt.WholeLayers()),
}


@pytest.mark.parametrize("how", often(RESUMED, ["lisa"]))
def test_stopped_and_resumed_ends_byte_for_byte_the_same(tmp_path, how):
    schedule, tuner = RESUMED[how]
    model, tuned, rows, collate = fresh(tuner, EVERY, schedule)
    train(model, rows, collate, SETTINGS, tmp_path / "once", followers=tuned.followers)
    expected = tensor_hashes(model.state_dict().items())
    model, tuned, rows, collate = fresh(tuner, EVERY, schedule)
    with pytest.raises(KeyboardInterrupt):
        train(model, rows, collate, SETTINGS, tmp_path / "twice", followers=(*tuned.followers, Watch(stop=8)))
    tuned.undo()
    torch.rand(9)  # another process would have another state of the generator
    model, tuned, rows, collate = fresh(tuner, EVERY, schedule)
    assert train(model, rows, collate, SETTINGS, tmp_path / "twice", followers=tuned.followers).steps == 12
    assert tensor_hashes(model.state_dict().items()) == expected
    tuned.check()
    one, other = (load_checkpoint(checkpoints(tmp_path / name)[-1]) for name in ("once", "twice"))
    assert {n: set(slots) for n, slots in one.optimizer.items()} == {n: set(s) for n, s in other.optimizer.items()}
    assert all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(other.optimizer[name][slot]))
        for name, slots in one.optimizer.items()
        for slot, value in slots.items()
    )


@pytest.mark.parametrize(
    "schedule",
    often([wt.Lift(), wt.Lisa(layers=2, every=2)], lambda one: one.name == "lisa"),
    ids=lambda one: one.name,
)
def test_accumulated_gradients_give_the_same_layers_and_weights(schedule):
    """Without dropout, whose draws hang on the size of a batch."""

    def once(batch_size, accumulated):
        settings = TrainSettings(
            epochs=4, learning_rate=1e-2, batch_size=batch_size, gradient_accumulation_steps=accumulated, seed=3,
            warmup_ratio=0.0, trainer_args={"adam_epsilon": 1e-3},
        )  # fmt: skip
        model, tuned, rows, collate = fresh(
            wt.WholeLayers(), EVERY, schedule, texts=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        model.head.eval()
        model.head.train = lambda mode=True: model.head  # nor in the head
        watch = Bytes(model)
        train(model, rows, collate, settings, None, followers=(*tuned.followers, watch))
        return weights_of(model), [layers for layers, _, _ in watch.steps]

    (whole, drawn), (parts, drawn_in_parts) = once(8, 1), once(4, 2)
    assert drawn == drawn_in_parts and len(drawn) == 8
    assert max(float((whole[name].double() - parts[name]).abs().max()) for name in whole) < 1e-5


@pytest.mark.parametrize(
    "schedule",
    often([wt.Lift(), wt.LiftStar(), wt.Lisa(layers=2, every=2, train_embeddings=False)], [wt.Lift()]),
    ids=lambda one: one.name,
)
def test_recomputed_activations_change_nothing(schedule):
    def once(recompute):
        model, tuned, rows, collate = fresh(wt.WholeLayers(), EVERY, schedule)
        if recompute:
            tuned.recompute()
        train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
        return weights_of(model)

    plain, again = once(False), once(True)
    assert all(torch.allclose(plain[name], again[name], atol=1e-6) for name in plain)


@pytest.mark.parametrize("schedule", [wt.Lift(), wt.LiftStar(), wt.Lisa(layers=2, every=2, train_embeddings=False)])
def test_no_gradient_and_no_hook_is_left_below_what_trains_now(schedule):
    model, tuned, rows, collate = fresh(wt.WholeLayers(), EVERY, schedule)
    asked = []
    hooks = [layer.module.register_forward_hook(lambda _, __, out: asked.append(out.requires_grad))
             for layer in tuned.stack.layers]  # fmt: skip
    train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
    state = schedule.init(4, EVERY, {}, 12, 0)
    for step in range(12):
        lowest = schedule.lowest(state, step)
        assert asked[4 * step : 4 * step + 4] == [layer >= lowest for layer in range(4)]
    tuned.undo()
    for hook in hooks:
        hook.remove()
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.base.modules())
    assert not any("forward" in vars(module) for module in model.base.modules())


@pytest.mark.parametrize("checkpointing", often([False, True], [True]))
@pytest.mark.parametrize(
    "schedule",
    often([wt.Lift(), wt.LiftStar(), wt.Lisa(layers=2, every=2)], lambda one: one.name != "lift-star"),
    ids=lambda one: one.name,
)
def test_in_a_trainer_of_the_user_s_own(tmp_path, schedule, checkpointing):
    """Plan, apply, an unmodified Trainer and one callback."""
    model, tokenizer = own_model()
    plan = planned(model, tokenizer, wt.Explicit(every=True), schedule=schedule)
    tuned = wt.apply(model, plan, seed=4)
    before = tensor_hashes(model.state_dict().items())
    look = Bytes(model)
    rows = [{**tokenizer(text), "labels": i % 2} for i, text in enumerate(sentences(16))]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=6, per_device_train_batch_size=4, learning_rate=1e-2, report_to="none",
        save_strategy="no", disable_tqdm=True, gradient_accumulation_steps=2, gradient_checkpointing=checkpointing,
    )  # fmt: skip
    callbacks = [wt.FollowerCallback((*tuned.followers, look)), wt.EngagementCallback(tuned)]
    collate = DataCollatorWithPadding(tokenizer)
    Trainer(model, arguments, train_dataset=rows, data_collator=collate, callbacks=callbacks).train()
    state = schedule.init(4, EVERY, {}, 6, 4)
    assert [layers for layers, _, _ in look.steps] == [set(schedule.active(state, step)) for step in range(6)]
    tuned.check()
    ever = set().union(*(schedule.active(state, step) for step in range(6)))
    after = tensor_hashes(model.state_dict().items())
    changed = {
        int(name.split("layer.")[1].split(".")[0]) for name in after if after[name] != before[name] if ".layer." in name
    }
    assert changed == ever
    tuned.undo()
    assert not any("forward" in vars(module) for module in model.base_model.modules())


@pytest.mark.slow
def test_a_checkpoint_of_another_schedule_is_refused(tmp_path):
    def go_on(schedule, seed=0, epochs=2):
        model, tuned, rows, collate = fresh(wt.WholeLayers(), EVERY, schedule)
        settings = replace(SETTINGS, epochs=epochs)
        train(model, rows, collate, settings, tmp_path / "run", followers=(*tuned.followers, Watch(stop=8)))

    with pytest.raises(KeyboardInterrupt):
        go_on(wt.Lift())
    with pytest.raises(TrainingError, match=r"written by lift with 12 steps and seed 0, and this is lisa\(layers=2"):
        go_on(wt.Lisa())
    with pytest.raises(TrainingError, match=r"written by lift with 12 steps.*this is lift with 18 steps"):
        go_on(wt.Lift(), epochs=3)
    with pytest.raises(TrainingError, match="is of a training with a schedule, and this one has none"):
        go_on(None)
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(KeyboardInterrupt):
        go_on(None)
    with pytest.raises(TrainingError, match="written by no schedule that moves, and this is lift"):
        go_on(wt.Lift())


class Meddler(Watch):
    """Writes to a layer in every step, or gives it back what it was."""

    def __init__(self, layer, restores=False):
        super().__init__()
        self.layer, self.restores = layer, restores

    def before_step(self, step):
        self.kept = [parameter.detach().clone() for parameter in self.layer.parameters()]

    def after_step(self, step):
        with torch.no_grad():
            for parameter, values in zip(self.layer.parameters(), self.kept, strict=True):
                parameter.copy_(values if self.restores else values + 1)


@pytest.mark.parametrize(
    "schedule", often([wt.Lift(), wt.Lisa(layers=1, every=1)], lambda one: one.name == "lift"), ids=lambda one: one.name
)
def test_each_step_is_witnessed(schedule, caplog):
    model, tuned, rows, collate = fresh(wt.WholeLayers(), EVERY, schedule)
    train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
    assert not caplog.records
    model, tuned, rows, collate = fresh(wt.WholeLayers(), EVERY, schedule)
    meddler = Meddler(tuned.stack.layers[2].module)
    with pytest.raises(EngagementError, match=r"layer 2 is frozen at step \d+ and changed in it"):
        train(model, rows, collate, SETTINGS, None, followers=(meddler, *tuned.followers))
    model, tuned, rows, collate = fresh(wt.WholeLayers(), EVERY, schedule)
    meddler = Meddler(tuned.stack.layers[2].module, restores=True)
    train(model, rows, collate, SETTINGS, None, followers=(meddler, *tuned.followers))
    assert "layer 2 was due at step" in caplog.text and "layer 1" not in caplog.text
    with pytest.raises(EngagementError, match="training did not change layer 2"):
        tuned.check()


def test_a_turn_at_a_rate_of_0_is_told(caplog):
    """Warm-up begins at 0, and with as many steps as layers the first layer has no other."""
    model, tuned, rows, collate = fresh(wt.WholeLayers(), EVERY, wt.Lift(), texts=16)
    train(model, rows, collate, replace(SETTINGS, epochs=1, warmup_ratio=0.5), None, followers=tuned.followers)
    assert "layer 0 had its turn only while the learning rate was 0" in caplog.text
    tuned.check()
