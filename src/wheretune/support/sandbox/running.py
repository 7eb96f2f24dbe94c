"""Code that nobody has read, run in a process of its own that can reach nothing.

What holds where is told in docs/judging.md. On Linux the kernel holds it: namespaces of its own (no network, no other
process, every file read-only but those of a folder in memory), limits, no capability, and a filter of system calls.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wheretune.errors import UnavailableError

INSIDE = Path(__file__).with_name("inside.py")
APART = (
    "--user",
    "--map-root-user",
    "--net",
    "--pid",
    "--ipc",
    "--uts",
    "--mount",
    "--mount-proc",
    "--fork",
    "--kill-child",
)
START_SECONDS = 10.0  # what starting may take beside the code's own time, on a busy machine


@dataclass(frozen=True)
class Limits:
    """What the code may use.

    Attributes:
        seconds: Processor time; the wall clock may show twice as much.
        megabytes: Memory.
    """

    seconds: int = 10
    megabytes: int = 1024


def runs_through(code: str, limits: Limits, isolated: bool = True) -> bool:
    """Whether Python code runs to its end without an error, within its limits and without touching anything.

    Code that loops, takes more memory than it may, opens a socket, starts a process, writes outside its folder or
    leaves early is ended, and does not. It sees the standard library alone. Nothing of it is left behind.

    Args:
        code: A whole program.
        limits: What it may use.
        isolated: Whether the system must keep it from network, processes and files. Without, where the system offers
            no such thing, only Python's audit hook and the limits do.

    Raises:
        UnavailableError: `isolated`, and this system cannot.
    """
    if isolated and (fault := why_not_isolated()):
        raise UnavailableError(fault, "run it elsewhere, or do without if you trust the code (without_isolation)")
    if os.name != "posix":
        raise UnavailableError("generated code cannot be bounded on this system", "run it on Linux")
    return _run(code, limits, isolated)[0]


@cache
def why_not_isolated() -> str | None:
    """Why code cannot be kept from network, processes and files here; None where it can, which is tried."""
    if sys.platform != "linux":
        return f"generated code cannot be kept from the network and from files on {sys.platform}"
    if shutil.which("unshare") is None:
        return "generated code is isolated by `unshare` of util-linux, which is not here"
    done, complaint = _run("pass", Limits(), isolated=True, explain=True)
    return None if done else f"this system isolates no process ({complaint or 'it does not say why'})"


def _run(code: str, limits: Limits, isolated: bool, explain: bool = False) -> tuple[bool, str]:
    """Whether the code runs through, and what was complained of where `explain` asks for it."""
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="wheretune-code-") as folder, tempfile.TemporaryFile() as complaints:
        job = {"code": code, "folder": folder, "secret": secret, "isolated": isolated, "explain": explain}
        job |= {"seconds": limits.seconds, "megabytes": limits.megabytes}
        with tempfile.TemporaryFile() as given:
            given.write(json.dumps(job).encode())
            given.seek(0)
            said = _ended(_command(isolated), given.fileno(), complaints.fileno(), 2 * limits.seconds + START_SECONDS)
        complaints.seek(0)
        lines = complaints.read(10_000).decode(errors="replace").strip().splitlines()
    return said == secret, lines[-1] if lines else ""


def _command(isolated: bool) -> list[str]:
    python = [sys.executable, "-I", "-S", "-B", str(INSIDE)]
    return [str(shutil.which("unshare")), *APART, *python] if isolated else python


def _ended(command: list[str], given: int, complaints: int, seconds: float) -> str:
    """What a command answers, once it has ended or been ended with all that it started."""
    answer, theirs = os.pipe()
    try:
        process = subprocess.Popen(
            command, stdin=given, stdout=theirs, stderr=complaints, env={}, cwd="/", start_new_session=True
        )
        os.close(theirs)
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
        finally:
            _end(process)
        os.set_blocking(answer, False)
        try:
            return os.read(answer, 100).decode(errors="replace")
        except BlockingIOError:
            return ""
    finally:
        os.close(answer)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process with its group; of its process namespace the kernel lets nothing live on."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
