"""What the tests of the command line share."""

from pathlib import Path

import pytest
import torch
from transformers import AlbertConfig, AlbertModel, AutoModelForCausalLM

from helpers.models import tiny_model


@pytest.fixture(scope="session")
def first_scores() -> Path:
    """Scores that wheretune 0.1.0 wrote, of a model of two layers: a plan of them opens no model."""
    return Path(__file__).parents[1] / "fixtures" / "first_house" / "cosine-centrality.json"


@pytest.fixture
def decoder(tiny_folder):
    return tiny_folder("gpt2", kind=AutoModelForCausalLM)


@pytest.fixture(scope="session")
def made_once() -> dict[str, bytes]:
    """Files that a test makes and later ones take over."""
    return {}


@pytest.fixture
def scored(run, files, tiny_folder, tmp_path, made_once):
    path = tmp_path / "scores.json"
    if "scores" not in made_once:
        run("score", "--model", tiny_folder("bert"), "--train", files["train"], "--output", path)
        made_once["scores"] = path.read_bytes()
    path.write_bytes(made_once["scores"])
    return path


@pytest.fixture(scope="session")
def odd_models(tmp_path_factory):
    """A model that shares its layers, and one whose layer 2 puts out an infinite number."""
    folder = tmp_path_factory.mktemp("odd")
    model, tokenizer = tiny_model("bert")
    config = AlbertConfig(vocab_size=len(tokenizer), embedding_size=8, hidden_size=32, num_hidden_layers=3,
                          num_attention_heads=4, intermediate_size=64)  # fmt: skip
    AlbertModel(config).save_pretrained(folder / "albert")
    with torch.no_grad():
        model.encoder.layer[2].output.dense.bias[3] = float("inf")
    model.save_pretrained(folder / "broken")
    for name in ("albert", "broken"):
        tokenizer.save_pretrained(folder / name)
    return folder / "albert", folder / "broken"
