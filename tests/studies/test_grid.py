"""The grid is a pure function: a study and the results so far say what is to run next."""

import pytest

from helpers.comparisons import comparison, result
from wheretune.errors import ConfigError
from wheretune.records.base import from_json, to_json
from wheretune.records.runs import TrainSettings
from wheretune.studies.grid import Comparison, Failure, Job, best_rate, next_jobs, rows


def test_one_learning_rate_needs_one_round():
    what = comparison("full,top", learning_rates=(1e-3,))
    jobs = next_jobs(what, {})
    assert jobs == [Job(name, 1e-3, seed) for name in ("full", "top") for seed in (0, 1)]
    assert next_jobs(what, {job: result(job) for job in jobs}) == []


def test_each_method_takes_the_rate_that_did_best_on_validation_with_the_first_seed():
    what = comparison("full,top", learning_rates=(1e-3, 1e-4), seeds=(7, 8, 9))
    first = next_jobs(what, {})
    assert first == [Job(name, rate, 7) for name in ("full", "top") for rate in (1e-3, 1e-4)]
    best = {"full": 1e-4, "top": 1e-3}
    done = {job: result(job, validation=0.9 if best[job.method] == job.learning_rate else 0.1) for job in first}
    second = next_jobs(what, done)
    assert second == [Job(name, best[name], seed) for name in ("full", "top") for seed in (8, 9)]
    done |= {job: result(job) for job in second}
    assert next_jobs(what, done) == []
    full, top = rows(what, done, {"top": 2.5})
    assert (full.learning_rate, top.learning_rate) == (1e-4, 1e-3)
    assert full.searched == {1e-3: 0.1, 1e-4: 0.9} and (full.score_seconds, top.score_seconds) == (0.0, 2.5)
    assert len(full.results) == len(top.results) == 3 and full.failures == {}


def test_a_method_does_not_wait_for_another():
    what = comparison("full,top", learning_rates=(1e-3, 1e-4))
    done = {job: result(job) for job in next_jobs(what, {}) if job.method == "top"}
    assert next_jobs(what, done) == [Job("full", 1e-3, 0), Job("full", 1e-4, 0), Job("top", 1e-4, 1)]


def test_equal_rates_prefer_the_lower_and_errors_are_better_when_low():
    what = comparison("top", learning_rates=(1e-3, 1e-4, 1e-5))
    first = next_jobs(what, {})
    assert best_rate(what, "top", {job: result(job) for job in first}) == 1e-5
    errors = {job: result(job, validation=job.learning_rate, higher=False) for job in first}
    assert best_rate(what, "top", errors) == 1e-5
    assert best_rate(what, "top", {job: result(job, validation=job.learning_rate) for job in first}) == 1e-3


def test_a_failed_run_is_no_number_and_does_not_end_its_method():
    what = comparison("top", learning_rates=(1e-3, 1e-4))
    first = next_jobs(what, {})
    done = {first[0]: Failure("where", "RuntimeError: fire"), first[1]: result(first[1], validation=0.0)}
    (last,) = next_jobs(what, done)
    assert last == Job("top", 1e-4, 1)
    done[last] = Failure("there", "RuntimeError: water")
    (row,) = rows(what, done, {})
    assert row.searched == {1e-4: 0.0} and [one.spec.settings.seed for one in row.results] == [0]
    assert row.failures == {"where": "RuntimeError: fire", "there": "RuntimeError: water"}


def test_where_every_rate_failed_the_other_seeds_take_the_first():
    what = comparison("top", learning_rates=(1e-3, 1e-4), seeds=(0, 1))
    done = {job: Failure(str(job), "no") for job in next_jobs(what, {})}
    assert next_jobs(what, done) == [Job("top", 1e-3, 1)]


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"methods": ()}, "methods", "no methods"),
        ({"seeds": ()}, "seeds", "no seeds"),
        ({"seeds": (0, 1, 0)}, "seeds", "0 twice"),
        ({"seeds": (0, -1)}, "seed", "-1"),
        ({"learning_rates": ()}, "learning_rates", "no learning rates"),
        ({"learning_rates": (1e-3, 99.0)}, "learning_rate", "99"),
        ({"learning_rates": (1e-3, 1e-4), "validation": None}, "validation", "several learning rates"),
        ({"reference": "fulll"}, "reference", "fulll"),
        ({"ratio": 0.5}, "ratio", "how many layers"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(changes, field, words):
    with pytest.raises(ConfigError, match=words) as caught:
        comparison(**changes)
    assert caught.value.field == field


def test_a_comparison_goes_to_json_and_comes_back():
    what = comparison("full,prism,cka:estimator=biased+lora:r=4", settings=TrainSettings(epochs=1), k=None, ratio=0.5)
    assert from_json(Comparison, to_json(what), "it") == what
