"""Recipes are objects: methods that can be built and named, numbers as printed, and presets taken from them."""

import dataclasses
import json
import re

import pytest

from helpers.commands import one_line
from wheretune import catalog
from wheretune.errors import ConfigError
from wheretune.recipes.base import printed
from wheretune.recipes.cka_lora import DECODER, ENCODER
from wheretune.recipes.olft import OLFT, TASKS
from wheretune.recipes.presets import check_kind, presets
from wheretune.recipes.prism import PRISM
from wheretune.recipes.prism_journal import JOURNAL
from wheretune.recipes.salf import SALF
from wheretune.records.base import Spec
from wheretune.records.runs import TrainSettings
from wheretune.studies import methods

RECIPES = list(catalog.every("recipe").items())


@pytest.mark.parametrize(("name", "recipe"), RECIPES, ids=[name for name, _ in RECIPES])
def test_every_method_can_be_built_and_is_read_by_its_name(name, recipe):
    assert recipe.name == name and recipe.decided
    everything = (*recipe.study.rivals, *recipe.methods)
    for method in everything:
        methods.check(method)
        assert dataclasses.replace(methods.read(method.name), head=method.head) == method
    names = [method.name for method in everything]
    assert recipe.defaults["methods"] == ",".join(names) and len(set(names)) == len(names)
    assert recipe.study.reference in names
    TrainSettings(**recipe.study.settings)


def test_what_the_papers_choose():
    (prism,) = PRISM.methods
    assert (prism.scorer, prism.selector) == (Spec("cosine-centrality"), Spec("block-highest"))
    assert (prism.tuner, prism.head, PRISM.study.k) == (Spec("full"), Spec("last-token"), 3)
    assert {method.head for method in JOURNAL.methods} == {Spec("concat")} and JOURNAL.defaults["head"] == "concat"
    assert SALF.methods[0].selector == Spec("suffix") and SALF.causal
    assert DECODER.methods[0].tuner == Spec("lora", {"r": 128, "alpha": 128.0, "targets": "all-linear"})
    assert ENCODER.defaults | {"methods": ""} == {
        "methods": "", "reference": "lora:r=8:alpha=16", "head": "last-token", "ratio": "0.5",
        "learning_rates": "0.0005", "warmup_ratio": "0.06",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["lift", "lisa", "salf", "slimfit", "recap"])
def test_a_schedule_s_recipe_leaves_the_head_to_the_task(name):
    """A head of the recipe's own would be refused by every task but classification."""
    recipe = catalog.find("recipe", name)
    assert "head" not in recipe.defaults and not any(method.head for method in (*recipe.methods, *recipe.study.rivals))


def test_presets_are_taken_from_the_recipes():
    assert {name: preset.options for name, preset in presets().items()} == {
        "prism": {"scorer": "cosine-centrality", "select": "block-highest", "k": "3"},
        "salf": {"scorer": "semantic-deviation:variant=cosine", "select": "suffix"},
        "cka-encoder": {"scorer": "cka:estimator=biased", "select": "lowest", "ratio": "0.5"},
        "cka-decoder": {"scorer": "cka:estimator=biased", "select": "lowest", "ratio": "0.5"},
        "olft": {"scorer": "layer-probe", "select": "middle-best", "k": "1"},
    }


def test_a_recipe_for_the_other_kind_of_model_is_refused_and_the_right_one_named():
    check_kind(ENCODER, False, "recipe")
    check_kind(PRISM, True, "preset")
    with pytest.raises(ConfigError, match=r"recipe cka-lora-encoder is for encoders.*take cka-lora-decoder"):
        check_kind(ENCODER, True, "recipe")
    with pytest.raises(ConfigError, match=r"preset cka-decoder is for decoders.*take cka-encoder"):
        check_kind(DECODER, False, "preset")
    with pytest.raises(ConfigError, match=r"preset salf is for decoders.*take another preset"):
        check_kind(SALF, False, "preset")


def test_olft_s_averages_are_those_of_its_rows():
    """A slip in copying would show: the paper's last column is the mean of the eight before it (it rounds down)."""
    for row in OLFT.printed[0].rows:
        numbers = [float(cell.split()[0]) for cell in row[2:]]
        assert len(numbers) == len(TASKS)
        assert sum(numbers[:-1]) / 8 == pytest.approx(numbers[-1], abs=0.16), row[:2]


@pytest.mark.parametrize(("recipe", "off"), [(PRISM, 0.11), (JOURNAL, 0.11), (SALF, 0.002)], ids=["P", "T", "S"])
def test_averages_are_those_of_their_rows(recipe, off):
    """A slip in copying would show in the average."""
    rows = [row for table in recipe.printed if table.columns[-1] == "Avg." for row in table.rows]
    assert len(rows) > 20
    for row in rows:
        numbers = [float(cell.split()[0]) for cell in row if re.match(r"\d", cell)]
        assert sum(numbers[:-1]) / len(numbers[:-1]) == pytest.approx(numbers[-1], abs=off), row


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="table 9"):
        printed("table 9", "a | b\n1 | 2 | 3")


@pytest.mark.slow
def test_compare_by_recipe(run, files, tiny_folder, tmp_path):
    data = ("--train", files["train"], "--test", files["test"], "--epochs", 1, "--seeds", 0)
    common = ("compare", *data, "--output", tmp_path / "c", "--recipe")
    code, out, err = run(*common, "cka-lora-encoder", "--model", tiny_folder("bert"))
    assert code == 0, err
    spec = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert spec["k"] == 2 and spec["settings"]["warmup_ratio"] == 0.06
    results = [json.loads(path.read_text()) for path in (tmp_path / "c").rglob("result.json")]
    assert sorted(len(one["spec"]["plan"]["layers"]) for one in results) == [2, 4]
    assert {one["spec"]["settings"]["learning_rate"] for one in results} == {5e-4}
    assert "to look at and not to match" in out and "2.5 points" in " ".join(out.split())
    one_line(*run(*common, "cka-lora-encoder", "--model", tiny_folder("gpt2"))[::2], "is for encoders")
    one_line(*run(*common, "cka-lora-encoders", "--model", tiny_folder("bert"))[::2], "did you mean cka-lora-encoder")


@pytest.mark.slow
def test_olft_end_to_end(run, files, tiny_folder, tmp_path):
    code, out, err = run(
        "compare", "--model", tiny_folder("gpt2"), "--train", files["train"], "--test", files["test"], "--recipe",
        "olft", "--epochs", 1, "--seeds", 0, "--batch-size", 16, "--output", tmp_path / "c", "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    lines = {line["method"]: line for line in found["methods"]}
    for tuner in ("adapter", "prefix"):
        own = lines[f"layer-probe+middle-best:k=1+{tuner}"]
        assert own["layers"] == [[1]] and own["score_seconds"] > 0  # the middle third of four layers is layer 1
        assert lines[f"top:k=1+{tuner}"]["layers"] == [[3]] and lines[tuner]["layers"] == [[0, 1, 2, 3]]
        assert own["trainable_parameters"] == lines[f"top:k=1+{tuner}"]["trainable_parameters"]
    assert found["printed_in_the_paper"][1]["rows"][0][-1] == "77.1"
