"""Jobs on Ray: what is refused, and what a Ray of this machine does with workers that are lost."""

import os
import socket
import sys
import threading
import time

import pytest

from helpers.spreading import dying
from wheretune import catalog, errors
from wheretune.errors import ConfigError, DataError, OutputError, UnavailableError, WheretuneError
from wheretune.records.base import Spec
from wheretune.support.executors import ray as room
from wheretune.support.executors import ray_worker
from wheretune.support.executors.base import Lost
from wheretune.support.executors.ray import Ray
from wheretune.support.files import alone_in


@pytest.fixture
def installed(monkeypatch):
    """As if Ray were there; nothing of it is opened."""
    monkeypatch.setattr(room, "find_spec", lambda name: name)


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("ray", {}),
        ("ray:auto", {"address": "auto"}),
        ("ray:10.0.0.1:6379", {"address": "10.0.0.1:6379"}),
        ("ray:[::1]:6379:gpus_per_run=0.5", {"address": "[::1]:6379", "gpus_per_run": 0.5}),
        ("ray:runs_at_once=3", {"runs_at_once": 3}),
        ("ray:address=head:6379:cpus_per_run=2", {"address": "head:6379", "cpus_per_run": 2.0}),
    ],
)
def test_an_address_stands_behind_the_name(text, params):
    spec = catalog.written("executor", text)
    assert spec == Spec("ray", params)
    assert catalog.written("executor", catalog.text_of(spec)) == spec


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"address": "head"}, "address of Ray is 'head'; give HOST:PORT"),
        ({"address": "//head:10001"}, "give HOST:PORT"),
        ({"address": "head:99999"}, "give HOST:PORT"),
        ({"gpus_per_run": -1.0}, "gpus_per_run is -1"),
        ({"gpus_per_run": 1.5}, "whole number"),
        ({"gpus_per_run": float("nan")}, "gpus_per_run is nan"),
        ({"cpus_per_run": 0.0}, "cpus_per_run is 0"),
        ({"cpus_per_run": 2.5}, "whole number"),
        ({"runs_at_once": 0}, "runs_at_once is 0"),
    ],
)
def test_settings_that_cannot_be(installed, settings, words):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        Ray(**settings)


def test_no_ray_is_said(monkeypatch, run, files, tmp_path):
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"Ray is not installed; pip install 'wheretune\[ray\]'"):
        Ray()


def test_a_closed_port_is_said_at_once(installed):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"no Ray answers at 127.0.0.1:{port} .*refused"):
            Ray(f"127.0.0.1:{port}").started(None, None).__enter__()


@pytest.mark.slow
def test_a_port_behind_which_is_no_ray_is_given_ten_seconds():
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(ConfigError, match="nothing within 10 seconds"):
            Ray(f"127.0.0.1:{silent.getsockname()[1]}").started(None, None).__enter__()
    assert 9 < time.monotonic() - begun < 12


def test_a_folder_that_is_not_shared_is_said(tmp_path):
    with room._token(tmp_path / "out") as token:
        assert ray_worker.do(ray_worker.Place(str(tmp_path), token).enter).error is None
    done = ray_worker.do(ray_worker.Place(str(tmp_path), token).enter)
    assert not (tmp_path / "out").exists()  # nothing was written there
    assert isinstance(done.error, OutputError) and done.error.field == "output"
    assert f"the folder {tmp_path / 'out'} is not shared: {socket.gethostname()}" in str(done.error)


def test_an_error_stays_whole_on_its_way_from_another_process():
    import pickle

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WheretuneError)]
    for kind in kinds:
        one = pickle.loads(pickle.dumps(kind("the row 7 has no label", "leave it out", "source")))
        assert type(one) is kind and str(one) == "the row 7 has no label; leave it out" and one.field == "source"


def test_one_works_in_a_folder_and_others_wait(tmp_path):
    seen = []

    def second():
        with alone_in(tmp_path / "run"):
            seen.append("second")

    with alone_in(tmp_path / "run"):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.3)
        seen.append("first")
    waiting.join(10)
    assert seen == ["first", "second"] and list((tmp_path / "run").iterdir()) == []


@pytest.fixture(scope="module")
def two_workers():
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the workers open the helpers
        with Ray().started(None, None) as running:
            yield running


@pytest.mark.slow
def test_what_a_lost_worker_took_is_done_again(two_workers, tmp_path, caplog):
    jobs = [f"once:{tmp_path}", "always", "quick", "slow"]
    results = dict(two_workers.run(dying, jobs))
    assert (tmp_path / "begun").exists() and isinstance(results[jobs[0]], int)
    assert isinstance(results["always"], Lost) and "4 times" in results["always"].why
    assert isinstance(results["quick"], int) and set(results) == set(jobs)
    assert [record.message for record in caplog.records].count("done in a worker") == 1


@pytest.mark.slow
def test_what_is_refused_in_a_worker_is_refused_here(two_workers):
    with pytest.raises(DataError, match="the row 7 has no label; leave it out") as refused:
        list(two_workers.run(dying, ["refused"]))
    assert refused.value.field == "source"
    with pytest.raises(ZeroDivisionError, match="of no use"):
        list(two_workers.run(dying, ["wrong"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [({"gpus_per_run": 99.0}, "gpus_per_run is 99 and "), ({"cpus_per_run": 999.0}, "cpus_per_run is 999 and ")],
)
def test_more_than_there_is(two_workers, settings, words):
    with pytest.raises(ConfigError, match=words):
        Ray(**settings).started(None, None).__enter__()
