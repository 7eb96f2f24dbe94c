"""RECAP: the worked numbers, the working copy, stops, what is written back, and what it cannot serve."""

import json

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

import wheretune as wt
from helpers.commands import one_line
from helpers.models import tiny_model
from helpers.often import often
from helpers.training import Watch, fresh
from wheretune import planning
from wheretune.errors import ConfigError, ModelError, TrainingError
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe, tensor_hashes
from wheretune.model.steps import Training
from wheretune.records.base import Spec
from wheretune.records.runs import TrainSettings
from wheretune.schedules.pruning import groups_of, least, ratios, share_of
from wheretune.schedules.recap import Recap
from wheretune.schedules.rounds import along
from wheretune.schedules.working_copy import CutMap
from wheretune.show.records import steps_per_layer
from wheretune.training.checkpoints import checkpoints, load_checkpoint
from wheretune.training.loop import train

# 22 texts: 6 steps in an epoch
SETTINGS = TrainSettings(epochs=2, learning_rate=1e-2, batch_size=4, warmup_ratio=0.0, weight_decay=0.0, seed=3)
EVERY = (0, 1, 2, 3)
WHOLE = wt.WholeLayers(embeddings=True)
SMALL = Recap(prune=0.25, mask=0.5, rounds=3, batches=2)


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


# --- the worked numbers --------------------------------------------------------------------------


def test_the_shares_of_the_sub_steps():
    assert ratios(0.5, 4) == pytest.approx([0.125, 1 / 7, 1 / 6, 0.2])
    assert np.prod([1 - one for one in ratios(0.5, 4)]) == pytest.approx(0.5)
    assert ratios(0.33, 2) == pytest.approx([0.165, 0.197605], abs=1e-6)


def test_the_head_with_the_least_importance_goes():
    weights, gradients = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[0.1, 0.1], [0.2, 0]])
    importance = along((weights * gradients).square().double(), 0)
    assert importance.tolist() == pytest.approx([0.05, 0.36])
    assert [one.tolist() for one in least([importance.numpy()], 1)] == [[True, False]]


def test_the_least_are_taken_across_layers_ties_from_above_and_never_too_many_of_one():
    assert [one.tolist() for one in least([np.array([1.0, 2]), np.array([1.0, 1])], 2)] == [[False] * 2, [True] * 2]
    found = least([np.zeros(4), np.ones(4)], 5, most=0.85)
    assert [int(one.sum()) for one in found] == [3, 2]
    assert share_of(0.29, 100) == 29, "though .29 x 100 is a little below"


def test_only_the_row_that_is_kept_and_trains_changes():
    layer = torch.nn.Linear(2, 3, bias=False)
    before = layer.weight.detach().clone()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    one = CutMap("w", layer, 0, optimizer)
    one.weight.remove(torch.tensor([1]))
    one.train(torch.tensor([2]))
    one.cut()
    states = torch.randn(5, 2)
    made = layer(states)
    assert torch.allclose(made, states @ before[[0, 2]].T)
    made.square().sum().backward()
    assert layer.weight.shape == layer.weight.grad.shape == (1, 2)
    optimizer.step()
    one.weight.keep_up()
    assert torch.equal(layer(states)[:, 1], states @ layer.weight[0])
    one.mend()
    one.weight.put_back()
    assert torch.equal(layer.weight[:2], before[:2]) and not torch.equal(layer.weight[2], before[2])
    assert optimizer.state[layer.weight]["exp_avg"].shape == (3, 2) and "forward" not in vars(layer)


@pytest.mark.parametrize("dim", [0, 1])
def test_the_gradients_are_those_of_a_whole_map(dim):
    layer, twin = torch.nn.Linear(6, 5), torch.nn.Linear(6, 5)
    twin.load_state_dict(layer.state_dict())
    removed, trained = torch.tensor([1, 3]), torch.tensor([0, 4])
    one = CutMap("w", layer, dim, torch.optim.SGD(layer.parameters(), lr=1.0))
    for tensor in one.tensors:
        tensor.remove(removed)
    one.train(trained)
    one.cut()
    kept = one.weight.kept
    states = torch.randn(2, 3, 6, requires_grad=True)
    copy = states.detach().clone().requires_grad_()
    made = layer(states[..., kept] if dim else states)
    expected = twin(copy * torch.zeros(6).index_fill(0, kept, 1) if dim else copy)
    expected = expected if dim else expected[..., kept]
    assert torch.allclose(made, expected, atol=1e-6)
    made.sin().sum().backward()
    expected.sin().sum().backward()
    assert torch.allclose(states.grad, copy.grad, atol=1e-6)
    assert torch.allclose(layer.weight.grad, twin.weight.grad.index_select(dim, trained), atol=1e-6)
    assert torch.allclose(layer.bias.grad, twin.bias.grad if dim else twin.bias.grad[trained], atol=1e-6)


def test_the_working_copy_of_bert_base():
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        base = BertModel(BertConfig(vocab_size=28996))
    total = sum(parameter.numel() for parameter in base.parameters()) + 2 * 768 + 2
    layers = find_layers(base).layers
    lost = 0
    for groups, left in zip(zip(*(groups_of(i, one.parts) for i, one in enumerate(layers)), strict=True), (120, 30598),
                            strict=True):  # fmt: skip
        units = sum(group.units for group in groups)
        assert units - share_of(0.17, units) == left
        layer = layers[0].module
        each = sum(
            width * (layer.get_submodule(path).weight.shape[1 - dim] + (dim == 0))
            for path, dim, width in groups[0].maps()
        )
        lost += share_of(0.17, units) * each
    assert total - lost == 93_957_768


# --- a training ----------------------------------------------------------------------------------


def test_pruning_and_masking_nothing_is_full_fine_tuning():
    found = []
    for schedule in (None, Recap(prune=0.0, mask=0.0, rounds=3)):
        model, tuned, rows, collate = fresh(WHOLE, EVERY, schedule)
        train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
        tuned.check()
        found.append(weights_of(model))
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6, rtol=0) for name in found[0])


class Look(Watch):
    """Sees, after every step, the shapes of what trains, what the optimizer keeps, and the learning rate."""

    def __init__(self, model, stop=None):
        super().__init__(stop)
        self.model, self.shapes, self.kept, self.rates = model, [], [], []

    def after_step(self, step):
        self.shapes.append({name: tuple(p.shape) for name, p in self.model.named_parameters()})
        names = {p: name for name, p in self.model.named_parameters()}
        self.kept.append({names[p]: tuple(s["exp_avg"].shape) for p, s in self.optimizer.state.items() if s})
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        super().after_step(step)


def sizes(shapes, *parts):
    """How many rows (or, of the last two maps, columns) of the layers' maps a step trains."""
    dims = {"query.weight": 0, "key.weight": 0, "value.weight": 0, "attention.output.dense.weight": 1}
    dims |= {"intermediate.dense.weight": 0}
    found = 0
    for name, shape in shapes.items():
        for part, dim in dims.items():
            if name.endswith(part) and part in parts:
                found += shape[dim]
        if name.endswith("output.dense.weight") and "attention" not in name and "mlp" in parts:
            found += shape[1]
    return found


def test_a_working_copy_trains_and_what_is_masked_or_removed_stays():
    model, tuned, rows, collate = fresh(WHOLE, EVERY, SMALL)
    before = weights_of(model)
    look = Look(model)
    train(model, rows, collate, SETTINGS, None, followers=(*tuned.followers, look))
    tuned.check()
    # 16 heads of 8, 256 MLP units: 12 and 192 run; of these rows and columns half train
    attention = ("query.weight", "key.weight", "value.weight", "attention.output.dense.weight")
    for shapes, kept in zip(look.shapes, look.kept, strict=True):
        assert sizes(shapes, *attention) == 12 * 8 * 4 // 2
        assert sizes(shapes, "intermediate.dense.weight", "mlp") == 192 * 2 // 2
        assert all(kept[name] == shape for name, shape in shapes.items() if name in kept)
    assert look.rates == pytest.approx([1e-2 * share for _ in range(3) for share in (1, 0.75, 0.5, 0.25)])
    assert {name: p.shape for name, p in model.named_parameters()} == {n: before[n].shape for n in tuned.trainable}
    for layer in tuned.stack.layers:
        inner = layer.module.intermediate.dense, layer.module.output.dense
        gone = (inner[0].weight == 0).all(1)
        assert torch.equal(gone, (inner[1].weight == 0).all(0)) and (inner[0].bias[gone] == 0).all()
    assert sum(int((one.module.intermediate.dense.weight == 0).all(1).sum()) for one in tuned.stack.layers) == 64
    assert not any("forward" in vars(module) for module in model.modules())


def test_what_is_removed_is_there_again_in_the_full_model():
    model, tuned, rows, collate = fresh(WHOLE, EVERY, Recap(0.25, 0.5, rounds=1, batches=2, result="full"))
    before = weights_of(model)
    train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
    tuned.check()
    rows_changed, columns_changed = 0, 0
    for layer in tuned.stack.layers:
        path = f"base.{layer.path}"
        first, last = f"{path}.intermediate.dense.weight", f"{path}.output.dense.weight"
        now = weights_of(model)
        rows_changed += int((now[first] != before[first]).any(1).sum())
        columns_changed += int((now[last] != before[last]).any(0).sum())
        assert not (now[first] == 0).all(1).any()
    assert rows_changed + columns_changed == 192, "half of twice 192 rows and columns, in one round"


def test_the_pruned_copy_is_what_ran(monkeypatch):
    """The small maps give what the whole model gives with zeros, also as it is judged in between."""
    seen = []
    model, tuned, rows, collate = fresh(WHOLE, EVERY, SMALL)

    class Both(Watch):
        def after_step(self, step):
            model.eval()
            batch = collate(rows[:5])
            with torch.no_grad():
                small = model(**batch).logits
                tuned.followers[0].pause()
                seen.append((small, model(**batch).logits))
            model.train()

    train(model, rows, collate, SETTINGS, None, followers=(*tuned.followers, Both()))
    assert len(seen) == 12
    assert all(torch.allclose(small, whole, atol=1e-4) for small, whole in seen)


@pytest.mark.parametrize("result", often(["pruned", "full"], ["pruned"]))
def test_stopped_and_resumed_ends_byte_for_byte_the_same(tmp_path, result):
    schedule = Recap(0.25, 0.5, rounds=4, substeps=2, batches=2, result=result)

    def go_on(folder, stop=None):
        model, tuned, rows, collate = fresh(WHOLE, EVERY, schedule)
        train(model, rows, collate, SETTINGS, folder, followers=(*tuned.followers, Watch(stop)))
        tuned.check()
        return tensor_hashes(model.state_dict().items())

    once = go_on(tmp_path / "once")
    with pytest.raises(KeyboardInterrupt):
        go_on(tmp_path / "twice", stop=8)  # after 6 steps there is a checkpoint, before a round of steps 6 to 8
    torch.rand(9)
    assert go_on(tmp_path / "twice") == once
    one, other = (load_checkpoint(checkpoints(tmp_path / name)[-1]) for name in ("once", "twice"))
    for name, slots in one.optimizer.items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(other.optimizer[name][k])) for k, v in slots.items())
        assert slots["exp_avg"].shape == one.parameters[name].shape, "the whole model, and whole moments"
    kept = one.followers["schedule"]
    assert all(torch.equal(value, other.followers["schedule"][name]) for name, value in kept.items())


@pytest.mark.slow
def test_stopped_in_the_midst_of_a_round(tmp_path):
    schedule = Recap(0.25, 0.5, rounds=2, batches=2)  # rounds of 9 steps, checkpoints after 6 and 12
    settings = TrainSettings(epochs=3, learning_rate=1e-2, batch_size=4, seed=3)

    def go_on(folder, stop=None):
        model, tuned, rows, collate = fresh(WHOLE, EVERY, schedule)
        train(model, rows, collate, settings, folder, followers=(*tuned.followers, Watch(stop)))
        return tensor_hashes(model.state_dict().items())

    once = go_on(tmp_path / "once")
    for stop in (7, 13):
        with pytest.raises(KeyboardInterrupt):
            go_on(tmp_path / "twice", stop=stop)
    assert go_on(tmp_path / "twice") == once


@pytest.mark.parametrize("others", [(wt.SlimFit(0.5), SMALL), (SMALL, wt.SlimFit(0.5)), (SMALL, Recap(0.25, rounds=3))])
def test_a_checkpoint_of_another_schedule_is_refused(tmp_path, others):
    for schedule, stop in zip(others, (8, None), strict=True):
        model, tuned, rows, collate = fresh(WHOLE, EVERY, schedule)
        kind, words = (KeyboardInterrupt, None) if stop else (TrainingError, "the checkpoint was written by")
        with pytest.raises(kind, match=words):
            train(model, rows, collate, SETTINGS, tmp_path, followers=(*tuned.followers, Watch(stop)))


def test_moments_of_what_did_not_train_fade_once_a_round():
    layer = torch.nn.Linear(3, 4, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters(), betas=(0.9, 0.999), weight_decay=0.0)
    layer(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    before = {slot: value.clone() for slot, value in optimizer.state[layer.weight].items()}
    one = CutMap("w", layer, 0, optimizer).weight
    one.trained = torch.tensor([1, 2])
    one.fade()
    state = optimizer.state[layer.weight]
    assert torch.equal(state["exp_avg"][[1, 2]], before["exp_avg"][[1, 2]])
    assert torch.allclose(state["exp_avg"][[0, 3]], 0.9 * before["exp_avg"][[0, 3]])
    assert torch.allclose(state["exp_avg_sq"][[0, 3]], 0.999 * before["exp_avg_sq"][[0, 3]])


def test_what_matters_least_is_found_as_a_slow_twin_finds_it():
    """Importances and row scores of one round, from plain backward passes over the same texts."""
    model, tuned, rows, collate = fresh(WHOLE, EVERY, SMALL)
    follower = tuned.followers[0]
    optimizer = torch.optim.AdamW(tuned.trainable.values(), lr=1e-3)
    loader = torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=collate)
    follower.begin(Training(9, optimizer, loader, 4))
    found = follower._looked_at(0, follower._importances)
    scored = follower._looked_at(0, follower._row_scores)
    model.eval()
    heads, units, rows_ = torch.zeros(4), torch.zeros(64), torch.zeros(64)
    layer = tuned.stack.layers[2].module
    for batch in follower._batches(0):
        model.zero_grad()
        model(**batch).loss.backward()
        own = layer.attention.self
        for linear in (own.query, own.key, own.value):
            for head in range(4):
                part = slice(8 * head, 8 * head + 8)
                for p in (linear.weight, linear.bias):
                    heads[head] += ((p.grad[part] * p[part]) ** 2).sum().item() / 7 / 2
        out = layer.attention.output.dense.weight
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            heads[head] += ((out.grad[:, part] * out[:, part]) ** 2).sum().item() / 7 / 2
        first, last = layer.intermediate.dense, layer.output.dense.weight
        for unit in range(64):
            sums = [((first.weight.grad[unit] * first.weight[unit]) ** 2).sum()]
            sums += [(first.bias.grad[unit] * first.bias[unit]) ** 2, ((last.grad[:, unit] * last[:, unit]) ** 2).sum()]
            units[unit] += sum(sums).item() / 3 / 2
            rows_[unit] += (first.weight.grad[unit] ** 2).sum().item() / 2
    assert np.allclose(found[2, "attention"], heads, rtol=1e-4) and np.allclose(found[2, "mlp"], units, rtol=1e-4)
    name = next(name for name, p in tuned.trainable.items() if p is first.weight)
    assert np.allclose(scored[name], rows_, rtol=1e-4)


# --- in other trainings --------------------------------------------------------------------------


def test_in_an_unmodified_trainer_that_saves_and_accumulates(tmp_path):
    model, tuned, rows, collate = fresh(WHOLE, EVERY, SMALL)
    look = Look(model)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=7, per_device_train_batch_size=2, learning_rate=1e-2, report_to="none",
        save_strategy="steps", save_steps=2, disable_tqdm=True, gradient_accumulation_steps=2,
        remove_unused_columns=False, lr_scheduler_type="constant", use_cpu=True,
    )  # fmt: skip
    callback = wt.FollowerCallback((*tuned.followers, look))
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collate, callbacks=[callback])
    trainer.train()
    tuned.check()
    assert len(look.shapes) == 7 and sizes(look.shapes[-1], "intermediate.dense.weight", "mlp") == 192
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    now = weights_of(model)
    assert all(saved[name].shape == now[name].shape for name in saved), "what is saved is the whole model"


@pytest.mark.slow
def test_two_small_batches_are_one_large():
    found = []
    for size, accumulated in ((4, 1), (2, 2)):
        schedule = Recap(0.25, 0.5, rounds=2, batches=11)
        model, tuned, rows, collate = fresh(WHOLE, EVERY, schedule, texts=20, hidden_dropout_prob=0.0,
                                            attention_probs_dropout_prob=0.0)  # fmt: skip
        arguments = dict(batch_size=size, gradient_accumulation_steps=accumulated, learning_rate=1e-3, seed=3)
        settings = TrainSettings(epochs=1, warmup_ratio=0.0, optim="sgd", weight_decay=0.0, **arguments)
        train(model, [rows[0]] * 20, collate, settings, None, followers=tuned.followers)
        found.append(weights_of(model))
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-5) for name in found[0])


def test_the_best_of_what_is_judged_is_the_pruned_copy_as_it_was_judged():
    from wheretune.training.best import Judge

    model, tuned, rows, collate = fresh(WHOLE, EVERY, SMALL)
    values, kept = [], []

    def measure():
        kept.append(weights_of(model))
        values.append(-len(values))
        from wheretune.records.runs import Metric

        return [Metric("accuracy", float(values[-1]), 22, True)]

    settings = TrainSettings(epochs=2, learning_rate=1e-2, batch_size=4, seed=3, eval_strategy="epoch")
    train(model, rows, collate, settings, None, followers=tuned.followers, judge=Judge(measure, "accuracy", True))
    assert len(kept) == 2
    now = weights_of(model)
    assert all(torch.equal(now[name], kept[0][name]) for name in now), "the first was the best"


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_decoders_with_shared_heads_bear_it(family):
    base, _ = tiny_model(family)
    stack = find_layers(base)
    groups = [groups_of(layer.index, layer.parts) for layer in stack.layers]
    assert [group.units for group in groups[0]] == [2 if family == "qwen2" else 4, 64]
    assert len(groups[0][1].rows) == 2, "a gated MLP"
    assert dict((path, width) for path, _, width in groups[0][0].maps())["self_attn.q_proj"] == (
        16 if family == "qwen2" else 8
    )


# --- before a training ---------------------------------------------------------------------------


def test_what_it_costs():
    base, _ = tiny_model("bert")
    info = describe(find_layers(base))
    full = planning.plan(info, wt.Explicit(EVERY), tuner=WHOLE, tokens=8)
    plan = planning.plan(info, wt.Explicit(EVERY), schedule=Recap(0.25, 0.5), tokens=8)
    assert plan.tuner.params["embeddings"] is True
    one, other = full.cost.lines[0].flops, plan.cost.lines[1].flops
    assert other.forward == pytest.approx(0.75 * one.forward)
    assert other.weight_gradients == pytest.approx(0.75 * 0.5 * one.weight_gradients)
    masked = planning.plan(info, wt.Explicit(EVERY), schedule=Recap(0.25, 0.0), tokens=8)
    assert masked.cost.lines[1].speed_up == pytest.approx(1 / 0.75), "the ceiling of pruning alone"
    alone = plan.cost.expected_speed_up
    looked = planning.cost(plan, texts=2000, epochs=3, batch_size=16).expected_speed_up
    assert 1 / looked - 1 / alone == pytest.approx(6 * 2 * 10 * 16 / (2000 * 3)), "looking costs time"
    memory = plan.cost.lines[1].memory
    assert memory.activations < full.cost.lines[0].memory.activations
    assert memory.gradients < full.cost.lines[0].memory.gradients < memory.weights
    assert planning.cost(plan).lines == plan.cost.lines
    assert steps_per_layer(plan) == "37.5% of the layers' maps, in each step"


def test_what_it_cannot_serve_is_refused(run):
    with pytest.raises(ConfigError, match="trains the model's own weights, and lora trains others"):
        Recap().check(12, Spec("lora"))
    for wrong in ({"prune": 0.9}, {"mask": 1.0}, {"rounds": 0}, {"substeps": 0}, {"batches": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
            Recap(**wrong)
    with pytest.raises(ConfigError, match="has 6 rounds, and there are 5 steps"):
        Recap().init(12, range(12), {}, 5, 0)
    gpt2, _ = tiny_model("gpt2")
    with pytest.raises(ModelError, match="layer 0 has no maps of its own for queries"):
        planning.plan(describe(find_layers(gpt2)), wt.Explicit(EVERY), schedule=Recap())
    tuned = fresh(WHOLE, EVERY, SMALL)[1]
    with pytest.raises(TrainingError, match="texts of its own choice"):
        tuned.followers[0].begin(Training(9, torch.optim.AdamW(tuned.trainable.values())))
        tuned.followers[0].before_step(0)


def test_a_model_whose_attention_knows_its_width_by_heart_is_refused():
    """Its query map cannot be smaller: seen when the first copy is tried, and the weights are whole again then."""
    model, tuned, rows, collate = fresh(WHOLE, EVERY, SMALL)
    for layer in tuned.stack.layers:
        query = layer.module.attention.self.query
        query.register_forward_hook(lambda _, __, output: output.view(*output.shape[:-1], 4, 8).flatten(-2))
    shapes = {name: p.shape for name, p in model.named_parameters()}
    with pytest.raises(ModelError, match="BertModel does not run with fewer heads or narrower MLPs"):
        train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    assert not any("forward" in vars(module) for module in model.modules())


def test_its_first_set_is_shown_without_a_model(run):
    given = ("schedule", "--schedule", "recap", "--layers", 12, "--steps", 60, "--seed", 43)
    one_line(*run(*given, "--figure", "m.png")[::2], "--figure has no effect")
    code, out, err = run(*given, "--json")
    found = json.loads(out)
    span = found["spans"][0]
    assert code == 0 and (span["from"], span["to"], span["layers"]) == (0, 9, list(range(12)))
    assert span["copy"]["heads that run"] == {"taken": 120, "of": 144}
    assert span["copy"]["MLP units that run"] == {"taken": 30598, "of": 36864}
    assert "no more than the size of its first set" in err and "first set" in found["known"]
    code, out, _ = run(*given)
    assert code == 0 and "30,598" in out
