"""How sure a choice is, against a bootstrap of the texts themselves; and what `--until-settled` may say."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import wheretune as wt
from helpers.models import tiny_model
from helpers.often import often
from helpers.scoring import score_all, with_profile
from helpers.texts import sentences
from reference import scorers as twin
from wheretune.errors import ConfigError
from wheretune.model.finding import find_layers
from wheretune.model.stack import Layer, LayerStack
from wheretune.model.states import Gradients, States
from wheretune.records.scores import LayerScore
from wheretune.scorers import sketch
from wheretune.scorers.base import Finished
from wheretune.scoring.confidence import Bets, Settler, how_sure


def finished(rows):
    rows = np.asarray(rows)
    return Finished(rows.mean(0), rows.std(0), covariance=np.cov(rows.T, bias=True))


def look(settler, found, n):
    return settler.watch(wt.CosineCentrality(), 10**6).look(found, n)


def per_text_scores(model, tokenizer, texts):
    """Texts x layers, by the twin."""
    every = []
    for text in texts:
        h = twin.representative(twin.hidden_states(model, tokenizer, (text,), 64), False)[1:]
        pairs = np.array([[twin.cosine(a, b) for b in h] for a in h])
        every.append((pairs.sum(1) - 1) / (len(h) - 1))
    return np.array(every)


@pytest.mark.parametrize("selector", [wt.Highest(1), wt.BlockHighest(2), wt.Lowest(2)], ids=str)
def test_how_sure_is_what_a_bootstrap_of_the_texts_says(selector):
    model, tokenizer = tiny_model("bert", seed=2)
    texts = sentences(40)
    scores = wt.score(model, tokenizer, wt.from_texts(texts), wt.CosineCentrality())
    rows = per_text_scores(model, tokenizer, texts)
    np.testing.assert_allclose(np.array(scores.covariance), np.cov(rows.T, bias=True), atol=1e-7)
    generator = np.random.default_rng(1)
    made = [selector.select(rows[generator.integers(40, size=40)].mean(0)) for _ in range(4000)]
    shares = np.array([np.mean([layer in layers for layers in made]) for layer in range(4)])
    found = how_sure(scores, selector)
    np.testing.assert_allclose(found.layers, shares, atol=0.04)
    assert found.selection == pytest.approx(np.mean([m == selector.select(scores.values) for m in made]), abs=0.04)
    assert wt.plan(scores, selector).confidence == found


def test_nothing_is_said_where_nothing_is_known():
    model, tokenizer = tiny_model("bert")
    data = wt.from_texts(sentences(10))
    assert how_sure(wt.score(model, tokenizer, data, wt.CKA()), wt.Lowest(1)) is None  # too few to be resampled
    assert how_sure(wt.score(model, tokenizer, data, wt.WeightSNR()), wt.Highest(1)) is None
    scores = wt.score(model, tokenizer, data, wt.CosineCentrality())
    assert how_sure(scores, wt.Top(1)) is None and wt.plan(scores, wt.Top(1)).confidence is None
    one = wt.score(model, tokenizer, wt.from_texts(["good"]), wt.CosineCentrality())
    assert how_sure(one, wt.Highest(1)) is None


def test_a_flat_and_a_doubtful_profile_are_called_so():
    model, tokenizer = tiny_model("bert")
    scores = wt.score(model, tokenizer, wt.from_texts(sentences(30)), wt.CosineCentrality())
    flat = [[1e-2, 0, 0, 0], [0, 1e-2, 0, 0], [0, 0, 1e-2, 0], [0, 0, 0, 1e-2]]
    level = [LayerScore(i, 0.5 + i * 1e-6, 0.1) for i in range(4)]
    found = how_sure(replace(scores, layers=tuple(level), covariance=tuple(map(tuple, flat))), wt.Highest(1))
    assert found.flat and found.selection < 0.5
    assert "in doubt: layers 0" in str(found) and "flat" in str(found)


def width(variance, n, alpha, sharpest):
    """Waudby-Smith et al. 2021, equation 19, with r^2 from equation 44."""
    r2 = (-2 * np.log(alpha) + np.log(-2 * np.log(alpha)) + 1) / sharpest
    return np.sqrt(variance) * np.sqrt(2 * (n * r2 + 1) / (n**2 * r2) * np.log(np.sqrt(n * r2 + 1) / alpha))


def test_a_contest_is_closed_just_when_its_bound_says_so():
    generator = np.random.default_rng(0)
    rows = generator.normal(loc=[0.0, 0.0, -9.0], size=(400, 3))
    for shift in np.linspace(0, 0.6, 25):
        moved = rows + np.array([shift, 0, 0])
        difference = moved[:, 0] - moved[:, 1]
        winner = int(difference.mean() < 0)
        closed = abs(difference.mean()) - width(difference.var(), 400, 0.05 / 2, 256) >= 0
        said = look(Settler(wt.Highest(1)), finished(moved), 400)
        assert said.settled is bool(closed) and said.layers == (winner,)
        assert said.open == (() if closed else ((winner, 1 - winner),))


@pytest.mark.slow
def test_it_is_seldom_wrong_however_often_one_looks():
    wrong = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        rows = generator.normal(loc=[0.02, 0.0], size=(1500, 2))  # layer 0 is the better one, by very little
        for n in range(64, 1501, 64):
            said = look(Settler(wt.Highest(1)), finished(rows[:n]), n)
            if said.settled:
                wrong += said.layers != (0,)
                break
    assert wrong <= 10  # 5 % of 200


def test_a_clear_choice_is_settled_early_and_a_tie_never_but_within_a_tolerance():
    generator = np.random.default_rng(0)
    common = generator.normal(size=(3000, 1))  # what all layers share is no obstacle: differences are paired
    rows = 5 * common + generator.normal(loc=[0.9, 0.5, 0.5, 0.9], scale=0.1, size=(3000, 4))
    assert look(Settler(wt.BlockHighest(2)), finished(rows[:64]), 64).settled
    tie = look(Settler(wt.Highest(1)), finished(rows), 3000)
    assert not tie.settled and {frozenset(pair) for pair in tie.open} == {frozenset((0, 3))}
    assert "too close to tell are layers" in str(tie)
    assert look(Settler(wt.Highest(1), tolerance=0.02), finished(rows), 3000).settled
    few = look(Settler(wt.BlockHighest(2)), finished(rows[:63]), 63)
    assert not few.settled and "63 samples are too few" in str(few) and "too close" not in str(few)


def test_contests_of_every_selector():
    values = np.array([0.5, 0.9, np.nan, 0.7])
    assert wt.Highest(1).contests(values) == [(1, 0, 1), (1, 3, 1)]
    assert wt.Lowest(1).contests(values) == [(0, 1, -1), (0, 3, -1)]
    assert wt.BlockHighest(2).contests(values) == [(1, 0, 1)]
    assert wt.BlockLowest(2).contests(values) == [(0, 1, -1)]
    assert wt.Suffix().contests(values) == [(1, 0, 1), (1, 3, 1)]
    assert wt.MiddleBest().contests(values) == []
    for selector in (wt.Top(2), wt.Random(2), wt.BlockMedian(2)):
        with pytest.raises(ConfigError, match=f"whether {selector.name} is settled cannot be told"):
            Settler(selector)


def test_the_pass_stops_when_settled_and_says_what_the_whole_would():
    model, tokenizer = tiny_model("bert", seed=2)
    data = wt.from_texts(sentences(900))
    stack, scorer = find_layers(model), wt.CosineCentrality()
    whole = score_all(stack, tokenizer, data, [scorer], batch_size=16)[0]
    early = score_all(
        stack, tokenizer, data, [scorer], batch_size=16, settle=Settler(wt.Highest(1), tolerance=0.001).watch
    )[0]
    assert early.settlement.settled and early.n_samples == early.settlement.n_samples < 450
    assert early.settlement.layers == wt.Highest(1).select(whole.values)
    assert whole.settlement is None and whole.n_samples == 900


def test_bad_settings():
    with pytest.raises(ConfigError, match="the confidence is 1"):
        Settler(wt.Highest(1), confidence=1.0)
    with pytest.raises(ConfigError, match="the tolerance is -1"):
        Settler(wt.Highest(1), tolerance=-1.0)
    model, tokenizer = tiny_model("bert")
    with pytest.raises(ConfigError, match="means over samples"):
        score_all(
            find_layers(model), tokenizer, wt.from_texts(sentences(9)), [wt.CKA()], settle=Settler(wt.Lowest(1)).watch
        )


# --- scores that are no means over samples ----------------------------------------------------------


class Population:
    """States whose layers differ by a known amount of noise: fresh samples of any size."""

    def __init__(self, layers, hidden):
        generator = np.random.default_rng(5)
        self.mixes = generator.normal(size=(layers, hidden, hidden)) * np.linspace(0.2, 1.2, layers)[:, None, None]

    def draw(self, n, seed):
        generator = np.random.default_rng(seed)
        rows = [generator.normal(size=(n, self.mixes.shape[1]))]
        for mix in self.mixes:
            rows.append(rows[-1] + generator.normal(size=rows[0].shape) @ mix)
        return torch.tensor(np.stack(rows, axis=1), dtype=torch.float32)


def scored(scorer, states):
    state = scorer.init(LayerStack(*stack_of(states.shape[1] - 1, states.shape[2])))
    for start in range(0, len(states), 32):
        part = states[start : start + 32]
        state = scorer.update(state, States(part, tuple(range(start, start + len(part))), None, {}))
    return scorer.finish(state)


@pytest.mark.parametrize("n", [60, 400], ids=["all rows kept", "a sketch of them"])
@pytest.mark.parametrize(
    "scorer", often([wt.CKA("debiased"), wt.CKA("biased"), wt.FeatureVariance()], [wt.FeatureVariance()]), ids=str
)
def test_subsampling_says_how_much_fresh_samples_vary(scorer, n, monkeypatch):
    population = Population(3, 8)
    monkeypatch.setattr(sketch, "SKETCH", 128)
    said = np.mean([scored(scorer, population.draw(n, seed)).covariance / n for seed in range(30)], axis=0)
    monkeypatch.setattr(sketch, "RESAMPLES", 2)  # the scores alone
    values = np.array([scored(scorer, population.draw(n, seed)).values for seed in range(200)])
    ratio = np.sqrt(np.diag(said)) / values.std(0)
    assert ratio.min() > 0.8 and ratio.max() < (1.25 if n > 128 else 1.45)  # of few texts it says rather too much


@pytest.mark.parametrize("scorer", [wt.GradientNorm(), wt.Fisher("batch")], ids=str)
def test_how_sure_of_batches_is_what_fresh_batches_show(scorer):
    generator = torch.Generator().manual_seed(0)

    def fresh(batches, size=32):
        state = scorer.init(LayerStack(*stack_of(3)))
        for _ in range(batches):
            values = 1 + torch.rand(3, generator=generator, dtype=torch.float64)
            state = scorer.update(state, Gradients(values, None, values, tuple(range(size))))
        return scorer.finish(state)

    said = np.mean([fresh(20).covariance for _ in range(40)], axis=0) / (20 * 32)
    values = np.array([fresh(20).values for _ in range(200)])
    np.testing.assert_allclose(np.sqrt(np.diag(said)), values.std(0), rtol=0.2)
    assert fresh(7).covariance is None  # too few to say


def stack_of(layers, hidden=8):
    made = tuple(Layer(i, str(i), torch.nn.Identity()) for i in range(layers))
    return torch.nn.Identity(), torch.nn.Identity(), "", made, hidden, False


def test_auto_decides_again_for_every_resample():
    model, tokenizer = tiny_model("bert")
    scores = wt.score(model, tokenizer, wt.from_texts(sentences(101)), wt.CosineCentrality())
    values = [0.90, 0.80, 0.95, 0.85, 0.92, 0.88, 0.70, 0.60, 0.83]  # a late divergence of 49.5 %, and it takes 50
    covariance = tuple(tuple(0.01 * (i == j) for j in range(9)) for i in range(9))
    found = wt.choose(with_profile(scores, values, [0.01] * 9, covariance=covariance), wt.Auto(2))
    assert "several peaks" in found.reason and 0.4 < found.confidence.selection < 0.9


# --- betting ----------------------------------------------------------------------------------------


def bet(numbers, settler, every=64):
    """What is said, and after how many texts, reading them in this order."""
    scorer = SimpleNamespace(bounds=(-1.0, 1.0), per_text=lambda states: states.tokens[:, :, 0])
    watch = Bets(settler, scorer, len(numbers))
    for start in range(0, len(numbers), every):
        part = torch.tensor(numbers[start : start + every], dtype=torch.float32)
        watch.see(States(part.unsqueeze(2), tuple(range(len(part))), None, {}))
        seen = numbers[: start + every]
        said = watch.look(Finished(seen.mean(0)), len(seen))
        if said.settled:
            break
    return said


@pytest.mark.slow
def test_betting_settles_a_clear_choice_and_is_seldom_wrong():
    generator = np.random.default_rng(0)
    clear = generator.uniform(-0.5, 0.3, size=(2000, 3)) + np.array([0.3, 0.0, 0.0])
    said = bet(clear, Settler(wt.Highest(1)))
    assert said.settled and said.layers == (0,) and said.n_samples < 1000 and "rigorous" in said.method
    wrong = settled = 0
    for seed in range(200):  # a near tie over all the data, which a part of it may deny
        order = np.random.default_rng(seed)
        numbers = order.uniform(-1, 1, size=(600, 2))
        best = (int(numbers.mean(0).argmax()),)
        said = bet(order.permutation(numbers), Settler(wt.Highest(1), confidence=0.8))
        settled += said.settled and said.n_samples < 600
        wrong += said.settled and said.layers != best
    assert wrong <= 40 and settled >= 20  # 20 % of 200; and it does speak
    tie = np.repeat(generator.uniform(-1, 1, size=(500, 1)), 2, axis=1)
    assert bet(tie, Settler(wt.Highest(1))).n_samples == 500  # not before all are read, and then it is known
    assert bet(tie, Settler(wt.Highest(1), tolerance=0.5)).n_samples < 500
