"""Generated code is ended at whatever it may not do, and the machine is as before."""

import sys
import threading
import time
from pathlib import Path

import pytest

from wheretune.errors import UnavailableError
from wheretune.support.sandbox.running import Limits, runs_through, why_not_isolated

SHORT = Limits(seconds=1, megabytes=256)
ISOLATED = [
    pytest.param(
        True, marks=pytest.mark.skipif(why_not_isolated() is not None, reason=f"no isolation: {why_not_isolated()}")
    ),
    pytest.param(False, marks=pytest.mark.skipif(sys.platform != "linux", reason="bounded on Linux")),
]
CAUGHT = "try:\n    {}\nexcept BaseException:\n    pass\n"  # code that goes on after an error

FINE = {
    "arithmetic": "assert 1 + 1 == 2",
    "library": "import re, math, json, heapq, random, hashlib, datetime, functools, itertools, collections, typing",
    "own-files": "open('a', 'w').write('x')\nassert open('a').read() == 'x'\nimport os\nos.remove('a')",
    "temporary": "import tempfile\nwith tempfile.TemporaryFile() as f:\n    f.write(b'x')",
    "threads": "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()",
    "recursion": "def f():\n    f()\ntry:\n    f()\nexcept RecursionError:\n    pass",
    "much-printing": "print('x' * 10**7)",
    "bare-environment": "import os\nassert set(os.environ) == {'TMPDIR'} and os.getcwd() == os.environ['TMPDIR']",
}
WRONG = {
    "assertion": "assert 1 + 1 == 3",
    "syntax": "def",
    "exit": "import sys\nsys.exit(0)",
    "hard-exit": "import os\nos._exit(0)",
    "loop": "while True:\n    pass",
    "sleep": CAUGHT.format("import time; time.sleep(60)"),
    "memory": "x = [bytearray(10**7) for _ in range(1000)]",
    "socket": CAUGHT.format("import socket; socket.socket()"),
    "connection": CAUGHT.format("import urllib.request as u; u.urlopen('http://127.0.0.1')"),
    "fork": CAUGHT.format("import os; os.fork()"),
    "process": CAUGHT.format("import subprocess; subprocess.run(['true'])"),
    "shell": CAUGHT.format("import os; os.system('true')"),
    "worker": CAUGHT.format("import multiprocessing as m; m.Process(target=print).start()"),
    "program": CAUGHT.format("import os; os.execv('/bin/true', ['true'])"),
    "kill": CAUGHT.format("import os; os.kill(os.getppid(), 9)"),
    "foreign-code": CAUGHT.format("import ctypes; ctypes.CDLL(None).getpid()"),
    "large-file": "f = open('a', 'wb')\nfor _ in range(200):\n    f.write(bytes(10**6))",
    "packages": "import numpy",
}


@pytest.mark.parametrize("isolated", ISOLATED)
@pytest.mark.parametrize("code", FINE.values(), ids=FINE)
def test_what_runs(code, isolated):
    assert runs_through(code, SHORT, isolated)


@pytest.mark.parametrize("isolated", ISOLATED)
@pytest.mark.parametrize("code", WRONG.values(), ids=WRONG)
def test_what_is_ended(code, isolated):
    began = time.monotonic()
    assert not runs_through(code, SHORT, isolated)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("isolated", ISOLATED)
@pytest.mark.parametrize(
    "code",
    [
        "open({path!r}, 'w').write('x')",
        "open({path!r}, 'a')",
        "import os; os.open({path!r}, os.O_WRONLY | os.O_CREAT)",
        "import os; os.remove({there!r})",
        "import os; os.rename({there!r}, {path!r})",
        "import os; os.rename({there!r}, 'taken')",
        "import os; os.mkdir({path!r})",
        "import os; os.chmod({there!r}, 0)",
        "import os; os.truncate({there!r}, 0)",
        "import os; os.symlink({there!r}, 'link'); open('link', 'w').write('x')",
        "import shutil; shutil.rmtree({folder!r})",
        "import pathlib; pathlib.Path({path!r}).touch()",
    ],
)
def test_nothing_outside_its_folder_is_written(code, isolated, tmp_path):
    there = tmp_path / "there"
    there.write_text("as before")
    before = there.stat()
    code = code.format(path=str(tmp_path / "new"), there=str(there), folder=str(tmp_path))
    assert not runs_through(CAUGHT.format(code), SHORT, isolated)
    assert [path.name for path in tmp_path.iterdir()] == ["there"] and there.read_text() == "as before"
    assert (there.stat().st_mode, there.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


@pytest.mark.skipif(why_not_isolated() is not None, reason="no isolation here")
def test_the_kernel_ends_what_python_does_not_see():
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the arguments of fork_exec differ by version")
    pipe = "import os, _posixsubprocess as p; r, w = os.pipe()"
    most = "True, (w,), None, None, -1, -1, -1, -1, -1, -1, r, w, False, False, 0, None, None, None, -1, None, False"
    assert runs_through(CAUGHT.format(pipe), SHORT)
    assert not runs_through(CAUGHT.format(f"{pipe}; p.fork_exec([b'true'], [b'/bin/true'], {most})"), SHORT)


@pytest.mark.skipif(why_not_isolated() is not None, reason="no isolation here")
def test_it_sees_no_other_process_and_no_other_network():
    assert runs_through("import os\nassert [p for p in os.listdir('/proc') if p.isdigit()] == ['1']", SHORT)
    assert runs_through("assert len(open('/proc/net/dev').read().splitlines()) == 3", SHORT)  # two heads and `lo`
    assert runs_through("assert 'CapEff:\\t0000000000000000' in open('/proc/self/status').read()", SHORT)


@pytest.mark.skipif(why_not_isolated() is not None, reason="no isolation here")
def test_the_machine_is_as_before(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = state()
    for code in ("open('a', 'w').write('x')", WRONG["sleep"], WRONG["memory"], WRONG["fork"]):
        runs_through(code, SHORT)
    assert state() == before
    assert not list(tmp_path.iterdir())


def state():
    """What code could leave behind: processes in the sandbox, threads, open files, mounts."""
    sandboxed = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"inside.py" in content(path)]
    return (
        sandboxed,
        threading.active_count(),
        len(list(Path("/proc/self/fd").iterdir())),
        content(Path("/proc/mounts")),
    )


def content(path):
    try:
        return path.read_bytes()
    except OSError:  # the process has ended
        return b""


def test_where_nothing_can_be_isolated_it_is_refused(monkeypatch):
    why_not_isolated.cache_clear()
    try:
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(
            UnavailableError, match=r"cannot be kept from the network.*on darwin.*\(without_isolation\)"
        ):
            runs_through("pass", SHORT)
        monkeypatch.undo()
        why_not_isolated.cache_clear()
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(UnavailableError, match="`unshare` of util-linux, which is not here"):
            runs_through("pass", SHORT)
    finally:
        monkeypatch.undo()
        why_not_isolated.cache_clear()
