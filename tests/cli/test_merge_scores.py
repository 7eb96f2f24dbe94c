"""`wheretune score --shard` and `wheretune merge-scores`."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from helpers.commands import one_line
from helpers.texts import jsonl, rows_of
from wheretune import catalog
from wheretune.scoring import shards


@pytest.mark.slow
def test_shards_merge_into_what_one_pass_gives(run, decoder, tmp_path):
    train = jsonl(tmp_path / "train.jsonl", rows_of(60))
    names = ",".join(name for name in catalog.every("scorer") if name != "layer-probe")
    common = ("score", "--model", decoder, "--train", train, "--scorer", names, "--batch-size", 8, "--overwrite")
    assert run(*common, "--output", tmp_path / "whole.json")[0] == 0
    parts = []
    for number in (3, 1, 2):
        parts.append(tmp_path / f"part-{number}")
        code, out, err = run(*common, "--shard", f"{number}/3", "--output", parts[-1])
        assert code == 0 and f"shard {number} of 3" in out, err
    code, out, err = run("merge-scores", *parts, "--output", tmp_path / "merged.json", "--compare")
    assert code == 0 and "who would choose what" in out, err
    every = [json.loads((tmp_path / name).read_text())["scores"] for name in ("whole.json", "merged.json")]
    for whole, merged in zip(*every, strict=True):
        assert whole["n_samples"] == merged["n_samples"] and whole["scorer"] == merged["scorer"]
        assert whole["tokens"] == merged["tokens"] and (whole["tokens"] is None) == (whole["n_samples"] == 0)
        values = [[layer["score"] for layer in one["layers"]] for one in (whole, merged)]
        assert [value is None for value in values[0]] == [value is None for value in values[1]]
        numbers = [[value for value in row if value is not None] for row in values]
        np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-6, err_msg=whole["scorer"]["name"])
        assert whole["choice"]["layers"] == merged["choice"]["layers"]
        assert whole["deviations"] is None or whole["deviations"]["counts"] == merged["deviations"]["counts"]
    one_line(*run("merge-scores", *parts[:2])[::2], "shard 2 of 3 is missing", "shard 2/3")
    one_line(*run("merge-scores", *parts, parts[0])[::2], "given twice")
    run("score", "--model", decoder, "--train", train, "--shard", "2/3", "--output", tmp_path / "other")
    one_line(*run("merge-scores", *parts[:2], tmp_path / "other")[::2], "different passes (scorers)")
    for option in (("--max-length", 3), ("--seed", 1), ("--verbalizer", "bad=plot,good=movie")):
        assert run(*common, *option, "--shard", "2/3", "--output", tmp_path / "other")[0] == 0
        one_line(*run("merge-scores", *parts[:2], tmp_path / "other")[::2], "(how the data is read)")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: [1],
        lambda content: None,
        lambda content: {key: value for key, value in content.items() if key != "n_samples"},
        lambda content: content | {"shard": "x"},
        lambda content: content | {"states": []},
        lambda content: content | {"states": [{"kind": "Path", "parts": {}}]},
        lambda content: content | {"states": [{"kind": "PairSums", "parts": {}}]},
        lambda content: content | {"n_samples": "many"},
        lambda content: content | {"model": content["model"] | {"layers": content["model"]["layers"][:2]}},
        lambda content: content | {"model": content["model"] | {"layers": [["x"]] * 4}},
        lambda content: content | {"scorers": [{"name": "layer-probe", "params": {}}]},
        lambda content: content | {"model": {"name": "x"}},
        lambda content: content | {"format": 99},
    ],
)
def test_a_damaged_shard_is_one_clear_line(run, tiny_folder, tmp_path, damage):
    train, path = jsonl(tmp_path / "t.jsonl", rows_of(20)), tmp_path / "part"
    assert run("score", "--model", tiny_folder("bert"), "--train", train, "--shard", "1/1", "--output", path)[0] == 0
    with safe_open(path, "pt") as file:
        content, tensors = json.loads(file.metadata()[shards.KEY]), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {shards.KEY: json.dumps(damage(content))})
    code, _, err = run("merge-scores", path, "--output", tmp_path / "s.json")
    one_line(code, err, str(path))
    assert not (tmp_path / "s.json").exists()
