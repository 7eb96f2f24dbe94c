"""A training uses the device of its model and no other, and leaves the process as it was."""

import os
from contextlib import nullcontext

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from helpers.training import fresh
from wheretune.model import placement
from wheretune.records.runs import TrainSettings, WatchSettings
from wheretune.training.arguments import arguments
from wheretune.training.loop import train
from wheretune.training.one_device import NAMED, one_device

SETTINGS = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-3)


@pytest.fixture
def two_gpus(monkeypatch):
    """What torch says of a machine with two GPUs, as far as Trainer and accelerate ask before anything lies there."""
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr("accelerate.state.check_cuda_p2p_ib_support", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: taken.append(device) or nullcontext())
    return taken


@pytest.mark.parametrize("device", ["cuda:1", "cuda:0", "cpu"])
def test_trainer_and_accelerate_take_the_device_of_the_model(two_gpus, tmp_path, device):
    device = torch.device(device)
    with one_device(device):
        made = arguments(SETTINGS, WatchSettings(), tmp_path, device)
        assert made.device == device and PartialState().device == device
        assert made.n_gpu <= 1  # more would mean DataParallel over all that can be seen
        assert made.train_batch_size == 8
    assert two_gpus[:1] == ([device] if device.type == "cuda" else [])


def test_of_several_processes_each_keeps_its_own(two_gpus, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with one_device(torch.device("cuda:1")):
        assert NAMED not in os.environ and not two_gpus


@pytest.mark.slow
def test_what_the_user_had_set_is_there_again(monkeypatch):
    """The variable would put batches where the model is not; accelerate's state is that of a user's own Accelerator."""
    monkeypatch.setenv(NAMED, "meta")
    AcceleratorState._reset_state(reset_partial_state=True)
    mine = PartialState()
    assert mine.device.type == "meta"
    model, tuned, rows, collate = fresh()
    train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
    assert os.environ[NAMED] == "meta" and mine.device.type == "meta" and PartialState().device.type == "meta"
    mine._reset_state()
    monkeypatch.delenv(NAMED)
    model, tuned, rows, collate = fresh()
    train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
    assert NAMED not in os.environ and PartialState._shared_state == {}


def test_a_device_is_the_current_one_while_it_is_used(two_gpus):
    with placement.current(torch.device("cuda:1")), placement.current(torch.device("cpu")):
        assert two_gpus == [torch.device("cuda:1")]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_on_the_second_gpu_is_trained_there():
    device = torch.device("cuda:1")
    model, tuned, rows, collate = fresh()
    model.to(device)
    before = [torch.cuda.memory_allocated(0), torch.cuda.current_device()]
    train(model, rows, collate, SETTINGS, None, followers=tuned.followers)
    assert {one.device for one in model.parameters()} == {device}
    assert [torch.cuda.memory_allocated(0), torch.cuda.current_device()] == before
