"""Training: what the Trainer is told, and that a stopped run ends where an uninterrupted one does."""

import io
import pickletools

import pytest
import torch

import wheretune as wt
from helpers.models import tiny_model
from helpers.texts import sentences
from wheretune.data.batches import collator
from wheretune.data.tokens import encode
from wheretune.errors import ConfigError, TrainingError
from wheretune.heads.headed import HeadedModel
from wheretune.judging import predict
from wheretune.records.runs import TrainSettings, check_settings
from wheretune.training.checkpoints import checkpoints, load_checkpoint
from wheretune.training.loop import train

SETTINGS = TrainSettings(epochs=3, learning_rate=1e-3, batch_size=4, warmup_ratio=0.1, seed=3)


class Watch:
    """Sees the optimizer, and stops a training after a step."""

    name = "watch"

    def __init__(self, stop):
        self.stop = stop

    def begin(self, training):
        self.optimizer = training.optimizer

    def before_step(self, step):
        pass

    def penalty(self):
        return None

    def after_step(self, step):
        if step == self.stop:
            raise KeyboardInterrupt

    def end(self):
        pass

    def state(self):
        return {}

    def restore(self, state):
        pass


def fresh(head=None):
    base, tokenizer = tiny_model("bert")  # with dropout, so the generators' states matter
    data = wt.from_texts(sentences(22), [i % 2 for i in range(22)])
    model = HeadedModel(base, head or wt.LastToken(), 2, "classification", seed=0)
    scores = wt.score(base, tokenizer, data, wt.CosineCentrality())
    tuned = wt.apply(model, wt.plan(scores, wt.Explicit((1, 2))))
    return model, tuned, encode(data, tokenizer, 64), collator(tokenizer)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("epoch", [1, 2])
def test_stopped_and_resumed_ends_with_the_same_weights(tmp_path, epoch):
    model, _, rows, collate = fresh()
    log = train(model, rows, collate, SETTINGS, tmp_path / "once")
    assert log.steps == 18
    expected = weights(model)

    model, _, rows, collate = fresh()
    with pytest.raises(KeyboardInterrupt):
        train(model, rows, collate, SETTINGS, tmp_path / "twice", followers=[Watch(stop=6 * epoch + 1)])
    torch.rand(99)  # another process would have another state of the generator
    model, tuned, rows, collate = fresh()
    log = train(model, rows, collate, SETTINGS, tmp_path / "twice")
    assert log.steps == 18
    for name, value in weights(model).items():
        torch.testing.assert_close(value, expected[name], atol=0, rtol=0, msg=name)
    tuned.check()


def test_a_run_stopped_after_its_last_epoch_trains_no_more(tmp_path):
    model, _, rows, collate = fresh()
    train(model, rows, collate, SETTINGS, tmp_path)
    expected = weights(model)
    model, _, rows, collate = fresh()
    log = train(model, rows, collate, SETTINGS, tmp_path)
    assert log.steps == 18
    assert all(torch.equal(value, expected[name]) for name, value in weights(model).items())


def test_a_checkpoint_holds_what_trains_and_no_pickle(tmp_path):
    model, tuned, rows, collate = fresh()
    train(model, rows, collate, SETTINGS, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"state.safetensors", "state.json", "trainer_state.json"}
    for path in files:
        with pytest.raises(Exception):  # noqa: B017
            pickletools.dis(path.read_bytes(), out=io.StringIO())
    assert set(load_checkpoint(checkpoints(tmp_path)[-1]).parameters) == set(tuned.trainable)


def test_the_optimizer_is_that_of_the_papers():
    model, _, rows, collate = fresh()
    watch = Watch(stop=0)
    with pytest.raises(KeyboardInterrupt):
        train(model, rows, collate, SETTINGS, None, followers=[watch])
    kind, group = type(getattr(watch.optimizer, "optimizer", watch.optimizer)), watch.optimizer.param_groups[0]
    assert kind is torch.optim.AdamW and group["fused"]
    assert group["betas"] == (0.9, 0.99) and group["weight_decay"] == 0.01


def test_the_seconds_of_all_sittings_are_counted_and_saving_is_not(tmp_path):
    ticks = iter(range(10**6))

    def now():  # a second passes between two looks at the clock
        return float(next(ticks))

    model, _, rows, collate = fresh()
    once = train(model, rows, collate, SETTINGS, tmp_path / "once", now=now)
    assert (once.seconds, once.first_step) == (3 * 1 + 1 + 1, 1.0)  # until each checkpoint, the first step, the end
    model, _, rows, collate = fresh()
    with pytest.raises(KeyboardInterrupt):
        train(model, rows, collate, SETTINGS, tmp_path / "twice", followers=[Watch(stop=7)], now=now)
    model, _, rows, collate = fresh()
    twice = train(model, rows, collate, SETTINGS, tmp_path / "twice", now=now)
    assert twice.seconds == once.seconds + 1, "each sitting has a first step; that of the lost steps does not count"


@pytest.mark.parametrize(
    ("option", "value"), [("epochs", 0), ("learning_rate", 0.0), ("batch_size", 0), ("warmup_ratio", 1.0), ("seed", -1)]
)
def test_settings_that_train_nothing(option, value):
    with pytest.raises(ConfigError, match=option.replace("_", "-")):
        check_settings(TrainSettings(**{option: value}))


def test_outputs_that_are_not_finite_are_an_error():
    model, _, rows, collate = fresh()
    with torch.no_grad():
        model.head[1].bias[0] = float("inf")
    with pytest.raises(TrainingError, match="diverged"):
        predict(model, rows, collate)
    with pytest.raises(ConfigError, match="batch-size is 0"):
        predict(model, rows, collate, batch_size=0)


def test_predictions_come_in_the_order_of_the_rows():
    model, _, rows, collate = fresh()
    model.train()
    together = predict(model, rows, collate, batch_size=8)
    assert model.training
    for row, logits in zip(rows, together, strict=True):
        alone = predict(model, [row], collate)
        torch.testing.assert_close(torch.tensor(alone[0]), torch.tensor(logits), atol=1e-5, rtol=1e-4)
