"""A prefix cache follows a schedule up: the same weights, nothing below runs twice, and a stop changes nothing."""

from dataclasses import replace

import pytest
import torch

import wheretune as wt
from helpers.often import often
from helpers.training import Watch, fresh
from wheretune.data.batches import spread
from wheretune.model.identity import tensor_hashes
from wheretune.records.runs import CacheSettings, TrainSettings
from wheretune.savings.prefix_cache.following import Rise, follow, rises
from wheretune.savings.together import saving
from wheretune.schedules.timetable import lowest_layers
from wheretune.training.loop import train

SETTINGS = TrainSettings(  # 24 steps; Adam makes steps of the rounding noise of key biases, unless its epsilon is large
    epochs=4, learning_rate=1e-2, batch_size=4, warmup_ratio=0.0, seed=3, trainer_args={"adam_epsilon": 1e-3}
)
EVERY = (0, 1, 2, 3)


def trained(schedule, folder, where, head=None, stop=None, settings=SETTINGS):
    """(weights, report, how often each layer ran in training) of a training with a cache."""
    model, tuned, rows, collate = fresh(wt.WholeLayers(), EVERY, schedule, head=head)
    ran = [0] * 4
    for layer in tuned.stack.layers:
        query = layer.module.attention.self.query  # a layer that is passed by does not come to it

        def count(module, args, index=layer.index):
            ran[index] += len(args[0])

        query.register_forward_pre_hook(count)
    lowest = lowest_layers(schedule, 4, EVERY, 24, 0)
    cache = CacheSettings(where)
    with saving(tuned.stack, "", rows, collate, settings, folder, cache, lowest) as report:
        ran[:] = [0] * 4
        followers = (*tuned.followers, *report.followers, Watch(stop))
        train(model, rows, collate, settings, folder, followers=followers)
    tuned.check()
    tuned.undo()
    assert not any("forward" in vars(module) for module in model.base.modules())
    assert not list(folder.glob("prefix-*"))
    return {name: value.clone() for name, value in model.state_dict().items()}, report, ran


@pytest.mark.parametrize("head", often([wt.LastToken(), wt.Concat()], [wt.Concat()]), ids=lambda one: one.name)
@pytest.mark.parametrize("where", often(["memory", "disk"], ["memory"]))
def test_the_weights_are_the_same_and_the_prefix_runs_once(tmp_path, where, head):
    plain, report, ran = trained(wt.Lift(), tmp_path / "a", "off", head)
    assert report.cache.where == "off" and ran == [88] * 4
    cached, report, ran = trained(wt.Lift(), tmp_path / "b", where, head)
    assert report.cache.where == where and "in 4 stages" in report.cache.reason
    assert all(torch.allclose(plain[name], cached[name], atol=1e-4) for name in plain)
    # a layer runs in every step until it has trained, for one stage in the cache, and on some texts both ways
    few = len(spread([{"input_ids": [1]}] * 22))
    for layer, times in enumerate(ran):
        until = 22 * (layer + 1)
        assert until + (22 if layer < 3 else 0) <= times <= until + 22 + 2 * 3 * few, (layer, times)


@pytest.mark.slow
def test_stopped_and_resumed_ends_byte_for_byte_the_same(tmp_path):
    once = tensor_hashes(trained(wt.LiftStar(), tmp_path / "once", "memory")[0].items())
    with pytest.raises(KeyboardInterrupt):
        trained(wt.LiftStar(), tmp_path / "twice", "memory", stop=14)
    assert tensor_hashes(trained(wt.LiftStar(), tmp_path / "twice", "memory")[0].items()) == once


def test_a_schedule_that_goes_down_again_has_none_and_says_why(tmp_path):
    _, report, _ = trained(wt.Lisa(1, 2), tmp_path, "auto")
    assert report.cache.where == "off" and "the schedule trains the lowest layers now and then" in report.cache.reason


def test_what_rises():
    assert lowest_layers(wt.Lift(), 4, (1, 3), 5, 0) == [(1, 3), (3, 2)]
    assert rises([(1, 3), (3, 2)]) and not rises([(2, 5)]) and not rises([(0, 1), (2, 1), (1, 1)]) and not rises([])
    assert Rise.of([(1, 3), (3, 2)]) == Rise([1, 3], 9 / 5)


def test_auto_takes_what_pays_and_what_a_stopped_run_decided(tmp_path):
    from wheretune.savings.prefix_cache.job import CacheJob
    from wheretune.savings.prefix_cache.layout import Layout

    _, tuned, rows, collate = fresh(wt.WholeLayers(), EVERY, wt.Lift())
    job = CacheJob(tuned.stack, Layout(0, 4, 32), rows, collate, "fp32")
    rise = Rise.of(lowest_layers(wt.Lift(), 4, EVERY, 24, 0))
    report, follower = follow(job, rise, 2, CacheSettings(), tmp_path)
    assert report.where == "off" and "3 layers per text to make, 3.0 not to run in 2 epochs" in report.reason
    assert follower is None
    report, follower = follow(job, rise, 9, CacheSettings(), tmp_path)
    assert report.where == "off", "as it was decided"
    (tmp_path / "prefix-decided.json").unlink()
    report, follower = follow(job, rise, 9, CacheSettings(), tmp_path)
    assert report.where == "memory" and follower is not None
    report, _ = follow(job, rise, 9, CacheSettings("memory", limit=10), tmp_path)
    assert report.where == "off" and "may take in memory" in report.reason
    assert replace(report, where="off") == report
