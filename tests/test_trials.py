"""Candidates of a layer probe: tuned and judged on one opened model, and resumed after a stop."""

import json

import numpy as np
import pytest
import torch

import wheretune as wt
from helpers.models import tiny_model
from helpers.often import often
from helpers.scoring import opened_of
from helpers.texts import rows_of
from wheretune import trials
from wheretune.errors import ConfigError, DataError, OutputError
from wheretune.model.identity import tensor_hashes
from wheretune.records.base import Spec
from wheretune.records.scores import Reading
from wheretune.scorers.layer_probe import OUTSIDE
from wheretune.training import loop

QUICK = {"samples": 24, "epochs": 1, "batch_size": 8, "learning_rate": 1e-3}


def data_of(n=40, **more):
    return wt.load_data(wt.DataSpec("memory"), rows=rows_of(n, **more))


@pytest.mark.parametrize("tuner", often([wt.WholeLayers(), wt.LoRA(r=2)], [wt.LoRA(r=2)]), ids=lambda tuner: tuner.name)
def test_a_probe_tunes_and_judges_each_candidate_and_gives_the_model_back(tuner, tmp_path):
    model, tokenizer = tiny_model("bert", num_hidden_layers=6)
    opened, data = opened_of(model, tokenizer), data_of()
    before = tensor_hashes(model.state_dict().items())
    flags = [parameter.requires_grad for parameter in model.parameters()]
    probe = wt.LayerProbe(tuner=tuner, **QUICK)
    scores = trials.score(probe, opened, data, Reading(), tmp_path)
    assert tensor_hashes(model.state_dict().items()) == before
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [layer.index for layer in scores.layers if layer.excluded is None] == [2, 3]
    assert {layer.excluded for layer in scores.layers} == {None, OUTSIDE}
    assert scores.scorer == Spec.of(probe) and scores.n_samples == 12 and scores.reading.max_length == 64
    found = trials.candidates(tmp_path, probe)
    assert [one.layer for one in found] == [2, 3] and all(len(one.right) == one.n == 12 for one in found)
    for one in found:
        assert one.metric == "accuracy" and one.value == pytest.approx(np.mean(one.right))
        assert scores.layers[one.layer].score == one.value
    assert scores.covariance is not None and scores.seconds == pytest.approx(sum(one.seconds for one in found))
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"probe.json", "layer-2.json", "layer-3.json"}
    alone = trials.score(probe, opened_of(*tiny_model("bert", num_hidden_layers=6)), data, Reading())
    assert alone.values[2:4].tolist() == scores.values[2:4].tolist()  # each begins from the weights as they were


@pytest.mark.slow
def test_a_probe_goes_on_after_a_stop_and_reads_back_what_is_finished(tmp_path, monkeypatch):
    model, tokenizer = tiny_model("bert", num_hidden_layers=6)
    opened, data, probe = opened_of(model, tokenizer), data_of(), wt.LayerProbe(**QUICK)
    whole = trials.score(probe, opened, data, Reading(), tmp_path / "whole")
    trained = []
    real = loop.train

    def stopping(*given, **options):
        trained.append(given[5])
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(*given, **options)

    monkeypatch.setattr(loop, "train", stopping)
    before = tensor_hashes(model.state_dict().items())
    with pytest.raises(KeyboardInterrupt):
        trials.score(probe, opened, data, Reading(), tmp_path / "part")
    assert tensor_hashes(model.state_dict().items()) == before
    assert [one.layer for one in trials.candidates(tmp_path / "part", probe)] == [2]
    again = trials.score(probe, opened, data, Reading(), tmp_path / "part")
    assert [clock.description for clock in trained] == [f"tuning layer {layer} alone" for layer in (2, 3, 3)]
    assert again.values[2:4].tolist() == whole.values[2:4].tolist()
    trials.score(probe, opened, data, Reading(), tmp_path / "part")
    assert len(trained) == 3


def test_a_regression_is_judged_without_rights(tmp_path):
    model, tokenizer = tiny_model("bert", num_hidden_layers=3)
    scores = trials.score(
        wt.LayerProbe(**QUICK), opened_of(model, tokenizer), data_of(regression=True), Reading(), tmp_path
    )
    assert scores.covariance is None and scores.layers[1].score is not None


def test_what_cannot_be_tried_is_refused(tmp_path):
    opened, data = opened_of(*tiny_model("bert")), data_of()
    with pytest.raises(ConfigError, match="tunes no layer"):
        trials.score(wt.LayerProbe(tuner=wt.HeadOnly()), opened, data, Reading(), tmp_path)
    with pytest.raises(DataError, match="no labels to tune by"):
        trials.score(wt.LayerProbe(), opened, wt.from_texts(["good", "bad"]), Reading(), tmp_path)
    with pytest.raises(DataError, match="3 rows cannot be split"):
        trials.score(wt.LayerProbe(), opened, data_of(3), Reading(), tmp_path)
    with pytest.raises(ConfigError, match="no middle third"):
        trials.score(wt.LayerProbe(), opened_of(*tiny_model("bert", num_hidden_layers=1)), data, Reading(), tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_folder_of_other_data_and_a_damaged_candidate_are_refused(tmp_path):
    opened, probe = opened_of(*tiny_model("bert")), wt.LayerProbe(**QUICK)
    trials.score(probe, opened, data_of(), Reading(), tmp_path)
    with pytest.raises(OutputError, match=r"other settings \(data"):
        trials.score(probe, opened, data_of(seed=1), Reading(), tmp_path)
    (path,) = tmp_path.glob("*/layer-*.json")
    path.write_text(json.dumps({"layer": 1}))
    with pytest.raises(ConfigError, match="is not a valid candidate"):
        trials.candidates(tmp_path, probe)


def test_a_probe_that_was_not_told_how_tunes_as_the_plan_will():
    lora = Spec("lora", {"r": 2})
    assert trials.tuned_as(Spec("layer-probe"), lora) == Spec("layer-probe", {"tuner": lora})
    assert trials.tuned_as(Spec.of(wt.LayerProbe()), lora).params["tuner"] == lora
    told = Spec("layer-probe", {"tuner": Spec("adapter"), "epochs": 1})
    assert trials.tuned_as(told, lora) == told
    assert trials.tuned_as(Spec("layer-probe"), Spec("head-only")) == Spec("layer-probe")
    assert trials.tuned_as(Spec("cka"), lora) == Spec("cka")
    assert trials.trains(wt.LayerProbe()) and not trials.trains(wt.CKA())


def test_a_half_precision_model_is_probed_with_what_trains_in_full():
    model, tokenizer = tiny_model("bert", num_hidden_layers=3)
    model = model.to(torch.bfloat16)
    before = tensor_hashes(model.state_dict().items())
    scores = trials.score(wt.LayerProbe(**QUICK), opened_of(model, tokenizer), data_of(), Reading())
    assert scores.layers[1].score is not None and tensor_hashes(model.state_dict().items()) == before
