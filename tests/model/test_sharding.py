"""Tensors are written as safetensors writes them, however they lie."""

import torch
from safetensors.torch import load_file

from wheretune.model.sharding import write_tensors


def test_tensors_are_written_however_they_lie(tmp_path):
    tensors = {
        "turned": torch.randn(4, 7).T,
        "half": torch.randn(9, 2).bfloat16(),
        "empty": torch.empty(0, 3),
        "number": torch.tensor(3.5),
        "one, with a stride of zero": torch.tensor(3).expand(1),
        "stretched": torch.tensor(2.5).expand(3),
        "flags": torch.tensor([True, False]),
    }
    write_tensors(tensors, tmp_path / "tensors", {"format": "pt"})
    read = load_file(tmp_path / "tensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
