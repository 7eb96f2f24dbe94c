"""`[scorer+][selector+][tuner]` becomes a choice on every axis."""

import pytest

from wheretune.errors import WheretuneError
from wheretune.records.base import Spec
from wheretune.studies import methods


@pytest.mark.parametrize(
    ("name", "scorer", "selector", "tuner"),
    [
        ("full", None, None, Spec("full", {"embeddings": True})),
        ("lora", None, None, Spec("lora")),
        ("head-only", None, None, Spec("head-only")),
        ("prism", Spec("cosine-centrality"), Spec("block-highest"), Spec("full")),
        ("prism+lora:r=8", Spec("cosine-centrality"), Spec("block-highest"), Spec("lora", {"r": 8})),
        ("olft+adapter", Spec("layer-probe"), Spec("middle-best", {"k": 1}), Spec("adapter")),
        ("salf+lora", Spec("semantic-deviation", {"variant": "cosine"}), Spec("suffix"), Spec("lora")),
        ("cka+lora", Spec("cka"), Spec("lowest"), Spec("lora")),
        ("cka:estimator=biased+highest", Spec("cka", {"estimator": "biased"}), Spec("highest"), Spec("full")),
        ("lora+top:k=3", None, Spec("top", {"k": 3}), Spec("lora")),
        ("top:ratio=0.5+lora", None, Spec("top", {"ratio": 0.5}), Spec("lora")),
        ("top+lora:targets=query+value", None, Spec("top"), Spec("lora", {"targets": "query+value"})),
        ("lora:targets=q_proj+output.dense:r=2+top", None, Spec("top"),
         Spec("lora", {"targets": "q_proj+output.dense", "r": 2})),
        ("random+prefix", None, Spec("random"), Spec("prefix")),
        ("block-highest", None, Spec("block-highest"), Spec("full")),
        ("budget:share=0.3", None, Spec("budget", {"share": 0.3}), Spec("full")),
    ],
)  # fmt: skip
def test_a_method_is_put_together(name, scorer, selector, tuner):
    method = methods.read(name)
    assert (method.name, method.scorer, method.selector, method.tuner) == (name, scorer, selector, tuner)
    assert method.head is None and method.schedule == Spec("static")


def test_a_method_may_name_its_head_and_schedule():
    method = methods.read("static+concat:dropout=0.1+top")
    assert method.head == Spec("concat", {"dropout": 0.1}) and method.schedule == Spec("static")


@pytest.mark.parametrize(
    "name",
    [
        "lorra", "top+lorra", "top+bottom+lora", "lora+ia3", "cka+depth", "explicit", "", "top+head-only", "top:n=2",
        "top:k=few", "prism+lowest", "lora:r=0", "cka:estimator=none", "top+full+concat+last-token",
        "lora:r=2+query",
    ],
)  # fmt: skip
def test_a_method_that_cannot_be(name):
    with pytest.raises(WheretuneError):
        methods.read(name)


def test_the_nearest_is_named():
    with pytest.raises(WheretuneError, match="did you mean lora"):
        methods.read("top+lorra:r=8")


def test_several_are_read_once_each():
    assert [method.name for method in methods.read_all(" full, prism,full,top ,")] == ["full", "prism", "top"]
    with pytest.raises(WheretuneError):
        methods.read_all(" ,")


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("full", Spec("explicit", {"every": True})),
        ("lora", Spec("explicit", {"every": True})),
        ("head-only", None),
        ("top", Spec("top", {"k": 2})),
        ("top:k=1", Spec("top", {"k": 1})),
        ("top:ratio=0.5", Spec("top", {"ratio": 0.5})),
        ("random", Spec("random", {"k": 2, "seed": 7})),
        ("random:seed=3", Spec("random", {"k": 2, "seed": 3})),
        ("salf", Spec("suffix")),
        ("auto", Spec("auto", {"k": 2})),
    ],
)
def test_a_comparison_fills_in_k_and_seed(name, spec):
    assert methods.selector_of(methods.read(name), k=2, seed=7) == spec


def test_who_pays_for_scores():
    paying = {name: methods.needs_scores(methods.read(name)) for name in ("full", "lora", "head-only", "top", "prism")}
    assert paying == {"full": False, "lora": False, "head-only": False, "top": False, "prism": True}
    assert methods.needs_scores(methods.read("block-highest")) and not methods.needs_scores(methods.read("random"))


@pytest.mark.parametrize(
    ("name", "selector", "tuner", "schedule"),
    [
        ("budget:schedules=static+lift", ("budget", {"schedules": ("static", "lift")}), "full", "static"),
        ("lora+budget:share=0.3:schedules=lisa+lift", ("budget", {"share": 0.3, "schedules": ("lisa", "lift")}), "lora",
         "static"),
        ("explicit:layers=0+3+lora", ("explicit", {"layers": (0, 3)}), "lora", "static"),
        ("explicit:layers=0+3+lift", ("explicit", {"layers": (0, 3)}), "full", "lift"),
    ],
)  # fmt: skip
def test_an_option_may_have_several_values(name, selector, tuner, schedule):
    made = methods.read(name)
    assert (made.selector, made.tuner.name, made.schedule.name) == (Spec(*selector), tuner, schedule)
    assert made.name == name


def test_what_is_no_value_is_still_a_part():
    with pytest.raises(WheretuneError, match="no method 'lorra'"):
        methods.read("top:k=2+lorra")
    with pytest.raises(WheretuneError, match="no method 'nothing'"):
        methods.read("budget:schedules=static+nothing")
