"""Hashes of weights: those of the bytes as fp32, however many numbers are copied at a time."""

import hashlib

import pytest
import torch

from wheretune.model import identity

TENSORS = {
    "matrix": torch.randn(3, 5),
    "turned": torch.randn(4, 7).T,
    "half": torch.randn(9, 2).bfloat16(),
    "empty": torch.empty(0, 3),
    "number": torch.tensor(3.5),
    "whole": torch.arange(7),
    "flags": torch.tensor([True, False]),
}


@pytest.mark.parametrize("as_fp32", [False, True])
def test_a_hash_is_that_of_the_bytes_whatever_is_copied_at_a_time(monkeypatch, as_fp32):
    def whole(tensor):
        tensor = tensor.float() if as_fp32 and tensor.is_floating_point() else tensor
        return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()

    expected = {name: whole(tensor) for name, tensor in TENSORS.items()}
    for part in (4, 2**20):
        monkeypatch.setattr(identity, "PART", part)
        assert identity.tensor_hashes(TENSORS.items(), as_fp32=as_fp32) == expected


def test_one_number_that_lies_with_a_stride_of_zero():
    tensors = {"one": torch.tensor(3).expand(1), "other": torch.tensor([[3]])}
    one, other = identity.tensor_hashes(tensors.items()).values()
    assert one == other == hashlib.sha256((3).to_bytes(8, "little")).hexdigest()
