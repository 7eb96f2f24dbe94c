"""Runs and shards spread by an executor that stands in for a cluster: the files and scores of one after another."""

import dataclasses
import shutil

import pytest
import torch

from helpers.commands import one_line
from helpers.spreading import StandIn, left_in, unmeasured
from wheretune import catalog
from wheretune.errors import UnavailableError
from wheretune.records.base import Spec, to_json
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.runs import TrainSettings
from wheretune.records.scores import Reading
from wheretune.studies import methods, spreading
from wheretune.studies.grid import Comparison
from wheretune.studies.running import compare


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setitem(catalog.ROWS["executor"], "stand-in", "helpers.spreading:StandIn")


@pytest.fixture
def what(files, tiny_folder):
    return Comparison(
        model=ModelSpec(tiny_folder("bert")),
        train=DataSpec(files["train"]),
        test=DataSpec(files["test"]),
        methods=methods.read_all("prism,top"),
        k=1,
        seeds=(0, 1),
        settings=TrainSettings(epochs=1, batch_size=8),
    )


@pytest.mark.slow
def test_spread_runs_leave_the_files_of_runs_one_after_another(what, tmp_path):
    compare(what, tmp_path / "serial")
    made = compare(dataclasses.replace(what, executor=Spec("stand-in")), tmp_path / "spread")
    assert left_in(tmp_path / "spread") == left_in(tmp_path / "serial")
    asked = ["top, lr auto, seed 1", "top, lr auto, seed 0", "prism, lr auto, seed 1", "prism, lr auto, seed 0"]
    assert StandIn.log == [f"started in {tmp_path / 'spread'}", *asked, "ended"]
    again = compare(what, tmp_path / "spread")  # how runs are spread changes no run
    assert [row.results for row in again.rows] == [row.results for row in made.rows]


@pytest.mark.slow
def test_a_run_that_was_lost_is_a_failure_and_is_tried_again(what, tmp_path):
    folder = tmp_path / "compared"
    what = dataclasses.replace(what, executor=Spec("stand-in", {"lost": "top, lr auto, seed 1"}))
    rows = {row.method: row for row in compare(what, folder).rows}
    where = folder / "runs/top/lr-auto/seed-1"
    assert rows["top"].failures == {str(where): "the power failed"} and len(rows["top"].results) == 1
    assert (where / "failed.txt").read_text() == "the power failed\n" and not rows["prism"].failures
    rows = {row.method: row for row in compare(dataclasses.replace(what, executor=Spec("serial")), folder).rows}
    assert not rows["top"].failures and len(rows["top"].results) == 2 and not (where / "failed.txt").exists()


@pytest.mark.parametrize("name", ["serial", "stand-in"])
def test_shards_give_the_scores_of_one_pass(files, tiny_folder, name):
    from wheretune.pipeline import score

    given = (ModelSpec(tiny_folder("gpt2")), DataSpec(files["train"]))
    scorers = [Spec("cosine-centrality"), Spec("cka"), Spec("feature-variance")]
    whole = score(*given, scorers, Reading(batch_size=4))
    spread = spreading.score(*given, scorers, Reading(batch_size=4), 3, Spec(name))
    for one, other in zip(whole, spread, strict=True):
        assert other.n_samples == one.n_samples == 40
        assert list(other.values) == pytest.approx(list(one.values), rel=1e-6)
        assert other.scorer == one.scorer and other.reading == one.reading
        assert unmeasured(to_json(other.model)) == unmeasured(to_json(one.model))


def test_shards_that_were_read_before_are_not_read_again(run, files, tiny_folder, tmp_path, monkeypatch):
    model = tiny_folder("bert")
    given = ("score", "--model", model, "--train", files["train"], "--batch-size", 8, "--shards", 3)
    given = (*given, "--output", tmp_path / "s.json", "--on")
    code, _, err = run(*given, "stand-in:lost=shard 1 of 3")  # the last
    one_line(code, err, "shard 1 of 3 was not read: the power failed")
    kept = tmp_path / "s-unfinished"
    assert {path.name for path in kept.iterdir()} == {f"shard-{i}-of-3.safetensors" for i in (2, 3)}
    read = []
    call = spreading.Work.__call__
    monkeypatch.setattr(spreading.Work, "__call__", lambda self, shard: read.append(shard.number) or call(self, shard))
    others = (
        ((*given, "stand-in", "--pooling", "mean"), [3, 2, 1]),  # another pass
        ((*given, "stand-in"), [1]),
    )
    before = {path: path.read_bytes() for path in kept.iterdir()}
    for command, expected in others:
        for path, content in before.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        read.clear()
        code, _, err = run(*command, "--overwrite")
        assert (code, read) == (0, expected), err
        assert not kept.exists()
    assert "2 of 3 shards were read before" in err
    assert run(*given, "serial", "--output", tmp_path / "once.json")[0] == 0
    assert left_in(tmp_path)["s.json"] == left_in(tmp_path)["once.json"]


def test_shards_of_a_model_that_has_changed_since_are_read_again(files, tiny_folder, tmp_path):
    from transformers import AutoModel

    model = shutil.copytree(tiny_folder("bert"), tmp_path / "model")
    given = (ModelSpec(str(model)), DataSpec(files["train"]), [Spec("cosine-centrality")], Reading(batch_size=8), 3)
    with pytest.raises(UnavailableError, match="shard 1 of 3"):
        spreading.score(*given, Spec("stand-in", {"lost": "shard 1 of 3"}), kept=tmp_path / "kept")
    changed = AutoModel.from_pretrained(model)
    with torch.no_grad():
        next(iter(changed.encoder.layer[1].parameters())).mul_(2)
    changed.save_pretrained(model)
    found = spreading.score(*given, Spec("stand-in"), kept=tmp_path / "kept")
    assert StandIn.log[1:-1] == ["shard 1 of 3", "shard 3 of 3", "shard 2 of 3"]
    assert found[0].values.tolist() == spreading.score(*given, Spec("serial"))[0].values.tolist()


def test_score_in_shards_by_the_command_line(run, files, tiny_folder, tmp_path):
    given = ("score", "--model", tiny_folder("bert"), "--train", files["train"], "--batch-size", 8)
    run(*given, "--output", tmp_path / "one.json")
    code, _, err = run(*given, "--output", tmp_path / "two.json", "--on", "stand-in", "--shards", 2)
    assert code == 0, err
    assert StandIn.log == ["started in None", "shard 2 of 2", "shard 1 of 2", "ended"]
    code, _, _ = run("plan", tmp_path / "two.json", "--json", "--output", tmp_path / "p.json")
    assert code == 0
    one_line(*run(*given, "--on", "stand-in:lost=shard 2", "--shards", 2)[::2], "shard 2 of 2", "the power failed")
    one_line(*run(*given, "--shards", 99, "--output", tmp_path / "many.json")[::2], "--shards", "has no batch")
    assert not (tmp_path / "many-unfinished").exists()  # what is refused was not begun
    theirs = tmp_path / "three-unfinished" / "notes.txt"
    theirs.parent.mkdir()
    theirs.write_text("a folder of the user's")
    code, _, err = run(*given, "--output", tmp_path / "three.json", "--on", "stand-in", "--shards", 3)
    assert code == 0 and list(theirs.parent.iterdir()) == [theirs], err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--on", "stand-in"), ("--on", "--shards")),
        (("--runs-at-once", 2), ("--runs-at-once",)),
        (("--shards", 2, "--shard", "1/2"), ("--shard ", "--shards")),
        (("--shards", 2, "--until-settled"), ("--until-settled", "--shards")),
        (("--shards", 0), ("--shards is 0",)),
        (("--shards", 2, "--scorer", "layer-probe"), ("trains",)),
        (("--shards", 2, "--on", "rai"), ("--on", "'rai'", "did you mean ray?")),
        (("--shards", 2, "--on", "serial:8"), ("--on", "'8'")),
        (("--shards", 2, "--on", "stand-in", "--gpus-per-run", 1), ("--gpus-per-run", "--on stand-in")),
    ],
)
def test_what_does_not_go_together_is_said(run, files, tiny_folder, more, words):
    given = ("score", "--model", tiny_folder("bert"), "--train", files["train"])
    one_line(*run(*given, *more)[::2], *words)


def test_a_config_may_say_on(run, files, tiny_folder, tmp_path):
    config = tmp_path / "compare.yaml"  # YAML takes a bare `on` for true
    config.write_text(f"model: {tiny_folder('bert')}\ntrain: {files['train']}\ntest: {files['test']}\non: rai\n")
    one_line(*run("compare", "--config", config, "--output", tmp_path / "out")[::2], "--on", "'rai'")
