"""Training: what the Trainer is told, and that a stopped run ends where an uninterrupted one does."""

import io
import pickletools

import pytest
import torch

from helpers.often import often
from helpers.training import Watch, fresh
from wheretune.errors import ConfigError
from wheretune.records.runs import TrainSettings
from wheretune.training.checkpoints import checkpoints, load_checkpoint
from wheretune.training.clock import Clock
from wheretune.training.loop import train

SETTINGS = TrainSettings(epochs=3, learning_rate=1e-3, batch_size=4, warmup_ratio=0.1, seed=3)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("epoch", often([1, 2], [2]))
def test_stopped_and_resumed_ends_with_the_same_weights(tmp_path, epoch):
    model, _, rows, collate = fresh(layers=(1, 2))
    log = train(model, rows, collate, SETTINGS, tmp_path / "once")
    assert log.steps == 18
    expected = weights(model)

    model, _, rows, collate = fresh(layers=(1, 2))
    with pytest.raises(KeyboardInterrupt):
        train(model, rows, collate, SETTINGS, tmp_path / "twice", followers=[Watch(stop=6 * epoch + 1)])
    torch.rand(99)  # another process would have another state of the generator
    model, tuned, rows, collate = fresh(layers=(1, 2))
    log = train(model, rows, collate, SETTINGS, tmp_path / "twice")
    assert log.steps == 18
    for name, value in weights(model).items():
        torch.testing.assert_close(value, expected[name], atol=0, rtol=0, msg=name)
    tuned.check()


@pytest.mark.slow
def test_a_run_stopped_after_its_last_epoch_trains_no_more(tmp_path):
    model, _, rows, collate = fresh(layers=(1, 2))
    train(model, rows, collate, SETTINGS, tmp_path)
    expected = weights(model)
    model, _, rows, collate = fresh(layers=(1, 2))
    log = train(model, rows, collate, SETTINGS, tmp_path)
    assert log.steps == 18
    assert all(torch.equal(value, expected[name]) for name, value in weights(model).items())


def test_a_checkpoint_holds_what_trains_and_no_pickle(tmp_path):
    model, tuned, rows, collate = fresh(layers=(1, 2))
    train(model, rows, collate, SETTINGS, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"state.safetensors", "state.json", "trainer_state.json"}
    for path in files:
        with pytest.raises(Exception):  # noqa: B017
            pickletools.dis(path.read_bytes(), out=io.StringIO())
    assert set(load_checkpoint(checkpoints(tmp_path)[-1]).parameters) == set(tuned.trainable)


def test_the_optimizer_is_that_of_the_papers():
    model, _, rows, collate = fresh(layers=(1, 2))
    watch = Watch(stop=0)
    with pytest.raises(KeyboardInterrupt):
        train(model, rows, collate, SETTINGS, None, followers=[watch])
    kind, group = type(getattr(watch.optimizer, "optimizer", watch.optimizer)), watch.optimizer.param_groups[0]
    assert kind is torch.optim.AdamW and group["fused"]
    assert group["betas"] == (0.9, 0.99) and group["weight_decay"] == 0.01


@pytest.mark.slow
def test_the_seconds_of_all_sittings_are_counted_and_saving_is_not(tmp_path):
    ticks = iter(range(10**6))

    def now():  # a second passes between two looks at the clock
        return float(next(ticks))

    model, _, rows, collate = fresh(layers=(1, 2))
    once = train(model, rows, collate, SETTINGS, tmp_path / "once", clock=Clock("training", now))
    assert (once.seconds, once.first_step) == (3 * 1 + 1 + 1, 1.0)  # until each checkpoint, the first step, the end
    model, _, rows, collate = fresh(layers=(1, 2))
    with pytest.raises(KeyboardInterrupt):
        train(
            model, rows, collate, SETTINGS, tmp_path / "twice", followers=[Watch(stop=7)], clock=Clock("training", now)
        )
    model, _, rows, collate = fresh(layers=(1, 2))
    twice = train(model, rows, collate, SETTINGS, tmp_path / "twice", clock=Clock("training", now))
    assert twice.seconds == once.seconds + 1, "each sitting has a first step; that of the lost steps does not count"


@pytest.mark.parametrize(
    ("option", "value"), [("epochs", 0), ("learning_rate", 0.0), ("batch_size", 0), ("warmup_ratio", 1.0), ("seed", -1)]
)
def test_settings_that_train_nothing(option, value):
    with pytest.raises(ConfigError) as found:
        TrainSettings(**{option: value})
    assert found.value.field == option


def test_one_of_several_processes_that_cannot_find_the_others_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    model, _, rows, collate = fresh(layers=(1, 2))
    with pytest.raises(ConfigError, match="started as 2 processes that know nothing of one another"):
        train(model, rows, collate, SETTINGS, None)
