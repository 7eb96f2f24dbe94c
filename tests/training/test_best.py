"""The weights that did best in training are kept, and training stops where nothing becomes better; stopped or not."""

from itertools import product

import pytest
import torch

from helpers.often import often
from helpers.training import Watch, fresh
from wheretune.records.runs import Metric, TrainSettings, WatchSettings
from wheretune.training.best import Judge
from wheretune.training.loop import train

SETTINGS = TrainSettings(epochs=4, learning_rate=1e-3, batch_size=4, seed=3, eval_strategy="epoch")  # 6 steps an epoch


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class Scripted:
    """Says what it is told to, and remembers the weights that it was asked about."""

    def __init__(self, model, *values):
        self.model, self.values, self.seen = model, list(values), []

    def __call__(self):
        self.seen.append(weights(self.model))
        return [Metric("accuracy", self.values[len(self.seen) - 1], 9)]


JUDGED = [
    ((0.1, 0.4, 0.4, 0.2), True, None, 24, 2),
    ((0.1, 0.4, 0.4, 0.2), False, None, 24, 1),
    ((0.5, 0.4, 0.3, 0.9), True, 2, 18, 1),
    ((0.1, 0.4, 0.3, 0.9), True, 2, 24, 4),
]


@pytest.mark.parametrize(
    ("judged", "folder"), often(product(JUDGED, (True, False)), lambda judged, folder: folder == (judged[3] == 24))
)
def test_the_best_weights_are_kept(tmp_path, folder, judged):
    values, higher, patience, steps, best = judged
    model, _, rows, collate = fresh(layers=(1, 2))
    measure = Scripted(model, *values)
    judge = Judge(measure, "accuracy", higher, patience)
    log = train(model, rows, collate, SETTINGS, tmp_path if folder else None, judge=judge)
    assert (log.steps, log.best) == (steps, (6 * best, values[best - 1]))
    for name, value in weights(model).items():
        torch.testing.assert_close(value, measure.seen[best - 1][name], atol=0, rtol=0)


@pytest.mark.parametrize("stop", often([8, 17, None], [17]))
def test_a_stopped_run_keeps_the_same_weights(tmp_path, stop):
    values = (0.1, 0.4, 0.3, 0.2)
    model, _, rows, collate = fresh(layers=(1, 2))
    once = train(model, rows, collate, SETTINGS, None, judge=Judge(Scripted(model, *values), "accuracy", True, 2))
    expected = weights(model)
    model, _, rows, collate = fresh(layers=(1, 2))
    judge = Judge(Scripted(model, *values), "accuracy", True, 2)
    if stop is None:  # it had ended, and was killed before its result was written
        train(model, rows, collate, SETTINGS, tmp_path, judge=judge)
    else:
        with pytest.raises(KeyboardInterrupt):
            train(model, rows, collate, SETTINGS, tmp_path, followers=[Watch(stop=stop)], judge=judge)
    done = 4 if stop is None else stop // 6
    model, _, rows, collate = fresh(layers=(1, 2))
    log = train(
        model, rows, collate, SETTINGS, tmp_path, judge=Judge(Scripted(model, *values[done:]), "accuracy", True, 2)
    )
    assert (log.steps, log.best) == (once.steps, once.best) == (24, (12, 0.4))
    for name, value in weights(model).items():
        torch.testing.assert_close(value, expected[name], atol=0, rtol=0)


WITHIN = [("adamw_torch_fused", None), ("adafactor", None), ("sgd", None), ("sgd", 88)]


@pytest.mark.parametrize(("optim", "tokens"), often(WITHIN, [("sgd", 88)]))
def test_a_checkpoint_within_an_epoch_goes_on_the_same(tmp_path, optim, tokens):
    settings = TrainSettings(
        epochs=2, learning_rate=1e-3, batch_size=4, optim=optim, gradient_accumulation_steps=2, tokens_per_batch=tokens
    )
    watch = WatchSettings(save_strategy="steps", save_steps=2, save_total_limit=2)
    model, _, rows, collate = fresh(layers=(1, 2))
    train(model, rows, collate, settings, None)
    expected = weights(model)
    model, _, rows, collate = fresh(layers=(1, 2))
    with pytest.raises(KeyboardInterrupt):
        train(model, rows, collate, settings, tmp_path, followers=[Watch(stop=4)], watch=watch)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    torch.rand(9)
    model, _, rows, collate = fresh(layers=(1, 2))
    assert train(model, rows, collate, settings, tmp_path, watch=watch).steps == 6
    for name, value in weights(model).items():
        torch.testing.assert_close(value, expected[name], atol=0, rtol=0, msg=name)
