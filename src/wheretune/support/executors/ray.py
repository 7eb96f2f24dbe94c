"""Every job as a task of Ray: on a cluster, or on a Ray of this machine that is started for it.

Ray places the tasks, gives each its CPUs and GPUs, and does again what a lost worker took. A Ray that was started here
ends with the last job, with Ctrl-C, and with the death of this process.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wheretune.errors import ConfigError, UnavailableError
from wheretune.support import processes
from wheretune.support.executors import ray_worker
from wheretune.support.executors.base import Lost
from wheretune.support.files import PARTIAL, refusal
from wheretune.support.log import log
from wheretune.support.progress import progress
from wheretune.support.words import first_line

if TYPE_CHECKING:
    from wheretune.support.executors.base import Executor, Job, Result

LOST_TIMES = 3  # how often a job is begun again whose worker was lost
ANSWER_SECONDS = 10  # in which an address has to answer
WORKER_SECONDS = 120  # in which every machine of a cluster has to have started a worker
STORE_BYTES = 2**27  # of a Ray that is started here: results are small
TRY = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level=40)"


@dataclass(frozen=True)
class Ray:
    """One job is one task.

    Attributes:
        address: `HOST:PORT` of a cluster's head, or `auto` on one of its machines; None starts a Ray on this machine.
        gpus_per_run: What Ray sets aside for a job; a fraction shares a GPU. None takes one where there are any.
        cpus_per_run: The same of cores, and the threads that a job computes with.
        runs_at_once: The most jobs at once; None takes as many as there is room for.
    """

    address: str | None = None
    gpus_per_run: float | None = None
    cpus_per_run: float = 1.0
    runs_at_once: int | None = None
    name: ClassVar[str] = "ray"

    def __post_init__(self) -> None:
        if self.gpus_per_run is not None and not 0 <= self.gpus_per_run < float("inf"):
            raise ConfigError(f"gpus_per_run is {self.gpus_per_run}", "give 0 or more", "gpus_per_run")
        if (self.gpus_per_run or 0) > 1 and not float(self.gpus_per_run or 0).is_integer():
            raise ConfigError(f"gpus_per_run is {self.gpus_per_run}", "above 1 give a whole number", "gpus_per_run")
        if not 0 < self.cpus_per_run < float("inf"):
            raise ConfigError(f"cpus_per_run is {self.cpus_per_run}", "give more than 0", "cpus_per_run")
        if self.cpus_per_run > 1 and not float(self.cpus_per_run).is_integer():
            raise ConfigError(f"cpus_per_run is {self.cpus_per_run}", "above 1 give a whole number", "cpus_per_run")
        if self.runs_at_once is not None and self.runs_at_once < 1:
            raise ConfigError(f"runs_at_once is {self.runs_at_once}", "give 1 or more", "runs_at_once")
        if self.address is not None and self.address != "auto":
            _parts(self.address)
        if find_spec("ray") is None:
            raise UnavailableError("Ray is not installed", "pip install 'wheretune[ray]'", "executor")

    def run(self, work: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result | Lost]]:
        with self.started(None, None) as executor:
            yield from executor.run(work, jobs)

    @contextmanager
    def started(self, folder: Path | None, opens: str | None) -> Iterator[Executor]:
        processes.check_one_process()
        with ExitStack() as stack:
            if self.address is not None:
                _check_answers(self.address)
            token = None if folder is None else stack.enter_context(_token(folder))
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # all it would print between a command's own output
            ray: Any = import_module("ray")
            stack.enter_context(_connected(ray, self.address))
            running = _Running(ray, _fitting(ray, self), ray_worker.Place(str(Path.cwd()), token))
            running.check_machines()
            if opens is not None:
                running.open_meanwhile(opens)
            yield running


# --- before the first job -------------------------------------------------------------------------


def _parts(address: str) -> tuple[str, int]:
    """The host and the port of an address.

    Raises:
        ConfigError: It is none.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 2**16:
        remedy = "give HOST:PORT of the cluster's head, such as ray:10.0.0.1:6379, or on one of its machines ray:auto"
        raise ConfigError(f"the address of Ray is {address!r}", remedy, "address")
    return host.strip("[]"), int(port)


def _check_answers(address: str) -> None:
    """Refuses an address behind which no Ray is.

    Ray itself tries for minutes and then ends the process, so that it is tried in another one, which can be stopped.

    Raises:
        ConfigError: Nothing answers there, or something else does.
    """
    begun, remedy = time.monotonic(), "check the address, or start one there"
    try:
        if address != "auto":
            socket.create_connection(_parts(address), ANSWER_SECONDS).close()
        left = max(0.1, begun + ANSWER_SECONDS - time.monotonic())
        command = [sys.executable, "-c", TRY, address]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=left)
        if done.returncode == 0:
            return
        why = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
    except subprocess.TimeoutExpired as error:
        asked = "AuthToken" in str(error.stderr)
        remedy = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN as on its machines" if asked else remedy
        why = "it asks for a token" if asked else f"nothing within {ANSWER_SECONDS} seconds"
    except TimeoutError:
        why = f"nothing within {ANSWER_SECONDS} seconds"
    except OSError as error:
        why = error.strerror or str(error)
    raise ConfigError(f"no Ray answers at {address} ({why})", remedy, "address")


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to Ray; one that the user's own code has made is used, and left."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))  # else Ray keeps one in the home folder
            os.environ.setdefault("RAY_worker_niceness", "0")  # else a run yields to all else, as it does not in serial
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            ray.init("local", num_cpus=cores, object_store_memory=STORE_BYTES, include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        ray.shutdown()
        what = "a Ray cannot be started here" if address is None else f"Ray cannot be reached at {address}"
        raise ConfigError(f"{what} ({first_line(error)})", "see the logs in /tmp/ray", "address") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _token(folder: Path) -> Iterator[str]:
    """A file in a folder, by which a worker sees that it is the same folder; a folder left empty goes again."""
    fresh = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".shared{PARTIAL}", dir=folder.resolve()))
        scratch.chmod(0o755)
        (scratch / "token").touch()
    except OSError as error:
        raise refusal(folder, error, "choose another folder") from error
    try:
        yield str(scratch / "token")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if fresh:
            with suppress(OSError):  # it is not empty any more
                folder.rmdir()


def _fitting(ray: Any, asked: Ray) -> Ray:
    """What is asked for with the number of GPUs settled.

    Raises:
        ConfigError: No machine of the cluster has as much.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = {kind: max((one.get(kind, 0.0) for one in machines), default=0.0) for kind in ("GPU", "CPU")}
    gpus = min(1.0, most["GPU"]) if asked.gpus_per_run is None else asked.gpus_per_run
    for field, kind, wanted in (("gpus_per_run", "GPU", gpus), ("cpus_per_run", "CPU", asked.cpus_per_run)):
        if wanted > most[kind]:
            there = (
                f"no machine here has more than {most[kind]:g} {kind}s" if most[kind] else f"there is no {kind} here"
            )
            raise ConfigError(f"{field} is {wanted:g} and {there}", "ask for less", field)
    return replace(asked, gpus_per_run=gpus)


# --- the jobs -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Running:
    """A Ray that answers.

    Attributes:
        ray: The package.
        asked: What every job is given.
        place: Where the jobs were asked for.
    """

    ray: Any
    asked: Ray
    place: ray_worker.Place
    name: ClassVar[str] = "ray"

    def check_machines(self) -> None:
        """Makes sure that every machine has this wheretune and sees the shared folder.

        Raises:
            OutputError: One does not see it.
            UnavailableError: One has another wheretune, or none, or starts no worker.
        """
        strategies = import_module("ray.util.scheduling_strategies")
        enter = self.ray.remote(num_cpus=0)(_enter)
        asked = {
            enter.options(
                scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(self.place): node["NodeManagerHostname"]
            for node in self.ray.nodes()
            if node["Alive"]
        }
        there, waiting = self.ray.wait(list(asked), num_returns=len(asked), timeout=WORKER_SECONDS)
        if waiting:
            problem = f"{asked[waiting[0]]} has started no worker of Ray within {WORKER_SECONDS} seconds"
            raise UnavailableError(problem, "see the logs of Ray on that machine", "address")
        for one in there:
            try:
                done: ray_worker.Done = self.ray.get(one)
            except self.ray.exceptions.RayError as error:
                why = first_line(getattr(error, "cause", None) or error)
                problem = f"wheretune cannot be opened on {asked[one]} ({why})"
                raise UnavailableError(problem, "install the same wheretune on every machine", "address") from error
            if done.error is not None:
                raise done.error
            if done.result != (own := version("wheretune")):
                problem = f"{asked[one]} has wheretune {done.result}, and this is {own}"
                raise UnavailableError(problem, "install the same wheretune on every machine", "address")

    def open_meanwhile(self, module: str) -> None:
        """Lets as many workers as will be at work open a module; a worker with a GPU is a new one for every job."""
        room = self.ray.cluster_resources().get("CPU", 0.0) // self.asked.cpus_per_run
        opening = self.ray.remote(num_cpus=self.asked.cpus_per_run)(_open)
        for _ in range(0 if self.asked.gpus_per_run else int(min(room, self.asked.runs_at_once or room))):
            opening.remote(module)

    def run(self, work: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result | Lost]]:
        pickled: bytes = self.ray.cloudpickle.dumps(work)
        kept = [self.ray.put(pickled)]  # in a list it travels as a reference, and a worker fetches it once
        digest = hashlib.sha256(pickled).hexdigest()
        asked = self.asked
        task = self.ray.remote(num_cpus=asked.cpus_per_run, num_gpus=asked.gpus_per_run, max_retries=LOST_TIMES)(_run)
        waiting, running = deque(jobs), dict[Any, Any]()
        at_once = asked.runs_at_once or max(1, len(jobs))
        said = set[str]()
        with progress() as shown:
            bar = shown.add_task("on Ray", total=len(jobs))
            try:
                while waiting or running:
                    while waiting and len(running) < at_once:
                        job = waiting.popleft()
                        running[task.remote(self.place, digest, kept, job)] = job
                    for one in self.ray.wait(list(running), timeout=1.0)[0]:  # a short wait, which Ctrl-C can end
                        job = running.pop(one)
                        result = self._result(one, said)
                        shown.advance(bar)
                        left = f"{len(jobs) - len(waiting) - len(running)} of {len(jobs)}: {job}"
                        shown.console.print(left, markup=False, highlight=False, soft_wrap=True)
                        yield job, result
            finally:
                for one in running:
                    with suppress(Exception):  # Ray may be gone already
                        self.ray.cancel(one, force=True)

    def _result(self, one: Any, said: set[str]) -> Any:
        """What came of a task; what its worker had to say is said here, once."""
        try:
            done: ray_worker.Done = self.ray.get(one)
        except self.ray.exceptions.RayTaskError:
            raise  # a defect, with its traceback
        except self.ray.exceptions.RayError as error:
            return Lost(f"the worker was lost {LOST_TIMES + 1} times; {first_line(error)}")
        for sentence in done.said:
            if sentence not in said:
                said.add(sentence)
                log.warning("%s", sentence)
        if done.error is not None:
            raise done.error
        return done.result


def _enter(place: ray_worker.Place) -> ray_worker.Done:
    return ray_worker.do(place.enter)


def _open(module: str) -> None:
    import_module(module)


def _run(place: ray_worker.Place, digest: str, kept: list[Any], job: Any) -> ray_worker.Done:
    return ray_worker.run(place, digest, lambda: import_module("ray").get(kept[0]), job)
