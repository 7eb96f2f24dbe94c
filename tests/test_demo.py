"""The demo on a few articles: everything it promises is there, and it goes on where it was stopped."""

import json

import pytest

from wheretune.demo import OWNED, demo, package_folder, write_articles
from wheretune.errors import DataError


@pytest.mark.slow
def test_the_demo_on_a_few_articles(tmp_path):
    shown = []
    made = demo(tmp_path, shown.append, train=40, test=20)
    assert shown == [made.scores, made.plan] and len(made.plan.layers) == 2
    there = {path.name for path in tmp_path.iterdir()}
    assert there == set(OWNED) - {"demo.json"}
    assert made.scores.n_samples == 40 and made.full.metrics["test"][0].n == 20
    assert made.full.plan.layers == tuple(range(6)) and made.full.plan.tuner.params["embeddings"] is True
    chosen, full = made.rows
    assert chosen.name == f"layers {made.plan.layers[0]}, {made.plan.layers[1]}" and full.speed_up == 1.0
    paid = made.chosen.training_seconds + made.scores.seconds
    assert chosen.speed_up == pytest.approx(made.full.training_seconds / paid)
    assert chosen.result.trainable_parameters < full.result.trainable_parameters
    again = demo(tmp_path, train=40, test=20)
    assert again.chosen == made.chosen and again.full == made.full


def test_no_article_stands_twice(tmp_path):
    train, test = write_articles(tmp_path, 100, 50)
    texts = [json.loads(line)["text"] for path in (train, test) for line in path.read_text().splitlines()]
    assert len(texts) == len(set(texts)) == 150


def test_a_package_that_is_not_there_is_named():
    with pytest.raises(DataError, match="no-such-package"):
        package_folder("no_such_package")
