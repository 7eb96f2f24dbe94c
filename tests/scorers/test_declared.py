"""What scorers declare of themselves, and what a scorer that trains says without training."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from wheretune import catalog
from wheretune.errors import ConfigError
from wheretune.heads.last_token import LastToken
from wheretune.records.base import Spec
from wheretune.scorers.base import Candidate, Card, GradientScorer, StackScorer, StreamScorer, TrainingScorer
from wheretune.scorers.layer_probe import OUTSIDE, LayerProbe
from wheretune.selectors.base import direction_of
from wheretune.tuners.adapter import Adapter

EVERY = [made() for made in catalog.every("scorer").values()]


@pytest.mark.parametrize("scorer", EVERY, ids=lambda scorer: scorer.name)
def test_what_is_declared_is_what_it_is(scorer):
    needs = set(scorer.card.needs)
    assert isinstance(scorer, StreamScorer) == ("states" in needs)
    assert isinstance(scorer, GradientScorer) == ("gradients" in needs)
    assert isinstance(scorer, TrainingScorer) == ("training" in needs)
    assert isinstance(scorer, StackScorer) == needs.isdisjoint({"states", "gradients", "training"})
    assert ("labels" in needs) == bool(needs & {"gradients", "training", "language-model"})
    assert (scorer.card.needs_in_words == "no texts") == needs.issubset({"weights"})


def test_directions():
    lowest = {scorer.name for scorer in EVERY if scorer.card.direction == "lowest"}
    assert lowest == {"cka", "io-cosine"}
    assert direction_of(Spec("cka", {"estimator": "debiased"})) == "lowest"
    assert direction_of(Spec("depth")) == "highest"
    assert direction_of(Spec("somebody-s-own")) == "highest"
    assert Card("f", "s", ("states",), "one pass", "highest").direction == "highest"


@pytest.mark.parametrize("needs", ["states", ("states", "coffee")])
def test_needs_that_are_not_known_are_refused(needs):
    with pytest.raises(ConfigError, match="language-model"):
        Card.__post_init__(SimpleNamespace(needs=needs))  # by itself: tests check its types before


# --- the layer probe ------------------------------------------------------------------------------


def candidate(layer, value, right=(), higher=True):
    return Candidate(layer, "accuracy", value, 4, 10, 1.0, right, higher)


def test_the_middle_third_is_tried_and_the_rest_left_out():
    probe = LayerProbe()
    assert probe.to_try(12, ()) == (4, 5, 6, 7)
    assert probe.to_try(12, [candidate(4, 0.5), candidate(6, 0.5)]) == (5, 7)
    rights = [(1, 0, 1, 1), (1, 1, 1, 1), (0, 0, 1, 0)]
    tried = [candidate(2 + i, np.mean(right), right) for i, right in enumerate(rights)]
    found = probe.finish(8, tried)
    np.testing.assert_array_equal(found.values[2:5], [0.75, 1.0, 0.25])
    assert set(found.excluded) == {0, 1, 5, 6, 7} and set(found.excluded.values()) == {OUTSIDE}
    np.testing.assert_allclose(found.covariance[2:5, 2:5], np.cov(np.array(rights), bias=True))
    assert found.covariance[0].sum() == 0
    assert probe.finish(8, [candidate(2, 0.3), *tried[1:]]).covariance is None
    assert probe.finish(3, [candidate(1, 0.3, higher=False)]).values[1] == -0.3
    with pytest.raises(ConfigError, match="no middle third"):
        probe.to_try(1, ())


def test_a_probe_holds_specs():
    probe = LayerProbe(tuner=Adapter(reduction=4))
    assert probe.tuner == Spec("adapter", {"reduction": 4, "place": "houlsby"}) and probe.head is None
    assert LayerProbe(head=LastToken(0.2)).head == Spec("last-token", {"dropout": 0.2})
    assert len({probe, LayerProbe(tuner=Adapter(reduction=4)), LayerProbe()}) == 2


@pytest.mark.parametrize("wrong", [{"samples": 3}, {"epochs": 0}, {"learning_rate": 0.0}, {"batch_size": 0}], ids=str)
def test_a_probe_that_cannot_train_is_refused(wrong):
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        LayerProbe(**wrong)


def test_a_scorer_of_another_package_needs_no_direction():
    @dataclass(frozen=True)
    class Theirs:
        name: ClassVar[str] = "theirs"
        card: ClassVar[Card] = Card("f", "s", (), "none", "highest")

        def score(self, stack):
            return None

    assert isinstance(Theirs(), StackScorer) and Theirs().card.direction == "highest"
