"""Means, deviations and speed-ups, and the tables that show them."""

import csv
from statistics import mean, stdev

import pytest

from helpers.comparisons import comparison, result
from wheretune.studies.grid import Compared, Failure, Job, rows
from wheretune.studies.statistics import as_json, lines
from wheretune.studies.tables import COLUMNS, cells, markdown, title, write_tables


def compared(outcomes, names="full,top", seconds=None, **changes):
    what = comparison(names, learning_rates=(1e-3,), **changes)
    return Compared(what, rows(what, outcomes, seconds or {}))


def test_means_deviations_and_speed_up():
    full = {Job("full", 1e-3, seed): (0.9 + seed / 10, 30.0 + 10 * seed) for seed in (0, 1)}
    top = {Job("top", 1e-3, seed): (0.5 + seed / 5, 10.0) for seed in (0, 1)}
    outcomes = {job: result(job, value, seconds=time, cache=2.0) for job, (value, time) in (full | top).items()}
    first, second = lines(compared(outcomes, seconds={"top": 6.0}))
    assert first.mean == pytest.approx(mean([0.9, 1.0])) and first.std == pytest.approx(stdev([0.9, 1.0]))
    assert second.std == pytest.approx(stdev([0.5, 0.7])) and (second.metric, second.n) == ("accuracy", 40)
    assert first.speed_up == 1.0
    assert second.speed_up == pytest.approx((35.0 + 2.0) / (10.0 + 2.0 + 6.0))  # caching and scoring are counted
    assert (second.train_seconds, second.cache_seconds, second.score_seconds) == (12.0, 2.0, 6.0)


def test_the_reference_is_declared():
    outcomes = {}
    for name, time in (("full", 40.0), ("lora", 20.0), ("top", 10.0)):
        job = Job(name, 1e-3, 0)
        outcomes[job] = result(job, seconds=time)
    by_full = compared(outcomes, "full,lora,top", seeds=(0,))
    by_lora = compared(outcomes, "full,lora,top", seeds=(0,), reference="lora")
    assert [line.speed_up for line in lines(by_full)] == [1.0, 2.0, 4.0]
    assert [line.speed_up for line in lines(by_lora)] == [0.5, 1.0, 2.0]
    without = compared({job: one for job, one in outcomes.items() if job.method != "full"}, "lora,top", seeds=(0,))
    assert [line.speed_up for line in lines(without)] == [None, None]


def test_a_speed_up_is_over_the_seeds_that_both_have_finished():
    outcomes = {Job("full", 1e-3, 0): Failure("a", "fire"), Job("top", 1e-3, 1): Failure("b", "fire")}
    for job, time in ((Job("full", 1e-3, 1), 50.0), (Job("full", 1e-3, 2), 30.0), (Job("top", 1e-3, 0), 1.0)):
        outcomes[job] = result(job, seconds=time)
    last = Job("top", 1e-3, 2)
    outcomes[last] = result(last, seconds=15.0)
    top = lines(compared(outcomes, seeds=(0, 1, 2)))[1]
    assert top.speed_up == 2.0 and (top.seeds, top.asked, top.failures) == (2, 3, 1)
    del outcomes[last]
    assert lines(compared(outcomes, seeds=(0, 1)))[1].speed_up is None


def test_a_failure_is_no_number():
    outcomes = {Job(name, 1e-3, 0): Failure(name, "fire") for name in ("full", "top")}
    made = compared(outcomes, seeds=(0,))
    line = lines(made)[1]
    assert as_json(line) == {"method": "top", "learning_rate": 1e-3, "asked": 1, "seeds": 0, "failures": 1}
    assert cells(line)[1:4] == ["–", "failed", "0.001"] and len(cells(line)) == len(COLUMNS)
    assert "n = 0" in title(made)


def test_one_seed_has_no_deviation():
    job = Job("top", 1e-3, 0)
    made = compared({job: result(job, memory=None)}, "top", seeds=(0,))
    (line,) = lines(made)
    assert title(made).startswith("org/made-up on test.csv: seed 0; n = 40")
    assert line.std is None and as_json(line)["std"] is None and line.peak_memory_bytes is None
    assert cells(line)[2] == "accuracy 0.5000" and cells(line)[-2:] == ["–", "–"]


def test_cells_say_what_is_missing_and_what_differs_by_seed(tmp_path):
    outcomes = {Job("top", 1e-3, seed): result(Job("top", 1e-3, seed), layers=1 + seed) for seed in (0, 1)}
    made = compared(outcomes, "top", seeds=(0, 1, 2))
    shown = cells(lines(made)[0])
    assert shown[1] == "by seed" and "(2 of 3 seeds)" in shown[2]
    assert title(made).startswith("org/made-up on test.csv: mean ± standard deviation over seeds 0, 1, 2; n = 40, k")
    assert markdown(made).count("\n| ") == 3
    write_tables(made, tmp_path)
    assert (tmp_path / "table.md").read_text() == markdown(made)
    with (tmp_path / "results.csv").open() as opened:
        records = list(csv.DictReader(opened))
    assert len(records) == 2 * 3  # one metric on the validation split, two on the test split
    assert {(one["seed"], one["layers"]) for one in records} == {("0", "3"), ("1", "2 3")}
