"""CKA from sums: its values on made-up states, and what has none."""

import logging

import numpy as np
import pytest
import torch

import wheretune as wt
from helpers.models import tiny_model
from helpers.texts import sentences
from reference import scorers as twin
from wheretune.errors import ScoreError
from wheretune.model.states import States
from wheretune.scorers import cka as cka_room
from wheretune.scorers import sketch


def noise(n, d, layers=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, layers + 1, d, generator=generator)


def cka_of(states, estimator, batch=32):
    scorer = wt.CKA(estimator)
    state = empty(states.shape[1] - 1, states.shape[2])
    for start in range(0, len(states), batch):
        part = states[start : start + batch]
        state = scorer.update(state, States(part, tuple(range(start, start + len(part))), None, {}))
    return scorer.finish(state)


def empty(layers, hidden):
    return cka_room.Seen(cka_room.Rows(layers, hidden, ()), sketch.Sketch.empty(layers + 1, hidden))


def test_cka_of_independent_noise(caplog):
    states = noise(128, 768)
    with caplog.at_level(logging.WARNING, "wheretune"):
        assert cka_of(states, "biased").values[0] == pytest.approx(0.86, abs=0.01)
    assert "inflated" in caplog.text
    caplog.clear()
    assert abs(cka_of(states, "debiased").values[0]) < 0.05
    assert caplog.text == ""


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_cka_from_sums_equals_cka_from_gram_matrices(estimator):
    states = noise(90, 16, layers=3) + 100  # far from the origin, as real states are
    states[:, 1:] += 0.5 * states[:, :1]
    hsic = twin.hsic_biased if estimator == "biased" else twin.hsic_unbiased
    h = states.numpy().astype(np.float64)
    np.testing.assert_allclose(
        cka_of(states, estimator).values, [twin.cka(h[:, i], h[:, i + 1], hsic) for i in range(3)], atol=1e-9
    )
    scorer, halves = wt.CKA(estimator), []
    for part in (states[:40], states[40:]):  # the halves have shifts of their own
        halves.append(scorer.update(empty(3, 16), States(part, tuple(range(len(part))), None, {})))
    assert all(isinstance(half.sums, cka_room.Products) for half in halves)
    np.testing.assert_allclose(scorer.finish(scorer.merge(*halves)).values, cka_of(states, estimator).values, atol=1e-9)


def test_cka_of_a_state_with_itself_turned_and_stretched_is_one():
    x = noise(40, 8)[:, 0]
    turn = torch.linalg.qr(noise(8, 8)[:, 0]).Q
    for estimator in ("biased", "debiased"):
        value = cka_of(torch.stack([x, 3 * x @ turn], dim=1), estimator).values[0]
        assert value == pytest.approx(1, abs=1e-6)


def test_cka_leaves_out_layers_whose_input_does_not_vary(caplog):
    model, tokenizer = tiny_model("bert")
    with caplog.at_level(logging.WARNING, "wheretune"):
        scores = wt.score(model, tokenizer, wt.from_texts(sentences(10)), wt.CKA())
    assert scores.layers[0].score is None and "input is the same for every text" in scores.layers[0].excluded
    assert "layer 0 is no candidate" in caplog.text
    plan = wt.plan(scores, wt.Lowest(3))
    assert plan.layers == (1, 2, 3)
    with pytest.raises(wt.WheretuneError, match="only 3 layers are candidates"):
        wt.plan(scores, wt.Lowest(4))
    assert "no candidate" in str([column._cells for column in scores.profile().columns])
    axes = scores.plot((1,)).axes[0]
    drawn = {c.get_label(): c.lines[0].get_xydata().tolist() for c in axes.containers}
    values = scores.values.tolist()
    assert drawn == {"frozen": [[2, values[2]], [3, values[3]]], "tuned": [[1, values[1]]]}  # layer 0 has no point


@pytest.mark.parametrize(("estimator", "n"), [("biased", 1), ("debiased", 3)])
def test_cka_needs_enough_samples(estimator, n):
    with pytest.raises(ScoreError, match=f"not {n}"):
        cka_of(noise(n, 8), estimator)


def test_an_estimator_that_is_not_known_is_refused():
    model, tokenizer = tiny_model("bert")
    wrong = wt.CKA()
    object.__setattr__(wrong, "estimator", "unbiased")
    with pytest.raises(ScoreError, match="'unbiased'"):
        wt.score(model, tokenizer, wt.from_texts(sentences(5)), wrong)
