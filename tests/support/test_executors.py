"""How many jobs are run."""

import pickle

import pytest

from wheretune import catalog
from wheretune.records.base import Spec
from wheretune.support.executors.base import Executor
from wheretune.support.executors.serial import Serial


def squared(job: int) -> int:
    return job * job


@pytest.mark.parametrize("name", catalog.names("executor"))
def test_every_executor_gives_each_job_its_result(name):
    executor = catalog.build("executor", Spec(name))
    assert isinstance(executor, Executor) and executor.name == name
    assert dict(executor.run(squared, [3, 1, 2])) == {3: 9, 1: 1, 2: 4}
    assert list(executor.run(squared, [])) == []
    assert pickle.loads(pickle.dumps(executor)) == executor


def test_serial_hands_each_result_on_before_the_next_job():
    begun = []

    def work(job: int) -> int:
        begun.append(job)
        return job

    for job, result in Serial().run(work, [1, 2, 3]):
        assert begun[-1] == job == result
