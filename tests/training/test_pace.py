"""What a schedule saves, measured: seconds per step by the lowest layer that trains."""

import pytest
from torch.optim import SGD

import wheretune as wt
from helpers.training import fresh
from wheretune.model.steps import Training
from wheretune.training.pace import Pace


class Ticks:
    """A clock that says what it is told."""

    def __init__(self, *times):
        self.times = list(times)

    def __call__(self):
        return self.times.pop(0)


def training(tuned):
    return Training(5, SGD(tuned.trainable.values(), lr=0.1))


def steps(pace, stack, lowest):
    for step, layer in enumerate(lowest):
        pace.before_step(step)
        for one in stack.layers:
            one.module.requires_grad_(one.index >= layer)
        pace.after_step(step)


def test_the_steps_of_the_lowest_layer_are_the_measure():
    _, tuned, *_ = fresh(wt.WholeLayers(), (0, 1, 2, 3))
    # warms up for 9 s, then two steps of 2 s from layer 0 up, and two of 1 s from layer 2 up
    pace = Pace(tuned.stack, Ticks(0, 20, 22, 30, 32, 40, 41, 50, 51))
    pace.begin(training(tuned))
    steps(pace, tuned.stack, [0, 0, 0, 2, 2])
    said = pace.saved(0.25)["cost saving"]
    assert said.startswith("0.250 of the backward pass") and "measured, 0.250 of the time" in said
    assert "1.5e+03 ms per step, 2e+03 ms while layer 0 is the lowest" in said
    again = Pace(tuned.stack)
    again.begin(training(tuned))
    again.restore(pace.state())
    assert again.saved(0.25) == pace.saved(0.25)


@pytest.mark.parametrize(("lowest", "times"), [([0, 0, 2], (0, 1, 2, 3, 4)), ([0, 0, 0], (0, 1, 2, 3, 4))])
def test_few_steps_are_said_to_be_few(lowest, times):
    _, tuned, *_ = fresh(wt.WholeLayers(), (0, 1, 2, 3))
    pace = Pace(tuned.stack, Ticks(*times))
    pace.begin(training(tuned))
    steps(pace, tuned.stack, lowest)
    assert "too few steps to measure it" in pace.saved(0.25)["cost saving"] and pace.saved(None) == {}
