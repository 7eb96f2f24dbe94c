"""How many jobs are run."""

import operator
import pickle

import pytest

from helpers.spreading import StandIn
from wheretune import catalog
from wheretune.records.base import Spec
from wheretune.support.executors.base import Executor, Starting, started
from wheretune.support.executors.serial import Serial

EVERY = [pytest.param(name, marks=[pytest.mark.slow] if name == "ray" else []) for name in catalog.names("executor")]


@pytest.mark.parametrize("name", EVERY)
def test_every_executor_gives_each_job_its_result(name):
    if name == "ray":
        pytest.importorskip("ray")
    executor = catalog.build("executor", Spec(name))
    assert isinstance(executor, Executor) and executor.name == name
    assert dict(executor.run(operator.neg, [3, 1, 2])) == {3: -3, 1: -1, 2: -2}
    assert list(executor.run(operator.neg, [])) == []
    assert pickle.loads(pickle.dumps(executor)) == executor


def test_serial_hands_each_result_on_before_the_next_job():
    begun = []

    def work(job: int) -> int:
        begun.append(job)
        return job

    for job, result in Serial().run(work, [1, 2, 3]):
        assert begun[-1] == job == result


def test_what_has_to_be_started_is_started_once_and_ended(tmp_path):
    assert not isinstance(Serial(), Starting)
    with started(Serial(), tmp_path) as executor:
        assert executor == Serial()
    with started(StandIn(), tmp_path) as executor:
        assert StandIn.log == [f"started in {tmp_path}"]
        assert dict(executor.run(operator.neg, [1])) == {1: -1}
    assert StandIn.log[-1] == "ended"
