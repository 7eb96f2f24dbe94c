"""The states of the next batch are read while one trains: nothing changes but when, and no thread is left behind."""

import threading

import pytest
import torch
from transformers import TrainerCallback

import wheretune as wt
from helpers.training import Watch, fresh
from wheretune import catalog
from wheretune.records.base import Spec
from wheretune.records.runs import CacheSettings, TrainSettings
from wheretune.savings.prefix_cache.ahead import ReadAhead
from wheretune.savings.prefix_cache.store import InMemory, OnDisk
from wheretune.savings.together import saving
from wheretune.training.loop import train

A, B, C, D = ([bytes([number])] for number in range(4))


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefix-cache")]


class Slow:
    """Reads a batch when it is let, and notes which were asked for."""

    def __init__(self):
        self.asked, self.go = [], threading.Event()

    def __call__(self, keys):
        self.asked.append(keys)
        assert self.go.wait(10)
        if keys == D:
            raise OSError("the disk is gone")
        return torch.tensor(list(keys[0]))


def test_one_batch_is_read_ahead_and_no_more():
    read, ahead = Slow(), ReadAhead()
    ahead.announce(A)  # nobody reads yet
    ahead.begin(read)
    for keys in (A, B, C):
        ahead.announce(keys)
    assert read.asked == [A] and len(readers()) == 1
    read.go.set()
    for number, keys in enumerate((A, B, C)):
        assert ahead.take(keys).tolist() == [number]
        assert read.asked == [A, B, C][: number + 2]
    ahead.end()
    assert not readers()


def test_another_order_than_announced_is_read_by_whoever_asks():
    read, ahead = Slow(), ReadAhead()
    read.go.set()
    ahead.begin(read)
    for keys in (A, B, A, C):
        ahead.announce(keys)
    assert ahead.take(D) is None and ahead.take(B) is None  # one that nobody announced; one before its turn
    assert ahead.take(A).tolist() == [0] and ahead.take(C).tolist() == [2] and ahead.take(C) is None
    assert read.asked == [A, A, C]


def test_what_cannot_be_read_is_said_where_it_is_needed():
    read, ahead = Slow(), ReadAhead()
    read.go.set()
    ahead.begin(read)
    ahead.announce(D)
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.take(D)
    ahead.announce(D)
    ahead.announce(A)
    ahead.forget()  # and nobody is told what nobody needs
    ahead.announce(B)
    assert ahead.take(B).tolist() == [1]
    ahead.announce(C)
    ahead.end()
    assert ahead.take(C) is None and not readers()


class Epochs(TrainerCallback):
    """Counts the reading threads at the end of every epoch."""

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, *_, **__):
        self.seen.append(len(readers()))


def trained(folder, ahead, where="memory", stop=None, head=None, schedule=None, layers=(2, 3), **settings):
    model, tuned, rows, collate = fresh(
        head=head, layers=layers, schedule=schedule and catalog.build("schedule", Spec(schedule))
    )
    how = TrainSettings(learning_rate=1e-3, epochs=2, batch_size=4, **settings)
    lowest = ((1, 6), (2, 6)) if schedule else ()
    epochs = Epochs()
    with saving(tuned.stack, "0" * 64, rows, collate, how, folder, CacheSettings(where), lowest) as saved:
        assert saved.cache.where == where
        followers = (*tuned.followers, *saved.followers, Watch(stop))
        train(model, rows, saved.collate if ahead else collate, how, None, followers=followers, callbacks=[epochs])
    assert epochs.seen == [0, 0] and not readers()
    return {name: value.clone() for name, value in model.state_dict().items()}


CASES = {
    "memory": dict(),
    "disk": dict(where="disk"),
    "accumulated": dict(gradient_accumulation_steps=3),
    "all layers read": dict(head=wt.Concat()),
    "a budget of tokens": dict(tokens_per_batch=40),
    "follows": dict(schedule="lift", layers=(1, 2, 3)),
}
EVERY_TIME = ("disk", "accumulated")


@pytest.mark.parametrize("case", [pytest.param(n, marks=[] if n in EVERY_TIME else pytest.mark.slow) for n in CASES])
def test_weights_are_the_same_to_the_last_bit(tmp_path, monkeypatch, case):
    plain, taken, take = trained(tmp_path / "plain", False, **CASES[case]), [], ReadAhead.take
    monkeypatch.setattr(ReadAhead, "take", lambda *given: taken.append(take(*given)) or taken[-1])
    found = trained(tmp_path / "ahead", True, **CASES[case])
    assert all(torch.equal(value, found[name]) for name, value in plain.items())
    late = sum(states is None for states in taken)
    assert len(taken) > 12 and late == (11 if case == "follows" else 1)  # trying a cache out; and moving it, thrice


@pytest.mark.parametrize("kind", [InMemory, OnDisk])
def test_no_thread_outlives_a_training_that_is_stopped(tmp_path, monkeypatch, kind):
    where = "disk" if kind is OnDisk else "memory"
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "one", True, where, stop=3)
    assert not readers()
    read, calls = kind.read, []

    def fails(store, spans):
        calls.append(threading.current_thread().name)
        if len(calls) > 4:
            raise OSError("the disk is gone")
        return read(store, spans)

    monkeypatch.setattr(kind, "read", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        trained(tmp_path / "two", True, where)
    assert not readers() and len(calls) == 5 and calls[-1].startswith("prefix-cache")


def test_a_loader_with_processes_of_its_own_reads_nothing_ahead(tmp_path):
    _, tuned, rows, collate = fresh(layers=(2, 3))
    for workers, same in ((0, False), (2, True)):
        how = TrainSettings(learning_rate=1e-3, trainer_args={"dataloader_num_workers": workers})
        with saving(tuned.stack, "0" * 64, rows, collate, how, tmp_path, CacheSettings("memory")) as saved:
            assert (saved.collate is collate) is same
    with saving(tuned.stack, "0" * 64, rows, collate, how, tmp_path, CacheSettings("off")) as saved:
        assert saved.collate is collate
    assert not readers()
