"""A comparison on a tiny model: opened once, resumed, grown, and what fails is kept and tried again."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest

from helpers.texts import jsonl, rows_of
from wheretune import session as sessions
from wheretune.errors import OutputError, WheretuneError
from wheretune.model import opening
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.records.model import ModelSpec
from wheretune.records.runs import RunResult, TrainSettings, load_result
from wheretune.records.scores import load_scores
from wheretune.studies import methods
from wheretune.studies.grid import Comparison, Job
from wheretune.studies.running import OWNED, Work, compare
from wheretune.studies.statistics import lines


@pytest.fixture
def what(files, tiny_folder):
    return Comparison(
        model=ModelSpec(tiny_folder("bert")),
        train=DataSpec(files["train"]),
        validation=DataSpec(files["validation"]),
        test=DataSpec(files["test"]),
        methods=methods.read_all("full,prism,top,head-only"),
        k=2,
        seeds=(0, 1),
        learning_rates=(1e-3, 1e-4),
        settings=TrainSettings(epochs=1, batch_size=8),
    )


def results_in(folder):
    return sorted(folder.glob("runs/*/*/*/result.json"))


@pytest.mark.slow
def test_model_and_files_are_opened_once_and_scorers_share_a_pass(what, tmp_path, monkeypatch):
    opened, read = [], []
    open_model, load_data = opening.open_model, sessions.load_data
    monkeypatch.setattr(opening, "open_model", lambda spec, **how: opened.append(spec) or open_model(spec, **how))
    monkeypatch.setattr(
        sessions, "load_data", lambda spec, **given: read.append(spec.source) or load_data(spec, **given)
    )
    names = "full,prism,io-cosine,block-lowest,cka+lora,layer-probe+middle-best:k=1+bias"
    made = compare(
        dataclasses.replace(what, methods=methods.read_all(names), learning_rates=(1e-3,)), tmp_path / "compared"
    )
    assert len(opened) == 1
    assert sorted(read) == sorted([what.train.source, what.validation.source, what.test.source])
    scores = load_scores(tmp_path / "compared" / "scores.json")
    assert [one.scorer.name for one in scores] == ["cosine-centrality", "io-cosine", "cka", "layer-probe"]
    assert {one.reading.batch_size for one in scores} == {16} and scores[3].scorer.params["tuner"] == Spec("bias")
    seconds = {row.method: row.score_seconds for row in made.rows}
    assert seconds["full"] == 0 and seconds["prism"] == seconds["block-lowest"] == scores[0].seconds > 0


@pytest.mark.slow  # five comparisons; the tests below run one each time
def test_runs_what_is_missing_and_no_more(what, tmp_path):
    folder = tmp_path / "compared"
    first = compare(what, folder)
    assert {path.name for path in folder.iterdir()} == set(OWNED) - {"probe"}
    found = results_in(folder)
    assert len(found) == 4 * 3  # two rates with the first seed, the better one with the second
    for row in first.rows:
        tried = {
            rate: load_result(folder / f"runs/{row.method}/lr-{rate:g}/seed-0/result.json")
            .metrics["validation"][0]
            .value
            for rate in what.learning_rates
        }
        assert row.searched == tried and tried[row.learning_rate] == max(tried.values())
        assert all(one.predictions for one in row.results)
    sizes = {line.method: line.trainable_parameters for line in lines(first)}
    assert sizes["full"] > sizes["prism"] == sizes["top"] > sizes["head-only"]
    chosen = {line.method: line.layers for line in lines(first)}
    assert chosen["full"] == ((0, 1, 2, 3),) and chosen["top"] == ((2, 3),) and chosen["head-only"] == ((),)

    stamps = {path: path.stat().st_mtime_ns for path in found}
    found[0].unlink()
    again = compare(what, folder)
    assert [path for path in found if path.stat().st_mtime_ns != stamps[path]] == [found[0]]
    assert [line.mean for line in lines(again)] == [line.mean for line in lines(first)]

    with pytest.raises(OutputError, match=r"other settings \(k: "):
        compare(dataclasses.replace(what, k=1), folder)
    same = dataclasses.replace(what, k=None, ratio=0.5, reference="top")  # half of four layers is two
    assert [line.speed_up for line in lines(compare(same, folder))][2] == 1.0
    grown = dataclasses.replace(what, seeds=(0, 1, 2), methods=methods.read_all("prism,lowest"))
    assert [line.seeds for line in lines(compare(grown, folder))] == [3, 3]
    assert all(stamps[path] == path.stat().st_mtime_ns for path in found[1:])
    jsonl(Path(what.test.source), rows_of(13, 9))
    with pytest.raises(OutputError, match=r"other settings \(data"):
        compare(what, folder)


@pytest.mark.slow
def test_a_run_that_fails_keeps_its_traceback_and_is_tried_again(what, tmp_path):
    what = dataclasses.replace(what, learning_rates=(1e-3,), seeds=(0,))
    where = tmp_path / "compared/runs/top/lr-0.001/seed-0"
    where.mkdir(parents=True)
    (where / "run.json").write_text('{"spec": 1}')  # what another run left there
    failed = {row.method: row for row in compare(what, tmp_path / "compared").rows}
    assert list(failed["top"].failures) == [str(where)] and failed["top"].results == ()
    assert "OutputError" in failed["top"].failures[str(where)]
    assert "Traceback" in (where / "failed.txt").read_text()
    assert all(failed[name].results and not failed[name].failures for name in ("full", "prism", "head-only"))
    assert "| top | – | failed |" in (tmp_path / "compared/table.md").read_text()
    (where / "run.json").unlink()
    mended = {row.method: row for row in compare(what, tmp_path / "compared").rows}
    assert mended["top"].results and not mended["top"].failures and not (where / "failed.txt").exists()


def test_another_process_opens_its_own_model(what, tmp_path):
    what = dataclasses.replace(what, methods=methods.read_all("top"), learning_rates=(1e-3,))
    there = Work(what, {}, tmp_path)
    first = there(Job("top", 1e-3, 0))
    here = pickle.loads(pickle.dumps(there))
    assert here.session is not there.session and here.session.shared
    assert isinstance(first, RunResult) and here(Job("top", 1e-3, 0)) == first  # read back
    assert json.loads((tmp_path / "runs/top/lr-0.001/seed-0/result.json").read_text())["steps"] == first.steps


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": 9}, "k is 9"),
        ({"k": None, "ratio": 0.1}, "ratio"),
        ({"methods": "top:k=9"}, "k is 9"),
        ({"methods": "lora:targets=nowhere"}, "nowhere"),
        ({"metrics": ("acuracy",)}, "acuracy"),
        ({"head": Spec("concatt")}, "concatt"),
        ({"scorer": Spec("ckaa")}, "ckaa"),
        ({"executor": Spec("rai")}, "rai"),
        ({"test": DataSpec("nowhere.jsonl")}, "nowhere.jsonl"),
        ({"model": ModelSpec("./nowhere")}, "nowhere"),
        ({"train": 4096}, "4096"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(what, tmp_path, changes, words):
    if isinstance(changes.get("methods"), str):
        changes = {"methods": methods.read_all(changes["methods"])}
    if "train" in changes:
        changes = {"train": dataclasses.replace(what.train, max_length=changes["train"])}
    with pytest.raises(WheretuneError, match=words):
        compare(dataclasses.replace(what, **changes), tmp_path / "compared")
    assert not (tmp_path / "compared").exists()
