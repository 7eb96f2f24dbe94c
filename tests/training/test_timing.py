"""`wheretune cost --measure`: a few steps of the plan between a few of full fine-tuning."""

from dataclasses import replace

import pytest

import wheretune as wt
from helpers.texts import jsonl, rows_of
from wheretune.errors import ConfigError
from wheretune.model.opening import open_model
from wheretune.records.base import load, save
from wheretune.records.cost import Cost, Measured
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.runs import TrainSettings
from wheretune.training import timing
from wheretune.training.clock import TrainLog


def test_what_follows_from_the_seconds():
    found = Measured(full_step=2.0, step=0.5, making=10.0, cache="", steps=100, epochs=3, timed=8, machine="this one")
    assert found.steady == 4.0
    assert found.seconds == 3 * 100 * 0.5 + 10
    assert found.speed_up == pytest.approx(600 / 160)
    assert TrainLog(seconds=11.0, steps=6, first_step=1.0).step == 2.0


@pytest.fixture
def planned(tiny_folder, tmp_path):
    data = DataSpec(str(jsonl(tmp_path / "texts.jsonl", rows_of(90))))
    return wt.plan(open_model(ModelSpec(tiny_folder("bert"))).info, wt.Explicit((2, 3))), data


@pytest.mark.slow
def test_a_few_steps_of_both_are_timed_on_batches_of_the_training(planned, monkeypatch):
    plan, data = planned
    trained = []
    real = timing.train

    def train(model, rows, *rest, **more):
        layers = {
            i for i, layer in enumerate(model.stack.layers) if any(p.requires_grad for p in layer.module.parameters())
        }
        trained.append((layers, [row["row"] for row in rows]))
        return real(model, rows, *rest, **more)

    monkeypatch.setattr(timing, "train", train)
    settings = TrainSettings(epochs=3, batch_size=8)
    found = timing.time_steps(plan, data, settings=settings, steps=3)
    assert [layers for layers, _ in trained] == [{0, 1, 2, 3}, {2, 3}, {0, 1, 2, 3}]
    assert trained[0][1] == trained[1][1] == trained[2][1] and len(set(trained[0][1])) in range(26, 33)
    assert (found.steps, found.epochs, found.timed) == (12, 3, 3)
    assert found.full_step > 0 and found.step > 0 and found.making > 0
    again = timing.time_steps(plan, data, settings=replace(settings, epochs=1), steps=3)
    assert again.making == 0, "nothing is cached that is read once only"
    with pytest.raises(ConfigError, match="time 2 or more"):
        timing.time_steps(plan, data, steps=1)


@pytest.mark.slow
def test_cost_measures_where_it_is_asked(run, planned, tmp_path):
    plan, data = planned
    save(plan, tmp_path / "plan.json")
    arguments = ["cost", "--plan", str(tmp_path / "plan.json"), "--data", data.source, "--batch-size", "8"]
    assert "measured in" not in run(*arguments)[1]
    code, shown, _ = run(*arguments, "--measure", "--output", str(tmp_path / "cost.json"))
    assert code == 0 and "measured in 8 steps of each" in " ".join(shown.split())
    found = load(Cost, tmp_path / "cost.json").measured
    assert found is not None and found.steps == 12


def test_a_schedule_that_moves_is_not_timed_in_a_few_steps(planned):
    plan, data = planned[0], planned[1]
    moving = replace(plan, schedule=wt.Spec("lift"))
    with pytest.raises(ConfigError, match="the schedule lift moves, and a few steps do not show what it costs"):
        timing.time_steps(moving, data)
