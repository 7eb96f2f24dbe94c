"""Commands and functions run as several processes of one run, as a launcher starts them.

Opening torch takes longer than what the processes then do, so one process opens it, computes nothing, and forks all
others. Run as a script it is that process: it reads a job per line and answers with the exit codes.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]


@dataclass
class Outcome:
    """What processes left: their exit codes, and what each said."""

    codes: list
    out: list
    err: list
    seconds: float

    @property
    def errors(self):
        """All lines about errors, of all processes."""
        return [line for text in self.err for line in text.splitlines() if line.startswith("error: ")]


class Nursery:
    """The process that forks."""

    def __init__(self):
        self.process = None

    def run(self, folder, size, function, *given, limit=400, **named):
        """Runs `module:name` with these arguments in `size` processes; files of what they say lie in `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.process is None:
            path = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS), os.environ.get("PYTHONPATH", "")])
            env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            env |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}  # read when opened
            env |= {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # likewise
            self.process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
            )
        job = {"folder": str(folder), "size": size, "function": function, "given": given, "named": named}
        self.process.stdin.write(json.dumps(job | {"limit": limit}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        said = [[(folder / f"{number}.{kind}").read_text() for number in range(size)] for kind in ("out", "err")]
        return Outcome(answer["codes"], *said, answer["seconds"])

    def wheretune(self, folder, size, *arguments, **how):
        """Runs a command."""
        return self.run(folder, size, "helpers.ranks:command", *map(str, arguments), **how)

    def end(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait(timeout=60)
            self.process.stdout.close()


def command(*arguments, kill=None, by="SIGKILL"):
    """The command line; the process `kill` = (rank, step) ends itself with a signal after that step."""
    from wheretune.cli.app import main
    from wheretune.support.processes import rank
    from wheretune.training.followers import FollowerCallback

    if kill is not None and rank() == kill[0]:
        done = FollowerCallback.on_optimizer_step

        def step(self, args, state, control, **given):
            done(self, args, state, control, **given)
            if state.global_step == kill[1]:
                os.kill(os.getpid(), getattr(signal, by))

        FollowerCallback.on_optimizer_step = step
    main(list(arguments))


def of_its_own(*given, changes=(), defect=False):
    """A command that the second process was given otherwise, or in which it fails."""
    from wheretune.support.processes import rank
    from wheretune.training.followers import FollowerCallback

    if rank() == 1 and defect:
        FollowerCallback.on_optimizer_step = lambda *_, **__: 1 / 0
    given = list(given)
    for name, value in changes if rank() == 1 else ():
        given[given.index(name) + 1] = value
    command(*given)


def sums():
    """What the gradients of two processes become; run in both."""
    import pytest
    import torch

    from wheretune.errors import TrainingError
    from wheretune.support.processes import join, leave, part
    from wheretune.training.sharing import sum_gradients

    kinds = dict.fromkeys(("both", "one", "none", "frozen"), torch.float32) | {"half": torch.bfloat16}
    join()
    number = part()[0]
    held = {name: torch.nn.Parameter(torch.zeros(3, dtype=kind)) for name, kind in kinds.items()}
    held["both"].grad, held["half"].grad = torch.ones(3) + number, torch.ones(3, dtype=torch.bfloat16)
    if number == 1:
        held["one"].grad = torch.full((3,), 5.0)
    held["frozen"].requires_grad = False
    assert sum_gradients(held, torch.tensor(0.25 + number)).item() == 1.5
    assert held["both"].grad.tolist() == [3.0] * 3 and held["one"].grad.tolist() == [5.0] * 3
    assert held["half"].grad.tolist() == [2.0] * 3
    assert held["none"].grad is None and held["frozen"].grad is None
    held["none"].requires_grad = number == 0
    with pytest.raises(TrainingError, match="disagree on whether none trains in this step"):
        sum_gradients(held, torch.tensor(0.0))
    leave()


# --- the process that forks -----------------------------------------------------------------------


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def child(job, number, port):
    env = {"RANK": number, "WORLD_SIZE": job["size"], "LOCAL_RANK": number, "LOCAL_WORLD_SIZE": job["size"]}
    if job["size"] > 1:
        os.environ |= {name: str(value) for name, value in env.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for kind, descriptor in (("out", 1), ("err", 2)):
        file = os.open(Path(job["folder"]) / f"{number}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    sys.stdin.close()
    module, _, name = job["function"].partition(":")
    code = 1
    try:
        getattr(importlib.import_module(module), name)(*job["given"], **job["named"])
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve():
    import torch  # noqa: F401
    import transformers.trainer  # noqa: F401

    import wheretune.pipeline  # noqa: F401

    for line in sys.stdin:
        job, started = json.loads(line), time.monotonic()
        port = free_port()
        children = []
        for number in range(job["size"]):
            process = os.fork()
            if process == 0:
                child(job, number, port)
            children.append(process)
        codes = {}
        while len(codes) < len(children) and time.monotonic() - started < job["limit"]:
            for process in set(children) - codes.keys():
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    codes[process] = os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        for process in set(children) - codes.keys():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            codes[process] = "too long"
        answer = {"codes": [codes[process] for process in children], "seconds": time.monotonic() - started}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
