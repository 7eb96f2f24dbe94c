"""A comparison on a Ray of two workers: worker and driver are killed, and no run is lost or there twice."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from helpers.commands import SOURCE
from helpers.spreading import left_in

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
RUNS = 8  # of two methods at two rates with the first seed, then with two more seeds


@pytest.fixture
def start(files, tiny_folder, tmp_path):
    """Starts `compare` in a process group of its own."""
    begun = []

    def call(folder, *more):
        with (tmp_path / f"{folder}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "wheretune", "compare", "--model", tiny_folder("bert"), "--output", folder,
                 "--train", files["train"], "--validation", files["validation"], "--test", files["test"],
                 "--methods", "prism,top+lora", "--k", "2", "--seeds", "0,1,2", "--epochs", "12", "--batch-size", "4",
                 "--learning-rates", "1e-3,1e-4", *more],
                cwd=tmp_path, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([SOURCE, *sys.path]), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        begun.append(process)
        return process

    yield call
    for process in begun:
        process.kill()


@pytest.fixture
def serial(start, tmp_path):
    assert start("serial").wait(300) == 0, (tmp_path / "serial.log").read_text()
    left = left_in(tmp_path / "serial")
    assert sum(name.endswith("result.json") for name in left) == RUNS
    return left


def until(found, process, seconds=120):
    """What `found` gives, as soon as it is anything."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if thing := found():
            return thing
        assert process.poll() is None, "it ended before"
        time.sleep(0.05)
    raise TimeoutError


def below(process):
    """The processes that it has started, and theirs."""
    return psutil.Process(process.pid).children(recursive=True)


def at_work(process):
    """The workers that are training: those with a job, after the first of all."""
    return [one for one in below(process) if one.name().startswith("ray::_run")]


def gone(processes, seconds=30):
    return not psutil.wait_procs(processes, seconds)[1]


def test_a_worker_that_is_killed_takes_nothing_with_it(start, serial, tmp_path):
    process = start("spread", "--on", "ray", "--runs-at-once", "2")
    training = until(lambda: list((tmp_path / "spread").glob("runs/*/*/*/run.json")), process)[0].parent
    victim = until(lambda: at_work(process), process)[0]
    assert not (training / "result.json").exists()
    others = below(process)
    victim.kill()
    assert process.wait(300) == 0, (tmp_path / "spread.log").read_text()
    assert left_in(tmp_path / "spread") == serial
    assert gone(others)
    said = (tmp_path / "spread.log").read_text()
    assert "4 of 4: " in said and "Traceback" not in said and "raylet" not in said


def test_after_the_driver_was_killed_only_what_is_missing_runs(start, serial, tmp_path):
    process = start("spread", "--on", "ray")
    finished = until(lambda: list((tmp_path / "spread").glob("runs/*/*/*/result.json")), process)
    others = below(process)
    process.kill()
    process.wait()
    stamps = {path: path.stat().st_mtime_ns for path in finished}
    again = start("spread", "--on", "ray")  # while workers of the first may still be there
    assert again.wait(300) == 0, (tmp_path / "spread.log").read_text()
    assert left_in(tmp_path / "spread") == serial
    assert {path: path.stat().st_mtime_ns for path in finished} == stamps
    assert gone(others, 120)  # Ray's own agents look once a minute whether their raylet lives


def test_ctrl_c_ends_all(start, tmp_path):
    process = start("spread", "--on", "ray")
    until(lambda: at_work(process), process)
    others = below(process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130, (tmp_path / "spread.log").read_text()
    assert gone(others)
    said = (tmp_path / "spread.log").read_text()
    assert "stopped; give the same command again to run only what is missing" in said and "Traceback" not in said
