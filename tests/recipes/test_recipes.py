"""Recipes are data: their methods exist, their numbers are the papers', and `compare --recipe` runs them."""

import json

import pytest

from helpers.commands import one_line
from wheretune import catalog
from wheretune.recipes.cka_lora import DECODER
from wheretune.recipes.olft import OLFT, TASKS
from wheretune.studies import methods


@pytest.mark.parametrize("recipe", catalog.every("recipe").values(), ids=str)
def test_every_choice_of_a_recipe_is_in_the_catalog(recipe):
    assert recipe.head in catalog.every("head") and recipe.schedule in catalog.every("schedule")
    for name in recipe.defaults["methods"].split(","):
        assert methods.method(name).tuner in [catalog.read("tuner", tuner) for tuner in recipe.tuners]
    own = methods.method(recipe.defaults["methods"].split(",")[-1])
    assert (own.scorer, own.selector) == (recipe.scorer, recipe.selector.split(":")[0])


def test_the_decoders_lora_is_the_paper_s():
    tuner = methods.method(DECODER.defaults["methods"].split(",")[0]).tuner
    assert (tuner.r, tuner.alpha, tuner.targets) == (128, 128, "all-linear")


def test_olft_s_averages_are_those_of_its_rows():
    """A slip in copying would show: the paper's last column is the mean of the eight before it (it rounds down)."""
    for row in OLFT.references[0].rows:
        numbers = [float(cell.split()[0]) for cell in row[2:]]
        assert len(numbers) == len(TASKS)
        assert sum(numbers[:-1]) / 8 == pytest.approx(numbers[-1], abs=0.16), row[:2]


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
